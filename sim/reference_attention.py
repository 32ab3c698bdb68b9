# SPDX-License-Identifier: Apache-2.0
"""Causal attention over a quantised KV cache, as :mod:`catenary.sim.reference` defines it.

Keys are rotated before they are quantised, and every query, that of the current token too, sees keys and values only
through codes and scales. The scale of a value belongs to its token, which is the axis that P * V sums over: so it folds
into the softmax weights P, and those meet the values' codes as two 7-bit parts that are summed apart
(:func:`catenary.sim.arith.softmax_weights`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from catenary.isa.graph import Attention
from catenary.sim import arith

F32 = NDArray[np.float32]

SCORES_AT_ONCE = 1 << 21
"""Attention scores held at once: queries are taken in tiles, so that a long prefill needs little memory."""


class Coded(NamedTuple):
    """INT8 codes [..., width] and one FP32 scale [...] for each vector along their last axis."""

    codes: NDArray[np.int8]
    scales: F32


class CachedAttention:
    """One attention node and its KV cache: codes [kv_heads, context, head_dim] and scales [kv_heads, context]."""

    def __init__(self, node: Attention, context: int) -> None:
        shape = (node.kv_heads, context)
        self._node = node
        self._keys = Coded(np.zeros((*shape, node.head_dim), np.int8), np.zeros(shape, np.float32))
        self._values = Coded(np.zeros((*shape, node.head_dim), np.int8), np.zeros(shape, np.float32))

    def run(self, q: F32, k: F32, v: F32, rope: F32 | None, position: int) -> tuple[F32, bool]:
        """Store the keys and values of n tokens from ``position`` on, then attend from each of them.

        Args:
            q: [n, heads * head_dim].
            k, v: [n, kv_heads * head_dim].
            rope: cosines, then sines of every position of the context [context, rotary_dim], or ``None``.
            position: absolute position of the first token; all before it are in the cache.

        Returns:
            The outputs [n, heads * head_dim], and whether a NaN was quantised.
        """
        node, rows = self._node, len(q)
        angles = None if rope is None else rope[position : position + rows]
        keys, nan_k = quantize(_rotate(k.reshape(rows, node.kv_heads, node.head_dim), angles))
        values, nan_v = quantize(v.reshape(rows, node.kv_heads, node.head_dim))
        queries, nan_q = quantize(_rotate(q.reshape(rows, node.heads, node.head_dim), angles))
        _store(self._keys, position, keys)
        _store(self._values, position, values)

        out = np.empty((rows, node.heads * node.head_dim), np.float32)
        tile = max(1, SCORES_AT_ONCE // (node.heads * (position + rows)))
        for first in range(0, rows, tile):
            span = slice(first, min(first + tile, rows))
            out[span] = self._attend(Coded(queries.codes[span], queries.scales[span]), position + first)
        return out, nan_q or nan_k or nan_v

    def _attend(self, q: Coded, position: int) -> F32:
        """Outputs [n, heads * head_dim] of queries (codes [n, heads, head_dim]) whose first is at ``position``.

        Axes are: KV head; query head within it and token, as one; visible position or channel. The token at position p
        sees the positions 0 .. p; those behind it are missing from its sums and its maximum, not masked by some number.
        """
        node, rows = self._node, len(q.codes)
        group, visible = node.heads // node.kv_heads, position + rows
        codes = q.codes.transpose(1, 0, 2).reshape(node.kv_heads, group * rows, node.head_dim)
        scales = q.scales.T.reshape(node.kv_heads, group * rows)
        lengths = np.tile(np.arange(position + 1, visible + 1), group)
        keys = Coded(self._keys.codes[:, :visible], self._keys.scales[:, None, :visible])
        values = Coded(self._values.codes[:, :visible], self._values.scales[:, None, :visible])

        scores = arith.attention_scores(arith.integer_matmul(codes, keys.codes), keys.scales, scales, node.scale)
        if node.soft_cap is not None:
            scores = arith.soft_cap(scores, node.soft_cap)
        high, low, c1, c2 = arith.softmax_weights(scores, values.scales, lengths)
        channels = values.codes.swapaxes(1, 2)
        out = arith.merge_parts(arith.integer_matmul(high, channels), arith.integer_matmul(low, channels), c1, c2)
        return out.reshape(node.heads, rows, node.head_dim).swapaxes(0, 1).reshape(rows, -1)


def quantize(x: F32) -> tuple[Coded, bool]:
    """Codes and scales of the vectors along the last axis of ``x``, and whether any element was NaN."""
    codes, scales, nan = arith.quantize(x)
    return Coded(codes, scales), bool(nan.any())


def _rotate(x: F32, angles: F32 | None) -> F32:
    """Rotate x [n, heads, head_dim] by the cosines and sines ``angles`` [n, rotary_dim] of its tokens."""
    if angles is None:
        return x
    cos, sin = np.split(angles[:, None], 2, axis=-1)
    return arith.rope(x, cos, sin)


def _store(part: Coded, position: int, rows: Coded) -> None:
    """Write ``rows`` (codes [n, kv_heads, head_dim]) into ``part`` of the cache from ``position`` on."""
    span = slice(position, position + len(rows.codes))
    part.codes[:, span] = rows.codes.swapaxes(0, 1)
    part.scales[:, span] = rows.scales.T
