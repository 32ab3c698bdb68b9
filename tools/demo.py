# SPDX-License-Identifier: Apache-2.0
"""``make demo``: a checkpoint becomes a program, and the simulated accelerator writes with it.

Runs the small trained model of ``$CATENARY_DATA`` (by default ``../shared/data``) when it is there, else a Llama with
random weights, whose text means nothing but whose tokens must agree just the same.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

import catenary
from catenary.cli.progress import stages
from catenary.compiler.random_models import llama_config, write_model

ROOT = Path(__file__).resolve().parents[1]
PROMPT = "Once upon a time"
NEW_TOKENS = 80
CONTEXT = 256

console = Console(highlight=False)


def find_model(scratch: Path) -> tuple[Path, str]:
    """The checkpoint to show, and what it is."""
    data = Path(os.environ.get("CATENARY_DATA", ROOT.parent / "shared" / "data")) / "stories260K"
    if data.is_dir():
        return data, "stories260K, a Llama of 260 thousand weights that knows children's stories"
    model = write_model(scratch / "random-llama", llama_config(max_position_embeddings=CONTEXT), seed=1)
    return model, "a Llama with random weights (no trained model at hand): its text means nothing"


def show(model: Path, bits: int) -> tuple[str, ...]:
    """Compile ``model``, let the simulator write, check the tokens against the reference; returns a row of figures."""
    with stages() as progress:
        program = catenary.compile(model, weight_bits=bits, group_size=16, max_context=CONTEXT, progress=progress)
    tokenizer = catenary.tokenizer(program)
    if tokenizer is None:
        raise SystemExit(f"Checkpoint {model} must have a tokenizer.json")
    ids = tokenizer.encode(PROMPT)
    console.print(f"\n[bold]W{bits}A8KV8[/bold] on the instruction-set simulator:")
    console.print(PROMPT, end="")
    text = tokenizer.stream(ids)
    started = time.perf_counter()
    with catenary.open_device("iss", program) as engine:
        written = catenary.generate(
            engine, ids, max_new_tokens=NEW_TOKENS, on_token=lambda token: console.print(text.push(token), end="")
        )
        seconds = time.perf_counter() - started
        counters = engine.counters()
    console.print(text.finish())
    with catenary.open_device("reference", program) as engine:
        expected = catenary.generate(engine, ids, max_new_tokens=NEW_TOKENS)
    equal = (written.ids, written.logits_sha256) == (expected.ids, expected.logits_sha256)
    if not equal:
        raise SystemExit(f"Tokens of iss must equal those of reference, not {written.ids} and {expected.ids}")
    steps = len(ids) + len(written.ids)
    return (
        f"W{bits}A8KV8",
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
    with tempfile.TemporaryDirectory() as scratch:
        model, what = find_model(Path(scratch))
        console.print(f"The model: {what}.")
        for bits in (8, 4):
            table.add_row(*show(model, bits))
    console.print(table)
    console.print(
        "Simulated: every instruction of the program ran in software, bit exact; tokens/s are wall-clock seconds of "
        "this machine and say nothing about an FPGA. 'reference equal': same ids and same logits, bit for bit."
    )


if __name__ == "__main__":
    sys.exit(main())
