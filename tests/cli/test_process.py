# SPDX-License-Identifier: Apache-2.0
"""What only a process shows: start-up, signals, pipes, full disks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Call, command, environment

HEAVY = ("numpy", "yaml", "tokenizers", "safetensors", "torch", "amaranth")


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_nothing_heavy_is_imported_to_say_hello(flag: str) -> None:
    code = (
        "import sys; from catenary.cli.main import app\n"
        f"try: app([{flag!r}])\n"
        f"except SystemExit as end: sys.exit(end.code or repr([m for m in {HEAVY} if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, catenary; sys.exit(repr([m for m in {HEAVY} if m in sys.modules]))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == "[]"


def test_json_is_all_of_stdout(spawn: Call, model: Path) -> None:
    reply = spawn("run", model, "--prompt", "Once", "--max-new-tokens", 3, "--stats", "--json", capture_output=True)
    assert reply.status == 0
    assert reply.json["device"] == "graph-fp32"
    assert "prefill" in reply.stderr


def test_errors_leave_no_traceback(spawn: Call, tmp_path: Path) -> None:
    reply = spawn("run", tmp_path / "absent.cat", "--prompt", "x", "--json", capture_output=True)
    assert (reply.status, reply.json["error"]["code"]) == (2, "usage")
    assert reply.stderr.count("\n") == 1
    with_trace = spawn("run", tmp_path / "absent.cat", "--prompt", "x", "--debug", capture_output=True)
    assert (with_trace.status, with_trace.stdout) == (2, "")
    assert "Traceback" in with_trace.stderr


def test_options_that_are_no_unicode_are_refused(model: Path, tmp_path: Path) -> None:
    arguments = [*command(["run", model, "--json", "--prompt"]), b"a\xff"]
    done = subprocess.run(arguments, env=environment(tmp_path), capture_output=True, timeout=60)
    assert done.returncode == 2
    assert "Text must be valid Unicode" in json.loads(done.stdout)["error"]["message"]


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["human", "json"])
def test_interruption(model: Path, tmp_path: Path, flags: list[str]) -> None:
    """Ctrl-C in the middle of the work: status 130, one line, and JSON if that was asked for."""
    code = (
        "import os, signal, catenary.runtime.generate as g\n"
        "g._stop_reason = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
        "from catenary.cli.main import main; main()"
    )
    arguments = [sys.executable, "-c", code, "run", str(model), "--prompt", "a", *flags]
    done = subprocess.run(arguments, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
    if flags:
        assert json.loads(done.stdout) == {"error": {"code": "interrupted", "message": "interrupted"}}


def test_interrupted_compilation_leaves_nothing(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    code = (
        "import os, signal\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
        "from catenary.cli.main import main; main()"
    )
    arguments = [sys.executable, "-c", code, "compile", str(model), "-o", str(output / "x.cat")]
    done = subprocess.run(arguments, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")
    assert list(output.iterdir()) == []


def test_a_reader_that_leaves_is_no_error(model: Path, tmp_path: Path) -> None:
    """`catenary run ... | head -c 1` ends without a complaint."""
    arguments = command(["run", model, "--prompt", "a", "--max-new-tokens", 60, "--ignore-eos"])
    process = subprocess.Popen(
        arguments, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), said) == (1, "")


def test_a_full_disk_behind_stdout_is_an_error(spawn: Call, model: Path) -> None:
    with open("/dev/full", "w") as full:
        reply = spawn("check", model, "--json", stdout=full, stderr=subprocess.PIPE)
    assert (reply.status, reply.stderr) == (1, "error: [Errno 28] No space left on device\n")
    with open("/dev/full", "w") as full:
        reply = spawn("run", model, "--prompt", "a", stdout=full, stderr=subprocess.PIPE)
    assert (reply.status, reply.stderr) == (1, "error: [Errno 28] No space left on device\n")


def test_a_terminal_without_the_letter_shows_a_question_mark(model: Path, tmp_path: Path) -> None:
    env = {**environment(tmp_path), "PYTHONIOENCODING": "ascii"}
    arguments = command(["run", model, "--prompt", "a", "--max-new-tokens", 30, "--temperature", "2"])
    done = subprocess.run(arguments, env=env, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"?" in done.stdout
