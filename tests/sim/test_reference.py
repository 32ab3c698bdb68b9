# SPDX-License-Identifier: Apache-2.0
"""The reference against an independent executor, against itself in other chunks, and against the float graph."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from catenary.isa.errors import GraphError, UsageError
from catenary.isa.graph import Attention, Graph
from catenary.isa.tensors import FloatFormat, FloatTensor, QuantTensor
from catenary.sim.float_graph import FloatGraph
from catenary.sim.reference import Reference
from tests.graphs import FEATURES, quantised_form, random_graph, random_llama_graph
from tests.sim import naive

TINY = {"hidden": 20, "ffn": 37, "layers": 1, "vocab": 50}


def ids_for(graph: Graph, seed: int, count: int) -> list[int]:
    return np.random.default_rng([seed, 9]).integers(0, graph.vocab, count).tolist()


def with_rows(graph: Graph, name: str, value: float) -> Graph:
    """``graph`` with every element of the float tensor ``name`` set to ``value``."""
    shape = graph.tensors[name].shape
    constant = FloatTensor(FloatFormat.F32, np.full(shape, value, np.float32))
    return replace(graph, tensors={**graph.tensors, name: constant})


@pytest.mark.parametrize("name", FEATURES)
def test_equals_the_naive_executor_for_every_feature(name):
    overrides = {**TINY, "heads": 2, "kv_heads": 1, "head_dim": 8, **FEATURES[name]}
    graph = quantised_form(random_graph(3, **overrides), seed=3, bits=4)
    ids = ids_for(graph, 3, 6)
    assert Reference(graph).run(ids, 0, all_logits=True).tobytes() == naive.run(graph, ids).tobytes()


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_naive_executor_for_random_models(seed, bits):
    graph = quantised_form(random_graph(seed, **{**TINY, "layers": 2}), seed=seed, bits=bits)
    ids = ids_for(graph, seed, 5)
    assert Reference(graph).run(ids, 0, all_logits=True).tobytes() == naive.run(graph, ids).tobytes()


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_equals_the_naive_executor_with_tables_and_outliers(bits):
    graph = quantised_form(random_graph(bits, **{**TINY, "layers": 2}), seed=bits, bits=bits, corrected=True)
    ids = ids_for(graph, bits, 5)
    assert Reference(graph).run(ids, 0, all_logits=True).tobytes() == naive.run(graph, ids).tobytes()


def test_equals_the_naive_executor_beyond_128_positions():
    # From here on, partial sums of the softmax take a second element.
    recipe = {**TINY, "hidden": 8, "ffn": 16, "heads": 1, "kv_heads": 1, "head_dim": 8, "context": 160}
    graph = quantised_form(random_llama_graph(5, **recipe))
    ids = ids_for(graph, 5, 150)
    assert Reference(graph).run(ids, 0, all_logits=True).tobytes() == naive.run(graph, ids).tobytes()


@pytest.mark.parametrize("chunk", [1, 7, 16, 40])
@pytest.mark.parametrize("seed", range(3))
def test_chunks_do_not_change_a_bit(seed, chunk):
    graph = quantised_form(random_graph(seed), seed=seed, bits=4)
    ids = ids_for(graph, seed, 40)
    whole = Reference(graph).run(ids, 0, all_logits=True)
    reference = Reference(graph)
    parts = [reference.run(ids[i : i + chunk], i, all_logits=True) for i in range(0, 40, chunk)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize("cut", [1, 600, 1025, 1299])
def test_a_long_sequence_may_be_cut_anywhere(cut):
    # Past 1,024 positions the integer sums of P * V no longer fit a float's 24 bits: the executor must not care.
    recipe = {**TINY, "heads": 3, "kv_heads": 1, "head_dim": 8, "context": 1300}
    graph = quantised_form(random_llama_graph(9, **recipe), seed=9)
    ids = ids_for(graph, 9, 1300)
    whole = Reference(graph).run(ids, 0, all_logits=True)
    reference = Reference(graph)
    parts = [reference.run(ids[:cut], 0, all_logits=True), reference.run(ids[cut:], cut, all_logits=True)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_query_tiles_do_not_change_a_bit(monkeypatch):
    graph = quantised_form(random_llama_graph(2), seed=2)
    ids = ids_for(graph, 2, 40)
    whole = Reference(graph).run(ids, 0, all_logits=True)
    monkeypatch.setattr("catenary.sim.reference_attention.SCORES_AT_ONCE", 700)
    assert Reference(graph).run(ids, 0, all_logits=True).tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", ["logits_cap", "parallel_residual", "no_rotary"])
def test_last_row_alone_equals_the_last_of_all_rows(name):
    graph = quantised_form(random_graph(4, **FEATURES[name]), seed=4)
    ids = ids_for(graph, 4, 9)
    last = Reference(graph).run(ids, 0)
    assert last.shape == (1, graph.vocab)
    assert last.dtype == np.float32
    assert last.tobytes() == Reference(graph).run(ids, 0, all_logits=True)[-1:].tobytes()


def test_last_row_alone_of_a_graph_whose_last_stage_has_attention():
    graph = quantised_form(random_llama_graph(6, layers=1), seed=6)
    embedding, layers, head = graph.stages
    norm, quantize, linear = head.nodes
    joined = (
        replace(norm, out="n9", x=layers.output),
        replace(quantize, out="n9.q8", x="n9"),
        replace(linear, x="n9.q8"),
    )
    body = replace(layers, nodes=(*layers.nodes, *joined), output=head.output)
    merged = replace(graph, stages=(embedding, body))
    ids = ids_for(graph, 6, 9)
    expected = Reference(graph).run(ids, 0, all_logits=True)
    reference = Reference(merged)
    assert reference.run(ids[:5], 0).tobytes() == expected[4:5].tobytes()
    assert reference.run(ids[5:], 5).tobytes() == expected[8:].tobytes()


def test_last_row_alone_of_a_graph_that_ends_with_attention():
    graph = random_llama_graph(8, heads=2, kv_heads=2, head_dim=8, hidden=16, vocab=16, layers=1)
    graph = quantised_form(graph, seed=8)
    embedding, layers, _ = graph.stages
    end = next(i for i, node in enumerate(layers.nodes) if isinstance(node, Attention))
    short = replace(layers, nodes=layers.nodes[: end + 1], output=layers.nodes[end].out)
    ending = replace(graph, stages=(embedding, short))
    ids = ids_for(graph, 8, 5)
    assert Reference(ending).run(ids, 0).tobytes() == Reference(ending).run(ids, 0, all_logits=True)[-1:].tobytes()


def test_reset_forgets_everything():
    graph = quantised_form(random_llama_graph(1), seed=1)
    ids, other = ids_for(graph, 1, 12), ids_for(graph, 2, 30)
    reference = Reference(graph)
    first = reference.run(ids, 0, all_logits=True)
    reference.run(other, len(ids))
    reference.reset()
    assert reference.length == 0
    assert reference.run(ids, 0, all_logits=True).tobytes() == first.tobytes()


def test_a_sequence_may_be_continued_from_an_earlier_position():
    graph = quantised_form(random_llama_graph(1), seed=1)
    ids = ids_for(graph, 1, 12)
    reference = Reference(graph)
    expected = reference.run(ids, 0, all_logits=True)
    reference.run([0, 1, 2], 5)
    assert reference.length == 8
    assert reference.run(ids[5:], 5, all_logits=True).tobytes() == expected[5:].tobytes()


def test_an_interrupted_call_leaves_only_what_was_before_it(monkeypatch):
    graph = quantised_form(random_llama_graph(1), seed=1)
    ids = ids_for(graph, 1, 12)
    reference = Reference(graph)
    expected = reference.run(ids, 0, all_logits=True)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("catenary.sim.arith.silu", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reference.run([0, 1, 2], 5)
    assert reference.length == 5
    assert reference.run(ids[5:], 5, all_logits=True).tobytes() == expected[5:].tobytes()


def test_zero_rows_stay_finite_and_equal_the_naive_executor():
    graph = with_rows(quantised_form(random_llama_graph(7, **TINY, bias=False)), "embed.weight", 0.0)
    ids = ids_for(graph, 7, 4)
    reference = Reference(graph)
    logits = reference.run(ids, 0, all_logits=True)
    assert logits.tobytes() == naive.run(graph, ids).tobytes()
    assert not logits.any()
    assert not reference.nan_seen


def test_a_nan_is_recorded_until_reset():
    graph = quantised_form(random_llama_graph(7, **TINY))
    broken = with_rows(graph, "layers.0.norm1.weight", np.nan)
    reference = Reference(broken)
    assert not reference.nan_seen
    assert reference.run([1, 2], 0).shape == (1, graph.vocab)
    assert reference.nan_seen
    reference.reset()
    assert not reference.nan_seen


@pytest.mark.parametrize(
    "ids, position, message",
    [
        ([], 0, "Ids must be a list of at least one integer, not []"),
        ([1.5], 0, "Ids must be a list of at least one integer, not [1.5]"),
        ([3, 50], 0, "Ids must be in 0..49, not 50"),
        ([-1], 0, "Ids must be in 0..49, not -1"),
        ([1], 1, "Position must continue the 0 tokens in the KV cache, not be 1"),
        ([1], -1, "Position must continue the 0 tokens in the KV cache, not be -1"),
        ([1] * 17, 0, "Tokens must fit the context of 16, not end at 17"),
    ],
)
def test_bad_calls_are_refused_by_name(ids, position, message):
    reference = Reference(quantised_form(random_llama_graph(0, **TINY, context=16)))
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        reference.run(ids, position)
    assert reference.length == 0


def test_the_whole_context_can_be_used():
    graph = quantised_form(random_llama_graph(0, **TINY, context=16))
    reference = Reference(graph)
    reference.run(ids_for(graph, 0, 16), 0)
    with pytest.raises(UsageError, match=r"^Tokens must fit the context of 16, not end at 17$"):
        reference.run([1], 16)


def test_a_tensor_that_breaks_a_rule_is_refused():
    graph = quantised_form(random_llama_graph(0))
    weight = graph.tensors["lm_head.weight"]
    too_large = replace(weight, codes=np.full_like(weight.codes, 300))
    broken = replace(graph, tensors={**graph.tensors, "lm_head.weight": too_large})
    with pytest.raises(GraphError, match=r"^Codes of lm_head.weight must be in -128..127, not 300..300$"):
        Reference(broken)


def test_a_float_graph_is_refused():
    with pytest.raises(GraphError, match="must be q8, not f32"):
        Reference(random_llama_graph(0))


def test_a_length_1_model():
    smallest = {"hidden": 1, "ffn": 1, "heads": 1, "kv_heads": 1, "head_dim": 2, "layers": 1, "vocab": 2, "context": 4}
    graph = quantised_form(random_llama_graph(0, **smallest))
    assert Reference(graph).run([1, 0, 1], 0, all_logits=True).tobytes() == naive.run(graph, [1, 0, 1]).tobytes()


@pytest.mark.parametrize("seed", range(6))
def test_8_bit_rounding_stays_close_to_the_float_graph(seed):
    graph = random_graph(seed)
    ids = ids_for(graph, seed, 20)
    exact = FloatGraph(graph).run(ids, 0, all_logits=True)
    rounded = Reference(quantised_form(graph)).run(ids, 0, all_logits=True)
    # This is quantisation error, not disagreement: hence the tolerance.
    error = np.sqrt(np.mean(np.square(rounded - exact)) / np.mean(np.square(exact)))
    assert error < 0.05, f"relative error {error} with seed {seed}"


def test_every_tensor_of_the_builders_obeys_the_format():
    for seed in range(4):
        for bits in (8, 4, 3, 2):
            for name, tensor in quantised_form(random_graph(seed), seed=seed, bits=bits).tensors.items():
                if isinstance(tensor, QuantTensor):
                    tensor.check(f"{name} (seed {seed}, {bits} bits)")
