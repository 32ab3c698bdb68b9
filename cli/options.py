# SPDX-License-Identifier: Apache-2.0
"""Arguments and options that several verbs share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _complete_accelerators(incomplete: str) -> list[str]:
    from catenary.boards.loader import accelerator_names

    return [name for name in accelerator_names() if name.startswith(incomplete)]


def _complete_devices(incomplete: str) -> list[str]:
    from catenary.runtime.devices import device_names

    return [name for name in device_names() if name.startswith(incomplete)]


def _version(wanted: bool) -> None:
    if wanted:
        import catenary

        typer.echo(f"catenary {catenary.__version__}")
        raise typer.Exit


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
# Both flags are also looked for by cli.report, which must know them even where parsing fails.
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Version = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
]

ModelOrConfig = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A Hugging Face directory, or a config.json with --dummy-weights.")
]
ProgramFile = Annotated[Path, typer.Argument(metavar="PROGRAM", help="A .cat file, made by `catenary compile`.")]
Source = Annotated[Path, typer.Argument(metavar="PROGRAM|MODEL", help="A .cat file, or a Hugging Face directory.")]
Accel = Annotated[
    str,
    typer.Option(
        "--accel",
        metavar="NAME|FILE",
        help="Accelerator preset, or a YAML file.",
        autocompletion=_complete_accelerators,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="D",
        help="Where to run (see `catenary devices`); by default iss for a program and graph-fp32 for a model. "
        "A model is compiled first for any other device.",
        autocompletion=_complete_devices,
    ),
]
Trace = Annotated[
    Path | None,
    typer.Option(
        "--trace", metavar="FILE", help="On rtl: write the waveform of all signals to FILE (.vcd or .fst); slow, large."
    ),
]
Tune = Annotated[
    bool,
    typer.Option(
        "--tune",
        help="On rtl: build the simulation for speed, with a profile of this program. Takes minutes once for a core; "
        "after that every run uses it.",
    ),
]
Timeline = Annotated[
    Path | None,
    typer.Option(
        "--timeline",
        metavar="FILE",
        help="On rtl: write what each unit executed when to FILE (JSON for ui.perfetto.dev; 1 us is a cycle).",
    ),
]
