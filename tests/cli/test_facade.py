# SPDX-License-Identifier: Apache-2.0
"""The functions behind the verbs: their examples run, and their errors are errors."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path

import pytest

import catenary
from catenary.isa.errors import DeviceError, UsageError
from catenary.isa.program import Program
from tests.cli.test_usage import VERBS

DOCUMENTED = {"catenary", *catenary.__all__}


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_examples(name: str, model: Path, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in a folder with a checkpoint ``path/to/model`` and its program ``model.cat``."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model, tmp_path / "path" / "to" / "model")
    shutil.copy(program, tmp_path / "model.cat")
    thing = catenary if name == "catenary" else getattr(catenary, name)
    [test] = [
        test for test in doctest.DocTestFinder(recurse=False).find(thing, name, module=catenary) if test.name == name
    ]
    test.globs = {"catenary": catenary}
    assert test.examples, f"{name} has no example"
    results = doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(test)
    assert results.failed == 0


def test_every_verb_is_a_function() -> None:
    names = {"run": "generate", "eval": "evaluate"}
    assert {names.get(verb, verb) for verb in VERBS} <= set(catenary.__all__)


def test_devices_follow_the_source(model: Path, program: Path) -> None:
    with catenary.open_device(None, model) as engine:
        assert engine.device == "graph-fp32"
    with catenary.open_device(None, program) as engine:
        assert engine.device == "iss"
    with catenary.open_device("reference", Program.load(program)) as engine:
        assert engine.device == "reference"


def test_nothing_takes_the_place_of_an_unknown_device(model: Path) -> None:
    with pytest.raises(DeviceError, match=r"^Device must be one of graph-fp32, .*, not 'gpu'$"):
        catenary.open_device("gpu", model)


def test_options_of_checkpoints_are_refused_for_programs(program: Path) -> None:
    with pytest.raises(UsageError, match="must be given for a checkpoint, not for"):
        catenary.load(program, max_context=16)


def test_a_loaded_model_compiles_like_its_path(model: Path, program: Path) -> None:
    loaded = catenary.load(model)
    assert not isinstance(loaded, Program)
    assert catenary.compile(loaded).code == Program.load(program).code
