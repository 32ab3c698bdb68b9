# SPDX-License-Identifier: Apache-2.0
"""exp, reciprocal, rsqrt, tanh, sigmoid and erf: integer arithmetic on the bits of FP32 numbers.

Tables and widths come from :mod:`catenary.isa.functions`; here is how arguments become (entry, position) and values
become FP32. Every product is a sum of 18 x 27 bit products: ``x * log2(e)`` is 25 x 34 bits in two, and the product
after the evaluator is 26 x 30 bits in two (``docs/numerics.md`` lists them). Rounding to FP32 is to nearest even.

Subnormal arguments count as zeros of their sign, results below 2**-126 are zeros, NaN gives NaN. All functions take
any shape, return float32 of the same shape, and are within 2 ulp (the page has each one's largest error).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catenary.isa import functions as isa
from catenary.sim.arith.fp32 import F32, NAN
from catenary.sim.arith.quiet import quietly

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Core = Callable[[F32], I32]

_MAGNITUDE: Final = np.array(0x7FFFFFFF, np.int32)
_MANTISSA: Final = np.array(0x007FFFFF, np.int32)
_HIDDEN: Final = np.array(0x00800000, np.int32)  # also the bits of 2**-126, the smallest normal number
_ONE: Final = np.array(0x3F800000, np.int32)
_INFINITY: Final = np.array(0x7F800000, np.int32)
_NAN_BITS: Final = NAN.view(np.int32)

# Elements per step: int64 temporaries of 64 KiB stay in the first two cache levels.
_STEP: Final = 8192

FEW: Final = 8
"""Up to so many numbers, one after the other in Python is faster than numpy."""


@cache
def _int(value: int) -> I64:
    """A constant as an array without axes: half the overhead of a Python number as an operand."""
    constant = np.array(value, np.int64)
    constant.flags.writeable = False
    return constant


class _Rom:
    """The columns of one or more tables, one after the other, as arrays."""

    def __init__(self, *tables: isa.FunctionTable) -> None:
        self.c0, self.c1, self.c2 = (
            np.concatenate([np.array(getattr(table, column), np.int64) for table in tables])
            for column in ("c0", "c1", "c2")
        )
        columns = (self.c0.tolist(), self.c1.tolist(), self.c2.tolist())
        self._rows: list[tuple[int, int, int]] = list(zip(*columns, strict=True))

    def evaluate(self, entry: I64, position: I64) -> I64:
        """The quadratic evaluator: ``c0 + (((c1 + ((c2 * x) >> SHIFT2)) * x) >> SHIFT1)``."""
        value: I64 = self.c2.take(entry, mode="clip")  # entries are in range by construction; "clip" is the fast mode
        value *= position  # 19 x 18 bits
        value >>= _int(isa.SHIFT2)
        value += self.c1.take(entry, mode="clip")
        value *= position  # 27 x 18 bits
        value >>= _int(isa.SHIFT1)
        value += self.c0.take(entry, mode="clip")
        return value

    def value(self, entry: int, position: int) -> int:
        """:meth:`evaluate` for one number."""
        c0, c1, c2 = self._rows[entry]
        return c0 + ((c1 + (c2 * position >> isa.SHIFT2)) * position >> isa.SHIFT1)


_RECIPROCAL: Final = _Rom(isa.RECIPROCAL)
_RSQRT: Final = _Rom(isa.RSQRT)
_EXP2: Final = _Rom(isa.EXP2)
_EXP_RANGE: Final = np.array(-isa.EXP_LOWEST, np.float32)
_NORMAL: Final = 2.0**-126
_FLUSHED: Final = 2.0**126  # from here on a reciprocal may have to be flushed
_POSITION_MASK: Final = _int((1 << isa.FRACTION_BITS) - 1)
_EXPONENT_MASK: Final = _int((1 << isa.EXPONENT_FRACTION_BITS) - 1)


@quietly
def _apply(core: Core, x: ArrayLike) -> F32:
    """Run ``core`` (float32 -> result bits, NaN excepted) over ``x`` in cache-sized steps."""
    values = np.asarray(x, dtype=np.float32)
    flat = np.ascontiguousarray(values).ravel()
    if flat.size <= _STEP:
        return _step(core, flat).view(np.float32).reshape(values.shape)
    out = np.empty(flat.shape, np.int32)
    for first in range(0, flat.size, _STEP):
        out[first : first + _STEP] = _step(core, flat[first : first + _STEP])
    return out.view(np.float32).reshape(values.shape)


def _step(core: Core, part: F32) -> I32:
    bits = core(part)
    nan = np.isnan(part)
    if np.count_nonzero(nan):
        bits[nan] = _NAN_BITS
    return bits


def _apply_few(number: Callable[[float], float], core: Core, x: ArrayLike) -> F32:
    """As :func:`_apply`, but with ``number`` where there are at most FEW elements, all in [2**-126, 2**126)."""
    values = np.asarray(x, dtype=np.float32)
    if 0 < values.size <= FEW:
        numbers: list[float] = values.ravel().tolist()
        if min(numbers) >= _NORMAL and sum(numbers) < _FLUSHED:  # with a NaN, the sum is NaN
            return np.array([number(x) for x in numbers], np.float32).reshape(values.shape)
    return _apply(core, values)


def _pack(value: I64, exponent: I64) -> I32:
    """Bits of ``value * 2**exponent``, rounded to nearest even; zero below 2**-126, infinity from 2**128 on.

    ``value`` is positive and below 2**63; a result exponent may leave the FP32 range by at most 100. ``exponent`` is
    used up.
    """
    # The conversion normalises and rounds; then the exponent field takes the rest of the scale.
    bits: I32 = value.astype(np.float32).view(np.int32)
    exponent <<= _int(23)
    bits += exponent.astype(np.int32)
    if bits.size and np.minimum.reduce(bits, axis=None) < _HIDDEN:
        bits[bits < _HIDDEN] = 0
    return np.minimum(bits, _INFINITY, out=bits)


def _exp_parts(magnitude: F32, log2e: I64) -> tuple[I64, I64]:
    """(k, m) with ``exp(+-magnitude) = 2**k * m / 2**VALUE_BITS`` and m in [1, 2].

    Args:
        magnitude: at least +0.0 and within the clamping range, no NaN.
        log2e: ``LOG2E`` with the sign of the argument.
    """
    bits = magnitude.view(np.int32).astype(np.int64)
    power = bits & _int(0x007FFFFF)
    power |= _int(0x00800000)
    # x * log2(e) = product * 2**(exponent - 150 - LOG2E_BITS), wanted with 25 fraction bits and rounded (half up).
    # A zero or subnormal has exponent field 0: all bits are shifted out, whatever the mantissa.
    power *= log2e  # 25 x 17 bits, twice
    bits >>= _int(23)
    down = np.subtract(_int(150 + isa.LOG2E_BITS - isa.EXPONENT_FRACTION_BITS - 1), bits, out=bits)
    power >>= np.minimum(down, _int(63), out=down)
    power += _int(1)
    power >>= _int(1)
    position = power & _EXPONENT_MASK
    power >>= _int(isa.EXPONENT_FRACTION_BITS)
    entry = position >> _int(isa.FRACTION_BITS)
    position &= _POSITION_MASK
    return power, _EXP2.evaluate(entry, position)


def _exp(x: F32) -> I32:
    inside = np.fmax(np.fmin(x, np.float32(isa.EXP_HIGHEST)), np.float32(isa.EXP_LOWEST))
    log2e = np.where(np.signbit(x), _int(-isa.LOG2E), _int(isa.LOG2E))
    power, mantissa = _exp_parts(np.abs(inside, out=inside), log2e)
    power -= _int(isa.VALUE_BITS)
    return _pack(mantissa, power)


def _exp_negated(x: F32) -> I32:
    power, mantissa = _exp_parts(np.fmin(x, _EXP_RANGE), _int(-isa.LOG2E))
    power -= _int(isa.VALUE_BITS)
    return _pack(mantissa, power)


def _reciprocal_magnitude(magnitude: I32) -> I32:
    wide = magnitude.astype(np.int64)
    entry = wide >> _int(15)
    entry &= _int(0xFF)
    position = wide & _int(0x7FFF)
    position <<= _int(2)
    value = _RECIPROCAL.evaluate(entry, position)
    wide >>= _int(23)  # an infinity has exponent field 255: packs to 0
    return _pack(value, np.subtract(_int(127 - isa.VALUE_BITS), wide, out=wide))


def _reciprocal(x: F32) -> I32:
    bits = x.view(np.int32)
    magnitude = bits & _MAGNITUDE
    result = _reciprocal_magnitude(magnitude)
    result[magnitude < _HIDDEN] = _INFINITY
    result |= bits ^ magnitude
    return result


def reciprocal_normal(x: F32) -> F32:
    """:func:`reciprocal` of a contiguous array of numbers in [2**-126, 2**126)."""
    return _reciprocal_magnitude(x.view(np.int32)).view(np.float32)


def reciprocal_number(x: float) -> float:
    """:func:`reciprocal` of an FP32 number in [2**-126, 2**126), before it is rounded to FP32."""
    fraction, exponent = math.frexp(x)
    mantissa = int(fraction * (1 << 24))
    value = _RECIPROCAL.value(mantissa >> 15 & 0xFF, (mantissa & 0x7FFF) << 2)
    return math.ldexp(value, 1 - exponent - isa.VALUE_BITS)


def _rsqrt(x: F32) -> I32:
    bits = x.view(np.int32)
    wide = bits.astype(np.int64)
    # The lowest exponent bit and 7 mantissa bits: the table holds [2, 4) first, because 127 is odd.
    value = _RSQRT.evaluate((wide >> _int(16)) & _int(0xFF), (wide & _int(0xFFFF)) << _int(1))
    wide >>= _int(23)
    wide -= _int(127)
    wide >>= _int(1)
    result = _pack(value, np.subtract(_int(-isa.VALUE_BITS), wide, out=wide))
    result[bits == _INFINITY] = 0
    result[bits < 0] = _NAN_BITS
    zero = (bits & _MAGNITUDE) < _HIDDEN
    if np.count_nonzero(zero):
        result[zero] = (bits[zero] & ~_MAGNITUDE) | _INFINITY
    return result


def _rsqrt_number(x: float) -> float:
    """:func:`rsqrt` of an FP32 number in [2**-126, 2**126), before it is rounded to FP32."""
    fraction, exponent = math.frexp(x)
    mantissa = int(fraction * (1 << 24))
    value = _RSQRT.value((exponent & 1) << 7 | mantissa >> 16 & 0x7F, (mantissa & 0xFFFF) << 1)
    return math.ldexp(value, -isa.VALUE_BITS - (exponent - 1 >> 1))


def _sigmoid(x: F32) -> I32:
    # With e = exp(-|x|): 1 / (1 + e) on the right, e / (1 + e) on the left; both parts keep their guard bits.
    power, e = _exp_parts(np.fmin(np.abs(x), _EXP_RANGE), _int(-isa.LOG2E))
    down = _int(isa.VALUE_BITS - isa.EXPONENT_FRACTION_BITS - 1) - power  # at least 3
    below = e >> np.minimum(down, _int(63), out=down)
    below += _int(1)
    below >>= _int(1)  # e with 25 fraction bits, rounded: 0 .. 2**25, so that 1 + e is in [1, 2]
    position = below & _EXPONENT_MASK
    entry = position >> _int(isa.FRACTION_BITS)
    position &= _POSITION_MASK
    value = _RECIPROCAL.evaluate(entry, position)
    below >>= _int(isa.EXPONENT_FRACTION_BITS)
    value >>= below  # 1 + e = 2 wraps to entry 0, whose value is 1.0
    left = (x.view(np.int32) >> 31).astype(np.int64)  # all ones on the left
    e += _int(8)
    e >>= _int(4)  # 25 fraction bits, at most 2**26 - 1
    one = _int(1 << isa.EXPONENT_FRACTION_BITS)
    e ^= one
    e &= left
    e ^= one  # e on the left, 1 on the right
    power &= left
    value *= e  # 26 x 30 bits: 27 x 16 bits, twice
    power -= _int(isa.VALUE_BITS + isa.EXPONENT_FRACTION_BITS)
    return _pack(value, power)


class _Odd:
    """Evaluates an :class:`~catenary.isa.functions.OddFunction`: ``sign(x) * min(|x|, 1) * T(|x|)``."""

    def __init__(self, function: isa.OddFunction) -> None:
        self.rom = _Rom(function.small, function.large)
        self.last = np.int32(_ONE + (function.octaves << 23) - 1)  # bits of the largest argument of the table

    def __call__(self, x: F32) -> I32:
        bits = x.view(np.int32)
        magnitude = bits & _MAGNITUDE
        below = np.minimum(magnitude, _ONE)  # min(|x|, 1)
        above = np.minimum(magnitude, self.last)
        np.maximum(above, _ONE, out=above)
        above -= _ONE
        # min(|x|, 1) with 24 fraction bits: at 1 it addresses the first entry of the large table, at position 0.
        fixed: I64 = (below.view(np.float32) * np.float32(2.0**24)).astype(np.int64)
        wide = above.astype(np.int64)
        entry = (fixed >> _int(isa.FRACTION_BITS)) + (wide >> _int(16))
        position = (fixed & _POSITION_MASK) + ((wide & _int(0xFFFF)) << _int(1))
        value = self.rom.evaluate(entry, position)
        value *= (below & _MANTISSA) | _HIDDEN  # 24 x 30 bits: 25 x 16 bits, twice
        result = _pack(value, (below >> 23).astype(np.int64) - _int(150 + isa.VALUE_BITS))
        result[magnitude < _HIDDEN] = 0
        result |= bits ^ magnitude
        return result


_tanh: Final = _Odd(isa.TANH)
_erf: Final = _Odd(isa.ERF)


def exp(x: ArrayLike) -> F32:
    """e**x. exp(+-0) = 1 exactly; +inf above 88.7228, +0 where e**x < 2**-126."""
    return _apply(_exp, x)


def exp_negated(x: ArrayLike) -> F32:
    """``exp(-x)`` of numbers that are not negative: +0.0 and up, or NaN."""
    return _apply(_exp_negated, x)


def reciprocal(x: ArrayLike) -> F32:
    """1/x, exact for powers of two. 1/+-0 = +-inf, 1/+-inf = +-0, and +-0 where \\|1/x\\| < 2**-126."""
    return _apply_few(reciprocal_number, _reciprocal, x)


def rsqrt(x: ArrayLike) -> F32:
    """x**-0.5, exact for powers of four. +-0 gives +-inf (IEEE 754-2019 rSqrt), +inf gives +0, x < 0 gives NaN."""
    return _apply_few(_rsqrt_number, _rsqrt, x)


def tanh(x: ArrayLike) -> F32:
    """Hyperbolic tangent; odd, tanh(+-0) = +-0, +-1 from where that is the nearest number."""
    return _apply(_tanh, x)


def sigmoid(x: ArrayLike) -> F32:
    """1 / (1 + e**-x). sigmoid(+-0) = 0.5 exactly, +0 where the value is below 2**-126."""
    return _apply(_sigmoid, x)


def erf(x: ArrayLike) -> F32:
    """Error function; odd, erf(+-0) = +-0, +-1 from where that is the nearest number."""
    return _apply(_erf, x)
