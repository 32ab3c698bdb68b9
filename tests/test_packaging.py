# SPDX-License-Identifier: Apache-2.0
"""The package that users install holds every room, whichever way it was built.

The rooms are top-level folders joined by links under src/catenary, so an editable install shows nothing about a wheel.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import catenary

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("isa", "hw", "compiler", "sim", "runtime", "boards", "cli")
INSTALLED = (".py", ".json", ".yaml", ".cpp", ".h")

CHECK = """
import importlib, pkgutil, sys
from pathlib import Path
import catenary
assert catenary.__version__ == sys.argv[1], catenary.__version__
assert Path(sys.prefix) in Path(catenary.__file__).parents, catenary.__file__
for room in sys.argv[2:]:
    importlib.import_module(f"catenary.{room}")
heavy = {"torch", "transformers", "amaranth"} & sys.modules.keys()
assert not heavy, heavy
"""


def run(*command: str | Path) -> str:
    """Run a command far from the repository, so that nothing is found in it by chance; return its output."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def pip(*arguments: str | Path) -> str:
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments)


def build_wheel(source: Path, folder: Path) -> Path:
    pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def expected_files() -> set[str]:
    """What an installed package holds: the sources and data of every room, as they are in the repository."""
    found = {"catenary/__init__.py", "catenary/py.typed"}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*"):
            if path.suffix in INSTALLED and path.is_file() and "__pycache__" not in path.parts:
                found.add(f"catenary/{path.relative_to(ROOT).as_posix()}")
    return found


def package_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the package is built from, because a build writes into its source."""
    copy = tmp_path_factory.mktemp("source") / "catenary"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("src", *ROOMS):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    return copy


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tree, tmp_path_factory.mktemp("wheel"))


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_linked_relative(room: str) -> None:
    link = ROOT / "src" / "catenary" / room
    assert link.is_symlink()
    assert os.readlink(link) == f"../../{room}"


def test_wheel_holds_every_room_and_nothing_else(wheel: Path) -> None:
    assert package_files(wheel) == expected_files()


def test_every_folder_with_code_is_a_package() -> None:
    for name in expected_files():
        if name.endswith(".py"):
            assert str(Path(name).parent / "__init__.py") in expected_files(), name


def test_wheel_carries_licence_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (licence,) = (name for name in archive.namelist() if name.endswith("/LICENSE"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
        (entry,) = (name for name in archive.namelist() if name.endswith("/entry_points.txt"))
        assert archive.read(entry).decode().split() == ["[console_scripts]", "catenary", "=", "catenary.cli.entry:main"]


def test_sdist_builds_the_same_wheel(tree: Path, wheel: Path, tmp_path: Path) -> None:
    code = "import os, sys, setuptools.build_meta as b; os.chdir(sys.argv[1]); b.build_sdist(sys.argv[2])"
    run(sys.executable, "-c", code, tree, tmp_path)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    again = build_wheel(source, tmp_path / "again")
    assert package_files(again) == package_files(wheel)


def test_fresh_install_imports_every_room_without_heavy_packages(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    pip("--python", python, "install", "--quiet", "--no-deps", wheel)
    # Dependencies come from the environment of the tests, by a plain path: its own link to the repository stays unread.
    (site,) = (environment / "lib").glob("python*/site-packages")
    (ours,) = (Path(sys.prefix) / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(f"{ours}\n")
    run(python, "-c", CHECK, catenary.__version__, *ROOMS)
    assert catenary.__version__ in run(environment / "bin" / "catenary", "--version")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_pip_install_into_an_empty_environment(tree: Path, tmp_path: Path) -> None:
    """The whole way of a user: build isolation, dependencies from the package index."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", tree)
    run(python, "-c", CHECK, catenary.__version__, *ROOMS)
    assert catenary.__version__ in run(environment / "bin" / "catenary", "--version")
