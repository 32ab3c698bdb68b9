# SPDX-License-Identifier: Apache-2.0
"""Whether a checkpoint can be compiled for an accelerator, told from its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike

from catenary.compiler import importers
from catenary.isa.config import AcceleratorConfig

_FLOAT_BYTES = 4
_LEAST_EMBEDDING_BYTES = 2


@dataclass(frozen=True)
class CheckResult:
    """What :func:`check_model` found.

    Attributes:
        ok: nothing speaks against compiling the model with the default options.
        family: the model family, or the unsupported architecture's own name.
        reasons: why not, one message each; empty when ``ok``.
        weight_bytes: weights that a decode step reads at 8 bits each; scales and padding come on top.
        kv_bytes_per_token: KV cache of one token: 8-bit codes, and one scale for each of K and V and KV head.
    """

    ok: bool
    family: str
    reasons: list[str]
    weight_bytes: int
    kv_bytes_per_token: int


def check_model(path: str | PathLike[str], config: AcceleratorConfig) -> CheckResult:
    """Check the checkpoint at ``path`` against ``config`` without reading its weights.

    The memory that it needs is counted without scales and padding, so a model that is refused here certainly does not
    fit, while one that just passes may still be refused by the compiler.

    Raises:
        CheckpointError: there is nothing at ``path``.
    """
    summary = importers.inspect(path)
    reasons, dims = list(summary.reasons), summary.dims
    weights, kv = summary.decode_weight_count, 0
    if dims:
        kv = dims["layers"] * dims["kv_heads"] * 2 * (dims["head_dim"] + _FLOAT_BYTES)
        embedding = dims["vocab"] * dims["hidden"] * _LEAST_EMBEDDING_BYTES
        need = weights + embedding + kv * dims["max_context"]
        if need > config.memory_bytes:
            reasons.append(
                f"Weights, embedding and KV cache of {dims['max_context']} tokens must fit the {config.memory_bytes:,} "
                f"bytes of memory of {config.name}, not need {need:,} or more"
            )
    return CheckResult(not reasons, summary.family, reasons, weights, kv)
