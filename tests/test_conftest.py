# SPDX-License-Identifier: Apache-2.0
"""Where the shared data set is absent, the tests that need it are left out and counted, and the others run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

TESTS = """
import pytest
def test_plain(): pass
def test_by_fixture(data_dir): assert data_dir.is_dir()
@pytest.mark.needs_data
def test_by_marker(): pass
@pytest.fixture
def corpus(data_dir): return data_dir
def test_by_way_of_another_fixture(corpus): pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "repository" / "tests").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "repository" / "tests")
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "repository")
    (tmp_path / "repository" / "tests" / "test_inner.py").write_text(TESTS)
    return tmp_path / "repository"


def run(project: Path, data: str | None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("CATENARY_DATA", "PYTEST_ADDOPTS")}
    if data is not None:
        environment["CATENARY_DATA"] = data
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def test_without_data_its_tests_are_left_out_and_counted(project: Path) -> None:
    done = run(project, None)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "shared data: absent" in done.stdout
    assert "left out: 3 tests that need the shared data set (CATENARY_DATA)" in done.stdout
    assert "1 passed, 3 deselected" in done.stdout


def test_data_is_found_beside_the_repository(project: Path) -> None:
    (project.parent / "shared" / "data").mkdir(parents=True)
    done = run(project, None)
    assert "4 passed" in done.stdout, done.stdout + done.stderr
    assert "left out" not in done.stdout


def test_data_is_found_where_the_environment_says(project: Path, tmp_path: Path) -> None:
    assert "4 passed" in run(project, str(tmp_path)).stdout


def test_a_wrong_place_is_an_error_and_not_an_absence(project: Path) -> None:
    done = run(project, "/no/such/folder")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "CATENARY_DATA must be a folder, not '/no/such/folder'" in done.stderr
