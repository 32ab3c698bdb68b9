# SPDX-License-Identifier: Apache-2.0
"""``catenary verilog``: the files, and that they say what the register map says."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from catenary.boards.loader import load_accelerator
from catenary.cli.verilog import c_header, write_verilog
from catenary.isa.registers import MAGIC, WATCHDOG_RESET, register_map
from catenary.sim.rtl.verilog import design_of
from tests.cli.conftest import Call
from tests.sim.dummy_core import DummyCore, dummy_config

CONFIG = dummy_config(8, 4, 32)


def test_files_of_any_core(tmp_path: Path) -> None:
    design = design_of(DummyCore(CONFIG), "core")
    result = write_verilog(tmp_path / "new" / "core", CONFIG, design)
    assert (result.top, result.config_hash) == ("core", CONFIG.hash)
    assert [Path(name).name for name in result.files] == ["core.sv", "core_registers.h", "registers.md", "README.md"]
    text = Path(result.files[0]).read_text()
    for port in result.ports:
        span = rf"\[{port.width - 1}:0\] " if port.width > 1 else ""
        assert re.search(rf"^  {port.direction} {span}{port.name};$", text, re.MULTILINE), port
    readme = Path(result.files[-1]).read_text()
    assert "3 AXI4 managers of 64, 32, 256 bits" in readme
    assert f"`{CONFIG.hash}`" in readme
    assert "| trace.load.pc | `trace__load__pc` | 23:0 |" in readme
    assert max(map(len, readme.splitlines())) <= 130


@pytest.mark.parametrize("compiler", ["gcc", "g++"])
def test_header_compiles_and_agrees(compiler: str, tmp_path: Path) -> None:
    registers = register_map(CONFIG)
    (tmp_path / "registers.h").write_text(c_header(registers, CONFIG))
    checks = [f"CATENARY_{place.name} == {place.address}" for place in registers]
    checks += [f"CATENARY_EXPECTED_CONFIG_HASH == UINT64_C(0x{CONFIG.hash})", "CATENARY_ERROR_CAUSE_WATCHDOG == 8"]
    checks += ["CATENARY_ERROR_PC_SHIFT == 8", "CATENARY_ERROR_PC_MASK == 0xffffff00"]
    checks += ["CATENARY_CODE_LINE_LINE_MASK == 0xffffffffffULL", "CATENARY_ERROR_UNIT_MATRIX == 2"]
    source = "".join(f'#if !({check})\n#error "{check}"\n#endif\n' for check in checks)
    kind = "c++" if compiler == "g++" else "c"
    text = f'#include <stdint.h>\n#include "registers.h"\n{source}'
    command = [compiler, "-Wall", "-Werror", "-fsyntax-only", "-x", kind, "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(300)
def test_verb(call: Call, tmp_path: Path) -> None:
    reply = call("verilog", "--accel", "small", "-o", tmp_path / "core", "--json")
    assert reply.status == 0, reply.stderr
    config = load_accelerator("small")
    assert reply.json["top"] == "catenary_core"
    assert reply.json["config_hash"] == config.hash
    assert {"name": "clk", "direction": "input", "width": 1} in reply.json["ports"]
    assert {"name": "memory_0__rdata", "direction": "input", "width": 64} in reply.json["ports"]
    assert all(Path(name).is_file() for name in reply.json["files"])
    table = (tmp_path / "core" / "registers.md").read_text()
    assert f"{MAGIC:#x}" in table
    assert f"{WATCHDOG_RESET:#x}" in table
    assert f"{int(config.hash, 16):#x}" in table
