# SPDX-License-Identifier: Apache-2.0
"""``catenary check``: can this checkpoint be compiled?"""

from __future__ import annotations

import typer

from catenary.cli import options
from catenary.cli.report import DONE, FAILED, Outcome


def verb(
    model: options.ModelOrConfig,
    accel: options.Accel = "small",
    json: options.Json = False,
    debug: options.Debug = False,
) -> object:
    """Say whether a checkpoint can be compiled for an accelerator, and if not, why; exit status 1 then.

    Only the configuration is read, not the weights.
    """
    import catenary

    result = catenary.check(model, accel=accel)
    if not json:
        typer.echo(f"{model}: {'ok' if result.ok else 'cannot be compiled'} (family {result.family})")
        for reason in result.reasons:
            typer.echo(f"  {reason}")
        if result.weight_bytes:
            sizes = f"{result.weight_bytes:,} weight bytes at 8 bits, {result.kv_bytes_per_token:,} KV bytes a token"
            typer.echo(f"  {sizes}")
    return Outcome(result, DONE if result.ok else FAILED)
