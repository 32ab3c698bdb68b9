# SPDX-License-Identifier: Apache-2.0
"""The FP32 word, and the steps that end every operation: normalise, round, flush."""

import struct

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.hdl import ValueLike
from amaranth.lib import data

FRACTION_BITS = 23
MANTISSA_BITS = FRACTION_BITS + 1
"""Significant bits, the hidden one included."""

BIAS = 127
TOP_EXPONENT = 255
"""Exponent field of infinities and NaN."""

NAN = 0x7FC00000
"""The only NaN that an operation returns."""

MINUS_ZERO = 1 << 31
"""x + (-0.0) is x for every x."""

SCALE = signed(10)
"""Biased exponents of results, those that are too small or too large included."""


class Float32(data.Struct):
    """An FP32 word as the vector unit reads it: a subnormal number is the zero of its sign.

    ``Float32(signal)`` views any 32 bits.
    """

    fraction: FRACTION_BITS
    exponent: 8
    sign: 1

    @property
    def magnitude(self) -> Value:
        """The word without its sign; larger magnitudes are larger integers."""
        return self.as_value()[:-1]

    @property
    def mantissa(self) -> Value:
        """24 bits, hidden bit on top; 0 for a zero."""
        return Mux(self.is_zero(), 0, Cat(self.fraction, 1))

    def is_zero(self) -> Value:
        """Zero, or a subnormal number."""
        return self.exponent == 0

    def is_special(self) -> Value:
        """Infinite or NaN."""
        return self.exponent.all()

    def is_infinite(self) -> Value:
        """One of the two infinities."""
        return self.is_special() & (self.fraction == 0)

    def is_nan(self) -> Value:
        """NaN of any sign and payload."""
        return self.is_special() & self.fraction.any()


class Outcome(data.Struct):
    """What is known of a result besides its mantissa. NaN overrides infinite, infinite overrides zero."""

    exponent: SCALE
    sign: 1
    zero: 1
    infinite: 1
    nan: 1


def normalize(m: Module, value: Value, name: str) -> tuple[Value, Value]:
    """Shift ``value`` left until its top bit is set: (shifted, number of places).

    For a value of 0 the top bit of the result stays 0 and the number means nothing.
    """
    width = len(value)
    places = []
    step = 1 << (width - 1).bit_length() - 1
    while step:
        shifted = Signal(width, name=f"{name}_by_{step}")
        empty = Signal(name=f"{name}_empty_{step}")
        m.d.comb += [
            empty.eq(~value[width - step :].any()),
            shifted.eq(Mux(empty, value << step, value)),
        ]
        value = shifted
        places.insert(0, empty)
        step >>= 1
    return value, Cat(*places)


def shifted_down(m: Module, value: Value, places: Value, name: str) -> Value:
    """``value`` shifted right by ``places``, any number of them."""
    steps = min(len(places), len(value).bit_length())
    result = Signal.like(value, name=f"{name}_near")
    m.d.comb += result.eq(Mux(places[steps:].any(), 0, value))
    for power in reversed(range(steps)):
        moved = Signal.like(result, name=f"{name}_by_{1 << power}")
        m.d.comb += moved.eq(Mux(places[power], result >> (1 << power), result))
        result = moved
    return result


def rounds_up(normal: Value) -> Value:
    """Whether ``normal`` (top bit set, at least 26 bits) rounds away from zero: to nearest, ties to even."""
    cut = len(normal) - MANTISSA_BITS
    lowest, half = normal[cut], normal[cut - 1]
    return half & (lowest | normal[: cut - 1].any())


def pack(m: Module, normal: Value, outcome: Outcome, up: Value, octaves: ValueLike = 0) -> Value:
    """The FP32 word of a result: too small a number becomes zero, too large a one infinity.

    Args:
        m: gets the logic.
        normal: the exact mantissa, top bit set; ignored where the outcome is zero, infinite or NaN.
        outcome: its exponent, plus ``octaves``, is that of the top bit of ``normal``.
        up: increment the upper 24 bits of ``normal``; see :func:`rounds_up`.
        octaves: unsigned; costs nothing here, because the sum that rounds adds it up, too.
    """
    result = Signal(Float32, name="packed")
    exponent = Signal(SCALE, name="packed_exponent")
    fraction = Signal(FRACTION_BITS, name="packed_fraction")
    # One sum: where rounding gives the next power of two, the carry makes the exponent larger.
    m.d.comb += [
        Cat(fraction, exponent).eq(
            Cat(normal[len(normal) - MANTISSA_BITS : -1], outcome.exponent)
            + Cat(up, Const(0, FRACTION_BITS - 1), octaves)
        ),
        result.sign.eq(outcome.sign & ~outcome.nan),
    ]
    # Comparisons with 0 and 255, without a carry chain behind that of the sum.
    negative, beyond, field = exponent[-1], exponent[8], exponent[:8]
    large = ~negative & (beyond | field.all())
    small = negative | ~(beyond | field.any())
    keep = Signal(name="packed_keep")
    special = Signal(name="packed_special")
    m.d.comb += [
        keep.eq(~(large | small | outcome.zero | outcome.infinite | outcome.nan)),
        special.eq((large & ~outcome.zero) | outcome.infinite | outcome.nan),
        result.fraction.eq(Mux(keep, fraction, outcome.nan << FRACTION_BITS - 1)),
        result.exponent.eq(Mux(keep, field, special.replicate(8))),
    ]
    return result.as_value()


def constant(value: float) -> Const:
    """The word of ``value``, an FP32 number."""
    return Const(struct.unpack("<I", struct.pack("<f", value))[0], 32)
