# SPDX-License-Identifier: Apache-2.0
"""Memory that a core has on chip: every memory of every instance of its modules, tables and FIFOs included."""

from __future__ import annotations

import re
from collections import Counter

from amaranth.back import rtlil

from catenary.hw.core import Core
from catenary.isa.config import AcceleratorConfig

TOP = "catenary_core"
_MEMORY = re.compile(r"\s*memory width (\d+) size (\d+) ")


def on_chip_bytes(config: AcceleratorConfig) -> int:
    """Bytes of the memories of a core, rounded down; registers are not memories."""
    bits: Counter[str] = Counter()  # of the memories of a module itself, by module
    cells: dict[str, Counter[str]] = {}
    module = ""
    for line in rtlil.convert(Core(config), name=TOP, emit_src=False).splitlines():
        words = line.split()
        if line.startswith("module "):
            module = words[1]
            cells[module] = Counter()
        elif found := _MEMORY.match(line):
            bits[module] += int(found[1]) * int(found[2])
        elif words[:1] == ["cell"]:
            cells[module][words[1]] += 1

    def total(name: str) -> int:
        return bits[name] + sum(count * total(inner) for inner, count in cells[name].items() if inner in cells)

    return total(f"\\{TOP}") // 8
