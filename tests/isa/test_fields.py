# SPDX-License-Identifier: Apache-2.0
"""Bit fields: layout, exact encoding, and the message for every value that does not fit."""

import math
import random
import re
import struct
from dataclasses import dataclass
from enum import Enum, IntFlag
from typing import Annotated

import numpy as np
import pytest

from catenary.isa.errors import EncodingError
from catenary.isa.fields import Bits, Float32, Operand, Reg, RegisterNumber, layout


class Colour(Enum):
    RED = 0
    BLUE = 2


class Sides(IntFlag):
    NONE = 0
    LEFT = 1
    RIGHT = 2


class Side(Enum):
    LEFT = 0
    RIGHT = 1


@dataclass(frozen=True)
class Sample:
    count: Annotated[int, Bits(7)]
    colour: Annotated[Colour, Bits(2)]
    sides: Annotated[Sides, Bits(2)]
    on: Annotated[bool, Bits(1)]
    place: Annotated[Operand, Reg(20)]
    eps: Annotated[float, Float32()]
    rd: Annotated[int, RegisterNumber(written=True)]


NAMES = ["count", "colour", "sides", "on", "place", "eps", "rd"]
PARTS = {part.name: part for part in layout(Sample, NAMES, 6)}


def test_fields_are_packed_without_gaps_from_the_start_bit():
    assert [(part.name, part.offset, part.width) for part in PARTS.values()] == [
        ("count", 6, 7),
        ("colour", 13, 2),
        ("sides", 15, 2),
        ("on", 17, 1),
        ("place", 18, 25),
        ("eps", 43, 32),
        ("rd", 75, 5),
    ]
    assert [part.type for part in PARTS.values()] == [int, Colour, Sides, bool, Operand, float, int]


@pytest.mark.parametrize(
    "name, value, bits",
    [
        ("count", 0, 0),
        ("count", 127, 127),
        ("count", np.int64(127), 127),
        ("colour", Colour.BLUE, 2),
        ("sides", Sides.LEFT | Sides.RIGHT, 3),
        ("sides", Sides.NONE, 0),
        ("on", True, 1),
        ("place", Operand(), 0),
        ("place", Operand(31, (1 << 20) - 1), (1 << 25) - 1),
        ("place", Operand(5, 128), 5 | 128 << 5),
        ("eps", 1.0, 0x3F800000),
        ("eps", -0.0, 0x80000000),
        ("eps", math.inf, 0x7F800000),
        ("eps", 2.0**-149, 1),
        ("eps", np.float32(0.1), 0x3DCCCCCD),
        ("rd", 31, 31),
    ],
)
def test_encodes_and_decodes_exactly(name, value, bits):
    part = PARTS[name]
    assert part.encode("SAMPLE", value) == bits
    decoded = part.decode("SAMPLE", bits)
    assert decoded == value
    assert type(decoded) is part.type
    assert part.encode("SAMPLE", decoded) == bits


@pytest.mark.parametrize("value, bits", [(0.1, 0x3DCCCCCD), (1 + 2**-24, 0x3F800000), (1 + 3 * 2**-24, 0x3F800002)])
def test_floats_are_rounded_to_nearest_even(value, bits):
    assert PARTS["eps"].encode("SAMPLE", value) == bits


def test_every_binary32_but_nan_round_trips():
    seed = 11
    rng = random.Random(seed)
    for _ in range(5000):
        bits = rng.getrandbits(32)
        [value] = struct.unpack("<f", struct.pack("<I", bits))
        if not math.isnan(value):
            assert PARTS["eps"].encode("SAMPLE", PARTS["eps"].decode("SAMPLE", bits)) == bits, f"seed {seed}, {bits:#x}"


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("count", 128, "SAMPLE.count must be in 0..127, not 128"),
        ("count", -1, "SAMPLE.count must be in 0..127, not -1"),
        ("count", 1.0, "SAMPLE.count must be an integer, not 1.0"),
        ("count", Operand(), "SAMPLE.count must be an integer, not Operand(reg=0, imm=0)"),
        ("colour", 2, "SAMPLE.colour must be of type Colour, not 2"),
        ("colour", Side.LEFT, "SAMPLE.colour must be of type Colour, not <Side.LEFT: 0>"),
        ("sides", Side.LEFT, "SAMPLE.sides must be of type Sides, not <Side.LEFT: 0>"),
        ("sides", Sides(4), "SAMPLE.sides must be in 0..3, not 4"),
        ("on", 2, "SAMPLE.on must be in 0..1, not 2"),
        ("place", 5, "SAMPLE.place must be an Operand, not 5"),
        ("place", Operand(32, 0), "SAMPLE.place register must be in 0..31, not 32"),
        ("place", Operand(-1, 0), "SAMPLE.place register must be in 0..31, not -1"),
        ("place", Operand(0, 1 << 20), "SAMPLE.place immediate must be in 0..1048575, not 1048576"),
        ("place", Operand(0, -1), "SAMPLE.place immediate must be in 0..1048575, not -1"),
        ("place", Operand(0, 0.5), "SAMPLE.place immediate must be an integer, not 0.5"),
        ("eps", math.nan, "SAMPLE.eps must be a number, not NaN"),
        ("eps", 1e39, "SAMPLE.eps must be in the range of binary32, not 1e+39"),
        ("eps", "x", "SAMPLE.eps must be a float, not 'x'"),
        ("rd", 32, "SAMPLE.rd must be in 0..31, not 32"),
    ],
)
def test_refuses_to_encode(name, value, message):
    with pytest.raises(EncodingError, match=f"^{re.escape(message)}$"):
        PARTS[name].encode("SAMPLE", value)


@pytest.mark.parametrize(
    "name, bits, message",
    [
        ("colour", 1, "SAMPLE.colour must be one of [0, 2], not 1"),
        ("colour", 3, "SAMPLE.colour must be one of [0, 2], not 3"),
        ("eps", 0x7FC00000, "SAMPLE.eps must be a number, not NaN"),
        ("eps", 0xFF800001, "SAMPLE.eps must be a number, not NaN"),
    ],
)
def test_refuses_to_decode(name, bits, message):
    with pytest.raises(EncodingError, match=f"^{re.escape(message)}$"):
        PARTS[name].decode("SAMPLE", bits)
