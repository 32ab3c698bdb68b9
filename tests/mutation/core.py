# SPDX-License-Identifier: Apache-2.0
"""A core with mutants, compiled: one build for all mutants of a block.

The input that selects a mutant is no port of the simulated top. A module around the core asks compiled code for the
number once, when the model is made, so the host and its memories are those of every other simulation.
"""

from __future__ import annotations

import ctypes
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import rtlil
from amaranth.lib.wiring import Component

from catenary.hw.core import Core
from catenary.isa.config import AcceleratorConfig
from catenary.runtime.devices.rtl import RtlDevice, RtlOptions
from catenary.sim import rtl
from catenary.sim.rtl.build import build
from catenary.sim.rtl.cache import Progress, digest, quiet
from catenary.sim.rtl.core import TOP
from catenary.sim.rtl.memory_model import MemoryModel
from catenary.sim.rtl.ports import Port, ports_of
from catenary.sim.rtl.simulator import SOURCES, with_input_registers
from catenary.sim.rtl.verilog import Design
from tests.mutation import netlist
from tests.mutation.netlist import CONTROL, CONTROL_BITS, Mutant, choose, mutated, prepare

_MUTANTS = "mutants.json"
_SELECTOR = "mutant.cpp"
_ASK = "chosen_mutant"
_SELECTOR_CODE = f"""// Which mutant the next model has; its module asks when it is made.
static int chosen = 0;
extern "C" int {_ASK}() {{ return chosen; }}
extern "C" __attribute__((visibility("default"))) void choose_mutant(int number) {{ chosen = number; }}
"""
_WRAPPER = "mutated"
_REGISTER = re.compile(r"  always @\(posedge clk\)\n    (if [^\n]*;)\n(?:    else ([^\n]*;)\n)?")
"""A flip-flop with an enable or a synchronous reset, or with both: ``if (reset) ...; else if (enable) ...;``."""


@dataclass(frozen=True)
class Netlist:
    """A design with mutants.

    Attributes:
        folder: where the steps of making it are; those of each block are in a folder of its name.
        mutants: in it, by block.
        text: RTLIL.
        ports: of the design without mutants.
    """

    folder: Path
    mutants: Mapping[str, tuple[Mutant, ...]]
    text: str
    ports: tuple[Port, ...]


@functools.cache
def source(config: AcceleratorConfig) -> tuple[str, tuple[Port, ...]]:
    """RTLIL of a core, with source places, and its ports."""
    return netlist_source(Core(config), TOP)


def netlist_source(component: Component, name: str) -> tuple[str, tuple[Port, ...]]:
    """RTLIL of a component that is not elaborated yet, with source places, and its ports."""
    ports = ports_of(component)
    return rtlil.convert(component, name=name, emit_src=True), ports


def make(
    config: AcceleratorConfig, blocks: Mapping[str, Sequence[str]], count: int, seed: int, folder: Path
) -> Netlist:
    """A core with ``count`` mutants in each of some blocks, patterns of modules by name.

    What ``folder`` has of the same is taken, all else there overwritten.
    """
    text, ports = source(config)
    folder.mkdir(parents=True, exist_ok=True)
    steps = Path(netlist.__file__).read_text(encoding="utf-8")
    key, known = digest(text, steps, json.dumps([{**blocks}, count, seed])), folder / "key"
    if not known.exists() or known.read_text(encoding="utf-8") != key:
        known.unlink(missing_ok=True)
        _write(text, blocks, count, seed, folder)
        known.write_text(key, encoding="utf-8")
    mutants = {name: read_mutants(folder / name) for name in blocks}
    return Netlist(folder, mutants, (folder / "mutated.il").read_text(encoding="utf-8"), ports)


def _write(text: str, blocks: Mapping[str, Sequence[str]], count: int, seed: int, folder: Path) -> None:
    prepare(text, blocks, folder)
    every: list[Mutant] = []
    for name in blocks:
        chosen = choose(folder / name, count, seed, 1 + len(every))
        (folder / name / _MUTANTS).write_text(json.dumps([mutant.__dict__ for mutant in chosen], indent=1))
        every += chosen
    mutated(folder, every)


def read_mutants(folder: Path) -> tuple[Mutant, ...]:
    """The mutants of a block that is in ``folder``."""
    rows = json.loads((folder / _MUTANTS).read_text(encoding="utf-8"))
    return tuple(Mutant(**{**row, "sources": tuple(row["sources"])}) for row in rows)


def plain_verilog(text: str) -> str:
    """Verilog of RTLIL, as the simulation expects it."""
    from amaranth._toolchain.yosys import find_yosys

    yosys = find_yosys(lambda version: version >= (0, 40))
    steps = "proc -nomux -norom\nmemory_collect\nwrite_verilog -norename\n"
    found = yosys.run(["-q", "-"], f"read_rtlil <<rtlil\n{text}\nrtlil\n{steps}", ignore_warnings=True)
    return _with_plain_registers(found.replace("always @*", "always_comb"))


def verilog(made: Netlist) -> Design:
    """The Verilog of a core with mutants, as :func:`catenary.sim.rtl.verilog.design_of` makes that of one without."""
    names = ["clk", "rst", *(port.name for port in made.ports)]
    kinds = {"clk": "input", "rst": "input"}
    kinds |= {port.name: f"{'output' if port.output else 'input'} [{port.width - 1}:0]" for port in made.ports}
    lines = [
        f"module {_WRAPPER}(",
        *(f"  {kinds[name]} {name}{',' if name != names[-1] else ''}" for name in names),
        ");",
        f'  import "DPI-C" function int {_ASK}();',
        f"  reg [{CONTROL_BITS - 1}:0] {CONTROL};",
        f"  initial {CONTROL} = {CONTROL_BITS}'({_ASK}());",
        f"  {TOP} core(.{CONTROL}({CONTROL})",
        *(f"    , .{name}({name})" for name in names),
        "  );",
        "endmodule",
    ]
    return Design(plain_verilog(made.text) + "\n" + "\n".join(lines) + "\n", _WRAPPER, made.ports)


def _with_plain_registers(text: str) -> str:
    """Verilog with registers as the simulation expects them: a clocked process with one condition a statement."""

    def rewrite(match: re.Match[str]) -> str:
        first, last = match[1], match[2]
        # What comes last wins, so the reset follows what it is stronger than.
        lines = [f"    {statement}" for statement in (last, first) if statement]
        return "\n".join(["  always @(posedge clk) begin", *lines, "  end", ""])

    return _REGISTER.sub(rewrite, text)


class MutantCore:
    """A compiled core with mutants.

    Args:
        config: the accelerator.
        design: as of :func:`verilog`.
        progress: told of the build.
    """

    def __init__(self, config: AcceleratorConfig, design: Design, progress: Progress = quiet) -> None:
        folder = Path(rtl.__file__).parent
        sources = {name: (folder / name).read_text(encoding="utf-8") for name in SOURCES}
        sources[_SELECTOR] = _SELECTOR_CODE
        self._config, self._design = config, design
        self._library = build(with_input_registers(design), sources, "", progress, fast=True)

    def device(self, number: int, model: MemoryModel) -> RtlDevice:
        """A device with one mutant, or 0 for none, to be opened before the next one is made."""
        ctypes.CDLL(str(self._library)).choose_mutant(number)
        options = RtlOptions(model=model, design=lambda config, progress: self._design)
        return RtlDevice(self._config, options, self._library)
