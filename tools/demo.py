# SPDX-License-Identifier: Apache-2.0
"""``make demo``: checkpoints become programs, and the simulated accelerator writes stories with them.

The models are the project's own, dense and 8:16 sparse; ``models/README.md`` says how they were trained.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

import catenary
from catenary.cli.progress import stages

MODELS = Path(__file__).resolve().parents[1] / "models"
PROMPT = "Once upon a time"
NEW_TOKENS = 100
RUNS = (("demo-dense", 8, "none"), ("demo-dense", 4, "none"), ("demo-sparse", 4, "8:16"))
"""Checkpoint, weight bits and sparsity."""

console = Console(highlight=False)


def show(model: str, bits: int, sparsity: str) -> tuple[str, ...]:
    """Compile ``model``, let the simulator write, check the tokens against the reference; returns a row of figures."""
    name = f"{model} W{bits}A8KV8" + ("" if sparsity == "none" else f" {sparsity}")
    with stages() as progress:
        program = catenary.compile(MODELS / model, weight_bits=bits, sparsity=sparsity, progress=progress)
    tokenizer = catenary.tokenizer(program)
    if tokenizer is None:
        raise SystemExit(f"Checkpoint {model} must have a tokenizer.json, not none")
    ids = tokenizer.encode(PROMPT)
    console.print(f"\n[bold]{name}[/bold] on the instruction-set simulator:")
    console.out(PROMPT, end="")
    text = tokenizer.stream(ids)
    started = time.perf_counter()
    with catenary.open_device("iss", program) as engine:
        written = catenary.generate(
            engine, ids, max_new_tokens=NEW_TOKENS, on_token=lambda token: console.out(text.push(token), end="")
        )
        seconds = time.perf_counter() - started
        counters = engine.counters()
    console.out(text.finish())
    with catenary.open_device("reference", program) as engine:
        expected = catenary.generate(engine, ids, max_new_tokens=NEW_TOKENS)
    equal = (written.ids, written.logits_sha256) == (expected.ids, expected.logits_sha256)
    if not equal:
        raise SystemExit(f"Tokens of iss must equal those of reference, not {written.ids} and {expected.ids}")
    steps = len(ids) + len(written.ids)
    return (
        name,
        f"{program.bits_per_weight:.2f}",
        f"{(counters.bytes_read or 0) // steps:,}",
        f"{program.instruction_bytes:,}",
        f"{steps / seconds:.1f}",
        "equal",
    )


def main() -> None:
    """Run the demo."""
    table = Table(title="\nWhat it took", title_justify="left")
    for column in ("program", "bits a weight", "bytes read a token", "instruction bytes", "tokens/s", "reference"):
        table.add_column(column, justify="left" if column in ("program", "reference") else "right")
    for run in RUNS:
        table.add_row(*show(*run))
    console.print(table)
    console.print(
        "Simulated: every instruction of the program ran in software, bit exact; tokens/s are wall-clock seconds of "
        "this machine and say nothing about an FPGA. 'reference equal': same ids and same logits, bit for bit."
    )


if __name__ == "__main__":
    sys.exit(main())
