# SPDX-License-Identifier: Apache-2.0
"""Hugging Face directories with random weights: checkpoints of any size for tests and benchmarks, without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catenary.compiler.importers.families import checkpoint_names, find_family, read_shape
from catenary.compiler.importers.llama import HEAD, tensor_shapes
from catenary.compiler.importers.safetensors_files import INDEX_FILE, SINGLE_FILE
from catenary.isa.tensors import FloatFormat, FloatTensor

SPECIAL = ("<unk>", "<s>", "</s>")
"""Special tokens of :func:`tiny_tokenizer`; their ids are 0, 1 and 2."""

_BYTES = 256
_DTYPES = {FloatFormat.F32: "F32", FloatFormat.F16: "F16", FloatFormat.BF16: "BF16"}


def llama_config(**overrides: object) -> dict[str, object]:
    """A ``config.json`` of a small Llama, with ``overrides`` on top; an override of ``None`` removes a key."""
    config: dict[str, object] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 288,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | overrides
    return {key: value for key, value in config.items() if value is not None}


def write_model(
    directory: Path,
    config: Mapping[str, object],
    seed: int,
    form: FloatFormat = FloatFormat.F32,
    shards: int = 1,
) -> Path:
    """Write a checkpoint with random weights and a tiny tokenizer into ``directory``, which is made if need be.

    Args:
        directory: where to.
        config: content of ``config.json``, of any family that the importer knows.
        seed: of the weights.
        form: format of every tensor.
        shards: number of weight files; more than one come with an index.

    Raises:
        CheckpointError: the importer would refuse ``config``.
    """
    family = find_family(config)
    shape, problems = read_shape(family, config, None)
    for problem in problems:
        raise problem
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(dict(config), indent=1))
    (directory / "tokenizer.json").write_text(json.dumps(tiny_tokenizer(shape.vocab)))
    settings = {"add_bos_token": True, "bos_token": SPECIAL[1], "eos_token": SPECIAL[2]}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    rng = np.random.default_rng(seed)
    names = checkpoint_names(shape)
    tensors = {
        names[name]: narrow(_random_tensor(rng, name, size), form)
        for name, size in tensor_shapes(shape).items()
        if not (shape.tied and name == HEAD)
    }
    if shards == 1:
        write_safetensors(directory / SINGLE_FILE, tensors)
        return directory
    weight_map = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(tensors)}
    for file in sorted(set(weight_map.values())):
        inside = {name: tensor for name, tensor in tensors.items() if weight_map[name] == file}
        write_safetensors(directory / file, inside)
    (directory / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def write_safetensors(path: Path, tensors: Mapping[str, FloatTensor]) -> None:
    """Write ``tensors`` to the safetensors file ``path``; unlike the package's numpy writer, BF16 too."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, tensor in tensors.items():
        offsets = [position, position + tensor.data.nbytes]
        header[name] = {"dtype": _DTYPES[tensor.format], "shape": list(tensor.shape), "data_offsets": offsets}
        position = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # data start at a multiple of 8
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor.data).tobytes())


def narrow(values: NDArray[np.float32], form: FloatFormat) -> FloatTensor:
    """``values`` rounded to ``form``, ties to even; they must be finite."""
    if form is not FloatFormat.BF16:
        return FloatTensor(form, values.astype(form.dtype))
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return FloatTensor(form, rounded.astype(form.dtype))


def tiny_tokenizer(vocab: int) -> dict[str, object]:
    """A ``tokenizer.json`` of at most ``vocab`` ids (at least 4): all bytes where there is room, else some letters."""
    whole = vocab >= len(SPECIAL) + _BYTES
    letters = "etaoinshrdlucmfwypvbgkqjxz \n.,'\"!?ETAOINSHRDLUCMFWYPVBGKQJXZ0123456789-:;()&%$#@+=/"
    tokens = [f"<0x{byte:02X}>" for byte in range(_BYTES)] if whole else list(letters)[: vocab - len(SPECIAL)]
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = [{"id": i, "content": token, "special": True, **plain} for i, token in enumerate(SPECIAL)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": SPECIAL[0],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": whole,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate([*SPECIAL, *tokens])},
            "merges": [],
        },
    }


def _random_tensor(rng: np.random.Generator, name: str, size: tuple[int, ...]) -> NDArray[np.float32]:
    """Values that keep rows about as large as they were: matrices by 1 / sqrt(columns), norm weights near 1."""
    values = rng.standard_normal(size, np.float32)
    if len(size) == 2:
        return values * np.float32(1 / math.sqrt(size[1]))
    return np.float32(name.endswith("norm.weight")) + values * np.float32(0.1)
