# SPDX-License-Identifier: Apache-2.0
"""``catenary inspect``: what a program file holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from catenary.cli import options

if TYPE_CHECKING:
    from catenary.runtime.summary import ProgramSummary


def verb(
    program: options.ProgramFile,
    disassemble: Annotated[bool, typer.Option("--disassemble", help="List the instructions as well.")] = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Show the sizes and the memory map of a program file."""
    import catenary
    from catenary.cli.report import plain
    from catenary.isa.program import Program

    loaded = Program.load(program)
    summary = catenary.inspect(loaded)
    result: dict[str, Any] = plain(summary)
    if not json:
        show_summary(summary)
    if disassemble:
        from catenary.isa.assembler import disassemble as list_instructions

        listing = list_instructions(loaded.code, {index: name for name, index in loaded.entries.items()})
        result["disassembly"] = listing
        if not json:
            typer.echo(listing)
    return result


def show_summary(summary: ProgramSummary) -> None:
    """Print the summary as two tables."""
    from catenary.cli.tables import show

    rows = (
        ("accelerator", f"{summary.config} ({summary.config_hash})"),
        ("ISA version", str(summary.isa_version)),
        ("vocabulary", f"{summary.vocab:,} tokens"),
        ("context", f"{summary.max_context:,} tokens"),
        ("instructions", f"{summary.instruction_bytes:,} bytes"),
        ("weights", f"{summary.weight_bytes:,} bytes, {summary.bits_per_weight:.3f} bits a weight"),
        *((f"of which {name}", f"{size:,} bytes") for name, size in summary.stream_sizes.items() if size),
        ("decode step reads", f"{summary.decode_bytes_per_token:,} bytes with a full context"),
        ("of which KV cache", f"{summary.kv_bytes_per_token:,} bytes a token of context"),
    )
    show(("what", "how much"), rows)
    areas = [(area.name, f"{area.line:#x}", f"{area.lines:,}", f"{area.bytes:,}") for area in summary.memory_map]
    show(("region", f"line (of {summary.line_bytes} bytes)", "lines", "bytes"), areas, numbers=(1, 2, 3))
