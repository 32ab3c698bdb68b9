# SPDX-License-Identifier: Apache-2.0
"""The command ``catenary``. Verbs import what they need when they run, so ``--help`` and ``--version`` are quick."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from catenary.cli import bench, check, compile, devices, evaluate, inspect, options, run, verilog
from catenary.cli.report import Report


class Verbs(TyperGroup):
    """All verbs; ends every one of them as :mod:`catenary.cli.report` says."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Parse ``args`` (the process's own by default), run the verb and exit; never returns."""
        arguments = list(sys.argv[1:] if args is None else args)
        with Report(arguments) as report:
            report.finish(super().main(arguments, prog_name, complete_var, False, windows_expand_args, **extra))


app = typer.Typer(
    cls=Verbs,
    name="catenary",
    help="Run language models on your own FPGA: compile a checkpoint to a program file, and run that file anywhere.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_VERBS: tuple[tuple[str, Callable[..., Any], str], ...] = (
    ("compile", compile.verb, "catenary compile path/to/model -o model.cat --sparsity 8:16"),
    ("run", run.verb, 'catenary run model.cat --prompt "Once upon a time"'),
    ("eval", evaluate.verb, "catenary eval model.cat --text stories.txt --max-tokens 1000"),
    ("inspect", inspect.verb, "catenary inspect model.cat --disassemble"),
    ("devices", devices.verb, "catenary devices"),
    ("bench", bench.verb, "catenary bench model.cat --device iss --new-tokens 16"),
    ("check", check.verb, "catenary check path/to/model --accel small"),
    ("verilog", verilog.verb, "catenary verilog --accel small -o core"),
)
for _name, _verb, _example in _VERBS:
    app.command(_name, epilog=f"Example: {_example}")(_verb)


@app.callback()
def _catenary(context: typer.Context, version: options.Version = False) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Entry point of the command ``catenary``."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter shows "?" and not an error
    app(prog_name="catenary")
