# SPDX-License-Identifier: Apache-2.0
"""The compiler: a list of passes from an imported model to a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from catenary.compiler.compress import Compress, SparsityChoice
from catenary.compiler.passes import (
    AllocateBuffers,
    AssignTokens,
    CompressWeights,
    Emit,
    Encode,
    Fuse,
    Legalise,
    PlanMemory,
)
from catenary.compiler.state import Compilation, Pass, Progress
from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import UsageError
from catenary.isa.graph import Attention, Graph, Linear
from catenary.isa.memory import MemoryMap, Range
from catenary.isa.program import Counts, Program, structure_of


@dataclass(frozen=True)
class CompileOptions:
    """Compression choices.

    Attributes:
        weight_bits: 8 or 4.
        group_size: columns per 4-bit scale; ``None`` means 128, or 16 where K < 128.
        sparsity: ``none``, ``8:16`` and so on for every block linear, or a mapping or function (Python only).
        kv_bits: 8.
    """

    weight_bits: int = 8
    group_size: int | None = None
    sparsity: SparsityChoice = "none"
    kv_bits: int = 8

    def __post_init__(self) -> None:
        """Check the options before anything is imported.

        Raises:
            UsageError: names the option and the value.
        """
        if self.kv_bits != 8:
            raise UsageError(f"KV bits must be 8, not {self.kv_bits}")
        Compress(self.weight_bits, self.group_size, self.sparsity)


class Model(Protocol):
    """What the compiler needs of an imported checkpoint."""

    @property
    def graph(self) -> Graph:
        """The float graph."""

    @property
    def tokenizer_json(self) -> str | None:
        """Contents of ``tokenizer.json``."""

    @property
    def tokenizer_config(self) -> Mapping[str, Any]:
        """Special tokens and how to use them."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where the checkpoint came from."""


def passes(options: CompileOptions) -> tuple[Pass, ...]:
    """All passes, in order."""
    return (
        CompressWeights(Compress(options.weight_bits, options.group_size, options.sparsity)),
        *lowering_passes(),
    )


def lowering_passes() -> tuple[Pass, ...]:
    """The passes that turn a quantised graph into code."""
    return (Legalise(), Fuse(), PlanMemory(), AllocateBuffers(), Emit(), AssignTokens(), Encode())


def compile_model(
    model: Model, config: AcceleratorConfig, options: CompileOptions, progress: Progress | None = None
) -> Program:
    """Compile an imported checkpoint.

    Raises:
        CatenaryError: the model or the options break a rule, or do not fit the accelerator.
    """
    report = progress or (lambda name, share: None)
    state = Compilation(config, model.graph)
    for step in passes(options):
        state = run_pass(step, state, report)
    described = options.sparsity if isinstance(options.sparsity, str) else "custom"
    chosen = {
        "weight_bits": options.weight_bits,
        "group_size": options.group_size,
        "sparsity": described,
        "kv_bits": options.kv_bits,
        "max_context": model.graph.max_context,
    }
    provenance = {**model.provenance, "options": chosen}
    return build_program(state, model.tokenizer_json, model.tokenizer_config, provenance)


def compile_graph(graph: Graph, config: AcceleratorConfig) -> Program:
    """Compile a graph that is already in quantised form (tests, experiments with compression)."""
    state = Compilation(config, graph)
    for step in lowering_passes():
        state = run_pass(step, state, lambda name, share: None)
    return build_program(state, None, {}, {})


def run_pass(step: Pass, state: Compilation, progress: Callable[[str, float], None]) -> Compilation:
    """Run one pass, reporting its start and end."""
    progress(step.name, 0.0)
    result = step.apply(state, lambda name, share: progress(f"{step.name} {name}", share))
    progress(step.name, 1.0)
    return result


def build_program(
    state: Compilation,
    tokenizer_json: str | None,
    tokenizer_config: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Program:
    """The program of a finished compilation."""
    assert state.memory is not None
    assert state.buffers is not None
    assert state.words is not None
    assert state.entries is not None
    config, memory = state.config, state.memory
    regions = {**memory.map.regions(), "code": Range(memory.map.code.line, config.lines(len(state.words)))}
    return Program(
        config=config,
        entries=state.entries,
        memory=MemoryMap(**regions),
        code=state.words,
        tables=memory.tables.tobytes(),
        image=memory.image,
        structure=structure_of(state.graph),
        tensor_refs=memory.refs,
        counts=_counts(state),
        tokenizer_json=tokenizer_json,
        tokenizer_config=tokenizer_config,
        provenance=provenance,
    )


def _counts(state: Compilation) -> Counts:
    assert state.schedules is not None
    assert state.memory is not None
    assert state.buffers is not None
    graph, config, memory = state.graph, state.config, state.memory
    weights = constants = kv = 0
    for stage, layer in graph.runs():
        constants += config.lines(memory.constants[stage.name].words * 4)
        for node in stage.nodes:
            if isinstance(node, Linear):
                rows, columns = graph.tensors[stage.tensor(node.weight, layer)].shape
                weights += rows * columns
            if isinstance(node, Attention):
                kv += 2 * node.kv_heads * (node.head_dim + 4)
    constants += sum(layout.row_lines for _, layout in memory.floats.values())
    return Counts(
        weight_bytes=memory.weight_bytes,
        linear_weights=weights,
        constant_bytes=constants * config.line_bytes,
        kv_bytes_per_token=kv,
        logit_rows=memory.logit_rows,
        tile_tokens=state.buffers["prefill"].tokens,
    )
