# SPDX-License-Identifier: Apache-2.0
"""Whether a checkpoint can be compiled for an accelerator, told from its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike

from catenary.compiler import CompileOptions, importers
from catenary.compiler.compress import GROUP
from catenary.compiler.memory_plan import kv_bytes, stream_bytes
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
        weight_bytes: what every decode step reads as weights, compiled with the default options (8 bits).
        kv_bytes_per_token: KV cache of one token: 8-bit codes, and one scale for each of K and V and KV head.
    """

    ok: bool
    family: str
    reasons: list[str]
    weight_bytes: int
    kv_bytes_per_token: int


def check_model(path: str | PathLike[str], config: AcceleratorConfig) -> CheckResult:
    """Check the checkpoint at ``path`` against ``config`` without reading its weights.

    A model that is refused here certainly does not fit; the on-chip buffers are checked by the compiler alone.

    Raises:
        CheckpointError: there is nothing at ``path``.
    """
    summary = importers.inspect(path)
    reasons, graph = list(summary.reasons), summary.graph
    if graph is None:
        return CheckResult(False, summary.family, reasons, 0, 0)
    options = CompileOptions()
    weights = stream_bytes(graph, config, options.weight_bits, GROUP)
    embedding = summary.dims["vocab"] * summary.dims["hidden"] * _LEAST_EMBEDDING_BYTES
    need = weights + embedding + kv_bytes(graph, config)
    if need > config.memory_bytes:
        reasons.append(
            f"Weights, embedding and KV cache of {graph.max_context} tokens must fit the {config.memory_bytes:,} "
            f"bytes of memory of {config.name}, not need {need:,} or more"
        )
    kv = summary.dims["layers"] * summary.dims["kv_heads"] * 2 * (summary.dims["head_dim"] + _FLOAT_BYTES)
    return CheckResult(not reasons, summary.family, reasons, weights, kv)
