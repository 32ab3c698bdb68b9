# SPDX-License-Identifier: Apache-2.0
"""How every verb ends: one JSON object or one error line, and the exit status.

A verb returns its result, a dataclass or a dictionary with the contract's JSON keys, and prints for people only when
``--json`` is absent. What goes to stdout as JSON, and what an exception turns into, is decided here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self

import typer

from catenary.isa.errors import CatenaryError

DONE, FAILED, BAD_USAGE, INTERRUPTED = 0, 1, 2, 130

# The parser's complaints. typer carries its own copy of click since 0.24, so they are reached through the one of them
# that typer exports in every release.
_PARSER_ERRORS: tuple[type[BaseException], ...] = typer.BadParameter.__bases__


@dataclass(frozen=True)
class Outcome:
    """A verb's result with an exit status other than the usual one."""

    result: object
    status: int


class Report:
    """Context of one invocation; leaving it ends the process with the right status.

    With ``--json``, everything that is printed meanwhile goes to stderr, so that stdout holds the object alone.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        """Look for ``--json`` and ``--debug``; parsing itself may fail, and must be reported in the right form."""
        flags = arguments[: arguments.index("--")] if "--" in arguments else arguments
        self._json = "--json" in flags and "--help" not in flags
        self._debug = "--debug" in flags
        self._redirections = ExitStack()

    def __enter__(self) -> Self:
        """Begin."""
        if self._json:
            self._redirections.enter_context(redirect_stdout(sys.stderr))
        return self

    def finish(self, outcome: Any) -> NoReturn:
        """Exit with what the verb returned: a result, or an exit status (of ``--help``, or of an interruption)."""
        self._redirections.close()
        if outcome == INTERRUPTED and isinstance(outcome, int):
            raise KeyboardInterrupt
        if isinstance(outcome, int):
            raise SystemExit(outcome)
        result, status = (outcome.result, outcome.status) if isinstance(outcome, Outcome) else (outcome, DONE)
        try:
            if self._json:
                _write_json(plain(result))
            sys.stdout.flush()
        except OSError:
            self._json = False  # there is nowhere to write it to
            raise
        raise SystemExit(status)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Turn an exception into one line on stderr (and JSON on stdout), and exit."""
        self._redirections.close()
        if error is None or isinstance(error, SystemExit):
            return
        if isinstance(error, OSError):
            _drop_broken_stdout()
        if isinstance(error, BrokenPipeError):  # the reader has left, as in `catenary inspect x.cat | head`
            raise SystemExit(FAILED)
        code, message, status = describe(error)
        if self._debug:
            traceback.print_exception(error)
        typer.echo(f"error: {message}", err=True)
        if self._json:
            _write_json({"error": {"code": code, "message": message}})
        raise SystemExit(status)


def describe(error: BaseException) -> tuple[str, str, int]:
    """Stable code, one-line message and exit status of an exception."""
    text = _printable(str(error))
    if isinstance(error, CatenaryError):
        return error.code, text, error.exit_status
    if isinstance(error, _PARSER_ERRORS):
        return "usage", _printable(getattr(error, "format_message", error.__str__)()), BAD_USAGE
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "interrupted", "interrupted", INTERRUPTED
    if isinstance(error, MemoryError):
        return "out-of-memory", f"Model must fit the memory of this machine ({text or 'allocation failed'})", FAILED
    if isinstance(error, OSError):
        return "os", _printable(f"{error.strerror}: {error.filename}") if error.filename else text, FAILED
    return "internal", f"{type(error).__name__}: {text} (this is a bug in catenary; --debug shows where)", FAILED


def _printable(text: str) -> str:
    """``text`` in one line, with bytes of a file name that are not UTF-8 escaped."""
    return " ".join(text.encode(errors="backslashreplace").decode().splitlines())


def plain(value: Any) -> Any:
    """``value`` as JSON values: dataclasses and mappings as objects, numbers that are not finite as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _drop_broken_stdout() -> None:
    """Send stdout nowhere if it is what failed, so that neither we nor Python at exit run into it again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
    sys.stdout.flush()
