# SPDX-License-Identifier: Apache-2.0
"""The compression pass: pruning, rounding, the graph that comes out, and what it costs in quality and bits."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from catenary.compiler import importers
from catenary.compiler.compress import SPARSITIES, Compress, bits_per_weight
from catenary.compiler.prune import prune_mask
from catenary.compiler.quantise import Rounded, round_8bit, round_grouped
from catenary.isa.errors import GraphError, UsageError
from catenary.isa.graph import Graph, Linear, Quantize, Tensor, verify
from catenary.isa.stream import pack, unpack
from catenary.isa.tensors import BLOCK, KEPT_CHOICES, FloatFormat, FloatTensor, QuantTensor
from catenary.sim.float_graph import FloatGraph
from tests.graphs import FEATURES, random_graph, random_llama_graph
from tests.isa.streams import make_config


def integers(rounded: Rounded, group: int) -> np.ndarray:
    """Expanded integer weights of ``rounded``."""
    columns = rounded.codes.shape[1]
    span = np.arange(columns) // group
    return (rounded.codes - rounded.zeros.astype(np.int32)[:, span]) * rounded.scales.astype(np.int32)[:, span]


def rounded_values(rounded: Rounded, group: int) -> np.ndarray:
    return integers(rounded, group) * rounded.channel_scales.astype(np.float64)[:, None]


def plain_rounding(weights: np.ndarray, bits: int, group: int) -> np.ndarray:
    """Textbook two-level rounding: full range per group, ``s`` rounded to a multiple of absmax / 127."""
    top = (1 << bits) - 1
    result = np.zeros(weights.shape)
    unit = np.abs(weights).max(axis=1, keepdims=True) / 127
    for first in range(0, weights.shape[1], group):
        part = weights[:, first : first + group].astype(np.float64)
        low, high = np.minimum(part.min(axis=1, keepdims=True), 0), np.maximum(part.max(axis=1, keepdims=True), 0)
        scale = np.maximum(np.rint((high - low) / top / unit), 1)
        zero = np.clip(np.rint(-low / (scale * unit)), 0, top)
        codes = np.clip(np.rint(part / (scale * unit)) + zero, 0, top)
        result[:, first : first + group] = np.clip((codes - zero) * scale, -127, 127) * unit
    return result


# --- pruning -------------------------------------------------------------------------------------------------------


def naive_mask(weights: np.ndarray, kept: np.ndarray) -> np.ndarray:
    rows, columns = weights.shape
    mask = np.zeros((rows, -(-columns // BLOCK) * BLOCK), bool)
    for row in range(rows):
        for first in range(0, columns, BLOCK):
            order = sorted(range(first, min(first + BLOCK, columns)), key=lambda k: (-abs(weights[row, k]), k))
            order += range(columns, first + BLOCK)
            mask[row, order[: kept[row]]] = True
    return mask


@given(rows=st.integers(1, 12), columns=st.integers(1, 70), levels=st.integers(1, 40), seed=st.integers(0, 1 << 32))
def test_pruning_keeps_the_largest_and_the_lowest_of_equals(rows: int, columns: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(-levels, levels + 1, (rows, columns)).astype(np.float32)
    kept = rng.choice(KEPT_CHOICES, rows).astype(np.uint8)
    assert (prune_mask(weights, kept) == naive_mask(weights, kept)).all()


def test_pruning_keeps_every_nonzero_of_a_sparse_matrix() -> None:
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((20, 64)).astype(np.float32)
    kept = np.full(20, 4, np.uint8)
    sparse = weights * prune_mask(weights, kept)
    sparse[3, 16:32] = 0
    mask = prune_mask(sparse, kept)
    assert mask[sparse != 0].all()
    assert mask[3, 16:32].tolist() == [True] * 4 + [False] * 12


# --- rounding ------------------------------------------------------------------------------------------------------


def test_8_bit_codes() -> None:
    weights = np.array([[1.0, -127.0, 63.5, 0.49], [0, 0, 0, 0], [1e-30, 0, -1e-30, 0]], np.float32)
    rounded = round_8bit(weights, groups=2)
    assert rounded.codes.tolist() == [[1, -127, 64, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert rounded.channel_scales.tolist() == [1.0, *[np.float32(2.0**-64) / np.float32(127)] * 2]
    assert rounded.scales.tolist() == [[1, 1]] * 3
    assert not rounded.zeros.any()


@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 150),
    bits=st.sampled_from((2, 3, 4)),
    group=st.sampled_from((16, 32, 128)),
    spread=st.sampled_from((0.0, 1.0, 4.0)),
    offset=st.sampled_from((0.0, 3.0, -3.0)),
    weighted=st.booleans(),
    seed=st.integers(0, 1 << 32),
)
def test_grouped_codes_obey_the_format(
    rows: int, columns: int, bits: int, group: int, spread: float, offset: float, weighted: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    sizes = np.exp(spread * rng.standard_normal((rows, columns)))
    weights = ((rng.standard_normal((rows, columns)) + offset) * sizes).astype(np.float32)
    weights[rng.random((rows, columns)) < 0.2] = 0
    importance = rng.uniform(1e-4, 1, columns).astype(np.float32) if weighted else None
    rounded = round_grouped(weights, bits, group, importance)
    assert rounded.codes.min() >= 0
    assert rounded.codes.max() < 1 << bits
    assert rounded.scales.min() >= 1
    assert rounded.zeros.max() < 1 << bits
    values = integers(rounded, group)
    assert np.abs(values).max() <= 127
    assert not values[weights == 0].any()
    assert (rounded.channel_scales > 0).all()
    alone = [round_grouped(weights[row : row + 1], bits, group, importance) for row in range(rows)]
    for name in ("codes", "scales", "zeros", "channel_scales"):
        together = getattr(rounded, name)
        assert together.tobytes() == np.concatenate([getattr(part, name) for part in alone]).tobytes(), name


@pytest.mark.parametrize("group", [16, 128])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_search_beats_plain_rounding(bits: int, group: int) -> None:
    rng = np.random.default_rng(2)
    sizes = rng.uniform(0.2, 1, (64, 16)).repeat(16, axis=1)
    weights = (rng.standard_t(5, (64, 256)) * sizes).astype(np.float32)
    found = np.square(rounded_values(round_grouped(weights, bits, group), group) - weights).sum(axis=1)
    plain = np.square(plain_rounding(weights, bits, group) - weights).sum(axis=1)
    assert found.sum() < 0.93 * plain.sum()
    assert (found < plain).mean() > 0.9


def test_importance_moves_the_error_to_where_it_counts_less() -> None:
    rng = np.random.default_rng(3)
    weights = rng.standard_normal((64, 128)).astype(np.float32)
    importance = np.where(np.arange(128) % 2, 1, 0.01).astype(np.float32)
    even, weighted = (
        (importance * np.square(rounded_values(round_grouped(weights, 4, 32, cost), 32) - weights)).sum()
        for cost in (None, importance)
    )
    assert weighted < even


@pytest.mark.parametrize("value", [0.0, 1e-42, 1e-30, 1.0, -1.0, 3.4e38, -3.4e38])
def test_constant_and_extreme_rows(value: float) -> None:
    weights = np.full((2, 40), value, np.float32)
    weights[1, 3] = -weights[1, 3]
    for rounded, group in ((round_grouped(weights, 4, 16), 16), (round_8bit(weights, 1), 40)):
        assert np.isfinite(rounded.channel_scales).all()
        error = rounded_values(rounded, group) - weights
        assert np.sqrt(np.square(error).mean()) <= max(0.02 * abs(value), 2.0**-64)


# --- the pass ------------------------------------------------------------------------------------------------------


def as_floats(graph: Graph) -> Graph:
    """The float form that computes with the quantised weights of ``graph``, and without Quantize nodes."""
    stages = []
    for stage in graph.stages:
        source = {node.out: node.x for node in stage.nodes if isinstance(node, Quantize)}
        nodes = [
            replace(node, x=source[node.x]) if isinstance(node, Linear) else node
            for node in stage.nodes
            if not isinstance(node, Quantize)
        ]
        stages.append(replace(stage, nodes=tuple(nodes)))
    tensors: dict[str, Tensor] = {}
    for name, tensor in graph.tensors.items():
        if isinstance(tensor, QuantTensor):
            values = tensor.expanded() * tensor.channel_scales[:, None]
            tensor = FloatTensor(FloatFormat.F32, values.astype(np.float32))
        tensors[name] = tensor
    return replace(graph, stages=tuple(stages), tensors=tensors)


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("weight_bits", [4, 8])
def test_every_kind_of_graph(feature: str, weight_bits: int) -> None:
    graph = random_graph(7, **FEATURES[feature])
    done: list[tuple[str, int, int]] = []
    result = Compress(weight_bits, sparsity="8:16").apply(graph, progress=lambda *step: done.append(step))
    verify(result, "quantised")
    for name, tensor in result.tensors.items():
        original = graph.tensors[name]
        assert isinstance(original, FloatTensor)
        if isinstance(tensor, QuantTensor):
            tensor.check(name)
            assert tensor.bits == weight_bits
            assert tensor.shape == original.shape
            assert (tensor.kept == (16 if name == "lm_head.weight" else 8)).all()
            filler = np.repeat(tensor.zeros, tensor.group, axis=1)[:, : tensor.codes.shape[1]]
            assert (tensor.codes == filler)[~tensor.mask].all()
            data = pack(tensor, None, make_config())
            again = unpack(data, tensor.columns, make_config())[0]
            assert again.codes.tobytes() == tensor.codes.tobytes()
        elif name.startswith("layers") and ".norm" not in name:
            assert name.endswith(".bias")
            assert tensor.format is FloatFormat.F32
            assert (tensor.to_float32() == original.to_float32()).all()
        else:
            assert tensor is original
    names = [name for name, tensor in result.tensors.items() if isinstance(tensor, QuantTensor)]
    assert sorted(name for name, _, _ in done) == sorted(names)
    assert all(before < after for (_, before, _), (_, after, _) in pairwise(done))
    assert done[-1][1] == done[-1][2] == sum(math.prod(result.tensors[name].shape) for name in names)


def test_one_quantize_node_for_each_value() -> None:
    result = Compress().apply(random_llama_graph(1))
    layer = result.stages[1]
    assert [node.x for node in layer.nodes if isinstance(node, Quantize)] == ["n1", "mixed", "n2", "inner"]
    readers = {node.out: node.x for node in layer.nodes if isinstance(node, Linear)}
    assert readers["q"] == readers["k"] == readers["v"] == "n1.q8"
    assert readers["gate"] == readers["up"] == "n2.q8"


def test_names_of_new_values_are_new() -> None:
    graph = random_llama_graph(1)
    head = graph.stages[-1]
    norm, linear = head.nodes
    odd = replace(head, input="n.q8", nodes=(replace(norm, x="n.q8"), linear))
    result = Compress().apply(replace(graph, stages=(*graph.stages[:-1], odd)))
    assert [node.out for node in result.stages[-1].nodes] == ["n", "n.q8_", "logits"]


def test_default_groups() -> None:
    graph = random_llama_graph(1, hidden=64, ffn=172)
    for options, narrow, wide in ((Compress(4), 16, 128), (Compress(8), 128, 128), (Compress(4, 32), 32, 32)):
        tensors = options.apply(graph).tensors
        assert tensors["layers.0.up.weight"].group == narrow
        assert tensors["layers.0.down.weight"].group == wide


def test_sparsity_by_name_and_by_function() -> None:
    graph = random_llama_graph(2, hidden=64, layers=2)
    rows = graph.tensors["layers.1.up.weight"].shape[0]
    mixed = np.resize(np.repeat(np.array(KEPT_CHOICES), 16), rows)
    result = Compress(4, sparsity={"layers.1.up.weight": mixed, "layers.0.q.weight": 2}).apply(graph)
    for name, tensor in result.tensors.items():
        if isinstance(tensor, QuantTensor):
            wanted = {"layers.1.up.weight": mixed, "layers.0.q.weight": 2}.get(name, 16)
            assert (tensor.kept == wanted).all(), name

    seen: dict[str, tuple[int, ...]] = {}

    def choose(name: str, weights: FloatTensor) -> int:
        seen[name] = weights.shape
        return 4 if ".down." in name else 8

    result = Compress(8, sparsity=choose).apply(graph)
    assert "lm_head.weight" not in seen
    assert all(seen[name] == graph.tensors[name].shape for name in seen)
    assert (result.tensors["layers.0.down.weight"].kept == 4).all()
    assert (result.tensors["layers.1.o.weight"].kept == 8).all()


def test_large_matrices_are_cut_into_chunks_of_rows() -> None:
    graph = random_llama_graph(3, vocab=9000, hidden=72, tied=False)
    weights = graph.tensors["lm_head.weight"].to_float32()
    tensor = Compress(4).apply(graph).tensors["lm_head.weight"]
    error = np.square(tensor.expanded() * tensor.channel_scales[:, None] - weights).sum(axis=1)
    assert (error < 0.02 * np.square(weights).sum(axis=1)).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"weight_bits": 5}, "Weight bits must be 4 or 8, not 5"),
        ({"group_size": 24}, "Group size must be a positive multiple of 16, not 24"),
        ({"group_size": 0}, "Group size must be a positive multiple of 16, not 0"),
        ({"sparsity": "3:16"}, "Sparsity must be one of none, 8:16, 4:16, 2:16, 1:16, not '3:16'"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Compress(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_must_be_finite(value: float) -> None:
    graph = random_llama_graph(4, layers=2, hidden=40)
    name = "layers.1.gate.weight"
    data = graph.tensors[name].data.copy()
    data[5, 39] = value
    broken = replace(graph, tensors={**graph.tensors, name: FloatTensor(FloatFormat.F32, data)})
    with pytest.raises(GraphError) as caught:
        Compress().apply(broken)
    assert str(caught.value) == f"Weight [5, 39] of {name} must be finite, not {value}"


def test_bad_graphs_are_refused() -> None:
    graph = random_llama_graph(5, hidden=40, tied=False)
    with pytest.raises(GraphError, match=r"^N of layers\.0\.q\.weight must be one of \(1, 2, 4, 8, 16\), not \[3\]$"):
        Compress(sparsity=lambda name, weights: 3).apply(graph)
    with pytest.raises(GraphError, match=r"^N of layers\.0\.q\.weight must be one number or one for each of \d+ rows"):
        Compress(sparsity=lambda name, weights: np.full(3, 8)).apply(graph)
    with pytest.raises(GraphError, match=r"^Node layers\.n1\.q8 must not be Quantize in a float graph$"):
        Compress().apply(Compress().apply(graph))
    head = graph.stages[-1]
    tied = tuple(replace(node, weight="embed.weight") if isinstance(node, Linear) else node for node in head.nodes)
    shared = replace(graph, stages=(*graph.stages[:-1], replace(head, nodes=tied)))
    with pytest.raises(GraphError, match=r"^Weight 'embed\.weight' must have a name of its own"):
        Compress().apply(shared)
    with pytest.raises(GraphError, match=r"^Graph must be in quantised form and have linear layers, not neither$"):
        bits_per_weight(graph, make_config())


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_bits_per_weight_counts_every_stored_byte(sparsity: str) -> None:
    graph = Compress(4, sparsity=sparsity).apply(random_llama_graph(6, bias=True))
    config = make_config(ports=(16, 32))
    stored = weights = 0
    for name, tensor in graph.tensors.items():
        if isinstance(tensor, QuantTensor):
            bias = graph.tensors.get(name.replace(".weight", ".bias"))
            data = pack(tensor, bias.to_float32() if isinstance(bias, FloatTensor) else None, config)
            stored += -(-len(data) // 48) * 48
            weights += math.prod(tensor.shape)
    assert bits_per_weight(graph, config) == 8 * stored / weights


# --- quality -------------------------------------------------------------------------------------------------------


def perplexity(graph: Graph, tokenizer: Tokenizer, text: str, limit: int) -> float:
    """Perplexity over the first ``limit`` tokens: documents in windows of context - 1, each after its own BOS."""
    runner = FloatGraph(graph)
    loss, scored = 0.0, 0
    for document in text.split("<|endoftext|>"):
        ids = tokenizer.encode(document.strip(), add_special_tokens=False).ids
        for first in range(0, len(ids), graph.max_context - 1):
            window = ids[first : first + graph.max_context - 1][: limit - scored]
            if not window:
                return math.exp(loss / scored)
            runner.reset()
            logits = runner.run([graph.bos_id or 0, *window[:-1]], 0, all_logits=True).astype(np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            chosen = logits[np.arange(len(window)), window]
            loss += float((np.log(np.exp(logits).sum(axis=1)) - chosen).sum())
            scored += len(window)
    return math.exp(loss / scored)


@pytest.mark.parametrize(
    "options, most",
    [(Compress(8), 1.01), (Compress(4), 1.10), (Compress(4, group_size=16), 1.08)],
    ids=["w8", "w4", "w4-group16"],
)
def test_perplexity_of_real_weights(data_dir: Path, options: Compress, most: float) -> None:
    graph = importers.load(data_dir / "stories260K").graph
    tokenizer = Tokenizer.from_file(str(data_dir / "stories260K" / "tokenizer.json"))
    text = (data_dir / "text" / "tinystories_train_2MiB.txt").read_text(encoding="utf-8")[:40_000]
    yardstick = perplexity(graph, tokenizer, text, 4000)
    assert yardstick == pytest.approx(3.786, abs=5e-4)
    assert perplexity(as_floats(options.apply(graph)), tokenizer, text, 4000) <= most * yardstick
