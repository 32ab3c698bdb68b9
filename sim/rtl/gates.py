# SPDX-License-Identifier: Apache-2.0
"""Verilog whose registers are clocked in groups, each only in cycles in which one of the group may change.

Logic that waits costs as much as logic that works: all of it is evaluated in every cycle, and gives what it gave
before. So every group of modules gets a signal, ``gate_run``, that says whether any of its registers would change at
the next edge, and its registers are clocked by ``@(posedge clk iff gate_run)``. Verilator makes of that one condition
for the group's registers together with all logic that depends on nothing else.

The signal is derived from the assignments: a condition of one holds, or what is assigned differs from what is there.
It may be set where nothing changes, but is always set where something does. So it decides about speed and nothing else.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

GROUP = 8
"""Clocked processes of a module, and of those inside it that are no group, from which on it is a group."""
GROUPS = 150
"""Groups are larger where there would be more than about so many: each costs a test in every cycle."""
COMPARED_BITS = 64
"""Widest register of which the new value is compared with the old one where a condition holds."""
COMPARED_REGISTERS = 4
"""With more registers than these under one condition, that the condition holds is enough."""
COPIES = 8
"""With so many instances of a module, that a condition holds is enough: lanes."""

_NAME = r"(?:\\\S+ |[A-Za-z_][\w$]*)"
_MODULE = re.compile(rf"^module ({_NAME})\s*\((.*?)\);$(.*?)^endmodule$", re.DOTALL | re.MULTILINE)
_INSTANCE = re.compile(rf"^  ({_NAME}) {_NAME} \($", re.MULTILINE)
_PROCESS = re.compile(r"^  always @\(posedge clk\)(?: begin\n(.*?)\n  end|\n(    [^\n]*;))$", re.DOTALL | re.MULTILINE)
_SELECTION = r"\s*\[(?:[^\[\]]|\[[^\[\]]*\])*\]"
_ASSIGNMENT = re.compile(rf"^( *)({_NAME})((?:{_SELECTION})*)\s*<= (.*);$")
_EMPTY = re.compile(r"^ *(?:/\* empty \*/)?;$")
_CONDITION = re.compile(r"^    if \((.*)\)(?: begin)?$")
_REGISTER = re.compile(rf"^  reg (?:\[(\d+):0\] )?({_NAME})(?: = [^;]*)?;$", re.MULTILINE)
_MEMORY = re.compile(r"^  reg (?:\[[^\]]*\] )?(\S+) ?\[[^\]]*\];$", re.MULTILINE)
_CONSTANT = re.compile(r"^\d+'[bdh][\da-fx]+$")
_PLAIN = re.compile(rf"^(?:{_NAME}|[\[\]{{}}, :]|\d+'[bdh][\da-fx]+|\d+)*$")
_YES = "1'h1"
_APART = "/*verilator no_inline_module*/"


@dataclass
class _Module:
    """A module of the text.

    Attributes:
        ports: names of its ports, as written.
        body: everything between header and end.
        inner: modules that it has instances of, one for each.
        instances: of it, in the whole design.
        weight: clocked processes in it and in those inside it that are no group.
        group: whether it is a group.
        apart: whether there are enough of it that they have their code in common.
    """

    ports: str
    body: str
    inner: list[str]
    instances: int = 0
    weight: int = 0
    group: bool = False
    apart: bool = False


def with_gated_clocks(text: str) -> str:
    """``text``, as :func:`catenary.sim.rtl.registers.with_clocked_conditions` leaves it, with registers in groups."""
    modules = {match[1].strip(): _Module(match[2], match[3], []) for match in _MODULE.finditer(text)}
    for module in modules.values():
        found = (match[1].strip() for match in _INSTANCE.finditer(module.body))
        module.inner = [inner for inner in found if inner in modules]
        module.weight = len(_PROCESS.findall(module.body))
    inside = {name for module in modules.values() for name in module.inner}
    ordered = list(TopologicalSorter({name: module.inner for name, module in modules.items()}).static_order())
    common: set[str] = set()  # modules apart, and those inside them, which are not apart themselves
    for name in reversed(ordered):
        module = modules[name]
        module.instances += name not in inside
        module.apart = module.instances >= COPIES and name not in common
        common |= {name, *module.inner} if module.apart else set(module.inner if name in common else ())
        for inner in module.inner:
            modules[inner].instances += module.instances
    limit = max(GROUP, sum(module.weight * module.instances for module in modules.values()) // GROUPS)
    for name in ordered:
        module = modules[name]
        module.weight += sum(modules[inner].weight for inner in module.inner if not modules[inner].group)
        module.group = module.weight >= (limit if name in inside else 1)

    def rewrite(match: re.Match[str]) -> str:
        module = modules[match[1].strip()]
        text = _gated(match[1], module, modules) if module.weight else match[0]
        return text.replace(");", f"); {_APART}", 1) if module.apart else text

    return _MODULE.sub(rewrite, text)


def _gated(name: str, module: _Module, modules: dict[str, _Module]) -> str:
    change = _Change(module)
    body = _PROCESS.sub(lambda match: change.add((match[1] or match[2]).split("\n")), module.body)
    moved = ["gate_own"]

    def connect(match: re.Match[str]) -> str:
        inner = modules.get(match[1].strip())
        if inner is None or inner.group or not inner.weight:
            return match[0]
        moved.append(f"gate_moved_{len(moved)}")
        return f"  wire {moved[-1]};\n{match[0]}\n    .gate_run(gate_run), .gate_moved({moved[-1]}),"

    body, ports = _INSTANCE.sub(connect, body), module.ports
    if module.group:
        # Public, or Verilator puts all that it is computed from into the test itself, which is made several times.
        declared, result = "  wire gate_run /*verilator public_flat_rd*/;", "gate_run"
    else:
        declared, result = "  input gate_run;\n  output gate_moved;", "gate_moved"
        ports = f"gate_run, gate_moved, {ports}"
    head = "\n".join(["", declared, *change.declared])
    tail = "\n".join([*change.process(), f"  assign {result} = {' | '.join(moved)};", ""])
    return f"module {name} ({ports});{head}{body}{tail}endmodule"


@dataclass
class _Change:
    """Whether a register of ``module`` changes, as Verilog.

    Attributes:
        module: whose registers are meant; not those of modules inside it.
        declared: declarations of what is needed.
        always: expressions, set where something changes whatever the conditions.
        conditions: what is assigned under conditions, as expressions that say whether that is a change.
        statements: those of processes that are more than a condition, with ``gate_own`` assigned instead.
    """

    module: _Module
    declared: list[str] = field(default_factory=list)
    always: list[str] = field(default_factory=list)
    conditions: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    statements: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Find the widths of registers and the names of memories."""
        self._bits = {match[2].strip(): int(match[1] or 0) + 1 for match in _REGISTER.finditer(self.module.body)}
        self._memories = set(_MEMORY.findall(self.module.body))

    def add(self, lines: list[str]) -> str:
        """Take up a clocked process, whose lines these are; returns what replaces it."""
        if any(line.endswith(";") and not _ASSIGNMENT.match(line) and not _EMPTY.match(line) for line in lines):
            self.always.append(_YES)  # nothing that yosys writes today
            return "\n".join(["  always @(posedge clk) begin", *lines, "  end"])
        statements = list(_statements(lines))
        plain = [match for first, *rest in statements if not rest and (match := _ASSIGNMENT.match(first))]
        others = [statement for statement in statements if len(statement) > 1]
        simple = [_simple(statement) for statement in others]
        resets = all(found and all(_CONSTANT.match(match[4]) for match in found[1]) for found in simple)
        if plain and not resets and all(name in self._bits for name in _targets(lines)):
            return self._with_next(lines)
        for match in plain:
            self.always.append(_differs(match) if self._can_compare(match) else _YES)
        for statement, found in zip(others, simple, strict=True):
            if found:
                self.conditions[found[0]] += [self._changes(match) for match in found[1]]
            else:
                self.statements.append("\n".join(self._outline(statement)))
        return "\n".join(["  always @(posedge clk iff gate_run) begin", *lines, "  end"])

    def process(self) -> list[str]:
        """What computes ``gate_own``; it asks no further when the answer is known."""
        certain = {
            condition: _YES in changes or len(changes) > COMPARED_REGISTERS
            for condition, changes in self.conditions.items()
        }
        first = [*self.always, *(f"({condition})" for condition in certain if certain[condition])]
        value = " | ".join(dict.fromkeys(first)) or "1'h0"
        if all(certain.values()) and not self.statements:
            return [f"  wire gate_own = {value};"]
        lines = ["  reg gate_own;", "  always_comb begin", f"    gate_own = {value};"]
        for condition, changes in self.conditions.items():
            if not certain[condition]:
                union = " | ".join(dict.fromkeys(changes))
                lines.append(f"    if (!gate_own) if ({condition}) gate_own = {union};")
        for statement in dict.fromkeys(self.statements):
            lines += ["    if (!gate_own) begin", statement, "    end"]
        return [*lines, "  end"]

    def _with_next(self, lines: Sequence[str]) -> str:
        """A register that is assigned in every cycle, and then perhaps again: only its next value tells."""
        coming = {}
        for name in _targets(lines):
            coming[name] = f"gate_next_{len(self.declared)}"
            self.declared.append(f"  reg [{self._bits[name] - 1}:0] {coming[name]};")
            self.always.append(f"({_written(name)} != {coming[name]})")
        body = [f"    {coming[name]} = {_written(name)};" for name in coming]
        for line in lines:
            match = _ASSIGNMENT.match(line)
            body.append(f"{match[1]}{coming[match[2].strip()]}{match[3]} = {match[4]};" if match else line)
        clocked = [f"    {_written(name)} <= {coming[name]};" for name in coming]
        edge = "  always @(posedge clk iff gate_run) begin"
        return "\n".join(["  always_comb begin", *body, "  end", edge, *clocked, "  end"])

    def _outline(self, statement: Sequence[str]) -> Iterator[str]:
        for line in statement:
            match = _ASSIGNMENT.match(line)
            yield f"{match[1]}gate_own = {self._changes(match)};" if match else line

    def _changes(self, match: re.Match[str]) -> str:
        """Whether an assignment that is carried out changes something; yes where finding out is not worth it."""
        width = self._bits.get(match[2].strip(), 0)
        worth = width <= COMPARED_BITS and _PLAIN.match(match[4]) and self.module.instances < COPIES
        return _differs(match) if self._can_compare(match) and (worth or _CONSTANT.match(match[4])) else _YES

    def _can_compare(self, match: re.Match[str]) -> bool:
        """Whether neither side is a word of a memory, all of which Verilator would compare with a copy."""
        names = {name.rstrip() for name in re.findall(_NAME, match[4])}
        return match[2].strip() in self._bits and not names & self._memories


def _differs(match: re.Match[str]) -> str:
    return f"({match[2]}{match[3]} != {match[4]})"


def _targets(lines: Sequence[str]) -> list[str]:
    """What a process assigns, each once."""
    return list(dict.fromkeys(match[2].strip() for line in lines if (match := _ASSIGNMENT.match(line))))


def _written(name: str) -> str:
    return f"{name} " if name.startswith("\\") else name


def _statements(lines: Sequence[str]) -> Iterator[list[str]]:
    """The statements of a process, each in whole lines."""
    current: list[str] = []
    for line in lines:
        begins = re.match(r"    (?! |end)", line) is not None
        if begins and current and not current[-1].lstrip().startswith("(*"):
            yield current
            current = []
        current.append(line)
    if current:
        yield current


def _simple(statement: Sequence[str]) -> tuple[str, list[re.Match[str]]] | None:
    """Condition and assignments of a statement that is nothing but these."""
    condition = _CONDITION.match(statement[0])
    inner = statement[1:-1] if statement[-1] == "    end" else statement[1:]
    matches = [match for line in inner if (match := _ASSIGNMENT.match(line))]
    return (condition[1], matches) if condition and len(matches) == len(inner) else None
