# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks of whole models share: where the data is, and how speed is measured."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median

import catenary
from benchmarks.record import ROOT, record
from catenary.isa.program import Program

PROMPT_TOKENS = 128
NEW_TOKENS = 64
REPEATS = 5


def data_dir() -> Path | None:
    """Return the folder of the shared data set (``$CATENARY_DATA``, else beside the repository), None without one.

    Raises:
        SystemExit: CATENARY_DATA is set, but to no folder.
    """
    named = os.environ.get("CATENARY_DATA")
    folder = Path(named) if named is not None else ROOT.parent / "shared" / "data"
    if folder.is_dir():
        return folder.resolve()
    if named is not None:
        raise SystemExit(f"CATENARY_DATA must be a folder, not {named!r}")
    return None


def note(name: str, value: float, unit: str, source: str, command: str) -> None:
    """Record one figure and show it."""
    record(name, value, unit, source, command)
    print(f"  {name} = {value:.6g} {unit}", flush=True)


def record_speed(program: Program, model: str, command: str) -> None:
    """Record how fast the simulator prefills and decodes: medians over runs of 128 prompt and 64 new tokens."""
    with catenary.open_device("iss", program) as engine:
        runs = [catenary.bench(engine, PROMPT_TOKENS, NEW_TOKENS) for _ in range(REPEATS)]
    prefill = median(run.prefill_tokens_per_s for run in runs)
    decode = median(run.decode_tokens_per_s for run in runs)
    note(f"iss.prefill.tokens_per_s.{model}", prefill, "tokens/s", "wall", command)
    note(f"iss.decode.tokens_per_s.{model}", decode, "tokens/s", "wall", command)


def record_program(program: Program, seconds: float, label: str, model: str, command: str) -> None:
    """Record what compiling took and gave: seconds, bytes of instructions, bits for each weight."""
    note(f"compile.{label}.seconds.{model}", seconds, "s", "wall", command)
    summary = catenary.inspect(program)
    note(f"compile.{label}.instruction_bytes.{model}", summary.instruction_bytes, "bytes", "count", command)
    note(f"compile.{label}.bits_per_weight.{model}", summary.bits_per_weight, "bits", "count", command)
