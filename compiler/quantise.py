# SPDX-License-Identifier: Apache-2.0
"""Rounding of weight matrices: 8 bits per row, or few bits with two levels of scales.

Few-bit codes follow QServe's two-level scheme (arXiv 2405.04532): ``w = s_w (q - z) s`` with unsigned codes ``q``, one
byte ``s`` and one byte ``z`` per group, and one FP32 ``s_w`` per row, such that the integer ``(q - z) s`` fits INT8.
There the first level is rounded to INT8 and the second is derived from it; here ``s``, ``z`` and ``s_w`` are searched
for the least squared error, as in the clipping searches of OmniQuant (arXiv 2308.13137) and AWQ (arXiv 2306.00978).

Groups lie along the last axis of every work array and their columns along the first: so every step is a long vector
operation for groups of 16 as well. Sums add in one order, so the result depends on neither machine nor chunking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catenary.isa.tensors import WEIGHT_LIMIT

_F = np.float32
_SMALLEST = _F(2.0**-64)
"""Floor of a row's largest magnitude, so that a row of zeros has a scale; activations have the same floor."""

_CLIPS = tuple(_F(c) for c in (1.0, 0.93, 0.86, 0.79, 0.72))
"""Fractions of a group's full range that its codes may span: clipping few large weights refines all others."""

_CHANNEL_FACTORS = tuple(_F(1 + i / 20) for i in range(-3, 11))
"""Candidates for ``s_w``, relative to the largest magnitude / 127."""


@dataclass(frozen=True)
class Rounded:
    """Quantised rows.

    Attributes:
        codes: int16 [rows, columns].
        scales, zeros: uint8 [rows, groups].
        channel_scales: float32 [rows].
    """

    codes: NDArray[np.int16]
    scales: NDArray[np.uint8]
    zeros: NDArray[np.uint8]
    channel_scales: NDArray[np.float32]


def round_8bit(weights: NDArray[np.float32], groups: int) -> Rounded:
    """Symmetric 8-bit codes with one scale per row; ``groups`` only shapes the (constant) scales and zeros.

    Args:
        weights: finite float32 [rows, columns].
        groups: groups along K of the tensor that the rows belong to.
    """
    absmax = np.abs(weights).max(axis=1)
    scales = (np.maximum(absmax, _SMALLEST) / _F(WEIGHT_LIMIT)).astype(np.float32)
    codes = np.rint(weights / scales[:, None])
    np.clip(codes, -WEIGHT_LIMIT, WEIGHT_LIMIT, out=codes)
    shape = (len(weights), groups)
    return Rounded(codes.astype(np.int16), np.ones(shape, np.uint8), np.zeros(shape, np.uint8), scales)


