# SPDX-License-Identifier: Apache-2.0
"""What importing a checkpoint gives, whatever file format it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from catenary.isa.graph import Graph


@dataclass(frozen=True, eq=False)
class ImportedModel:
    """A checkpoint as a verified float graph, with everything that generation needs beside it.

    Attributes:
        graph: float form, verified; weights are views of the memory-mapped files.
        tokenizer_json: text of ``tokenizer.json``, where there is one.
        tokenizer_config: ``add_bos_token`` (bool, or None where the tokenizer's post-processor decides), ``bos_id``
            (int or None) and ``eos_ids`` (list of int); JSON values.
        provenance: ``family``, ``architecture``, ``checkpoint_sha256``, ``config_sha256``, ``files`` (name to bytes),
            and ``dummy_seed`` where the weights are made up; JSON values.
        architecture: the checkpoint's own name of its architecture, such as ``LlamaForCausalLM``.
    """

    graph: Graph
    tokenizer_json: str | None
    tokenizer_config: Mapping[str, object]
    provenance: Mapping[str, object]
    architecture: str


@dataclass(frozen=True)
class Summary:
    """What can be said about a checkpoint without reading its weights.

    Attributes:
        ok: whether :func:`~catenary.compiler.importers.load` would accept everything but the weight values.
        family: name of the model family, or the unsupported architecture's own name, or ``unknown``.
        reasons: one error message for each rule that the checkpoint breaks; empty when ``ok``.
        weight_count: parameters, a tied head counted once; 0 where the dimensions are not known.
        decode_weight_count: weights that one decode step multiplies: block linears and head.
        dims: ``hidden``, ``layers``, ``heads``, ``kv_heads``, ``head_dim``, ``ffn``, ``vocab`` and ``max_context``;
            empty where they are not known.
        graph: the model with weights of zeros that take no memory; ``None`` where the dimensions are not known.
    """

    ok: bool
    family: str
    reasons: list[str]
    weight_count: int
    decode_weight_count: int
    dims: Mapping[str, int]
    graph: Graph | None = None
