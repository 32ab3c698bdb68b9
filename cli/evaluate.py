# SPDX-License-Identifier: Apache-2.0
"""``catenary eval``: how well a model predicts a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from catenary.cli import options
from catenary.isa.errors import UsageError


@dataclass(frozen=True)
class EvalReport:
    """JSON of the verb."""

    device: str
    perplexity: float
    bits_per_byte: float
    tokens: int
    seconds: float
    nan_seen: bool


def verb(
    source: options.Source,
    text: Annotated[Path, typer.Option("--text", metavar="FILE", help="UTF-8 text to score.")],
    device: options.Device = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", metavar="N", help="Stop after so many scored tokens.")
    ] = None,
    separator: Annotated[
        str, typer.Option("--separator", metavar="S", help="What stands between the documents of the text.")
    ] = "<|endoftext|>",
    json: options.Json = False,
    debug: options.Debug = False,
) -> EvalReport:
    """Score a text: perplexity, and bits per byte of the text."""
    import catenary
    from catenary.cli.progress import counted
    from catenary.cli.sessions import NAN_SEEN, load_source, open_engine, warn
    from catenary.cli.texts import read_text

    contents = read_text("--text", text)
    loaded = load_source(source, device)
    tokenizer = catenary.tokenizer(loaded)
    if tokenizer is None:
        raise UsageError(f"Model must have a tokenizer to score text, not none ({str(source)!r})")
    with open_engine(device, loaded) as engine, counted("scoring", max_tokens) as progress:
        found = catenary.evaluate(
            engine, tokenizer, contents, max_tokens=max_tokens, separator=separator, progress=progress
        )
        nan_seen = engine.nan_seen
    result = EvalReport(engine.device, found.perplexity, found.bits_per_byte, found.tokens, found.seconds, nan_seen)
    if nan_seen:
        warn(NAN_SEEN)
    if not json:
        typer.echo(
            f"perplexity {result.perplexity:.4f}, {result.bits_per_byte:.4f} bits per byte, "
            f"{result.tokens:,} tokens on {result.device} in {result.seconds:.1f} s"
        )
    return result
