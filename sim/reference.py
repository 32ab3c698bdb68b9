# SPDX-License-Identifier: Apache-2.0
"""The reference: what every backend must compute, bit for bit, for a quantised graph.

It walks the graph node by node over rows of tokens and knows no instruction, buffer or memory line. Each number it
makes comes from :mod:`catenary.sim.arith`; what is said here is only which operation meets which operand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
from catenary.isa.tensors import FloatTensor, QuantTensor, widen
from catenary.sim import arith
from catenary.sim.reference_attention import CachedAttention, Coded, quantize

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class _Values:
    """Named values of one run of a stage, by kind; :func:`verify` has made sure that each is read as what it is."""

    floats: dict[str, F32]
    codes: dict[str, Coded]

    def passed_on(self, output: str, name: str) -> _Values:
        """Only the value ``output``, called ``name``: what the next run of a stage starts with."""
        if output in self.codes:
            return _Values({}, {name: self.codes[output]})
        return _Values({name: self.floats[output]}, {})

    def last_row(self) -> _Values:
        """Every value, of the last token only."""
        codes = {name: Coded(value.codes[-1:], value.scales[-1:]) for name, value in self.codes.items()}
        return _Values({name: value[-1:] for name, value in self.floats.items()}, codes)


@dataclass(frozen=True)
class _Chunk:
    """The tokens of one call: ``ids`` [n], the first of them at absolute position ``position``."""

    ids: NDArray[np.int64]
    position: int

    def last_row(self) -> _Chunk:
        return _Chunk(self.ids[-1:], self.position + len(self.ids) - 1)


class Reference:
    """Executes a graph in quantised form, with a KV cache for one sequence.

    Args:
        graph: in quantised form.

    Raises:
        GraphError: the graph is not well formed, or one of its tensors breaks a rule of the format.
        ReductionTooLongError: a weight has more columns than an INT32 sum can take.
    """

    def __init__(self, graph: Graph) -> None:
        verify(graph, "quantised")
        self.graph = graph
        self._weights: dict[str, arith.PreparedWeights] = {}
        self._channel_scales: dict[str, F32] = {}
        self._floats: dict[str, F32] = {}
        self._tables: dict[str, FloatTensor] = {}
        self._attentions: dict[tuple[str, str, int], CachedAttention] = {}
        for stage, layer in graph.runs():
            for node in stage.nodes:
                self._prepare(stage, layer, node)
        self._length = 0
        self._nan_seen = False

    def _prepare(self, stage: Stage, layer: int, node: Node) -> None:
        """Expand the weights and widen the vectors of ``node`` once, and make its cache."""
        match node:
            case Embed():
                name = stage.tensor(node.table, layer)
                self._tables[name] = self._float_tensor(name)  # as it is: rows are widened when they are asked for
            case Linear():
                name = stage.tensor(node.weight, layer)
                tensor = self.graph.tensors[name]
                assert isinstance(tensor, QuantTensor)  # verified
                if name not in self._weights:
                    tensor.check(name)  # or else the next line could wrap round
                    codes = tensor.expanded().astype(np.int8)
                    self._weights[name] = arith.PreparedWeights.from_codes(codes, tensor.outliers)
                    self._channel_scales[name] = tensor.channel_scales
                self._widen(stage, layer, node.bias)
            case Norm():
                self._widen(stage, layer, node.weight)
                self._widen(stage, layer, node.bias)
            case Attention():
                self._widen(stage, layer, node.rope)
                self._attentions[stage.name, node.out, layer] = CachedAttention(node, self.graph.max_context)

    def _widen(self, stage: Stage, layer: int, template: str | None) -> None:
        if template is not None:
            name = stage.tensor(template, layer)
            self._floats[name] = self._float_tensor(name).to_float32()

    def _float_tensor(self, name: str) -> FloatTensor:
        tensor = self.graph.tensors[name]
        assert isinstance(tensor, FloatTensor)  # verified
        return tensor

    @property
    def length(self) -> int:
        """Tokens in the KV cache."""
        return self._length

    @property
    def nan_seen(self) -> bool:
        """Whether a quantisation has met a NaN since the last :meth:`reset`."""
        return self._nan_seen

    def reset(self) -> None:
        """Forget the sequence; the next token is at position 0."""
        self._length = 0
        self._nan_seen = False

    def run(self, ids: Sequence[int] | NDArray[np.integer], position: int, all_logits: bool = False) -> F32:
        """Run the tokens ``ids``, the first of them at ``position``, and extend the KV cache by them.

        Any way of cutting a sequence into calls gives the same logits, bit for bit.

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
        chunk = self._checked(ids, position)
        self._length = position  # should this call be interrupted, the rows behind it count for nothing
        values, output = _Values({}, {}), ""
        for stage, layer in self.graph.runs():
            if stage.input is not None:
                values = values.passed_on(output, stage.input)
            final = stage is self.graph.stages[-1] and layer == stage.repeat - 1
            cut = _first_row_wise(stage) if final and not all_logits else None
            for index, node in enumerate(stage.nodes):
                if index == cut:
                    values, chunk = values.last_row(), chunk.last_row()
                self._execute(stage, layer, node, values, chunk)
            output = stage.output
        self._length = position + len(ids)
        logits = values.floats[output]
        return logits if all_logits else logits[-1:]

    def _checked(self, ids: Sequence[int] | NDArray[np.integer], position: int) -> _Chunk:
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
        return _Chunk(tokens.astype(np.int64), position)

    def _execute(self, stage: Stage, layer: int, node: Node, values: _Values, chunk: _Chunk) -> None:
        """Compute ``node`` for the rows of ``chunk`` and add its result to ``values``."""

        def vector(template: str) -> F32:
            return self._floats[stage.tensor(template, layer)]

        result: F32
        match node:
            case Embed():
                table = self._tables[stage.tensor(node.table, layer)]
                result = widen(table.data[chunk.ids], table.format)
            case Norm(kind=NormKind.RMS):
                result = arith.rms_norm(values.floats[node.x], vector(node.weight), node.eps)
            case Norm():
                bias = None if node.bias is None else vector(node.bias)
                result = arith.layer_norm(values.floats[node.x], vector(node.weight), bias, node.eps)
            case Quantize():
                values.codes[node.out], nan = quantize(values.floats[node.x])
                self._nan_seen |= nan
                return
            case Linear():
                name = stage.tensor(node.weight, layer)
                codes, scales = values.codes[node.x]
                bias = None if node.bias is None else vector(node.bias)
                sums = arith.integer_matmul(codes, self._weights[name])
                result = arith.linear_epilogue(sums, self._channel_scales[name], scales, bias)
            case Attention():
                q, k, v = values.floats[node.q], values.floats[node.k], values.floats[node.v]
                rope = None if node.rope is None else vector(node.rope)
                attention = self._attentions[stage.name, node.out, layer]
                result, nan = attention.run(q, k, v, rope, chunk.position)
                self._nan_seen |= nan
            case Apply():
                result = _apply(node, values.floats[node.x])
            case Combine():
                combine = arith.add if node.function is Binary.ADD else arith.mul
                result = combine(values.floats[node.a], values.floats[node.b])
        values.floats[node.out] = result


def _first_row_wise(stage: Stage) -> int:
    """Index of the first node of ``stage`` behind its last attention: from there on, rows do not meet any more."""
    return max((index + 1 for index, node in enumerate(stage.nodes) if isinstance(node, Attention)), default=0)


def _apply(node: Apply, x: F32) -> F32:
    match node.function:
        case Unary.SILU:
            return arith.silu(x)
        case Unary.GELU_ERF:
            return arith.gelu_erf(x)
        case Unary.GELU_TANH:
            return arith.gelu_tanh(x)
        case Unary.RELU:
            return arith.relu(x)
        case Unary.TANH:
            return arith.tanh(x)
        case Unary.SOFT_CAP:
            return arith.soft_cap(x, node.parameter)
