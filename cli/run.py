# SPDX-License-Identifier: Apache-2.0
"""``catenary run``: continue a prompt on a device."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catenary.cli import options

if TYPE_CHECKING:
    from catenary.runtime.engine import Counters, UnitCounters
    from catenary.runtime.tokenizer import TextStream


@dataclass(frozen=True)
class RunResult:
    """JSON of the verb; times in host seconds. ``text`` is null where there is no tokenizer."""

    device: str
    source: str
    prompt_ids: list[int]
    ids: list[int]
    text: str | None
    stop_reason: str
    logits_sha256: str
    prompt_tokens: int
    load_s: float
    prefill_s: float
    decode_s: float
    total_s: float
    counters: Counters
    nan_seen: bool


class Printer:
    """Collects the text of a growing sequence, and prints it as it grows; prints ids where there is no tokenizer."""

    def __init__(self, decoder: TextStream | None, silent: bool) -> None:
        """Begin with ``decoder``, or ids; ``silent`` only collects."""
        self._decoder = decoder
        self._silent = silent
        self._pieces: list[str] = []

    def push(self, token: int) -> None:
        """Take the next token."""
        self._tell(f"{token} " if self._decoder is None else self._decoder.push(token))

    def finish(self) -> str | None:
        """Print what is left; return the whole text, ``None`` without a tokenizer."""
        if self._decoder is not None:
            self._tell(self._decoder.finish())
        return None if self._decoder is None else "".join(self._pieces)

    def end_line(self) -> None:
        """End the line on the terminal, also after an interruption, so that nothing is printed into the text."""
        if not self._silent and self._pieces:
            typer.echo()

    def _tell(self, piece: str) -> None:
        self._pieces.append(piece)
        if not self._silent:
            sys.stdout.write(piece)
            sys.stdout.flush()


def verb(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="PROGRAM|MODEL", help="A .cat file, or a Hugging Face directory; by default the demo."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT", help="Text to continue; gets a BOS token where due.")
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompt-file", metavar="F", help="UTF-8 file with the text to continue.")
    ] = None,
    prompt_ids: Annotated[
        str | None, typer.Option("--prompt-ids", metavar="1,2,3", help="Token ids to continue, taken as they are.")
    ] = None,
    device: options.Device = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", metavar="N", help="Tokens at most.")] = 128,
    temperature: Annotated[float, typer.Option("--temperature", help="0 is greedy; above 0 samples.")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", help="Share of the probability that is sampled from.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the sampling.")] = 0,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after an end-of-sequence token.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Show times and counters on stderr.")] = False,
    trace: options.Trace = None,
    timeline: options.Timeline = None,
    tune: options.Tune = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> RunResult:
    """Continue a prompt with a program or a model; the new text goes to stdout as it is made."""
    start = time.perf_counter()
    import catenary
    from catenary.cli.progress import counted
    from catenary.cli.sessions import NAN_SEEN, load_source, open_engine, warn
    from catenary.cli.texts import read_prompt
    from catenary.runtime.generate import check_prompt

    loaded = load_source(source, device)
    tokenizer = catenary.tokenizer(loaded)
    ids = read_prompt(prompt, prompt_file, prompt_ids, tokenizer)
    check_prompt(ids, loaded.graph.vocab, loaded.graph.max_context)
    with open_engine(device, loaded, trace, timeline, tune) as engine:
        opened = time.perf_counter()
        printer = Printer(None if tokenizer is None else tokenizer.stream(ids), silent=json)
        waiting = ExitStack()
        waiting.enter_context(counted(f"prefill of {len(ids)} tokens", None))

        def push(token: int) -> None:
            waiting.close()
            printer.push(token)

        try:
            made = catenary.generate(
                engine,
                ids,
                max_new_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
                eos_ids=loaded.graph.eos_ids,
                ignore_eos=ignore_eos,
                on_token=push,
            )
            text = printer.finish()
        finally:
            waiting.close()
            printer.end_line()
        result = RunResult(
            device=engine.device,
            source=engine.source,
            prompt_ids=ids,
            ids=list(made.ids),
            text=text,
            stop_reason=made.stop_reason,
            logits_sha256=made.logits_sha256,
            prompt_tokens=len(ids),
            load_s=opened - start,
            prefill_s=made.timings.prefill_s,
            decode_s=made.timings.decode_s,
            total_s=time.perf_counter() - start,
            counters=engine.counters(),
            nan_seen=engine.nan_seen,
        )
    if result.nan_seen:
        warn(NAN_SEEN)
    if stats:
        show_stats(result)
    return result


def show_stats(result: RunResult) -> None:
    """Print times and counters on stderr."""
    from catenary.cli.tables import show

    counters = result.counters
    rows = [
        ("device", f"{result.device} (times: {result.source})"),
        ("stopped by", result.stop_reason),
        ("load", f"{result.load_s:.3f} s"),
        ("prefill", f"{result.prefill_s:.3f} s, {_rate(result.prompt_tokens, result.prefill_s)}"),
        ("decode", f"{result.decode_s:.3f} s, {_rate(len(result.ids) - 1, result.decode_s)}"),
        ("total", f"{result.total_s:.3f} s"),
        *(
            (name, "not counted" if value is None else f"{value:,}")
            for name, value in (
                ("cycles", counters.cycles),
                ("bytes read", counters.bytes_read),
                ("bytes written", counters.bytes_written),
                ("port bytes per cycle", counters.port_bytes_per_cycle),
            )
        ),
    ]
    rows += [(f"{name} unit", _shares(unit)) for name, unit in getattr(counters, "units", {}).items()]
    show(("what", "how much"), rows, error=True)


def _shares(unit: UnitCounters) -> str:
    """How a unit spent its cycles, as shares."""
    total = max(unit.busy + unit.idle, 1)
    waits = sum(unit.stalled.values())
    reasons = ", ".join(f"{count / total:.1%} for {reason}" for reason, count in unit.stalled.items() if count)
    parts = f"{(unit.busy - waits) / total:.1%} working, {unit.idle / total:.1%} idle, {waits / total:.1%} waiting"
    return f"{parts} ({reasons})" if reasons else parts


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / max(seconds, 1e-9):,.1f} tokens/s"
