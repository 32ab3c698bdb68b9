# SPDX-License-Identifier: Apache-2.0
"""How much of an ECP5-85F the core of ``small`` takes, after synthesis by yosys; nothing is placed or routed.

``--modules`` says instead, without recording anything, what takes it: the same per module, the hierarchy kept.
"""

from __future__ import annotations

import argparse

from benchmarks.ecp5 import LUTS_OF_RAM, PART, TOP, resources, synthesise
from benchmarks.speed import note

COMMAND = "python -m benchmarks.bench_area"


def main() -> None:
    """Synthesise and record, or show by module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", action="store_true", help="show what each module takes, and record nothing")
    options = parser.parse_args()
    modules = synthesise(flatten=not options.modules).modules
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
