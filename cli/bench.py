# SPDX-License-Identifier: Apache-2.0
"""``catenary bench``: how fast a device runs a program."""

from __future__ import annotations

from typing import Annotated

import typer

from catenary.cli import options


def verb(
    source: options.Source,
    device: options.Device = None,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", metavar="N", help="Length of the prompt.")] = 32,
    new_tokens: Annotated[int, typer.Option("--new-tokens", metavar="N", help="Decode steps.")] = 32,
    json: options.Json = False,
    debug: options.Debug = False,
) -> object:
    """Measure prefill and decode apart, in tokens per second of this machine (or board)."""
    import catenary
    from catenary.cli.sessions import load_source, open_engine

    loaded = load_source(source, device)
    with open_engine(device, loaded) as engine:
        result = catenary.bench(engine, prompt_tokens, new_tokens)
    if not json:
        typer.echo(
            f"{engine.device}: prefill {result.prefill_tokens_per_s:,.1f} tokens/s, "
            f"decode {result.decode_tokens_per_s:,.1f} tokens/s ({prompt_tokens} + {new_tokens} tokens, "
            f"{result.total_s:.2f} s, {result.source})"
        )
    return result
