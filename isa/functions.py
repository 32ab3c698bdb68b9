# SPDX-License-Identifier: Apache-2.0
"""Tables of the function unit: exp, reciprocal, rsqrt, tanh, sigmoid and erf as data.

One datapath evaluates every table. An *entry* covers one interval of the argument; ``x`` is the position inside it::

    value = c0 + (((c1 + ((c2 * x) >> SHIFT2)) * x) >> SHIFT1)

``x`` is unsigned with :data:`FRACTION_BITS` bits, shifts are arithmetic, and ``value`` has :data:`VALUE_BITS` fraction
bits. Both products fit an 18 x 27 bit multiplier (Xilinx UG579, DSP48E2). All entries together are one ROM, so an
activation that is odd and flat at infinity is one more :class:`OddFunction` over two more tables, and no new hardware.
``tools/make_function_tables.py`` writes the coefficients; ``docs/numerics.md`` derives the algorithms around them.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

FRACTION_BITS: Final = 17
"""Bits of ``x``: an unsigned operand of a signed 18-bit multiplier port."""

VALUE_BITS: Final = 29
"""Fraction bits of a value; 1.0 is ``1 << VALUE_BITS``."""

SHIFT2: Final = 17
SHIFT1: Final = 21
C0_BITS: Final = 31
C1_BITS: Final = 27
C2_BITS: Final = 19
"""Widths of the coefficients, signed. The sum that enters the second product has ``C1_BITS`` too."""

EXPONENT_FRACTION_BITS: Final = 25
"""Fraction bits of ``x * log2(e)``: 8 of index and :data:`FRACTION_BITS` of ``x``."""

LOG2E_BITS: Final = 33
LOG2E: Final = 0x2E2A8ECA5
"""``log2(e)`` with :data:`LOG2E_BITS` fraction bits, rounded to nearest: 34 bits, two 17-bit multiplier operands."""

EXP_LOWEST: Final = -104.0
EXP_HIGHEST: Final = 89.0
"""The exponential clamps its argument to this range: below it underflows, above it overflows."""


@dataclass(frozen=True)
class FunctionTable:
    """Coefficients of one function on one domain.

    Attributes:
        name: unique name.
        function: what the value is, as a formula, for listings.
        domain: which argument bits make the index, for listings.
        c0, c1, c2: coefficients, one of each per entry; widths ``C0_BITS``, ``C1_BITS``, ``C2_BITS``, signed.

    Raises:
        ValueError: columns of different lengths, or a coefficient wider than its field.
    """

    name: str
    function: str
    domain: str
    c0: tuple[int, ...]
    c1: tuple[int, ...]
    c2: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.c0) == len(self.c1) == len(self.c2):
            raise ValueError(f"Columns of table {self.name!r} must be equally long")
        slopes = tuple(c1 + min(c2, 0) for c1, c2 in zip(self.c1, self.c2, strict=True))
        slopes += tuple(c1 + max(c2, 0) for c1, c2 in zip(self.c1, self.c2, strict=True))
        for column, values, bits in (
            ("c0", self.c0, C0_BITS),
            ("c1", self.c1, C1_BITS),
            ("c2", self.c2, C2_BITS),
            ("c1 + c2", slopes, C1_BITS),
        ):
            for value in values:
                if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
                    raise ValueError(f"{column} of table {self.name!r} must fit {bits} signed bits, not {value}")

    @property
    def entries(self) -> int:
        """Number of intervals."""
        return len(self.c0)


@dataclass(frozen=True)
class OddFunction:
    """An odd function f with f(0) = 0 that tends to +-1: ``f(x) = sign(x) * min(|x|, 1) * T(|x|)``.

    T is f(x)/x below 1 and f(x) from 1 on, so one product after the evaluator serves both.

    Attributes:
        name: name of the function.
        small: T on [0, 1) in equal intervals of 2**-7.
        large: T on [1, 2**octaves), 128 equal intervals per octave; from there on the last value holds.
        octaves: powers of two that ``large`` spans.
    """

    name: str
    small: FunctionTable
    large: FunctionTable
    octaves: int

    def __post_init__(self) -> None:
        if self.small.entries != 128 or self.large.entries != 128 * self.octaves:
            raise ValueError(f"Tables of {self.name!r} must have 128 entries and 128 per octave")


def load_tables() -> dict[str, FunctionTable]:
    """The committed tables by name, in the order in which they lie in the ROM."""
    text = resources.files("catenary.isa").joinpath("function_tables.json").read_text(encoding="utf-8")
    tables: dict[str, FunctionTable] = {}
    for item in json.loads(text)["tables"]:
        c0, c1, c2 = zip(*item["entries"], strict=True)
        tables[item["name"]] = FunctionTable(item["name"], item["function"], item["domain"], c0, c1, c2)
    return tables


TABLES: Final[Mapping[str, FunctionTable]] = load_tables()
"""Every table by name, in ROM order."""

RECIPROCAL: Final = TABLES["reciprocal"]
RSQRT: Final = TABLES["rsqrt"]
EXP2: Final = TABLES["exp2"]
TANH: Final = OddFunction("tanh", TABLES["tanh_small"], TABLES["tanh_large"], octaves=4)
ERF: Final = OddFunction("erf", TABLES["erf_small"], TABLES["erf_large"], octaves=2)


def to_fp32(value: float) -> float:
    """``value`` rounded to the nearest FP32 number."""
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def inverse_constant(n: int) -> float:
    """FP32(1/n), the constant that stands for a division by the positive integer ``n`` < 2**24."""
    return to_fp32(1.0 / n)


def inverse_sqrt_constant(n: int) -> float:
    """FP32(1/sqrt(n)) for a positive integer ``n`` < 2**24, as in the scale of attention scores."""
    return to_fp32(1.0 / math.sqrt(n))
