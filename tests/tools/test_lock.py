# SPDX-License-Identifier: Apache-2.0
"""Lock files pin every package exactly, name no place to take it from, and satisfy the lists that they come from."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.record import ROOT
from tools.lock import normalise

FOLDER = ROOT / "requirements"
LISTS = ("core", "rtl", "dev")


def wanted(path: Path) -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    found = [Requirement(line) for line in lines if line]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def locked(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[\w.-]+==[\w.!]+", line), f"{path.name}: {line}"
    pairs = [line.split("==") for line in lines]
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("name", LISTS)
def test_every_wanted_package_is_locked_at_a_version_it_allows(name: str) -> None:
    versions = locked(FOLDER / f"{name}.lock")
    for package, requirement in wanted(FOLDER / f"{name}.in").items():
        assert requirement.specifier.contains(versions[package]), f"{requirement}, locked {versions[package]}"


@pytest.mark.parametrize("name", LISTS)
def test_every_wanted_package_says_why(name: str) -> None:
    for line in (FOLDER / f"{name}.in").read_text().splitlines():
        assert not line or "#" in line, line


def test_lists_are_disjoint_and_bring_no_accelerator_packages() -> None:
    names = [name for listed in LISTS for name in locked(FOLDER / f"{listed}.lock")]
    assert len(names) == len(set(names))
    dev = locked(FOLDER / "dev.lock")
    assert dev["torch"] == "2.13.0"
    assert not [name for name in names if name.startswith(("nvidia", "cuda", "triton"))]


def test_the_project_depends_on_core_less_its_build_backend() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = {canonicalize_name(r.name): r for r in map(Requirement, project["project"]["dependencies"])}
    core = wanted(FOLDER / "core.in")
    assert str(core.pop("setuptools")) == project["build-system"]["requires"][0]
    assert declared == core


def test_the_extra_is_the_list_of_its_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extra = {canonicalize_name(r.name): r for r in map(Requirement, project["project"]["optional-dependencies"]["rtl"])}
    assert extra == wanted(FOLDER / "rtl.in")


@pytest.mark.parametrize("lists", [("core",), ("core", "rtl")])
def test_locks_are_closed_under_dependency(lists: tuple[str, ...]) -> None:
    versions = {name: version for listed in lists for name, version in locked(FOLDER / f"{listed}.lock").items()}
    for package in versions:
        for text in requires(package) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                name = canonicalize_name(needed.name)
                assert name in versions, f"{package} needs {needed}"
                assert needed.specifier.contains(versions[name], prereleases=True), f"{package} needs {needed}"


@pytest.mark.parametrize("name", LISTS)
def test_the_running_environment_is_the_locked_one(name: str) -> None:
    for package, version in locked(FOLDER / f"{name}.lock").items():
        assert distribution(package).version.partition("+")[0] == version, package


def test_normalise_drops_what_depends_on_the_machine() -> None:
    frozen = ["torch==2.13.0+cpu", "pip==23.2.1", "nvidia-nccl-cu13==2.1", "triton==3.1", "cuda-bindings==1"]
    frozen += ["Numpy==2.4.6", "mpmath==1"]
    assert normalise("\n".join(frozen) + "\n") == ["mpmath==1", "Numpy==2.4.6", "torch==2.13.0"]
    with pytest.raises(SystemExit, match="Locked package must be name==version, not 'a @ file:///b'"):
        normalise("a @ file:///b\n")
