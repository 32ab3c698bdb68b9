# SPDX-License-Identifier: Apache-2.0
"""Damaged weight files: each is refused by a message that names the tensor or file, the rule and the value."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from catenary.compiler import importers
from catenary.compiler.importers.safetensors_files import read_header
from catenary.compiler.random_models import llama_config, write_model
from catenary.isa.errors import CheckpointError, UnsupportedModelError
from catenary.isa.tensors import FloatFormat, FloatTensor
from tests.compiler.checkpoints import edit_header, edit_json, edit_tensors, header_of, refused, tensors_of

Q = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"
EMBED = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00002.safetensors"
OTHER = "model-00002-of-00002.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", llama_config(), seed=1)


def f32(data: np.ndarray) -> FloatTensor:
    return FloatTensor(FloatFormat.F32, data)


def test_the_safetensors_package_reads_what_we_write(model):
    theirs = safetensors.numpy.load_file(model / FILE)
    ours = tensors_of(model)
    assert theirs.keys() == ours.keys()
    assert all((theirs[name] == ours[name].data).all() for name in ours)


def test_missing_weights(model):
    (model / FILE).unlink()
    refused(model, f"Weights in {{dir}} must be {FILE}, or shards with {INDEX}, not missing")


def test_missing_tensors(model):
    edit_tensors(model, lambda tensors: [tensors.pop(name) for name in (Q, HEAD)])
    refused(model, f"Tensor '{Q}' must be in the checkpoint, not missing")
    assert len(importers.inspect(model).reasons) == 2


def test_unexpected_tensor(model):
    name = "model.layers.2.mlp.up_proj.weight"
    edit_tensors(model, lambda tensors: tensors.update({name: tensors[NORM]}))
    refused(model, f"Tensors of the model must be those that config.json calls for, not '{name}' as well")


def test_harmless_tensor(model):
    names = ("model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq")
    edit_tensors(model, lambda tensors: tensors.update(dict.fromkeys(names, tensors[NORM])))
    assert importers.inspect(model).ok
    assert len(importers.load(model).graph.tensors) == 22


def test_wrong_shape(model):
    edit_tensors(model, lambda tensors: tensors.update({Q: f32(tensors[Q].data[:-1])}))
    refused(model, f"Tensor '{Q}' must have shape (64, 64), not (63, 64)")


@pytest.mark.parametrize("dtype, size", [("F64", 8), ("I32", 4), ("F8_E4M3", 1)])
def test_wrong_dtype(model, dtype, size):
    edit_tensors(model, lambda tensors: tensors.update({NORM: f32(np.zeros(64 * size // 4, "<f4"))}))
    edit_header(model, lambda header: header[NORM].update(dtype=dtype, shape=[64]))
    refused(model, f"Tensor '{NORM}' must be F32, F16 or BF16, not {dtype}", UnsupportedModelError)


@pytest.mark.parametrize("form", FloatFormat)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_weights_that_are_not_finite(tmp_path, form, value):
    model = write_model(tmp_path, llama_config(), seed=1, form=form)
    start = read_header(model / FILE)[Q].start
    bits = np.array([value], np.float32).view(np.uint32) >> 16
    raw = bits.astype("<u2") if form is FloatFormat.BF16 else np.array([value], form.dtype)
    with (model / FILE).open("r+b") as file:
        for index in (5 * 64 + 7, 9 * 64):  # the first one is named
            file.seek(start + index * form.bytes)
            file.write(raw.tobytes())
    refused(model, f"Tensor '{Q}' must be finite, not {value} at index [5, 7]")
    assert importers.inspect(model).ok  # it does not read weights


def test_last_weight_of_a_tensor_that_is_read_in_pieces(tmp_path):
    config = llama_config(vocab_size=70_000, hidden_size=16, num_hidden_layers=1)
    model = write_model(tmp_path, config, seed=1)
    edit_tensors(model, lambda tensors: tensors[EMBED].data.__setitem__((69_999, 15), np.nan))
    refused(model, f"Tensor '{EMBED}' must be finite, not nan at index [69999, 15]")


def test_stored_head_of_a_tied_model(model):
    edit_json(model, "config.json", tie_word_embeddings=True)
    refused(model, f"Tensor '{HEAD}' must equal '{EMBED}' where tie_word_embeddings is true, not differ")
    edit_tensors(model, lambda tensors: tensors.update({HEAD: tensors[EMBED]}))
    graph = importers.load(model).graph
    assert np.shares_memory(graph.tensors["head.weight"].data, graph.tensors["embed.weight"].data)


def test_truncated_weights(model):
    path = model / FILE
    data = path.read_bytes()
    for cut in (1, 4000, len(data) // 2):
        path.write_bytes(data[:-cut])
        rule = f"must have {len(data)} bytes as its header says"
        refused(model, f"File {path} {rule}, not {len(data) - cut} (truncated?)")
    path.write_bytes(data + b"!")
    refused(model, f"File {path} must end with its last tensor at {len(data)} bytes, not at {len(data) + 1}")


def test_truncated_header(model):
    path = model / FILE
    rule = f"must start with 8 bytes of length and a header of at most {100 << 20} bytes within the file"
    length = int.from_bytes(path.read_bytes()[:8], "little")
    path.write_bytes(path.read_bytes()[:200])
    refused(model, f"File {path} {rule}, not a length of {length} in 200 bytes")
    path.write_bytes(b"")
    refused(model, f"File {path} {rule}, not a length of 0 in 0 bytes")
    path.write_bytes((2).to_bytes(8, "little") + b"{!")
    with pytest.raises(CheckpointError, match=rf"^Header of {re.escape(str(path))} must be valid JSON, not: Expecting"):
        importers.load(model)


DTYPES = "BOOL, U8, I8, F8_E4M3, F8_E5M2, F8_E8M0, U16, I16, F16, BF16, U32, I32, F32, U64, I64, F64 or C64"


@pytest.mark.parametrize(
    "change, thing, fault",
    [
        (lambda h: h.update({NORM: 3}), "Description", "an object, not 3"),
        (lambda h: h[NORM].update(dtype="F31"), "dtype", f"{DTYPES}, not 'F31'"),
        (lambda h: h[NORM].update(shape=[-64]), "shape", "a list of sizes, not [-64]"),
        (lambda h: h[NORM].update(data_offsets=[3]), "data_offsets", "two positions, not [3]"),
    ],
)
def test_bad_header(model, change, thing, fault):
    edit_header(model, change)
    refused(model, f"{thing} of tensor '{NORM}' in the header of {model / FILE} must be {fault}")


def test_tensor_of_another_size_than_its_place(model):
    edit_header(model, lambda header: header[NORM].update(shape=[65]))
    refused(model, f"data_offsets of tensor '{NORM}' in the header of {model / FILE} must span 260 bytes, not 256")


def test_overlapping_tensors(model):
    path = model / FILE
    edit_header(model, lambda header: header[HEAD].update(data_offsets=header[EMBED]["data_offsets"]))
    base = path.stat().st_size - len(header_of(path)[1])
    size = 288 * 64 * 4
    message = f"must start at byte {base + size}, where '{EMBED}' ends, not at byte {base}"
    refused(model, f"Tensor '{HEAD}' of {path} {message}")


@pytest.mark.parametrize(
    "weight_map, message",
    [
        (None, f"weight_map of {INDEX} must name a file for each tensor, not None"),
        ({}, f"weight_map of {INDEX} must name a file for each tensor, not {{}}"),
        ({Q: 3}, f"weight_map of {INDEX} must name a file for each tensor, not {{'{Q}': 3}}"),
        ({Q: "../x.safetensors"}, f"Files of {INDEX} must be plain names, not '../x.safetensors'"),
        ({Q: "x.safetensors"}, "File {dir}/x.safetensors must be readable, not: No such file or directory"),
        ({Q: SHARD}, f"Tensor '{EMBED}' must be nowhere as {INDEX} says, not in {SHARD}"),
    ],
)
def test_bad_index(tmp_path, weight_map, message):
    model = write_model(tmp_path, llama_config(), seed=1, shards=2)
    (model / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    refused(model, message)


def test_index_that_disagrees_with_its_shards(tmp_path):
    model = write_model(tmp_path, llama_config(), seed=1, shards=2)
    placed = json.loads((model / INDEX).read_text())["weight_map"]
    assert placed[EMBED] == SHARD
    edit_json(model, INDEX, weight_map=placed | {EMBED: OTHER})
    refused(model, f"Tensor '{EMBED}' must be in {OTHER} as {INDEX} says, not in {SHARD}")
    edit_json(model, INDEX, weight_map=placed | {"extra": OTHER})
    refused(model, f"Tensor 'extra' must be in {OTHER} as {INDEX} says, not missing")
