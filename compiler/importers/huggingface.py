# SPDX-License-Identifier: Apache-2.0
"""Hugging Face directories: ``config.json``, safetensors weights and tokenizer files, every one of them checked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from catenary.compiler.importers.dummy import dummy_weights
from catenary.compiler.importers.families import Family, checkpoint_names, find_family, read_shape
from catenary.compiler.importers.fields import parse_object, read_bytes
from catenary.compiler.importers.llama import EMBED, HEAD, LlamaShape, build, tensor_shapes
from catenary.compiler.importers.model import ImportedModel, Summary
from catenary.compiler.importers.safetensors_files import WeightFiles, first_not_finite, open_weights
from catenary.compiler.importers.tokenizer_files import read_tokenizer
from catenary.isa.errors import CheckpointError
from catenary.isa.tensors import FloatFormat, FloatTensor

CONFIG = "config.json"
HARMLESS = ("rotary_emb.inv_freq",)
"""How the names of tensors end that old checkpoints hold and nothing reads: they follow from the configuration."""


@dataclass(frozen=True)
class _Config:
    values: Mapping[str, object]
    sha256: str
    family: Family
    shape: LlamaShape
    problems: list[CheckpointError]


def load_directory(directory: Path, max_context: int | None) -> ImportedModel:
    """The model in ``directory``; see :func:`catenary.compiler.importers.load`."""
    config = _checked(directory / CONFIG, max_context)
    tokenizer = read_tokenizer(directory, config.values, config.shape.vocab)
    weights = open_weights(directory)
    for problem in _weight_problems(weights, config.shape):
        raise problem
    names = checkpoint_names(config.shape)
    if config.shape.tied:
        _check_tie(weights, names)
        names[HEAD] = names[EMBED]
    tensors = {name: weights.tensor(source) for name, source in names.items()}
    for name, tensor in tensors.items():
        if not (config.shape.tied and name == HEAD):
            _check_finite(names[name], tensor)
    provenance = _provenance(config) | {
        "checkpoint_sha256": weights.sha256(),
        "files": {path.name: path.stat().st_size for path in weights.files},
    }
    graph = build(config.shape, tensors, tokenizer.bos_id, tokenizer.eos_ids)
    return ImportedModel(graph, tokenizer.json, tokenizer.config(), provenance, config.family.architecture)


def load_dummy(path: Path, max_context: int | None, seed: int) -> ImportedModel:
    """The model that the ``config.json`` at ``path`` describes, with made-up weights and no tokenizer."""
    config = _checked(path, max_context)
    tokenizer = read_tokenizer(None, config.values, config.shape.vocab)
    shapes = _own_shapes(config.shape)
    tensors, digest = dummy_weights(shapes, seed)
    tensors.setdefault(HEAD, tensors[EMBED])
    provenance = _provenance(config) | {"checkpoint_sha256": digest, "files": {}, "dummy_seed": seed}
    graph = build(config.shape, tensors, tokenizer.bos_id, tokenizer.eos_ids)
    return ImportedModel(graph, None, tokenizer.config(), provenance, config.family.architecture)


def inspect_directory(path: Path, max_context: int | None) -> Summary:
    """What :func:`catenary.compiler.importers.inspect` says of a directory, or of a lone ``config.json``."""
    directory = path if path.is_dir() else None
    reasons: list[CheckpointError] = []
    try:
        config = _read_config(path / CONFIG if directory else path, max_context)
    except CheckpointError as error:
        return Summary(False, "unknown", [str(error)], 0, 0, {})
    reasons += config.problems
    if config.problems:
        return Summary(False, config.family.name, [str(reason) for reason in reasons], 0, 0, {})
    if directory is not None:
        try:
            read_tokenizer(directory, config.values, config.shape.vocab)
        except CheckpointError as error:
            reasons.append(error)
        try:
            reasons += _weight_problems(open_weights(directory), config.shape)
        except CheckpointError as error:
            reasons.append(error)
    sizes = {name: math.prod(shape) for name, shape in tensor_shapes(config.shape).items()}
    matrices = {name for name, shape in tensor_shapes(config.shape).items() if len(shape) == 2}
    return Summary(
        ok=not reasons,
        family=config.family.name,
        reasons=[str(reason) for reason in reasons],
        weight_count=sum(sizes[name] for name in _own_shapes(config.shape)),
        decode_weight_count=sum(sizes[name] for name in matrices if name != EMBED),
        dims=config.shape.dims(),
        graph=build(config.shape, _hollow(config.shape), None, ()),
    )


def _hollow(shape: LlamaShape) -> dict[str, FloatTensor]:
    """Tensors of the right shapes that hold one zero."""
    zero = np.zeros((), FloatFormat.F16.dtype)
    sizes = tensor_shapes(shape).items()
    return {name: FloatTensor(FloatFormat.F16, np.broadcast_to(zero, size)) for name, size in sizes}


def _read_config(path: Path, max_context: int | None) -> _Config:
    raw = read_bytes(path)
    values = parse_object(raw, CONFIG)
    family = find_family(values)
    shape, problems = read_shape(family, values, max_context)
    return _Config(values, hashlib.sha256(raw).hexdigest(), family, shape, problems)


def _checked(path: Path, max_context: int | None) -> _Config:
    config = _read_config(path, max_context)
    for problem in config.problems:
        raise problem
    return config


def _provenance(config: _Config) -> dict[str, object]:
    family = config.family
    return {"family": family.name, "architecture": family.architecture, "config_sha256": config.sha256}


def _own_shapes(shape: LlamaShape) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that have data of their own: a tied head has none."""
    return {name: size for name, size in tensor_shapes(shape).items() if not (shape.tied and name == HEAD)}


def _weight_problems(weights: WeightFiles, shape: LlamaShape) -> list[CheckpointError]:
    names, shapes = checkpoint_names(shape), _own_shapes(shape)
    if shape.tied and names[HEAD] in weights.entries:
        shapes[HEAD] = tensor_shapes(shape)[HEAD]
    return weights.mismatches({names[name]: size for name, size in shapes.items()}, HARMLESS)


def _check_tie(weights: WeightFiles, names: Mapping[str, str]) -> None:
    """A tied checkpoint may store its head all the same, but then it must be the embedding."""
    head, embed = names[HEAD], names[EMBED]
    if head not in weights.entries:
        return
    one, other = weights.tensor(head), weights.tensor(embed)
    if one.format is not other.format or not np.array_equal(one.data, other.data, equal_nan=True):
        raise CheckpointError(f"Tensor {head!r} must equal {embed!r} where tie_word_embeddings is true, not differ")


def _check_finite(name: str, tensor: FloatTensor) -> None:
    index = first_not_finite(tensor)
    if index is not None:
        value = FloatTensor(tensor.format, tensor.data[index].reshape(1)).to_float32()[0]
        raise CheckpointError(f"Tensor {name!r} must be finite, not {value} at index {list(index)}")
