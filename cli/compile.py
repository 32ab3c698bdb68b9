# SPDX-License-Identifier: Apache-2.0
"""``catenary compile``: a checkpoint becomes a program file."""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from catenary.cli import options
from catenary.isa.errors import UsageError


@dataclass(frozen=True)
class CompileResult:
    """JSON of the verb; sizes in bytes."""

    program: str
    seconds: float
    peak_bytes: int
    instruction_bytes: int
    weight_bytes: int
    bits_per_weight: float
    config_hash: str


def verb(
    model: options.ModelOrConfig,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.cat", help="The program file to write.")],
    accel: options.Accel = "small",
    weight_bits: Annotated[int, typer.Option("--weight-bits", metavar="8|4", help="Bits of a weight.")] = 8,
    group_size: Annotated[
        int | None,
        typer.Option(
            "--group-size",
            metavar="G",
            help="Weights along K that share a scale; a multiple of 16. By default 128, or 16 where K is below 128.",
        ),
    ] = None,
    sparsity: Annotated[
        str,
        typer.Option("--sparsity", metavar="none|8:16|4:16|2:16|1:16", help="Weights that are kept of every 16."),
    ] = "none",
    kv_bits: Annotated[int, typer.Option("--kv-bits", metavar="8", help="Bits of a value in the KV cache.")] = 8,
    max_context: Annotated[
        int | None,
        typer.Option(
            "--max-context", metavar="N", help="Positions to provide for; by default the model's, at most 4,096."
        ),
    ] = None,
    dummy_weights: Annotated[
        int | None,
        typer.Option("--dummy-weights", metavar="SEED", help="Make the weights up; MODEL is then a config.json."),
    ] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> CompileResult:
    """Compile a checkpoint to a program file, for one accelerator configuration."""
    check_output(output)
    import catenary
    from catenary.cli.progress import stages

    start = time.perf_counter()
    with stages() as progress:
        program = catenary.compile(
            model,
            accel=accel,
            weight_bits=weight_bits,
            group_size=group_size,
            sparsity=sparsity,
            kv_bits=kv_bits,
            max_context=max_context,
            dummy_weights=dummy_weights,
            progress=progress,
        )
        progress("writing", 1.0)
        program.save(output)
    result = CompileResult(
        program=str(output),
        seconds=time.perf_counter() - start,
        peak_bytes=peak_bytes(),
        instruction_bytes=program.instruction_bytes,
        weight_bytes=program.weight_bytes,
        bits_per_weight=program.bits_per_weight,
        config_hash=program.config.hash,
    )
    if not json:
        typer.echo(
            f"{output}: {result.weight_bytes:,} weight bytes ({result.bits_per_weight:.2f} bits a weight), "
            f"{result.instruction_bytes:,} instruction bytes, for {program.config.name}; {result.seconds:.1f} s"
        )
    return result


def check_output(path: Path) -> None:
    """Refuse a place that cannot be written before any work is done.

    Raises:
        UsageError: the path is a folder, or its folder is absent or not writable.
    """
    folder = path.parent
    if path.is_dir():
        raise UsageError(f"Output must be a file, not the folder {str(path)!r}")
    if not folder.is_dir():
        raise UsageError(f"Folder of the output must exist, not {str(folder)!r} (no such folder)")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"Folder of the output must be writable, not {str(folder)!r}")


def peak_bytes() -> int:
    """The most memory that this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
