# SPDX-License-Identifier: Apache-2.0
"""FP32 as the vector unit computes it: IEEE 754 binary32, nearest even, no subnormals, one NaN, one order of sums.

Every operation reads a subnormal operand as the zero of its sign, rounds the exact result as IEEE 754 does (gradual
underflow included), and then replaces a result below 2**-126 in magnitude by the zero of its sign and any NaN by
:data:`NAN`. Nothing is fused. Arrays are float32; operands broadcast.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catenary.isa.numbers import PARTIALS
from catenary.sim.arith.quiet import quietly

F32 = NDArray[np.float32]
Operand = F32 | np.float32

NAN: Final = np.uint32(0x7FC00000).view(np.float32)
"""The only NaN that an operation returns."""

TINY: Final = np.float32(2.0**-126)
"""Smallest magnitude that is not flushed."""

_NO_FLUSH: Final = np.float32(2.0**-103)
"""Sums of multiples of 2**-126 are such multiples, hence never subnormal; any larger number than this is one."""

_SUM_ROWS: Final = 64


def read(x: ArrayLike) -> F32:
    """``x`` as an operation reads it: float32, subnormals replaced by zeros; ``x`` itself where nothing changes."""
    values = np.asarray(x, dtype=np.float32)
    magnitude = np.abs(values)
    if values.size == 0 or np.minimum.reduce(magnitude, axis=None) >= TINY:
        return values
    small = magnitude < TINY
    if np.count_nonzero(small) + np.count_nonzero(magnitude) == values.size:  # all small ones are zeros
        return values
    return np.copysign(np.where(small, np.float32(0.0), values), values)


def read_number(x: float) -> np.float32:
    """:func:`read` for one number, rounded to float32 first."""
    number = np.float32(x)
    return number if not abs(number) < TINY else np.copysign(np.float32(0.0), number)


def finish(result: F32) -> F32:
    """Flush ``result`` and make its NaN canonical, in place where it is an array; returns it."""
    values = np.asarray(result)
    magnitude = np.abs(values)
    # A NaN makes the minimum NaN and the comparison false.
    if values.size == 0 or np.minimum.reduce(magnitude, axis=None) >= TINY:
        return values
    normal = magnitude >= TINY
    if np.count_nonzero(normal) != np.count_nonzero(magnitude):  # subnormals and NaN are nonzero, but not normal
        np.multiply(values, normal, out=values)  # times 1 or 0: the sign stays, and so does NaN
        np.copyto(values, NAN, where=np.isnan(values))
    return values


@quietly
def flush(x: ArrayLike) -> F32:
    """A copy of ``x`` with subnormals replaced by zeros of their sign and every NaN by :data:`NAN`."""
    return finish(np.array(x, dtype=np.float32))


def add_settled(a: Operand, b: Operand) -> F32:
    """``a + b`` for operands that :func:`read` would not change."""
    return finish(np.add(a, b, dtype=np.float32))


def multiply_settled(a: Operand, b: Operand) -> F32:
    """``a * b`` for operands that :func:`read` would not change."""
    return finish(np.multiply(a, b, dtype=np.float32))


@quietly
def add(a: ArrayLike, b: ArrayLike) -> F32:
    """``a + b``."""
    return add_settled(read(a), read(b))


@quietly
def sub(a: ArrayLike, b: ArrayLike) -> F32:
    """``a - b``, which is ``a + (-b)``."""
    return finish(np.subtract(read(a), read(b), dtype=np.float32))


@quietly
def mul(a: ArrayLike, b: ArrayLike) -> F32:
    """``a * b``."""
    return multiply_settled(read(a), read(b))


def order_key(x: F32) -> NDArray[np.int32]:
    """An int32 that sorts like ``x``, with -0.0 just below +0.0 and every NaN below -inf."""
    bits = np.asarray(x, dtype=np.float32).view(np.int32)
    key = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    return np.where(np.isnan(x), np.int32(-(2**31)), key)


@quietly
def maximum(a: ArrayLike, b: ArrayLike) -> F32:
    """The larger operand (IEEE 754-2019 maximumNumber): -0.0 < +0.0; NaN loses; two NaN give :data:`NAN`."""
    left, right = np.broadcast_arrays(read(a), read(b))
    return finish(np.where(order_key(left) >= order_key(right), left, right))


@quietly
def minimum(a: ArrayLike, b: ArrayLike) -> F32:
    """The smaller operand (IEEE 754-2019 minimumNumber): -0.0 < +0.0; NaN loses; two NaN give :data:`NAN`."""
    left, right = np.broadcast_arrays(read(a), read(b))
    take_left = (order_key(left) <= order_key(right)) & ~np.isnan(left) | np.isnan(right)
    return finish(np.where(take_left, left, right))


def from_int(acc: NDArray[np.integer]) -> F32:
    """Integers rounded once to float32, ties to even."""
    return np.asarray(acc).astype(np.float32)


@quietly
def canonical_sum(x: ArrayLike, start: int = 0, lengths: ArrayLike | None = None) -> F32:
    """Sum over the last axis in the one order that every device uses.

    128 partial sums start at -0.0. Element ``i`` is added to partial ``(start + i) % 128``, in ascending ``i``. Then
    the upper half of the partials is added to the lower half until one is left: ``a[:64] + a[64:]``, and so on.

    Args:
        x: [..., n].
        start: position of element 0, at least 0; a sum that begins in the middle of a sequence.
        lengths: [...] (or what broadcasts to it); elements at or past a row's length are missing. A missing element
            is not an added +0.0; it is an added -0.0, which changes nothing. Default: all n.

    Returns:
        [...]. An empty sum is -0.0.
    """
    values = np.asarray(x, dtype=np.float32)
    batch, n = values.shape[:-1], values.shape[-1]
    rows = values.reshape(math.prod(batch), n)
    total = np.empty(rows.shape[0], np.float32)
    limits = None
    if lengths is not None:
        limits = np.broadcast_to(np.asarray(lengths), batch).reshape(-1)
        if limits.size and limits.min() >= n:
            limits = None
    for first in range(0, rows.shape[0], _SUM_ROWS):
        part = slice(first, first + _SUM_ROWS)
        block = read(rows[part])
        if limits is not None:
            longest = max(int(limits[part].max()), 0)
            block = block[:, :longest]
            present = np.arange(block.shape[1]) < limits[part, None]
            block = np.where(present, block, np.float32(-0.0))
        total[part] = sum_settled(block, start)
    return total.reshape(batch)


def sum_settled(rows: F32, start: int = 0, nonnegative: bool = False) -> F32:
    """:func:`canonical_sum` of ``rows`` [rows, n] that :func:`read` would not change; missing elements hold -0.0.

    ``nonnegative`` promises that no element is below -0.0, which saves looking.
    """
    # Where no partial result can be subnormal there is nothing to flush before the end.
    safe = nonnegative or _no_partial_subnormal(rows)
    partials = _partials(rows, start % PARTIALS, safe).T
    width = partials.shape[0]
    while width > 1:
        width //= 2
        partials = partials[:width] + partials[width:]
        if not safe:
            finish(partials)
    return finish(partials[0].copy())


def _partials(rows: F32, lane: int, safe: bool) -> F32:
    """Partial sums of ``rows`` [rows, n] whose element 0 goes to partial ``lane``: [rows, a power of two].

    Partials that no element reaches are left out where the rest is a power of two: they are -0.0, which when added
    changes nothing.
    """
    count, n = rows.shape
    if lane == 0 and n <= PARTIALS:
        width = 1 << max(n - 1, 0).bit_length()
        if n == width:
            return rows
        partials = np.full((count, width), -0.0, np.float32)
        partials[:, :n] = rows
        return partials
    if safe and lane == 0 and n >= 2 * PARTIALS:
        # All whole chunks in one call: along a strided axis numpy adds slice after slice, in ascending order.
        position = n - n % PARTIALS
        chunks = rows[:, :position].reshape(count, -1, PARTIALS)
        partials = np.add.reduce(chunks, axis=1, initial=np.float32(-0.0))  # exact: order as defined, tested
    elif lane == 0:
        partials, position = rows[:, :PARTIALS].copy(), PARTIALS
    else:
        partials, position = np.full((count, PARTIALS), -0.0, np.float32), 0
    while position < n:
        step = min(PARTIALS - lane, n - position)
        target = partials[:, lane : lane + step]
        np.add(target, rows[:, position : position + step], out=target)
        if not safe:
            finish(target)
        position, lane = position + step, 0
    return partials


def _no_partial_subnormal(rows: F32) -> bool:
    """Whether no sum of elements of ``rows``, rounded or not, can be subnormal."""
    if rows.size == 0 or np.minimum.reduce(rows, axis=None) >= 0:
        return True
    magnitude = np.abs(rows)
    return bool(np.minimum.reduce(magnitude, axis=None) >= _NO_FLUSH or ((magnitude >= _NO_FLUSH) | (rows == 0)).all())
