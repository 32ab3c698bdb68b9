# SPDX-License-Identifier: Apache-2.0
"""Every node type, function and option, and shapes that fit no tile: the reference and the simulator agree."""

from __future__ import annotations

import pytest

from catenary.compiler.pipeline import compile_graph
from catenary.isa.graph import Apply, Attention, Combine, Embed, Linear, Norm, Quantize, Unary
from tests.graphs import FEATURES, llama_recipe, quantised_form, random_graph, random_llama_graph
from tests.programs.support import ACCELERATORS, SMALL, assert_agree

SHAPES = {
    **{f"head_dim_{n}": {"head_dim": n} for n in (8, 10, 16, 40, 64, 96, 128)},
    **{f"vocab_{n}": {"vocab": n} for n in (50, 127, 161, 1001)},
    "ffn_172": {"ffn": 172},
    "one_layer": {"layers": 1},
    "three_layers": {"layers": 3},
    # More heads share a KV head than a score tile of `small` has rows (mm_tokens // 2 = 8).
    "group_of_12": {"heads": 12, "kv_heads": 1},
    "group_of_11_in_layers": {"heads": 11, "kv_heads": 1, "layers": 3},
    "groups_of_9": {"heads": 18, "kv_heads": 2},
    "groups_of_8": {"heads": 16, "kv_heads": 2},
    "groups_of_5": {"heads": 10, "kv_heads": 2},
}


@pytest.mark.parametrize("feature", FEATURES)
def test_feature(feature):
    seed = 7
    assert_agree(compile_graph(quantised_form(random_graph(seed, **FEATURES[feature]), seed), SMALL), seed=seed)


@pytest.mark.parametrize("shape", SHAPES)
def test_shape(shape):
    seed = 3
    graph = random_llama_graph(seed, **SHAPES[shape])
    assert_agree(compile_graph(quantised_form(graph, seed, bits=4), SMALL), seed=seed)


@pytest.mark.parametrize("accelerator", ["small", "hbm-slice", "uneven"])
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_tables_and_outliers(bits, accelerator):
    graph = quantised_form(random_graph(bits), bits, bits, corrected=True)
    assert_agree(compile_graph(graph, ACCELERATORS[accelerator]), (1, 40), seed=bits)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_random_decoder(seed):
    graph = quantised_form(random_graph(seed), seed, (8, 4, 3, 2)[seed % 4], corrected=bool(seed // 4 % 2))
    assert_agree(compile_graph(graph, SMALL), (1, 2, 17, 40), seed=seed)


def test_every_node_type_and_function_is_reached():
    """The graphs above are worth their name."""
    graphs = [random_graph(7, **feature) for feature in FEATURES.values()]
    graphs += [random_llama_graph(3, **shape) for shape in SHAPES.values()]
    nodes = [node for graph in graphs for stage in graph.stages for node in stage.nodes]
    kinds = {type(node) for node in nodes} | {Quantize}
    assert kinds == {Embed, Norm, Quantize, Linear, Attention, Apply, Combine}
    assert {node.function for node in nodes if isinstance(node, Apply)} == set(Unary)
    assert {node.soft_cap is None for node in nodes if isinstance(node, Attention)} == {True, False}
    assert {node.rope is None for node in nodes if isinstance(node, Attention)} == {True, False}
    assert {node.bias is None for node in nodes if isinstance(node, Linear)} == {True, False}
    assert {node.bias is None for node in nodes if isinstance(node, Norm)} == {True, False}
    assert {(node.kind.name, node.bias is None) for node in nodes if isinstance(node, Norm)} >= {
        ("RMS", True), ("LAYER", True), ("LAYER", False),
    }  # fmt: skip
    recipe = llama_recipe(7, **FEATURES["partial_rotary"])
    assert 0 < recipe.rotary_dim < recipe.head_dim