def round_grouped(
    weights: NDArray[np.float32], bits: int, group: int, importance: NDArray[np.float32] | None = None
) -> Rounded:
    """Few-bit codes with two levels of scales; zeros, and so dropped weights, become exactly ``q = z``.

    Args:
        weights: finite float32 [rows, columns].
        bits: 2, 3 or 4.
        group: columns that share one scale and zero.
        importance: float32 [up to columns], 0 to 1: what a squared error in a column counts; columns past its end count
            nothing, and ``None`` means 1 each.
    """
    rows, columns = weights.shape
    group = min(group, columns)
    groups = -(-columns // group)
    padded = np.zeros((rows, groups * group), np.float32)
    padded[:, :columns] = weights
    x = np.ascontiguousarray(padded.reshape(rows, groups, group).transpose(2, 1, 0))
    cost = None
    if importance is not None:
        roots = np.zeros(groups * group, np.float32)
        roots[: len(importance)] = np.sqrt(importance)
        cost = np.ascontiguousarray(roots.reshape(groups, group).T)[:, :, None]
    top = (1 << bits) - 1

    # First in units of the finest s_w that reaches the largest magnitude: the steps that groups would like to have.
    absmax = np.maximum(np.abs(x).max(axis=(0, 1)), _SMALLEST)
    unit = absmax / _F(WEIGHT_LIMIT)
    x /= unit
    low, high = np.minimum(x.min(axis=0), 0), np.maximum(x.max(axis=0), 0)
    step = np.maximum((high - low) / _F(top), _F(2.0**-20))
    centre = (low + high) / _F(2)
    work = np.empty_like(x)

    ideal = _Best(step)
    for clip in _CLIPS:
        candidate = step * clip
        zero = np.clip(np.rint(_F(top / 2) - centre / candidate), 0, top)
        ideal.offer(_error(x, candidate, zero, None, top, cost, work), candidate, zero)

    # Then in units of the s_w of which those steps are nearly multiples: the integers.
    factor = _channel_factor(ideal.step, np.maximum(-low, high))
    x /= factor
    wanted = ideal.step / factor
    best = _Best(step)
    for s in (np.floor(wanted), np.ceil(wanted)):
        s = np.clip(s, 1, WEIGHT_LIMIT)
        middle = np.clip(np.rint(_F(top / 2) - centre / (factor * s)), 0, top)
        for shift in (-1, 0, 1):
            zero = np.clip(middle + _F(shift), 0, top)
            best.offer(_error(x, s, zero, np.floor(_F(WEIGHT_LIMIT) / s), top, cost, work), s, zero)
    _round(x, best.step, best.zero, np.floor(_F(WEIGHT_LIMIT) / best.step), top, work)
    refit = _refit(x, work * best.step, cost)
    work += best.zero
    return Rounded(
        codes=work.transpose(2, 1, 0).reshape(rows, groups * group)[:, :columns].astype(np.int16),
        scales=best.step.T.astype(np.uint8),
        zeros=best.zero.T.astype(np.uint8),
        channel_scales=unit * factor * refit,
    )


class _Best:
    """The candidate with the least error of each group; the earlier one where two are equal."""

    def __init__(self, like: NDArray[np.float32]) -> None:
        self.error = np.full_like(like, np.inf)
        self.step = np.ones_like(like)
        self.zero = np.zeros_like(like)

    def offer(self, error: NDArray[np.float32], step: NDArray[np.float32], zero: NDArray[np.float32]) -> None:
        better = error < self.error
        np.copyto(self.error, error, where=better)
        np.copyto(self.step, step, where=better)
        np.copyto(self.zero, zero, where=better)


def _round(
    x: NDArray[np.float32],
    step: NDArray[np.float32],
    zero: NDArray[np.float32],
    limit: NDArray[np.float32] | None,
    top: int,
    out: NDArray[np.float32],
) -> None:
    """``out = q - z``: x / step rounded to what the codes 0 .. top and ``|q - z| <= limit`` allow."""
    np.divide(x, step, out=out)
    np.rint(out, out=out)
    low, high = -zero, _F(top) - zero
    if limit is not None:
        low, high = np.maximum(low, -limit), np.minimum(high, limit)
    np.maximum(out, low, out=out)
    np.minimum(out, high, out=out)


def _error(
    x: NDArray[np.float32],
    step: NDArray[np.float32],
    zero: NDArray[np.float32],
    limit: NDArray[np.float32] | None,
    top: int,
    cost: NDArray[np.float32] | None,
    work: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Squared error of each group [groups, rows] of ``x`` [group, groups, rows]."""
    _round(x, step, zero, limit, top, work)
    work *= step
    work -= x
    if cost is not None:
        work *= cost
    work *= work
    return _sum(work).copy()


def _sum(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum over the first axis of ``values``, which is lost, by halving: numpy's own order depends on the shape."""
    length = len(values)
    while length > 1:
        half = (length + 1) // 2
        values[: length - half] += values[half:length]
        length = half
    total: NDArray[np.float32] = values[0]
    return total


def _channel_factor(step: NDArray[np.float32], reach: NDArray[np.float32]) -> NDArray[np.float32]:
    """Choose ``s_w`` of each row, in units of the largest magnitude / 127.

    Args:
        step: ideal steps [groups, rows] in that unit. They must become integers times ``s_w``.
        reach: largest magnitude of each group [groups, rows]; beyond 127 ``s_w`` it is clipped.

    Returns:
        float32 [rows].
    """
    best = np.full(step.shape[1], np.inf, np.float32)
    chosen = np.ones(step.shape[1], np.float32)
    for factor in _CHANNEL_FACTORS:
        away = np.maximum(np.rint(step / factor), 1) * factor - step
        clipped = np.maximum(reach - _F(WEIGHT_LIMIT) * factor, 0)
        error = _sum(away * away + clipped * clipped)
        better = error < best
        best[better], chosen[better] = error[better], factor
    return chosen


def _refit(x: NDArray[np.float32], y: NDArray[np.float32], cost: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Factor of ``s_w`` [rows] that brings the integers ``y`` [group, groups, rows] closest to ``x``: least squares."""
    weighted = y if cost is None else y * cost * cost
    along = _sum(_sum(weighted * x))
    norm = _sum(_sum(weighted * y))
    usable = (along > 0) & (norm > 0)
    return np.divide(along, norm, out=np.ones_like(along), where=usable)
