# SPDX-License-Identifier: Apache-2.0
"""The typed graph: every rule of verify, with its message, and the graph's JSON form."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from catenary.isa.errors import GraphError
from catenary.isa.graph import (
    NODE_TYPES,
    Apply,
    Binary,
    Combine,
    Graph,
    Linear,
    Node,
    NormKind,
    Quantize,
    Tensor,
    Unary,
    ValueType,
    tensor_inputs,
    value_inputs,
    verify,
)
from catenary.isa.graph_json import from_json, to_json
from catenary.isa.tensors import FloatFormat, FloatTensor
from tests.graphs import FEATURES, Recipe, build_graph, quantised_form, random_graph

RECIPE = Recipe(
    hidden=16, ffn=20, heads=4, kv_heads=2, head_dim=8, layers=2, vocab=24, context=10, rotary_dim=4, bias=True,
    norm=NormKind.LAYER, norm_bias=True, logits_cap=3.0,
)  # fmt: skip
FLOAT = build_graph(RECIPE, seed=1)
QUANTISED = quantised_form(FLOAT, seed=1)
Form = Literal["float", "quantised"]


def floats(*shape: int) -> FloatTensor:
    return FloatTensor(FloatFormat.F32, np.ones(shape, np.float32))


def with_stage(graph: Graph, index: int, **changes: Any) -> Graph:
    stages = list(graph.stages)
    stages[index] = replace(stages[index], **changes)
    return replace(graph, stages=tuple(stages))


def with_node(graph: Graph, name: str, /, **changes: Any) -> Graph:
    """``graph`` with another node ``name``; ``node=`` puts a new one in its place."""

    def changed(node: Node) -> Node:
        if node.out != name:
            return node
        return changes["node"] if "node" in changes else replace(node, **changes)

    stages = (replace(stage, nodes=tuple(changed(node) for node in stage.nodes)) for stage in graph.stages)
    result = replace(graph, stages=tuple(stages))
    assert result.stages != graph.stages
    return result


def with_tensor(graph: Graph, name: str, tensor: Tensor | None) -> Graph:
    assert name in graph.tensors
    tensors = {key: value for key, value in graph.tensors.items() if key != name or tensor is not None}
    return replace(graph, tensors=tensors if tensor is None else {**tensors, name: tensor})


def test_types_of_all_values() -> None:
    types = verify(QUANTISED, "quantised")
    assert list(types) == ["embedding", "layers", "head"]
    assert types["embedding"] == {"h": ValueType("f32", 16)}
    layer = types["layers"]
    assert layer["q"] == ValueType("f32", 32)
    assert layer["k"] == layer["v"] == ValueType("f32", 16)
    assert layer["mixed"] == ValueType("f32", 32)
    assert layer["mixed.q8"] == ValueType("q8", 32)
    assert layer["up"] == layer["inner"] == ValueType("f32", 20)
    assert types["head"]["logits"] == ValueType("f32", 24)
    assert "mixed.q8" not in verify(FLOAT, "float")["layers"]


@pytest.mark.parametrize("feature", FEATURES)
def test_every_family_is_well_formed(feature: str) -> None:
    graph = random_graph(7, **FEATURES[feature])
    verify(graph, "float")
    verify(quantised_form(graph), "quantised")


# How to break a rule, in which form, and the message.
RULES: dict[str, tuple[Callable[[Graph], Graph], Form, str]] = {
    "no stage": (lambda g: replace(g, stages=()), "float", "Graph must have at least one stage, not 0"),
    "no context": (lambda g: replace(g, max_context=0), "float", "max_context must be at least 1, not 0"),
    "no repeat": (lambda g: with_stage(g, 1, repeat=0), "float", "Stage 'layers' must repeat at least once, not 0"),
    "negative repeat": (
        lambda g: with_stage(g, 1, repeat=-1), "float", "Stage 'layers' must repeat at least once, not -1",
    ),
    "stage twice": (
        lambda g: with_stage(g, 2, name="layers"), "float", "Stage name must be unique, not 'layers' again",
    ),
    "first with input": (
        lambda g: with_stage(g, 0, input="x"), "float",
        "Stage 'embedding' must have an input unless it is the first, not 'x'",
    ),
    "second without input": (
        lambda g: with_stage(g, 1, input=None), "float",
        "Stage 'layers' must have an input unless it is the first, not None",
    ),
    "defined twice": (
        lambda g: with_node(g, "v", out="k"), "float", "Value layers.k must be defined once, not twice",
    ),
    "input defined again": (
        lambda g: with_node(g, "h3", out="h"), "float", "Value layers.h must be defined once, not twice",
    ),
    "no such output": (
        lambda g: with_stage(g, 1, output="x"), "float", "Output of stage 'layers' must be one of its values, not 'x'",
    ),
    "output of another width": (
        lambda g: with_stage(g, 1, output="up"), "float",
        f"Output of repeated stage 'layers' must be {ValueType('f32', 16)}, not {ValueType('f32', 20)}",
    ),
    "first stage repeated": (
        lambda g: with_stage(g, 0, repeat=2), "float",
        "Output of repeated stage 'embedding' must be None, not ValueType(kind='f32', width=16)",
    ),
    "output of another kind": (
        lambda g: with_stage(g, 2, output="n.q8"), "quantised",
        "Graph output must be f32 of the vocabulary's width 24, not ValueType(kind='q8', width=16)",
    ),
    "logits of another width": (
        lambda g: with_stage(g, 2, output="n"), "float",
        "Graph output must be f32 of the vocabulary's width 24, not ValueType(kind='f32', width=16)",
    ),
    "no such value": (
        lambda g: with_node(g, "q", x="nothing"), "float",
        "Input of layers.q must be a value defined before it, not 'nothing'",
    ),
    "value of later": (
        lambda g: with_node(g, "q", x="mixed"), "float",
        "Input of layers.q must be a value defined before it, not 'mixed'",
    ),
    "value of another stage": (
        lambda g: with_node(g, "n", x="h2"), "float", "Input of head.n must be a value defined before it, not 'h2'",
    ),
    "codes where floats must be": (
        lambda g: with_node(g, "h2", b="mixed.q8"), "quantised", "Input 'mixed.q8' of layers.h2 must be f32, not q8",
    ),
    "floats where codes must be": (
        lambda g: with_node(g, "o", x="mixed"), "quantised", "Input 'mixed' of layers.o must be q8, not f32",
    ),
    "no such tensor": (
        lambda g: with_tensor(g, "layers.1.o.weight", None), "float",
        "Tensor of layers.o must exist in the graph, not 'layers.1.o.weight'",
    ),
    "float weight": (
        lambda g: with_tensor(g, "layers.1.o.weight", floats(16, 32)), "quantised",
        "Tensor 'layers.1.o.weight' must be a QuantTensor, not FloatTensor",
    ),
    "quantised weight": (
        lambda g: with_tensor(g, "layers.0.o.weight", QUANTISED.tensors["layers.0.o.weight"]), "float",
        "Tensor 'layers.0.o.weight' must be a FloatTensor, not QuantTensor",
    ),
    "quantised norm": (
        lambda g: with_tensor(g, "norm.weight", QUANTISED.tensors["layers.0.o.weight"]), "quantised",
        "Tensor 'norm.weight' must be a FloatTensor, not QuantTensor",
    ),
    "shapes by layer": (
        lambda g: with_tensor(g, "layers.1.up.weight", floats(21, 16)), "float",
        "Tensors 'layers.{layer}.up.weight' must have one shape in every layer, not [(20, 16), (21, 16)]",
    ),
    "norm weight": (
        lambda g: with_tensor(g, "norm.weight", floats(15)), "float",
        "Tensor 'norm.weight' of head.n must have shape (16,), not (15,)",
    ),
    "norm weight of two axes": (
        lambda g: with_tensor(g, "norm.weight", floats(16, 1)), "float",
        "Tensor 'norm.weight' of head.n must have shape (16,), not (16, 1)",
    ),
    "norm bias": (
        lambda g: with_tensor(g, "norm.bias", floats(17)), "float",
        "Tensor 'norm.bias' of head.n must have shape (16,), not (17,)",
    ),
    "linear bias": (
        lambda g: with_node(g, "q", bias="norm.bias"), "float",
        "Tensor 'norm.bias' of layers.q must have shape (32,), not (16,)",
    ),
    "embedding rows": (
        lambda g: with_tensor(g, "embed.weight", floats(23, 16)), "float",
        "Embedding 'embed.weight' must have 24 rows, not shape (23, 16)",
    ),
    "embedding of one axis": (
        lambda g: with_tensor(g, "embed.weight", floats(24)), "float",
        "Embedding 'embed.weight' must have 24 rows, not shape (24,)",
    ),
    "rms with bias": (
        lambda g: with_node(g, "n", kind=NormKind.RMS), "float",
        "RMSNorm head.n must have no bias, not 'norm.bias'",
    ),
    "quantize in float form": (
        lambda g: with_node(g, "inner", node=Quantize("inner", "up")), "float",
        "Node layers.inner must not be Quantize in a float graph",
    ),
    "weight columns": (
        lambda g: with_node(g, "o", weight="layers.{layer}.up.weight"), "float",
        "Weight 'layers.{layer}.up.weight' of layers.o must have 32 columns, not shape (20, 16)",
    ),
    "weight of one axis": (
        lambda g: with_node(g, "o", weight="norm.weight"), "float",
        "Weight 'norm.weight' of layers.o must have 32 columns, not shape (16,)",
    ),
    "no heads": (lambda g: with_node(g, "mixed", heads=0), "float", "heads of layers.mixed must be at least 1, not 0"),
    "no KV heads": (
        lambda g: with_node(g, "mixed", kv_heads=0), "float", "kv_heads of layers.mixed must be at least 1, not 0",
    ),
    "all negative": (
        lambda g: with_node(g, "mixed", heads=-4, kv_heads=-2, head_dim=-8), "float",
        "heads of layers.mixed must be at least 1, not -4",
    ),
    "no channels": (
        lambda g: with_node(g, "mixed", head_dim=0), "float", "head_dim of layers.mixed must be at least 1, not 0",
    ),
    "uneven heads": (
        lambda g: with_node(g, "mixed", kv_heads=3), "float",
        "Heads of layers.mixed must be a multiple of kv_heads 3, not 4",
    ),
    "query width": (
        lambda g: with_node(g, "mixed", heads=2), "float", "Input 'q' of layers.mixed must be 16 wide, not 32",
    ),
    "key width": (
        lambda g: with_node(g, "mixed", kv_heads=1), "float", "Input 'k' of layers.mixed must be 8 wide, not 16",
    ),
    "value width": (
        lambda g: with_node(g, "mixed", v="q"), "float", "Input 'q' of layers.mixed must be 16 wide, not 32",
    ),
    "odd rotation": (
        lambda g: with_node(g, "mixed", rotary_dim=3), "float",
        "rotary_dim of layers.mixed must be even and at most head_dim, not 3",
    ),
    "large rotation": (
        lambda g: with_node(g, "mixed", rotary_dim=10), "float",
        "rotary_dim of layers.mixed must be even and at most head_dim, not 10",
    ),
    "negative rotation": (
        lambda g: with_node(g, "mixed", rotary_dim=-2), "float",
        "rotary_dim of layers.mixed must be even and at most head_dim, not -2",
    ),
    "rotation without table": (
        lambda g: with_node(g, "mixed", rope=None), "float",
        "rotary_dim of layers.mixed must be 0 exactly when there is no table, not 4",
    ),
    "table without rotation": (
        lambda g: with_node(g, "mixed", rotary_dim=0), "float",
        "rotary_dim of layers.mixed must be 0 exactly when there is no table, not 0",
    ),
    "rotary table": (
        lambda g: with_tensor(g, "rope", floats(9, 4)), "float",
        "Rotary table 'rope' must have shape (10, 4), not (9, 4)",
    ),
    "rotary table of another context": (
        lambda g: replace(g, max_context=11), "float", "Rotary table 'rope' must have shape (11, 4), not (10, 4)",
    ),
    "unequal widths": (
        lambda g: with_node(g, "h2", b="mixed"), "float", "Inputs of layers.h2 must be equally wide, not 16 and 32",
    ),
    "epsilon": (
        lambda g: with_node(g, "n", eps=float("nan")), "float", "eps of head.n must be a finite FP32 number, not nan",
    ),
    "scale": (
        lambda g: with_node(g, "mixed", scale=1e39), "float",
        "scale of layers.mixed must be a finite FP32 number, not 1e+39",
    ),
    "attention cap": (
        lambda g: with_node(g, "mixed", soft_cap=float("-inf")), "float",
        "soft_cap of layers.mixed must be a finite FP32 number, not -inf",
    ),
    "parameter": (
        lambda g: with_node(g, "logits", parameter=-3.5e38), "float",
        "parameter of head.logits must be a finite FP32 number, not -3.5e+38",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_rules(name: str) -> None:
    change, form, message = RULES[name]
    graph = FLOAT if form == "float" else QUANTISED
    with pytest.raises(GraphError, match=f"^{re.escape(message)}$"):
        verify(change(graph), form)


def test_the_forms_are_told_apart() -> None:
    with pytest.raises(GraphError, match=r"^Node layers\.n1\.q8 must not be Quantize in a float graph$"):
        verify(QUANTISED, "float")
    with pytest.raises(GraphError, match=r"^Input 'n1' of layers\.q must be q8, not f32$"):
        verify(FLOAT, "quantised")


def test_inputs_of_a_node_are_in_field_order() -> None:
    attention = next(node for node in FLOAT.stages[1].nodes if node.out == "mixed")
    assert value_inputs(attention) == ("q", "k", "v")
    assert tensor_inputs(attention) == ("rope",)
    assert tensor_inputs(Linear("o", "x", "w", None)) == ("w",)
    assert tensor_inputs(Linear("o", "x", "w", "b")) == ("w", "b")
    assert value_inputs(Combine("o", "a1", "b1", Binary.ADD)) == ("a1", "b1")
    assert (value_inputs(Apply("o", "x", Unary.RELU, 0.0)), tensor_inputs(Quantize("o", "x"))) == (("x",), ())


def test_runs_and_tensor_names() -> None:
    assert [(stage.name, layer) for stage, layer in FLOAT.runs()] == [
        ("embedding", 0), ("layers", 0), ("layers", 1), ("head", 0),
    ]  # fmt: skip
    stage = FLOAT.stages[1]
    assert stage.tensor("layers.{layer}.q.weight", 12) == "layers.12.q.weight"
    assert stage.tensor("rope", 12) == "rope"


@pytest.mark.parametrize("feature", [None, *FEATURES])
def test_json_keeps_everything_but_the_tensors(feature: str | None) -> None:
    graph = quantised_form(random_graph(3, **FEATURES[feature])) if feature else QUANTISED
    data = to_json(graph)
    again = from_json(json.loads(json.dumps(data)), graph.tensors)
    assert again == graph
    assert to_json(again) == data
    assert [type(node.scale) for stage in again.stages for node in stage.nodes if hasattr(node, "scale")] == [float]


def test_every_type_of_node_is_in_those_graphs() -> None:
    graphs = [quantised_form(random_graph(3, **overrides)) for overrides in FEATURES.values()]
    assert {type(node) for graph in graphs for stage in graph.stages for node in stage.nodes} == set(NODE_TYPES)


def changed(path: tuple[str | int, ...], value: Any) -> Any:
    """The JSON of a graph with another value at ``path``; ``...`` removes the key."""
    data = copy.deepcopy(to_json(QUANTISED))
    at: Any = data
    for key in path[:-1]:
        at = at[key]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return data


NODE = ("stages", 2, "nodes", 0)


@pytest.mark.parametrize(
    "data, message",
    [
        (None, "Graph must be a JSON object, not None"),
        ([], "Graph must be a JSON object, not []"),
        (changed(("vocab",), ...), "Keys of Graph must be [...], not with ['vocab'] missing or added"),
        (changed(("more",), 1), "Keys of Graph must be [...], not with ['more'] missing or added"),
        (changed(("vocab",), True), "Graph.vocab must be of type int, not True"),
        (changed(("vocab",), 1 << 60), f"Graph.vocab must be below {1 << 53} in magnitude, not {1 << 60}"),
        (changed(("eos_ids",), None), "Graph.eos_ids must be of type list, not None"),
        (changed(("eos_ids",), [2, "3"]), "Graph.eos_ids[1] must be of type int, not '3'"),
        (changed(("stages",), {}), "Graph.stages must be of type list, not {}"),
        (changed(("stages", 1), 7), "Stage must be a JSON object, not 7"),
        (changed(("stages", 1, "repeat"), 2.0), "Stage.repeat must be of type int, not 2.0"),
        (changed(("stages", 1, "input"), 5), "Stage.input must be of type str, not 5"),
        (changed(("stages", 1, "nodes"), None), "Stage.nodes must be of type list, not None"),
        (changed(NODE, []), "Node must be one of [...], not []"),
        (changed((*NODE, "node"), "Exec"), "Node must be one of [...], not 'Exec'"),
        (changed((*NODE, "node"), ["Norm"]), "Node must be one of [...], not ['Norm']"),
        (changed((*NODE, "node"), ...), "Node must be one of [...], not None"),
        (changed((*NODE, "node"), "Embed"), "Keys of Embed must be [...], not with [...] missing or added"),
        (changed((*NODE, "kind"), "l2"), "Norm.kind must be one of ['rms', 'layer'], not 'l2'"),
        (changed((*NODE, "kind"), ["rms"]), "Norm.kind must be one of ['rms', 'layer'], not ['rms']"),
        (changed((*NODE, "eps"), "1e-5"), "Norm.eps must be of type float, not '1e-5'"),
        (changed((*NODE, "eps"), None), "Norm.eps must be of type float, not None"),
        (changed((*NODE, "bias"), 1), "Norm.bias must be of type str, not 1"),
    ],
)
def test_other_json_is_refused(data: Any, message: str) -> None:
    pattern = re.escape(message).replace(re.escape("[...]"), r"\[.*\]")
    with pytest.raises(GraphError, match=f"^{pattern}$"):
        from_json(data, {})
