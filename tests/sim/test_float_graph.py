# SPDX-License-Identifier: Apache-2.0
"""The FP32 yardstick against a second executor: one token and one head at a time, in FP64."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from catenary.isa.errors import GraphError, UsageError
from catenary.isa.graph import Apply, Attention, Binary, Combine, Embed, Graph, Linear, Norm, NormKind, Unary
from catenary.sim import float_graph
from catenary.sim.float_graph import FloatGraph, erf
from tests.graphs import FEATURES, quantised_form, random_graph, random_llama_graph

SMALL = {"hidden": 24, "ffn": 37, "layers": 2, "vocab": 50}
FUNCTIONS = {
    Unary.SILU: lambda x, cap: x / (1 + math.exp(-x)),
    Unary.GELU_ERF: lambda x, cap: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    Unary.GELU_TANH: lambda x, cap: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    Unary.RELU: lambda x, cap: max(x, 0.0),
    Unary.TANH: lambda x, cap: math.tanh(x),
    Unary.SOFT_CAP: lambda x, cap: cap * math.tanh(x / cap),
}


def mapped(function: Unary, x: np.ndarray, cap: float) -> np.ndarray:
    return np.array([FUNCTIONS[function](float(value), cap) for value in x.ravel()]).reshape(x.shape)


def naive(graph: Graph, ids: list[int]) -> np.ndarray:
    """FP64 logits [tokens, vocab] of a whole sequence, without a cache."""
    x = np.array(ids)
    for stage, layer in graph.runs():
        values = {} if stage.input is None else {stage.input: x}

        def tensor(name: str, stage=stage, layer=layer) -> np.ndarray:
            return graph.tensors[stage.tensor(name, layer)].to_float32().astype(np.float64)

        for node in stage.nodes:
            match node:
                case Embed():
                    y = tensor(node.table)[x]
                case Norm():
                    y = values[node.x]
                    if node.kind is NormKind.LAYER:
                        y = y - y.mean(axis=1, keepdims=True)
                    y = y / np.sqrt((y**2).mean(axis=1, keepdims=True) + node.eps) * tensor(node.weight)
                    y = y if node.bias is None else y + tensor(node.bias)
                case Linear():
                    y = values[node.x] @ tensor(node.weight).T
                    y = y if node.bias is None else y + tensor(node.bias)
                case Attention():
                    rope = None if node.rope is None else tensor(node.rope)
                    y = naive_attention(node, values[node.q], values[node.k], values[node.v], rope)
                case Apply():
                    y = mapped(node.function, values[node.x], node.parameter)
                case Combine():
                    a, b = values[node.a], values[node.b]
                    y = a + b if node.function is Binary.ADD else a * b
            values[node.out] = y
        x = values[stage.output]
    return x


def naive_attention(
    node: Attention, q: np.ndarray, k: np.ndarray, v: np.ndarray, rope: np.ndarray | None
) -> np.ndarray:
    def head(x: np.ndarray, token: int, index: int, rotated: bool) -> np.ndarray:
        part = x[token, index * node.head_dim : (index + 1) * node.head_dim].copy()
        half = node.rotary_dim // 2
        for i in range(half if rotated and rope is not None else 0):
            c, s = rope[token, i], rope[token, half + i]
            part[i], part[half + i] = part[i] * c - part[half + i] * s, part[half + i] * c + part[i] * s
        return part

    out = np.zeros((len(q), node.heads * node.head_dim))
    for t in range(len(q)):
        for h in range(node.heads):
            shared = h // (node.heads // node.kv_heads)
            query = head(q, t, h, True)
            scores = np.array([query @ head(k, s, shared, True) * node.scale for s in range(t + 1)])
            if node.soft_cap is not None:
                scores = mapped(Unary.SOFT_CAP, scores, node.soft_cap)
            weights = np.exp(scores - scores.max())
            mixed = sum(w * head(v, s, shared, False) for s, w in enumerate(weights)) / weights.sum()
            out[t, h * node.head_dim : (h + 1) * node.head_dim] = mixed
    return out


def ids_for(graph: Graph, seed: int, count: int) -> list[int]:
    return np.random.default_rng([seed, 9]).integers(0, graph.vocab, count).tolist()


def assert_close(ours: np.ndarray, exact: np.ndarray, what: str) -> None:
    assert ours.dtype == np.float32
    assert ours.shape == exact.shape
    error, limit = np.abs(ours - exact).max(), 1e-4 * max(1.0, np.abs(exact).max())
    assert error <= limit, f"{what}: logits differ by {error}, more than {limit}"


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature(feature):
    graph = random_graph(7, **{**SMALL, **FEATURES[feature]})
    ids = ids_for(graph, 7, 9)
    assert_close(FloatGraph(graph).run(ids, 0, all_logits=True), naive(graph, ids), f"{feature}, seed 7")


@pytest.mark.parametrize("seed", range(8))
def test_random_graphs_in_random_chunks(seed):
    graph = random_graph(seed, **SMALL)
    ids = ids_for(graph, seed, 14)
    exact = naive(graph, ids)
    engine = FloatGraph(graph)
    rng = np.random.default_rng(seed)
    start = 0
    while start < len(ids):
        stop = min(len(ids), start + int(rng.integers(1, 6)))
        rows = engine.run(ids[start:stop], start, all_logits=True)
        assert_close(rows, exact[start:stop], f"seed {seed}, tokens {start} to {stop}")
        start = stop
    assert engine.length == len(ids)


@pytest.mark.parametrize("seed", range(4))
def test_the_last_row_alone(seed):
    graph = random_graph(seed, **SMALL)
    ids = ids_for(graph, seed, 6)
    everything = FloatGraph(graph).run(ids, 0, all_logits=True)
    last = FloatGraph(graph).run(ids, 0)
    assert last.shape == (1, graph.vocab)
    assert_close(last, everything[-1:], f"seed {seed}")


def test_scores_in_pieces(monkeypatch):
    graph = random_llama_graph(3, **SMALL)
    ids = ids_for(graph, 3, 30)
    whole = FloatGraph(graph).run(ids, 0, all_logits=True)
    monkeypatch.setattr(float_graph, "SCORES_AT_ONCE", 7 * 30)
    assert_close(FloatGraph(graph).run(ids, 0, all_logits=True), whole, "seed 3")


def test_half_precision_without_room_to_keep_it_widened():
    graph = random_graph(5, **{**SMALL, **FEATURES["brain_floats"]})
    ids = ids_for(graph, 5, 4)
    assert (FloatGraph(graph, kept_bytes=0).run(ids, 0) == FloatGraph(graph).run(ids, 0)).all()


def test_going_back_and_starting_again():
    graph = random_llama_graph(2, **SMALL)
    engine = FloatGraph(graph)
    first = engine.run([3, 1, 4], 0, all_logits=True)
    engine.run([1, 5], 3)
    again = engine.run([4, 9], 2, all_logits=True)  # position 2 anew
    assert engine.length == 4
    assert_close(again[:1], first[2:], "seed 2")
    engine.reset()
    assert engine.length == 0
    assert (engine.run([3, 1, 4], 0, all_logits=True) == first).all()


def test_bad_calls():
    graph = random_llama_graph(2, **SMALL)
    engine = FloatGraph(graph)
    engine.run([1, 2], 0)
    for ids, position, message in [
        ([], 2, "Ids must be a list of at least one integer, not []"),
        ([0.5], 2, "Ids must be a list of at least one integer, not [0.5]"),
        ([[1]], 2, "Ids must be a list of at least one integer, not [[1]]"),
        ([1, 50], 2, "Ids must be in 0..49, not 50"),
        ([-1], 2, "Ids must be in 0..49, not -1"),
        ([1], 3, "Position must continue the 2 tokens in the KV cache, not be 3"),
        ([1], -1, "Position must continue the 2 tokens in the KV cache, not be -1"),
        ([1] * 63, 2, "Tokens must fit the context of 64, not end at 65"),
    ]:
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            engine.run(ids, position)
        assert engine.length == 2
    engine.run([1] * 62, 2)
    with pytest.raises(UsageError, match=r"^Tokens must fit the context of 64, not end at 65$"):
        engine.run([1], 64)


def test_a_quantised_graph_is_refused():
    with pytest.raises(GraphError):
        FloatGraph(quantised_form(random_llama_graph(1, **SMALL)))


def test_erf_is_within_one_ulp():
    x = np.concatenate([np.linspace(-6, 6, 20_001), np.logspace(-40, 1, 2001), [0.0, -0.0, np.inf, -np.inf]])
    x = x.astype(np.float32)
    exact = np.array([math.erf(float(value)) for value in x])
    ours = erf(x)
    assert (np.abs(ours - exact) <= np.spacing(np.abs(exact).astype(np.float32))).all()
    assert (np.signbit(ours) == np.signbit(x)).all()
    assert np.isnan(erf(np.array([np.nan], np.float32)))[0]
