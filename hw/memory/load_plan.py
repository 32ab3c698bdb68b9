# SPDX-License-Identifier: Apache-2.0
"""The first half of the load unit: from instructions to requests for lines, and plans of what to do with them."""

from __future__ import annotations

from enum import IntEnum

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.control.runs import FetchLayout
from catenary.hw.memory.bursts import range_layout
from catenary.hw.memory.locate import RowLocator, code_bytes
from catenary.hw.memory.scatter import Kind
from catenary.hw.memory.walk import walk_layout
from catenary.hw.words import command_layout
from catenary.isa.config import AcceleratorConfig
from catenary.isa.opcodes import WORD_BYTES, MemoryFormat, Unit

_KINDS = {
    MemoryFormat.I8: Kind.CODES,
    MemoryFormat.F32: Kind.F32,
    MemoryFormat.F16: Kind.F16,
    MemoryFormat.BF16: Kind.BF16,
    MemoryFormat.U64: Kind.DESCRIPTORS,
}


class Task(IntEnum):
    """What becomes of the lines of an instruction."""

    STREAM = 0
    """``walk.rows`` lines go to W."""
    ROWS = 1
    """They are walked over."""
    CODE = 2
    """The same, for a fetch of code."""
    NOTHING = 3
    """There are none, for an instruction."""
    NO_CODE = 4
    """There are none, for a fetch of code."""
    FAULT = 5
    """There are none, because they lie behind the end of something."""


def plan_layout(config: AcceleratorConfig) -> data.StructLayout:
    """What to do with the lines of an instruction: a :class:`Task`, and for some of them a walk."""
    return data.StructLayout({"task": range(len(Task)), "walk": walk_layout(config)})


