# SPDX-License-Identifier: Apache-2.0
"""What a good checkpoint becomes: graph, tokenizer settings, provenance; and weights that are made up."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from catenary.compiler import importers
from catenary.compiler.importers.rotary import LinearScaling, Llama3Scaling, Rotary, inverse_frequencies, table
from catenary.compiler.random_models import llama_config, write_model
from catenary.isa.graph import Norm, NormKind, Stage, Unary, verify
from catenary.isa.tensors import FloatFormat
from catenary.sim.float_graph import FloatGraph
from tests.compiler.checkpoints import edit_json


def test_graph_of_a_llama(tmp_path):
    model = importers.load(write_model(tmp_path, llama_config(attention_bias=True), seed=1))
    graph = model.graph
    assert [(stage.name, stage.repeat) for stage in graph.stages] == [("embed", 1), ("layers", 2), ("head", 1)]
    assert graph.tensors["layers.1.attn.q.weight"].shape == (64, 64)
    assert graph.tensors["layers.1.attn.k.bias"].shape == (32,)
    assert "layers.1.mlp.up.bias" not in graph.tensors
    assert (graph.vocab, graph.max_context, graph.bos_id, graph.eos_ids) == (288, 128, 1, (2,))
    assert model.architecture == "LlamaForCausalLM"
    verify(graph, "float")


def test_weights_are_views_of_the_file(tmp_path):
    graph = importers.load(write_model(tmp_path, llama_config(), seed=1, form=FloatFormat.BF16)).graph
    for name, tensor in graph.tensors.items():
        if name != "rope":
            base = tensor.data
            while isinstance(base.base, np.ndarray):
                base = base.base
            assert isinstance(base, np.memmap), name
            assert not tensor.data.flags.writeable


def test_tensor_at_an_odd_place(tmp_path):
    """Nothing in the format aligns tensors."""
    directory = write_model(tmp_path, llama_config(), seed=1)
    whole = FloatGraph(importers.load(directory).graph).run([1, 2, 3], 0)
    path = directory / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].rstrip()
    text += b" " * (1 - len(text) % 2)  # so that everything behind lies at odd addresses
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    graph = importers.load(directory).graph
    assert not graph.tensors["embed.weight"].data.flags.aligned
    assert (FloatGraph(graph).run([1, 2, 3], 0) == whole).all()


@pytest.mark.parametrize("tied", [False, True])
def test_a_tied_head_has_a_name_of_its_own(tmp_path, tied):
    graph = importers.load(write_model(tmp_path, llama_config(tie_word_embeddings=tied), seed=1)).graph
    head, embed = graph.tensors["head.weight"], graph.tensors["embed.weight"]
    assert np.shares_memory(head.data, embed.data) is tied


def test_layer_norms_have_biases(tmp_path):
    config = llama_config(architectures=["StableLmForCausalLM"], model_type="stablelm")
    graph = importers.load(write_model(tmp_path, config, seed=1)).graph
    norms = [node for stage in graph.stages for node in stage.nodes if isinstance(node, Norm)]
    assert {(norm.kind, norm.eps) for norm in norms} == {(NormKind.LAYER, 1e-5)}
    assert "layers.0.mlp.norm.bias" in graph.tensors


@pytest.mark.parametrize(
    "name, function",
    [
        ("silu", Unary.SILU),
        ("swish", Unary.SILU),
        ("gelu", Unary.GELU_ERF),
        ("gelu_new", Unary.GELU_TANH),
        ("relu", Unary.RELU),
        ("tanh", Unary.TANH),
    ],
)
def test_activation(tmp_path, name, function):
    graph = importers.load(write_model(tmp_path, llama_config(hidden_act=name), seed=1)).graph
    assert function in {node.function for node in layers(graph.stages).nodes if hasattr(node, "function")}


def layers(stages: tuple[Stage, ...]) -> Stage:
    return next(stage for stage in stages if stage.name == "layers")


def test_context(tmp_path):
    directory = write_model(tmp_path, llama_config(max_position_embeddings=5000), seed=1)
    assert importers.load(directory).graph.max_context == 4096
    graph = importers.load(directory, max_context=4500).graph
    assert graph.max_context == 4500
    assert graph.tensors["rope"].shape == (4500, 16)


@pytest.mark.parametrize(
    "given, theta",
    [
        ({}, 10000.0),
        ({"rope_theta": 500.0}, 500.0),
        ({"rope_theta": 500.0, "rope_parameters": {"rope_theta": 700.0}}, 700.0),
        ({"rope_theta": 500.0, "rope_scaling": {"type": "default"}}, 500.0),
    ],
)
def test_where_theta_may_stand(tmp_path, given, theta):
    config = llama_config(rope_theta=None) | given
    rope = importers.load(write_model(tmp_path, config, seed=1)).graph.tensors["rope"].to_float32()
    expected = table(Rotary(16, theta, None), 128).to_float32()
    assert (rope == expected).all()


def test_rotary_table():
    rows = table(Rotary(6, 100.0, None), 50).to_float32()
    assert rows.dtype == np.float32
    for position in (0, 1, 49):
        for pair in range(3):
            angle = position * 100.0 ** (-2 * pair / 6)
            assert rows[position, pair] == pytest.approx(math.cos(angle), abs=1e-5)
            assert rows[position, 3 + pair] == pytest.approx(math.sin(angle), abs=1e-5)


def test_scaled_frequencies():
    plain = inverse_frequencies(Rotary(32, 10000.0, None))
    assert (inverse_frequencies(Rotary(32, 10000.0, LinearScaling(4.0))) == plain / 4).all()
    scaled = inverse_frequencies(Rotary(32, 10000.0, Llama3Scaling(8.0, 1.0, 4.0, 100)))
    wavelengths = 2 * math.pi / plain
    assert (scaled[wavelengths < 25] == plain[wavelengths < 25]).all()
    assert (scaled[wavelengths > 100] == plain[wavelengths > 100] / 8).all()
    between = (wavelengths > 25) & (wavelengths < 100)
    assert between.any()
    assert ((scaled < plain) & (scaled > plain / 8))[between].all()


def test_tokenizer_settings(tmp_path):
    directory = write_model(tmp_path, llama_config(), seed=1)
    model = importers.load(directory)
    assert model.tokenizer_config == {"add_bos_token": True, "bos_id": 1, "eos_ids": [2]}
    assert json.loads(model.tokenizer_json)["model"]["type"] == "BPE"
    edit_json(directory, "generation_config.json", eos_token_id=[2, 5], bos_token_id=7)
    edit_json(directory, "tokenizer_config.json", add_bos_token=None)
    model = importers.load(directory)
    assert model.tokenizer_config == {"add_bos_token": None, "bos_id": 7, "eos_ids": [2, 5]}
    assert (model.graph.bos_id, model.graph.eos_ids) == (7, (2, 5))


def test_special_tokens_named_by_the_tokenizer_alone(tmp_path):
    directory = write_model(tmp_path, llama_config(bos_token_id=None, eos_token_id=None), seed=1)
    assert importers.load(directory).tokenizer_config["eos_ids"] == [2]
    edit_json(directory, "tokenizer_config.json", eos_token={"content": "<unk>"}, bos_token=None)
    assert importers.load(directory).tokenizer_config == {"add_bos_token": True, "bos_id": None, "eos_ids": [0]}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()
    model = importers.load(directory)
    assert model.tokenizer_json is None
    assert model.tokenizer_config == {"add_bos_token": None, "bos_id": None, "eos_ids": []}


def test_provenance(tmp_path):
    whole = importers.load(write_model(tmp_path / "a", llama_config(), seed=1)).provenance
    file = (tmp_path / "a" / "model.safetensors").read_bytes()
    assert whole == {
        "family": "llama",
        "architecture": "LlamaForCausalLM",
        "config_sha256": hashlib.sha256((tmp_path / "a" / "config.json").read_bytes()).hexdigest(),
        "checkpoint_sha256": hashlib.sha256(file).hexdigest(),
        "files": {"model.safetensors": len(file)},
    }
    write_model(tmp_path / "b", llama_config(), seed=1, shards=2)
    shards = importers.load(tmp_path / "b").provenance
    files = b"".join(path.read_bytes() for path in sorted((tmp_path / "b").glob("model-*.safetensors")))
    assert shards["checkpoint_sha256"] == hashlib.sha256(files).hexdigest()


def test_summary(tmp_path):
    directory = write_model(tmp_path, llama_config(tie_word_embeddings=True), seed=1)
    summary = importers.inspect(directory)
    layer = 2 * 64 + (64 + 32 + 32 + 64) * 64 + 3 * 64 * 172
    assert summary.ok
    assert summary.reasons == []
    assert summary.weight_count == 288 * 64 + 2 * layer + 64
    assert summary.decode_weight_count == 2 * (layer - 2 * 64) + 288 * 64
    assert summary.dims == {
        "hidden": 64,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "ffn": 172,
        "vocab": 288,
        "max_context": 128,
    }
    lone = importers.inspect(directory / "config.json")
    assert replace(lone, graph=None) == replace(summary, graph=None)


def test_dummy_weights(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(llama_config(num_hidden_layers=3, attention_bias=True)))
    one, same, other = (importers.load(path, dummy_seed=seed) for seed in (4, 4, 5))
    logits = [FloatGraph(model.graph).run([1, 5, 7], 0) for model in (one, same, other)]
    assert (logits[0] == logits[1]).all()
    assert (logits[0] != logits[2]).any()
    assert one.provenance == same.provenance
    assert one.provenance["dummy_seed"] == 4
    assert one.provenance["checkpoint_sha256"] != other.provenance["checkpoint_sha256"]
    weight = one.graph.tensors["layers.2.mlp.down.weight"].to_float32()
    assert weight.std() == pytest.approx(0.02, rel=0.05)
    assert len({row.tobytes() for row in weight}) == 64
    assert (weight != one.graph.tensors["layers.1.mlp.down.weight"].to_float32()).any()
    assert one.tokenizer_json is None
    assert (one.graph.bos_id, one.graph.eos_ids) == (1, (2,))


def test_dummy_weights_are_the_same_on_every_machine(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(llama_config()))
    digest = importers.load(path, dummy_seed=0).provenance["checkpoint_sha256"]
    assert digest == "28dbe65319a7ec12b6093fa5f5c71d75f24d47ce943ae1dcca67212baed84e63"


def test_dummy_weights_of_a_large_model_take_little_memory(tmp_path):
    path = tmp_path / "config.json"
    large = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "vocab_size": 128256}
    path.write_text(json.dumps(llama_config(**large, num_attention_heads=64, num_key_value_heads=8)))
    tensors = importers.load(path, dummy_seed=0).graph.tensors
    views = [tensor.data for name, tensor in tensors.items() if name != "rope" and "norm" not in name]
    assert sum(view.size for view in views) > 70e9
    starts = [view.__array_interface__["data"][0] for view in views]
    ends = [start + 2 * ((len(view) - 1) * 61 + view.shape[-1]) for start, view in zip(starts, views, strict=True)]
    assert max(ends) - min(starts) < 32e6


def test_dummy_weights_of_a_tied_model(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(llama_config(tie_word_embeddings=True)))
    tensors = importers.load(path, dummy_seed=1).graph.tensors
    assert tensors["head.weight"] is tensors["embed.weight"]


@pytest.mark.needs_data
def test_real_checkpoint(data_dir):
    model = importers.load(data_dir / "stories260K")
    golden = json.loads((data_dir / "stories260K" / "golden.json").read_text())["greedy_ids_fp32"]
    graph, ids = FloatGraph(model.graph), [1]
    while len(ids) < 64:
        ids.append(int(graph.run(ids[-1:], len(ids) - 1)[0].argmax()))
    assert ids == golden
    assert model.tokenizer_config == {"add_bos_token": True, "bos_id": 1, "eos_ids": [2]}
    assert importers.inspect(data_dir / "stories260K").weight_count == 260_032
