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
from catenary.isa.numbers import ABSMAX_FLOOR, LOW_BITS, PROBABILITY_LIMIT
from catenary.sim.arith.fp32 import F32, finish, from_int, multiply_settled, read, read_number, sum_settled
from catenary.sim.arith.functions import exp_negated, reciprocal
from catenary.sim.arith.quantize import scale_sums
from catenary.sim.arith.quiet import quietly

INVERSE_PROBABILITY_LIMIT: Final = np.float32(inverse_constant(PROBABILITY_LIMIT))

_FLOOR: Final = np.float32(ABSMAX_FLOOR)
_ZERO: Final = np.array(0.0, np.float32)
_MISSING: Final = np.array(-np.inf, np.float32)
_LOW_BITS: Final = np.array(LOW_BITS, np.int16)
_LOW_MASK: Final = np.array((1 << LOW_BITS) - 1, np.int16)

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


@quietly
def attention_scores(acc: NDArray[np.int32], key_scales: ArrayLike, query_scales: ArrayLike, scale: float) -> F32:
    """``(float(acc) * s_k) * (s_q * scale)``.

    Args:
        acc: Q*K sums [..., L] over L positions.
        key_scales: s_k, float32, broadcasts to [..., L].
        query_scales: s_q, float32 [...].
        scale: FP32(1/sqrt(head_dim)), or what the model asks for; rounded to FP32.
    """
    return scale_sums(acc, key_scales, multiply_settled(read(query_scales), read_number(scale)))


@quietly
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
    s = given if given.ndim > 1 else given.reshape(1, -1)
    scales = np.asarray(value_scales, dtype=np.float32)
    visible = np.asarray(lengths)
    if visible.shape != s.shape[:-1]:
        visible = np.broadcast_to(visible, s.shape[:-1])
    limit = s.shape[-1]
    shortest, longest = _range(visible)
    if not 1 <= shortest <= longest <= limit:
        raise ValueError(f"Visible length must be in 1..{limit}, not {shortest}..{longest}")
    if s.size <= _STEP:
        p, c1, c2 = _weights(s[..., :longest], scales[..., :longest], visible, shortest)
    else:
        s, scales = s[..., :longest], np.broadcast_to(scales[..., :longest], (*s.shape[:-1], longest))
        p = np.empty(s.shape, np.int16)
        c1, c2 = np.empty(s.shape[:-1], np.float32), np.empty(s.shape[:-1], np.float32)
        step = max(1, _STEP * s.shape[0] // s.size)
        for first in range(0, s.shape[0], step):
            part = slice(first, first + step)
            p[part], c1[part], c2[part] = _weights(s[part], scales[part], visible[part], _range(visible[part])[0])
    if longest < limit:
        wide = np.zeros((*s.shape[:-1], limit), np.int16)
        wide[..., :longest] = p
        p = wide
    hi, lo = (p >> _LOW_BITS).astype(np.int8), (p & _LOW_MASK).astype(np.int8)
    if given.ndim > 1:
        return SoftmaxWeights(hi, lo, c1, c2)
    return SoftmaxWeights(hi.reshape(-1), lo.reshape(-1), c1.reshape(()), c2.reshape(()))


def _range(lengths: NDArray[np.integer]) -> tuple[int, int]:
    """The smallest and the largest length; 1 and 1 where there is none."""
    if not lengths.size:
        return 1, 1
    return int(np.minimum.reduce(lengths, axis=None)), int(np.maximum.reduce(lengths, axis=None))


def _weights(
    scores: F32, scales: F32, lengths: NDArray[np.integer], shortest: int
) -> tuple[NDArray[np.int16], F32, F32]:
    """Weights p [..., L], c1 [...] and c2 [...]; ``shortest`` is the smallest of ``lengths``, none exceeds L."""
    s = scores + _ZERO  # a copy without signalling NaN, which fmax would not ignore
    longest = s.shape[-1]
    if shortest < longest:
        # A missing score becomes u = +0.0 and p = 0. As a term of den that is as good as none: another term is 1.0, or
        # else some term is NaN anyway.
        s[..., shortest:][np.arange(shortest, longest) >= lengths[..., None]] = _MISSING
    # Reading and flushing would change nothing: exp is 1 for anything below 2**-26 in magnitude.
    np.subtract(np.fmax.reduce(s, axis=-1, keepdims=True), s, out=s)
    u = exp_negated(s)
    den = sum_settled(u.reshape(-1, longest), nonnegative=True).reshape(lengths.shape)
    # Here, too: what should be flushed, in e or after it, becomes p = 0 in any case.
    e = u * scales
    largest = np.asarray(np.fmax(np.fmax.reduce(e, axis=-1), _FLOOR))
    factor = np.asarray(reciprocal(largest) * np.float32(PROBABILITY_LIMIT))  # 0, or at least 2**-126
    p = np.multiply(e, factor[..., None], out=e)  # at most 16383 * (1 + 2**-22): no need to clamp above
    np.rint(p, out=p)
    np.fmax(p, _ZERO, out=p)  # NaN becomes 0
    return p.astype(np.int16), np.asarray(largest * INVERSE_PROBABILITY_LIMIT), reciprocal(den)


@quietly
def merge_parts(acc_hi: NDArray[np.int32], acc_lo: NDArray[np.int32], c1: ArrayLike, c2: ArrayLike) -> F32:
    """``((float(acc_hi) * 128 + float(acc_lo)) * c1) * c2``.

    Args:
        acc_hi, acc_lo: sums of the high and low parts of P with V's codes, [..., head_dim].
        c1, c2: float32 [...], from :func:`softmax_weights`.
    """
    # As in scale_sums: whole numbers times a number that was read are never subnormal.
    merged = from_int(acc_hi)
    merged *= np.float32(1 << LOW_BITS)
    merged += from_int(acc_lo)
    scaled = np.multiply(merged, read(c1)[..., None])
    return finish(np.multiply(scaled, read(c2)[..., None], dtype=np.float32))
