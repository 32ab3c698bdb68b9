# SPDX-License-Identifier: Apache-2.0
"""Attention between its two integer products: scores, softmax weights as two INT8 parts, and the merge.

The softmax is the plain one over all visible positions, with no running maximum, so that a row does not depend on how
the prompt was cut into chunks. The scale of V belongs to the position that P*V sums over, so it is folded into P; P has
14 bits, sent through the INT8 matrix engine as two codes of 7 bits, ``p = 128 * hi + lo``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catenary.isa.functions import inverse_constant
from catenary.sim.arith.fp32 import F32, add_settled, from_int, multiply_settled, read, sum_settled
from catenary.sim.arith.functions import exp, reciprocal
from catenary.sim.arith.quantize import ABSMAX_FLOOR

WEIGHT_LIMIT: Final = 16383
"""Largest softmax weight: 14 bits."""

LOW_BITS: Final = 7
"""Bits of the low part of a weight."""

INVERSE_WEIGHT_LIMIT: Final = np.float32(inverse_constant(WEIGHT_LIMIT))

# Scores per step of softmax_weights: enough to hide the cost of a numpy call, few enough for the cache.
_STEP: Final = 1 << 16


class SoftmaxWeights(NamedTuple):
    """Softmax rows as integers: ``P[t] * s_v[t]`` is about ``((128 * hi + lo) * c1) * c2``.

    Attributes:
        hi, lo: int8 [..., L] in [0, 127]; 0 at positions that are not visible.
        c1: float32 [...], ``mx * FP32(1/16383)``.
        c2: float32 [...], ``reciprocal(den)``.
    """

    hi: NDArray[np.int8]
    lo: NDArray[np.int8]
    c1: F32
    c2: F32


def attention_scores(acc: NDArray[np.int32], key_scales: ArrayLike, query_scales: ArrayLike, scale: float) -> F32:
    """``(float(acc) * s_k) * (s_q * scale)``.

    Args:
        acc: Q*K sums [..., L] over L positions.
        key_scales: s_k, float32, broadcasts to [..., L].
        query_scales: s_q, float32 [...].
        scale: FP32(1/sqrt(head_dim)), or what the model asks for; rounded to FP32.
    """
    with np.errstate(all="ignore"):
        left = multiply_settled(from_int(acc), read(key_scales))
        right = multiply_settled(read(query_scales), read(np.float32(scale)))
        return multiply_settled(left, right[..., None])


def softmax_weights(scores: ArrayLike, value_scales: ArrayLike, lengths: ArrayLike) -> SoftmaxWeights:
    """Softmax of every row over its visible positions, times V's scales, as 14-bit integers.

    ``m = max(s)``; ``u = exp(s - m)``; ``den = canonical_sum(u)``; ``e = u * s_v``; ``mx = max(max(e), 2**-64)``;
    ``p = rint(e * (16383 * reciprocal(mx)))`` clamped to [0, 16383]; ``hi = p >> 7``, ``lo = p & 127``. Maxima ignore
    NaN; a NaN in ``e`` gives p = 0, and a NaN score makes c2 NaN. Positions past the length are missing: whatever they
    hold changes nothing.

    Args:
        scores: float32 [..., L], position 0 first.
        value_scales: s_v, float32, broadcasts to [..., L].
        lengths: visible positions of each row, broadcasts to [...], in 1..L.

    Raises:
        ValueError: a length outside 1..L.
    """
    given = np.asarray(scores, dtype=np.float32)
    s = given.reshape((1,) * max(0, 2 - given.ndim) + given.shape)
    scales = np.broadcast_to(np.asarray(value_scales, dtype=np.float32), s.shape)
    visible = np.broadcast_to(np.asarray(lengths), s.shape[:-1])
    limit = s.shape[-1]
    if visible.size and not 1 <= visible.min() <= visible.max() <= limit:
        raise ValueError(f"Visible length must be in 1..{limit}, not {visible.min()}..{visible.max()}")
    hi, lo = np.zeros(s.shape, np.int8), np.zeros(s.shape, np.int8)
    c1, c2 = np.empty(s.shape[:-1], np.float32), np.empty(s.shape[:-1], np.float32)
    step = max(1, _STEP * s.shape[0] // max(1, s.size))
    with np.errstate(all="ignore"):
        for first in range(0, s.shape[0] if s.size else 0, step):
            part = slice(first, first + step)
            longest = int(visible[part].max())
            p, c1[part], c2[part] = _weights(s[part, ..., :longest], scales[part, ..., :longest], visible[part])
            hi[part, ..., :longest] = p >> LOW_BITS
            lo[part, ..., :longest] = p & ((1 << LOW_BITS) - 1)
    shape = given.shape
    return SoftmaxWeights(hi.reshape(shape), lo.reshape(shape), c1.reshape(shape[:-1]), c2.reshape(shape[:-1]))


def _weights(scores: F32, scales: F32, lengths: NDArray[np.integer]) -> tuple[NDArray[np.int16], F32, F32]:
    """Weights p [..., L], c1 [...] and c2 [...]; L is the largest of ``lengths``."""
    s = read(scores)
    masked = None
    if lengths.min() < s.shape[-1]:
        masked = np.arange(s.shape[-1]) >= lengths[..., None]
        s = np.where(masked, np.float32(-np.inf), s)
    top = np.fmax.reduce(s, axis=-1, keepdims=True)
    u = exp(add_settled(s, -top))
    if masked is not None:
        np.copyto(u, np.float32(-0.0), where=masked)  # missing: adding -0.0 changes no sum
    den = sum_settled(u.reshape(-1, u.shape[-1])).reshape(lengths.shape)
    e = multiply_settled(u, read(scales))
    if masked is not None:
        np.copyto(e, np.float32(0.0), where=masked)
    largest = np.asarray(np.fmax(np.fmax.reduce(e, axis=-1), ABSMAX_FLOOR))
    factor = multiply_settled(reciprocal(largest), np.float32(WEIGHT_LIMIT))
    p = np.asarray(e * factor[..., None])  # a product that should be flushed rounds to 0 as well
    np.rint(p, out=p)
    np.fmax(p, np.float32(0.0), out=p)  # NaN becomes 0
    np.fmin(p, np.float32(WEIGHT_LIMIT), out=p)
    return p.astype(np.int16), multiply_settled(largest, INVERSE_WEIGHT_LIMIT), reciprocal(den)


def merge_parts(acc_hi: NDArray[np.int32], acc_lo: NDArray[np.int32], c1: ArrayLike, c2: ArrayLike) -> F32:
    """``((float(acc_hi) * 128 + float(acc_lo)) * c1) * c2``.

    Args:
        acc_hi, acc_lo: sums of the high and low parts of P with V's codes, [..., head_dim].
        c1, c2: float32 [...], from :func:`softmax_weights`.
    """
    with np.errstate(all="ignore"):
        high = multiply_settled(from_int(acc_hi), np.float32(1 << LOW_BITS))
        merged = add_settled(high, from_int(acc_lo))
        scaled = multiply_settled(merged, read(c1)[..., None])
        return multiply_settled(scaled, read(c2)[..., None])
