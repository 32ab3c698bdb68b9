# SPDX-License-Identifier: Apache-2.0
"""The typed graph: what a model computes, independent of any instruction.

A graph is a list of stages. A stage is a straight list of nodes that runs ``repeat`` times; tensor names inside a
repeated stage contain ``{layer}``, so one body serves every layer. Values are rows, one per token: ``f32`` rows, or
``q8`` rows (INT8 codes and one FP32 scale per token). Two forms exist and :func:`verify` checks both:

* the *float* form, built by importers: linear layers read ``f32`` values and hold :class:`FloatTensor` weights;
* the *quantised* form, after compression: linear layers read ``q8`` values made by :class:`Quantize` nodes and hold
  :class:`~catenary.isa.tensors.QuantTensor` weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Literal

import numpy as np

from catenary.isa.errors import GraphError
from catenary.isa.tensors import FloatTensor, QuantTensor

Tensor = FloatTensor | QuantTensor


class Unary(Enum):
    """Elementwise functions of one value; the arithmetic is in :mod:`catenary.sim.arith`."""

    SILU = "silu"
    GELU_ERF = "gelu_erf"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"
    TANH = "tanh"
    SOFT_CAP = "soft_cap"


class Binary(Enum):
    """Elementwise functions of two values."""

    ADD = "add"
    MUL = "mul"


class NormKind(Enum):
    """Normalisations over one row."""

    RMS = "rms"
    LAYER = "layer"


@dataclass(frozen=True)
class Embed:
    """``out[t] = table[ids[t]]``, widened to FP32 exactly. ``table`` names a float tensor [vocab, width]."""

    out: str
    table: str


@dataclass(frozen=True)
class Norm:
    """RMSNorm or LayerNorm over each row of ``x``; ``weight`` and LayerNorm's ``bias`` name float tensors [width]."""

    out: str
    x: str
    kind: NormKind
    weight: str
    bias: str | None
    eps: float


@dataclass(frozen=True)
class Quantize:
    """Dynamic symmetric INT8 quantisation of each row of ``x`` (quantised form only)."""

    out: str
    x: str


@dataclass(frozen=True)
class Linear:
    """``out = x @ weight.T + bias``; ``weight`` names a tensor [rows, columns], ``bias`` a float tensor [rows]."""

    out: str
    x: str
    weight: str
    bias: str | None


@dataclass(frozen=True)
class Attention:
    """Causal attention with a KV cache, grouped queries and rotary positions.

    ``q`` is [heads * head_dim] wide, ``k`` and ``v`` [kv_heads * head_dim]. Query head ``h`` reads KV head
    ``h // (heads // kv_heads)``. ``rope`` names a float tensor [max_context, rotary_dim] whose row ``p`` holds
    ``rotary_dim / 2`` cosines, then as many sines; ``None`` means no rotation. ``scale`` multiplies the scores.
    """

    out: str
    q: str
    k: str
    v: str
    heads: int
    kv_heads: int
    head_dim: int
    rope: str | None
    rotary_dim: int
    scale: float
    soft_cap: float | None


@dataclass(frozen=True)
class Apply:
    """``out = function(x)`` elementwise; ``parameter`` is the cap of ``soft_cap``, else 0."""

    out: str
    x: str
    function: Unary
    parameter: float


@dataclass(frozen=True)
class Combine:
    """``out = a function b`` elementwise."""

    out: str
    a: str
    b: str
    function: Binary


Node = Embed | Norm | Quantize | Linear | Attention | Apply | Combine
NODE_TYPES: tuple[type[Node], ...] = (Embed, Norm, Quantize, Linear, Attention, Apply, Combine)
LARGEST_FLOAT = float(np.finfo(np.float32).max)
_VALUE_FIELDS = ("x", "q", "k", "v", "a", "b")
_TENSOR_FIELDS = ("table", "weight", "bias", "rope")


def value_inputs(node: Node) -> tuple[str, ...]:
    """Names of the values that ``node`` reads, in field order."""
    return tuple(getattr(node, f.name) for f in fields(node) if f.name in _VALUE_FIELDS)


