# SPDX-License-Identifier: Apache-2.0
"""What a program file holds, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

from catenary.isa.program import Program


@dataclass(frozen=True)
class Region:
    """One region of a program's memory.

    Attributes:
        name: what lies there.
        line: address of its first line.
        lines: length in lines.
        bytes: length in bytes.
    """

    name: str
    line: int
    lines: int
    bytes: int


@dataclass(frozen=True)
class ProgramSummary:
    """Sizes of a program, in bytes unless said otherwise.

    Attributes:
        isa_version: of the instructions.
        config: name of the accelerator configuration.
        config_hash: which identifies the hardware.
        vocab: token ids.
        max_context: positions of the KV cache.
        instruction_bytes: code and descriptor tables.
        weight_bytes: weights that every decode step reads.
        stream_sizes: bytes of the weight streams by what they hold; padding of streams to lines is left out.
        bits_per_weight: stored bits of the linear layers over their original weight count.
        decode_bytes_per_token: what a decode step reads when the whole context is in use.
        kv_bytes_per_token: what each token of context adds to it.
        line_bytes: bytes of one memory line.
        memory_map: all regions, in address order.
    """

    isa_version: int
    config: str
    config_hash: str
    vocab: int
    max_context: int
    instruction_bytes: int
    weight_bytes: int
    stream_sizes: dict[str, int]
    bits_per_weight: float
    decode_bytes_per_token: int
    kv_bytes_per_token: int
    line_bytes: int
    memory_map: tuple[Region, ...]


def summarise(program: Program) -> ProgramSummary:
    """The summary of ``program``."""
    line_bytes = program.config.line_bytes
    regions = (
        Region(name, area.line, area.lines, area.lines * line_bytes) for name, area in program.memory.regions().items()
    )
    return ProgramSummary(
        isa_version=program.isa_version,
        config=program.config.name,
        config_hash=program.config_hash,
        vocab=program.graph.vocab,
        max_context=program.graph.max_context,
        instruction_bytes=program.instruction_bytes,
        weight_bytes=program.weight_bytes,
        stream_sizes=program.stream_sizes(),
        bits_per_weight=program.bits_per_weight,
        decode_bytes_per_token=program.decode_bytes_per_token(program.graph.max_context),
        kv_bytes_per_token=program.counts.kv_bytes_per_token,
        line_bytes=line_bytes,
        memory_map=tuple(regions),
    )
