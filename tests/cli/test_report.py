# SPDX-License-Identifier: Apache-2.0
"""Exit statuses and the form of every error."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
import typer

from catenary.cli.report import Outcome, Report, describe, plain
from catenary.isa import errors
from catenary.runtime.engine import Counters


def leave(arguments: list[str], outcome: Any = None, error: BaseException | None = None) -> int:
    """Exit status of an invocation that returned ``outcome`` or raised ``error``."""
    try:
        with Report(arguments) as report:
            if error is not None:
                raise error
            print("chatter", end="")
            report.finish(outcome)
    except SystemExit as end:
        return end.code
    pytest.fail("leaving a report must end the process")


CASES = {
    "usage": (errors.UsageError("X must be 1, not 2"), "usage", "X must be 1, not 2", 2),
    "checkpoint": (errors.CheckpointError("no"), "bad-checkpoint", "no", 2),
    "execution": (errors.ExecutionError("pc 3"), "execution", "pc 3", 1),
    "lines": (errors.ProgramError("one\ntwo"), "bad-program", "one two", 2),
    "parser": (typer.BadParameter("not so"), "usage", "Invalid value: not so", 2),
    "interrupt": (KeyboardInterrupt(), "interrupted", "interrupted", 130),
    "disk": (OSError(errno.ENOSPC, "No space left on device", "/x"), "os", "No space left on device: /x", 1),
    "disk-nameless": (OSError(errno.ENOSPC, "No space left"), "os", "[Errno 28] No space left", 1),
    "memory": (MemoryError(), "out-of-memory", "Model must fit the memory of this machine (allocation failed)", 1),
    "bug": (KeyError("x"), "internal", "KeyError: 'x' (this is a bug in catenary; --debug shows where)", 1),
}


@pytest.mark.parametrize("error, code, message, status", CASES.values(), ids=CASES.keys())
def test_errors_are_one_line(
    error: BaseException, code: str, message: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert describe(error) == (code, message, status)
    assert leave([], error=error) == status
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error: {message}\n")


@pytest.mark.parametrize("error, code, message, status", CASES.values(), ids=CASES.keys())
def test_errors_as_json(
    error: BaseException, code: str, message: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(["run", "--json"], error=error) == status
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": {"code": code, "message": message}}
    assert err == f"error: {message}\n"


def test_debug_shows_the_traceback_and_keeps_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(["--debug"], error=errors.UsageError("no")) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.endswith("error: no\n")


def test_every_error_of_ours_has_a_code_and_a_status() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.CatenaryError)
    ]
    assert all(kind.exit_status in (1, 2) and kind.code for kind in kinds)
    assert len({kind.code for kind in kinds}) == len(kinds)


def test_flags_behind_the_double_dash_are_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    leave(["run", "--", "--json", "--debug"], error=errors.UsageError("no"))
    assert capsys.readouterr() == ("", "error: no\n")


def test_prints_go_to_stderr_beside_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(["--json"], {"a": 1}) == 0
    assert capsys.readouterr() == ('{"a": 1}\n', "chatter")


def test_results_without_json_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave([], {"a": 1}) == 0
    assert capsys.readouterr() == ("chatter", "")


def test_an_outcome_brings_its_own_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(["--json"], Outcome({"ok": False}, 1)) == 1
    assert capsys.readouterr() == ('{"ok": false}\n', "chatter")


def test_statuses_pass_through() -> None:
    assert leave([], 0) == 0
    assert leave([], 3) == 3
    assert leave([], 130) == 130


def test_plain_values() -> None:
    value = {"counters": Counters(cycles=3), "items": (1.5, float("nan"), float("inf")), 1: None}
    assert plain(value) == {
        "counters": {"cycles": 3, "bytes_read": None, "bytes_written": None, "port_bytes_per_cycle": None},
        "items": [1.5, None, None],
        "1": None,
    }


def test_names_that_are_no_unicode_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    leave(["--json"], error=errors.UsageError("bad \udcff"))
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["message"] == "bad \\udcff"
    assert err == "error: bad \\udcff\n"