def tensor_inputs(node: Node) -> tuple[str, ...]:
    """Names (templates, in a repeated stage) of the tensors that ``node`` reads, in field order."""
    names = (getattr(node, f.name) for f in fields(node) if f.name in _TENSOR_FIELDS)
    return tuple(name for name in names if name is not None)


@dataclass(frozen=True)
class Stage:
    """Nodes that run ``repeat`` times; ``output`` of one run is ``input`` of the next run or stage.

    Attributes:
        name: for people and listings.
        repeat: how often the body runs, at least 1.
        input: name of the value that the body receives; ``None`` only for the first stage, which starts at ids.
        output: name of the value that the body leaves.
        nodes: in execution order.
    """

    name: str
    repeat: int
    input: str | None
    output: str
    nodes: tuple[Node, ...]

    def tensor(self, template: str, layer: int) -> str:
        """The tensor that ``template`` names in run ``layer`` of this stage."""
        return template.replace("{layer}", str(layer))


@dataclass(frozen=True)
class ValueType:
    """Type of one value: ``kind`` and elements per token."""

    kind: Literal["f32", "q8"]
    width: int


@dataclass(frozen=True)
class Graph:
    """A whole model: ids in, FP32 logits [tokens, vocab] out.

    Attributes:
        stages: in execution order; the last stage's output are the logits.
        tensors: every tensor by its full name.
        vocab: number of token ids.
        max_context: positions that the KV cache and the rotary table hold.
        bos_id, eos_ids: special ids, where the checkpoint names them.
    """

    stages: tuple[Stage, ...]
    tensors: Mapping[str, Tensor]
    vocab: int
    max_context: int
    bos_id: int | None
    eos_ids: tuple[int, ...]

    def runs(self) -> Iterator[tuple[Stage, int]]:
        """Every run of every stage: (stage, layer index within the stage)."""
        for stage in self.stages:
            for layer in range(stage.repeat):
                yield stage, layer


def verify(graph: Graph, form: Literal["float", "quantised"]) -> dict[str, dict[str, ValueType]]:
    """Check that ``graph`` is well formed; return the type of every value, by stage name and value name.

    Raises:
        GraphError: an undefined or twice defined value, a missing tensor, a shape, width or kind that does not fit, a
            repeated stage whose output width differs from its input, or a node that ``form`` does not allow.
    """
    types: dict[str, dict[str, ValueType]] = {}
    flowing: ValueType | None = None
    if not graph.stages:
        raise GraphError("Graph must have at least one stage, not 0")
    if graph.max_context < 1:
        raise GraphError(f"max_context must be at least 1, not {graph.max_context}")
    for index, stage in enumerate(graph.stages):
        if stage.repeat < 1:
            raise GraphError(f"Stage {stage.name!r} must repeat at least once, not {stage.repeat}")
        if stage.name in types:
            raise GraphError(f"Stage name must be unique, not {stage.name!r} again")
        if (stage.input is None) != (index == 0):
            raise GraphError(f"Stage {stage.name!r} must have an input unless it is the first, not {stage.input!r}")
        values: dict[str, ValueType] = {}
        if stage.input is not None and flowing is not None:
            values[stage.input] = flowing
        for node in stage.nodes:
            result = _node_type(graph, stage, node, values, form)
            if node.out in values:
                raise GraphError(f"Value {stage.name}.{node.out} must be defined once, not twice")
            values[node.out] = result
        if stage.output not in values:
            raise GraphError(f"Output of stage {stage.name!r} must be one of its values, not {stage.output!r}")
        if stage.repeat > 1 and values[stage.output] != flowing:
            raise GraphError(f"Output of repeated stage {stage.name!r} must be {flowing}, not {values[stage.output]}")
        flowing = values[stage.output]
        types[stage.name] = values
    if flowing != ValueType("f32", graph.vocab):
        raise GraphError(f"Graph output must be f32 of the vocabulary's width {graph.vocab}, not {flowing}")
    return types


