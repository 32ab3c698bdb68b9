# SPDX-License-Identifier: Apache-2.0
"""Random legal instructions for tests."""

from __future__ import annotations

import math
import random
import struct
from enum import Enum, IntFlag
from typing import Any

from catenary.isa.fields import REGISTERS, BitField, Float32, Operand, Reg
from catenary.isa.instructions import INSTRUCTIONS, Instruction


def random_instruction(rng: random.Random, cls: type[Instruction] | None = None) -> Instruction:
    """An instruction of class ``cls``, or of any, whose every field is legal; extremes are likely."""
    cls = cls or rng.choice(list(INSTRUCTIONS.values()))
    return cls(**{part.name: random_value(rng, part) for part in (*cls.prefix[1:], *cls.body)})


def random_value(rng: random.Random, part: BitField) -> Any:
    """A legal value of ``part``."""
    if isinstance(part.kind, Float32):
        value = math.nan
        while math.isnan(value):
            bits = rng.choice([0, 1 << 31, 0x7F800000, 0x00000001, rng.getrandbits(32), rng.getrandbits(32)])
            [value] = struct.unpack("<f", struct.pack("<I", bits))
        return value
    if isinstance(part.kind, Reg):
        return Operand(_number(rng, REGISTERS), _number(rng, 1 << part.kind.width))
    if issubclass(part.type, Enum) and not issubclass(part.type, IntFlag):
        return rng.choice(list(part.type))
    return part.type(_number(rng, 1 << part.width))


def _number(rng: random.Random, end: int) -> int:
    return rng.choice([0, end - 1, rng.randrange(end), rng.randrange(end)])
