# SPDX-License-Identifier: Apache-2.0
"""Verilog whose registers are assigned where their conditions hold, which simulates faster.

yosys writes what Amaranth means by ``with m.If(enable): m.d.sync += register.eq(value)`` as a process that computes the
register's next value in every cycle, most often the old one, and a flip-flop that takes it. Verilator then copies every
register of the design twice a cycle, whether it changes or not. The same register as one clocked process with the
condition in it costs a branch.
"""

from __future__ import annotations

import re
from collections import Counter

_NAME = r"(?:\\\S+ |[A-Za-z_][\w$]*)"
_FLIP_FLOP = re.compile(rf"  always @\(posedge clk\)\n    ({_NAME})\s*<= ({_NAME})\s*;\n")
_PROCESS = re.compile(r"  always_comb begin\n(.*?)\n  end\n", re.DOTALL)
_ASSIGNMENT = re.compile(rf"^( *)({_NAME})((?:\s*\[[^\]]*\])?)\s*= (.*;)$")
_TRIGGER = re.compile(rf"^    if \({_NAME}\s*\) begin end$")
_MODULE = re.compile(r"^module .*?^endmodule$", re.DOTALL | re.MULTILINE)


def with_clocked_conditions(text: str) -> str:
    """``text``, as yosys writes it, with every register's conditions in its clocked process.

    A register is left as it is where its next value is read elsewhere, or computed together with a signal's.
    """
    return _MODULE.sub(lambda module: _module(module[0]), text)


def _module(text: str) -> str:
    registers = {match[2].strip(): match for match in _FLIP_FLOP.finditer(text)}
    if not registers:
        return text
    moved: dict[str, str] = {}
    words = Counter(match.rstrip() for match in re.findall(_NAME, text))
    for process in _PROCESS.finditer(text):
        lines = [line for line in process[1].split("\n") if not _TRIGGER.match(line)]
        assignments = [_ASSIGNMENT.match(line) for line in lines]
        targets = Counter(match[2].rstrip() for match in assignments if match)
        # A declaration, the flip-flop, and the left side of every assignment: otherwise someone else reads it.
        if not targets or any(t not in registers or words[t] != 2 + uses for t, uses in targets.items()):
            continue
        body = []
        for line, match in zip(lines, assignments, strict=True):
            if match is None:
                body.append(line)
                continue
            register = registers[match[2].rstrip()][1]
            if match[3] or match[4].rstrip(" ;") != register.rstrip():  # not "next = now"
                body.append(f"{match[1]}{register}{match[3]} <= {match[4]}")
        moved[process[0]] = "\n".join(["  always @(posedge clk) begin", *body, "  end", ""])
        moved.update((registers[target][0], "") for target in targets)
    text = _PROCESS.sub(lambda match: moved.get(match[0], match[0]), text)
    return _FLIP_FLOP.sub(lambda match: moved.get(match[0], match[0]), text)
