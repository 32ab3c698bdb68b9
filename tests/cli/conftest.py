# SPDX-License-Identifier: Apache-2.0
"""A checkpoint and a program to try the verbs on, and ways to call them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from catenary.cli.main import app
from catenary.compiler.random_models import llama_config, write_model
from catenary.sim.rtl.cache import cache_folder

TINY = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "max_position_embeddings": 64}
STORY = "Once upon a time, there was a girl.<|endoftext|>\nShe had a ball.\n<|endoftext|>"


@dataclass(frozen=True)
class Reply:
    """How a call ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one object that stdout holds, and nothing else."""
        assert self.stdout.count("\n") == 1, self.stdout
        assert self.stdout.endswith("}\n"), self.stdout
        return json.loads(self.stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


Call = Callable[..., Reply]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    """Call a verb in this process, with a cache of its own; only builds of hardware, which take long, are shared."""
    monkeypatch.setenv("CATENARY_RTL_CACHE", str(cache_folder()))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def invoke(*arguments: object) -> Reply:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Reply(result.exit_code, result.stdout, result.stderr)

    return invoke


@pytest.fixture
def spawn(tmp_path: Path) -> Call:
    """Call a verb as a process, with a cache of its own."""

    def start(*arguments: object, **options: Any) -> Reply:
        done = subprocess.run(command(arguments), env=environment(tmp_path), text=True, timeout=60, **options)
        return Reply(done.returncode, done.stdout or "", done.stderr or "")

    return start


def command(arguments: Sequence[object]) -> list[str]:
    """The command line that runs this very interpreter's ``catenary``."""
    return [sys.executable, "-c", "from catenary.cli.entry import main; main()", *map(str, arguments)]


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process whose cache is in ``folder``."""
    shared = {"CATENARY_RTL_CACHE": str(cache_folder())}
    return {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "NO_COLOR": "1", **shared}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory with random weights."""
    return write_model(tmp_path_factory.mktemp("checkpoint") / "model", llama_config(**TINY), seed=1)


@pytest.fixture(scope="session")
def program(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of :func:`model`."""
    import catenary

    path = tmp_path_factory.mktemp("program") / "model.cat"
    catenary.compile(model).save(path)
    return path


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text to score."""
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_text(STORY, encoding="utf-8")
    return path