def _node_type(
    graph: Graph, stage: Stage, node: Node, values: Mapping[str, ValueType], form: Literal["float", "quantised"]
) -> ValueType:
    where = f"{stage.name}.{node.out}"
    for field in fields(node):
        number = getattr(node, field.name)
        if isinstance(number, float) and not abs(number) <= LARGEST_FLOAT:
            raise GraphError(f"{field.name} of {where} must be a finite FP32 number, not {number}")

    def value(name: str, kind: Literal["f32", "q8"] = "f32") -> int:
        if name not in values:
            raise GraphError(f"Input of {where} must be a value defined before it, not {name!r}")
        if values[name].kind != kind:
            raise GraphError(f"Input {name!r} of {where} must be {kind}, not {values[name].kind}")
        return values[name].width

    def shapes(template: str, weight: bool = False) -> tuple[int, ...]:
        found: set[tuple[int, ...]] = set()
        for layer in range(stage.repeat):
            name = stage.tensor(template, layer)
            tensor = graph.tensors.get(name)
            if tensor is None:
                raise GraphError(f"Tensor of {where} must exist in the graph, not {name!r}")
            wanted = QuantTensor if weight and form == "quantised" else FloatTensor
            if not isinstance(tensor, wanted):
                raise GraphError(f"Tensor {name!r} must be a {wanted.__name__}, not {type(tensor).__name__}")
            found.add(tensor.shape)
        if len(found) != 1:
            raise GraphError(f"Tensors {template!r} must have one shape in every layer, not {sorted(found)}")
        return found.pop()

    def vector(template: str | None, width: int) -> None:
        if template is not None and shapes(template) != (width,):
            raise GraphError(f"Tensor {template!r} of {where} must have shape ({width},), not {shapes(template)}")

    match node:
        case Embed():
            shape = shapes(node.table)
            if len(shape) != 2 or shape[0] != graph.vocab:
                raise GraphError(f"Embedding {node.table!r} must have {graph.vocab} rows, not shape {shape}")
            return ValueType("f32", shape[1])
        case Norm():
            width = value(node.x)
            if node.kind is NormKind.RMS and node.bias is not None:
                raise GraphError(f"RMSNorm {where} must have no bias, not {node.bias!r}")
            vector(node.weight, width)
            vector(node.bias, width)
            return ValueType("f32", width)
        case Quantize():
            if form == "float":
                raise GraphError(f"Node {where} must not be Quantize in a float graph")
            return ValueType("q8", value(node.x))
        case Linear():
            width = value(node.x, "q8" if form == "quantised" else "f32")
            shape = shapes(node.weight, weight=True)
            if len(shape) != 2 or shape[1] != width:
                raise GraphError(f"Weight {node.weight!r} of {where} must have {width} columns, not shape {shape}")
            vector(node.bias, shape[0])
            return ValueType("f32", shape[0])
        case Attention():
            for part in ("heads", "kv_heads", "head_dim"):
                if getattr(node, part) < 1:
                    raise GraphError(f"{part} of {where} must be at least 1, not {getattr(node, part)}")
            if node.heads % node.kv_heads:
                raise GraphError(f"Heads of {where} must be a multiple of kv_heads {node.kv_heads}, not {node.heads}")
            for name, heads in ((node.q, node.heads), (node.k, node.kv_heads), (node.v, node.kv_heads)):
                if value(name) != heads * node.head_dim:
                    raise GraphError(
                        f"Input {name!r} of {where} must be {heads * node.head_dim} wide, not {value(name)}"
                    )
            if node.rotary_dim % 2 or not 0 <= node.rotary_dim <= node.head_dim:
                raise GraphError(f"rotary_dim of {where} must be even and at most head_dim, not {node.rotary_dim}")
            if (node.rope is None) != (node.rotary_dim == 0):
                raise GraphError(
                    f"rotary_dim of {where} must be 0 exactly when there is no table, not {node.rotary_dim}"
                )
            if node.rope is not None and shapes(node.rope) != (graph.max_context, node.rotary_dim):
                wanted = (graph.max_context, node.rotary_dim)
                raise GraphError(f"Rotary table {node.rope!r} must have shape {wanted}, not {shapes(node.rope)}")
            return ValueType("f32", node.heads * node.head_dim)
        case Apply():
            return ValueType("f32", value(node.x))
        case Combine():
            width = value(node.a)
            if value(node.b) != width:
                raise GraphError(f"Inputs of {where} must be equally wide, not {width} and {value(node.b)}")
            return ValueType("f32", width)