class LoadPlanner(wiring.Component):
    """Takes instructions, asks memory for their lines, and says what is to be done with these when they come.

    After a plan with :data:`Task.FAULT` nothing more is taken.

    Parameters:
        config: the accelerator.

    Members:
        insn: instructions.
        fetch: a fetch of code, which goes before them.
        lines: requests for lines.
        plans: a plan for each instruction, when its lines have been asked for.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "insn": In(stream.Signature(command_layout(Unit.LOAD))),
                "fetch": In(stream.Signature(FetchLayout)),
                "lines": Out(stream.Signature(range_layout(config.memory_lines))),
                "plans": Out(stream.Signature(plan_layout(config))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.locator = locator = RowLocator(config)
        insn, region = self.insn.payload.body.ld, locator.request.payload
        walk = self.plans.payload.walk
        adjacent = Signal()  # rows of one element each, which lie side by side in the buffer
        total = Signal.like(walk.row_bytes)  # bytes of these, or of code
        rows, row_bytes = Signal.like(walk.rows), Signal.like(region.row_bytes)
        task = Signal.like(self.plans.payload.task)
        code_line = Signal.like(self.fetch.payload.line)

        kind, shift = Signal.like(walk.kind), Signal(range(4))
        with m.Switch(insn.format):
            for fmt, meaning in _KINDS.items():
                with m.Case(fmt.value):
                    m.d.comb += [kind.eq(meaning), shift.eq(exact_log2(fmt.bytes))]
        whole_lines = insn.format == MemoryFormat.LINES.value
        joined = (task == Task.CODE) | (walk.packed & adjacent & locator.full)
        m.d.comb += [
            region.memory.eq(insn.memory),
            region.row.eq(insn.row),
            region.rows.eq(insn.rows),
            region.row_lines.eq(insn.row_lines),
            region.row_bytes.eq(insn.elements << shift),
            region.pack.eq(insn.pack),
            self.lines.payload.eq(locator.lines),
            self.plans.payload.task.eq(task),
            walk.rows.eq(Mux(joined, 1, rows)),
            walk.row_bytes.eq(Mux(joined, total, row_bytes)),
            walk.offset.eq(locator.offset),
            walk.slots.eq(locator.slots),
            walk.per_line.eq(locator.per_line),
        ]
        with m.If(whole_lines):
            m.d.comb += [region.row_lines.eq(1), region.row_bytes.eq(0), region.pack.eq(0)]

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.fetch.ready.eq(1), self.insn.ready.eq(~self.fetch.valid)]
                with m.If(self.fetch.valid):
                    m.d.sync += [
                        task.eq(Task.CODE),
                        walk.kind.eq(Kind.INSTRUCTIONS),
                        walk.address.eq(0),
                        walk.packed.eq(1),
                        total.eq(self.fetch.payload.count * WORD_BYTES),
                        code_line.eq(self.fetch.payload.line),
                    ]
                    m.next = "MEASURE"
                    with m.If(self.fetch.payload.count == 0):
                        m.d.sync += task.eq(Task.NO_CODE)
                        m.next = "PLAN"
                    with m.If(self.fetch.payload.count > config.instruction_words):
                        m.d.sync += task.eq(Task.FAULT)
                        m.next = "PLAN"
                with m.Elif(self.insn.valid):
                    m.d.sync += [
                        task.eq(Mux(whole_lines, Task.STREAM, Task.ROWS)),
                        walk.kind.eq(kind),
                        walk.address.eq(insn.address),
                        walk.stride.eq(insn.stride),
                        walk.row_lines.eq(insn.row_lines),
                        walk.packed.eq(insn.pack != 0),
                        rows.eq(insn.rows),
                        row_bytes.eq(region.row_bytes),
                        total.eq(insn.rows << shift),
                        adjacent.eq((insn.elements == 1) & (insn.stride == 1) & (kind != Kind.CODES)),
                    ]
                    with m.If((insn.rows == 0) | ((insn.elements == 0) & ~whole_lines)):
                        m.d.sync += task.eq(Task.NOTHING)
                        m.next = "PLAN"
                    with m.Else():
                        m.d.comb += locator.request.valid.eq(1)
                        m.next = "LOCATE"
            with m.State("MEASURE"):
                measured, code_lines = self._measured(m, total[: len(Const(code_bytes(config)))])
                with m.If(measured):
                    m.d.comb += locator.request.valid.eq(1)
                    m.next = "LOCATE"
                m.d.comb += [
                    region.memory.eq(code_line),
                    region.row.eq(0),
                    region.rows.eq(code_lines),
                    region.row_lines.eq(1),
                    region.row_bytes.eq(0),
                    region.pack.eq(0),
                ]
            with m.State("LOCATE"):
                with m.If(locator.found):
                    m.next = "ASK"
                with m.If(locator.fault):
                    m.d.sync += task.eq(Task.FAULT)
                    m.next = "PLAN"
            with m.State("ASK"):
                m.d.comb += [self.lines.valid.eq(self.plans.ready), self.plans.valid.eq(self.lines.ready)]
                with m.If(self.lines.ready & self.plans.ready):
                    m.next = "IDLE"
            with m.State("PLAN"):
                m.d.comb += self.plans.valid.eq(1)
                with m.If(self.plans.ready):
                    m.next = "IDLE"
                    with m.If(task == Task.FAULT):
                        m.next = "FAILED"
            with m.State("FAILED"):
                pass  # until abort
        return m

    def _measured(self, m: Module, nbytes: Signal) -> tuple[Signal, Signal]:
        """(it is known, the number) of lines that ``nbytes`` bytes take; to be asked from one state, until known."""
        line_bytes = self._config.line_bytes
        lines = Signal(range(self._config.lines(1 << len(nbytes)) + 1))
        if line_bytes & (line_bytes - 1) == 0:
            m.d.comb += lines.eq((nbytes + line_bytes - 1) >> exact_log2(line_bytes))
            return Const(1), lines
        # No shift divides by these: count lines. It takes no longer than to read them.
        covered, known = Signal(len(nbytes) + 1), Signal()
        m.d.comb += known.eq(covered >= nbytes)
        with m.If(known):
            m.d.sync += [covered.eq(0), lines.eq(0)]
        with m.Else():
            m.d.sync += [covered.eq(covered + line_bytes), lines.eq(lines + 1)]
        return known, lines
