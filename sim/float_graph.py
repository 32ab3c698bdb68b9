# SPDX-License-Identifier: Apache-2.0
"""The yardstick: an imported graph in ordinary FP32, as fast as numpy's BLAS makes it.

Nothing here is bit exact and nothing else is derived from it: it says what the checkpoint computes, so that everything
compressed has something to be compared with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from catenary.isa.errors import UsageError
from catenary.isa.graph import (
    Apply,
    Attention,
    Binary,
    Combine,
    Embed,
    Graph,
    Linear,
    Node,
    Norm,
    NormKind,
    Quantize,
    Stage,
    Unary,
    verify,
)
from catenary.isa.tensors import FloatTensor, widen

F32 = NDArray[np.float32]

SCORES_AT_ONCE = 1 << 24
"""Attention scores that are held at a time; longer chunks of queries are cut to fit."""

KEPT_BYTES = 8 << 30
"""Bytes of FP16 and BF16 tensors that are kept widened by default; further ones are widened anew in each run."""


class FloatGraph:
    """Executes a graph in float form, with a KV cache for one sequence.

    Args:
        graph: in float form.
        kept_bytes: how much memory widened copies of half-precision tensors may take.

    Raises:
        GraphError: the graph is not well formed.
    """

    def __init__(self, graph: Graph, kept_bytes: int = KEPT_BYTES) -> None:
        verify(graph, "float")
        self.graph = graph
        self._room = kept_bytes
        self._kept: dict[str, F32] = {}
        self._caches: dict[tuple[str, str, int], tuple[F32, F32]] = {}
        for stage, layer in graph.runs():
            for node in stage.nodes:
                if isinstance(node, Attention):
                    shape = (graph.max_context, node.kv_heads, node.head_dim)
                    self._caches[stage.name, node.out, layer] = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self._length = 0

    @property
    def length(self) -> int:
        """Tokens in the KV cache."""
        return self._length

    def reset(self) -> None:
        """Forget the sequence; the next token is at position 0."""
        self._length = 0

    def run(self, ids: Sequence[int] | NDArray[np.integer], position: int, all_logits: bool = False) -> F32:
        """Run the tokens ``ids``, the first of them at ``position``, and extend the KV cache by them.

        Args:
            ids: at least one token id.
            position: absolute position of the first id, at most the number of tokens in the cache; what the cache holds
                from there on is replaced.
            all_logits: return a row for each id instead of the last one only.

        Returns:
            FP32 logits [1, vocab], or [len(ids), vocab] with ``all_logits``.

        Raises:
            UsageError: an id outside the vocabulary, no id at all, a position that leaves a gap behind the tokens in
                the cache, or more tokens than the context holds.
        """
        tokens = self._checked(ids, position)
        self._length = position  # should this call be interrupted, the rows behind it count for nothing
        mixing = [index for index, stage in enumerate(self.graph.stages) if _mixes_tokens(stage)]
        row_wise = {stage.name for stage in self.graph.stages[max(mixing, default=0) + 1 :]}
        flowing: F32 | None = None
        for stage, layer in self.graph.runs():
            values: dict[str, F32] = {}
            if stage.input is not None and flowing is not None:
                last_only = stage.name in row_wise and not all_logits
                values[stage.input] = flowing[-1:] if last_only else flowing
            for node in stage.nodes:
                values[node.out] = self._execute(stage, layer, node, values, tokens, position)
            flowing = values[stage.output]
        assert flowing is not None  # verified: there is a stage
        self._length = position + len(tokens)
        return flowing if all_logits else flowing[-1:]

    def _checked(self, ids: Sequence[int] | NDArray[np.integer], position: int) -> NDArray[np.int64]:
        tokens = np.asarray(ids)
        if tokens.ndim != 1 or not tokens.size or not np.issubdtype(tokens.dtype, np.integer):
            raise UsageError(f"Ids must be a list of at least one integer, not {ids!r}")
        outside = tokens[(tokens < 0) | (tokens >= self.graph.vocab)]
        if outside.size:
            raise UsageError(f"Ids must be in 0..{self.graph.vocab - 1}, not {outside[0]}")
        if not 0 <= position <= self._length:
            raise UsageError(f"Position must continue the {self._length} tokens in the KV cache, not be {position}")
        if position + len(tokens) > self.graph.max_context:
            raise UsageError(
                f"Tokens must fit the context of {self.graph.max_context}, not end at {position + len(tokens)}"
            )
        return tokens.astype(np.int64)

    def _execute(
        self, stage: Stage, layer: int, node: Node, values: dict[str, F32], tokens: NDArray[np.int64], position: int
    ) -> F32:
        def tensor(template: str | None) -> F32 | None:
            return None if template is None else self._widened(stage.tensor(template, layer))

        match node:
            case Embed():
                table = self._tensor(stage.tensor(node.table, layer))
                return widen(table.data[tokens], table.format)
            case Norm():
                return norm(node, values[node.x], self._widened(stage.tensor(node.weight, layer)), tensor(node.bias))
            case Linear():
                weight, bias = self._widened(stage.tensor(node.weight, layer)), tensor(node.bias)
                product = values[node.x] @ weight.T
                return product if bias is None else product + bias
            case Attention():
                q, k, v = values[node.q], values[node.k], values[node.v]
                return attention(node, q, k, v, tensor(node.rope), self._caches[stage.name, node.out, layer], position)
            case Apply():
                return unary(node.function, values[node.x], node.parameter)
            case Combine(function=Binary.ADD):
                return values[node.a] + values[node.b]
            case Combine():
                return values[node.a] * values[node.b]
            case Quantize():
                raise AssertionError("verified: a float graph has no Quantize")

    def _tensor(self, name: str) -> FloatTensor:
        tensor = self.graph.tensors[name]
        assert isinstance(tensor, FloatTensor)  # verified
        return tensor

    def _widened(self, name: str) -> F32:
        if name in self._kept:
            return self._kept[name]
        tensor = self._tensor(name)
        if tensor.data.dtype == np.float32:
            # A view, unless the file holds it at an odd address, where numpy would multiply without BLAS.
            wide = np.require(tensor.data, np.float32, "A")
        else:
            wide = tensor.to_float32()
            if wide.nbytes > self._room:
                return wide
            self._room -= wide.nbytes
        self._kept[name] = wide
        return wide


def norm(node: Norm, x: F32, weight: F32, bias: F32 | None) -> F32:
    """RMSNorm (arXiv 1910.07467) or LayerNorm (arXiv 1607.06450) of each row of ``x`` [tokens, width]."""
    if node.kind is NormKind.LAYER:
        x = x - x.mean(axis=1, keepdims=True)
    mean_square = np.square(x).mean(axis=1, keepdims=True)
    y: F32 = x / np.sqrt(mean_square + np.float32(node.eps)) * weight
    return y if bias is None else y + bias


def attention(node: Attention, q: F32, k: F32, v: F32, rope: F32 | None, caches: tuple[F32, F32], position: int) -> F32:
    """Causal attention of the tokens at ``position`` and after, whose keys and values go into ``caches``.

    Args:
        node: the dimensions.
        q: [tokens, heads * head_dim].
        k: [tokens, kv_heads * head_dim].
        v: [tokens, kv_heads * head_dim].
        rope: rotary table [max_context, rotary_dim], or ``None``.
        caches: keys and values, [max_context, kv_heads, head_dim] each.
        position: of the first token.

    Returns:
        float32 [tokens, heads * head_dim].
    """
    count, end = len(q), position + len(q)
    queries = q.reshape(count, node.heads, node.head_dim)
    keys = k.reshape(count, node.kv_heads, node.head_dim)
    if rope is not None:
        queries, keys = rotate(queries, rope[position:end]), rotate(keys, rope[position:end])
    caches[0][position:end] = keys
    caches[1][position:end] = v.reshape(keys.shape)
    all_keys = caches[0][:end].transpose(1, 2, 0)  # [kv_heads, head_dim, end]
    all_values = caches[1][:end].transpose(1, 0, 2)  # [kv_heads, end, head_dim]
    shared = node.heads // node.kv_heads
    out = np.empty((count, node.kv_heads, shared, node.head_dim), np.float32)
    step = max(1, SCORES_AT_ONCE // (node.heads * end))
    for start in range(0, count, step):
        rows = min(step, count - start)
        # The query heads of a KV head are rows of one matrix: [kv_heads, shared * rows, head_dim].
        block = queries[start : start + rows].reshape(rows, node.kv_heads, shared, node.head_dim).transpose(1, 2, 0, 3)
        scores: F32 = block.reshape(node.kv_heads, shared * rows, node.head_dim) @ all_keys * np.float32(node.scale)
        if node.soft_cap is not None:
            scores = unary(Unary.SOFT_CAP, scores, node.soft_cap)
        scores = scores.reshape(node.kv_heads, shared, rows, end)
        if rows > 1 or start + 1 < count:
            last_seen = position + start + np.arange(rows)
            scores = np.where(np.arange(end) > last_seen[:, None], np.float32(-np.inf), scores)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = weights.reshape(node.kv_heads, shared * rows, end) @ all_values
        out[start : start + rows] = mixed.reshape(node.kv_heads, shared, rows, node.head_dim).transpose(2, 0, 1, 3)
    return out.reshape(count, node.heads * node.head_dim)


def rotate(x: F32, table: F32) -> F32:
    """``x`` [tokens, heads, head_dim] rotated in half-split order by ``table`` [tokens, rotary_dim]: cosines, sines."""
    half = table.shape[1] // 2
    cos, sin = table[:, None, :half], table[:, None, half:]
    first, second = x[..., :half], x[..., half : 2 * half]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, x[..., 2 * half :]], axis=-1)


def unary(function: Unary, x: F32, parameter: float) -> F32:
    """``function`` of each element of ``x``; ``parameter`` is the cap of a soft cap."""
    y: F32
    match function:
        case Unary.SILU:
            with np.errstate(over="ignore"):  # exp overflows to infinity, and x / infinity is the right limit
                y = x / (1 + np.exp(-x))
        case Unary.GELU_ERF:
            y = 0.5 * x * (1 + erf(x * math.sqrt(0.5)))
        case Unary.GELU_TANH:
            y = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
        case Unary.RELU:
            y = np.maximum(x, 0)
        case Unary.TANH:
            y = np.tanh(x)
        case Unary.SOFT_CAP:
            y = np.tanh(x / parameter) * parameter
    return y


_ERF_STEPS = 256  # nodes per unit; cubic Hermite error is below step**4 / 384 * max |erf''''| = 1e-11
_ERF_END = 4.0  # from here on erf is 1 in FP32
_ERF_AT = np.arange(_ERF_END * _ERF_STEPS + 2) / _ERF_STEPS
_ERF = np.array([math.erf(at) for at in _ERF_AT.tolist()])
_ERF_SLOPE = 2 / math.sqrt(math.pi) / _ERF_STEPS * np.exp(-np.square(_ERF_AT))  # per step


def erf(x: F32) -> F32:
    """Error function within 1 ulp: cubic Hermite interpolation between nodes whose values and slopes are known."""
    scaled = np.minimum(np.abs(x).astype(np.float64), _ERF_END) * _ERF_STEPS
    index = np.nan_to_num(scaled).astype(np.int64)
    t = scaled - index
    rise, slope, next_slope = _ERF[index + 1] - _ERF[index], _ERF_SLOPE[index], _ERF_SLOPE[index + 1]
    square, cube = 3 * rise - 2 * slope - next_slope, slope + next_slope - 2 * rise
    value: F32 = np.copysign(_ERF[index] + t * (slope + t * (square + t * cube)), x).astype(np.float32)
    return value


def _mixes_tokens(stage: Stage) -> bool:
    return any(isinstance(node, Attention) for node in stage.nodes)
