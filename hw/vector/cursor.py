# SPDX-License-Identifier: Apache-2.0
"""Where a job is: row, part, strip, and the addresses that belong to them."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.vector.decode import LENGTH_BITS, JobLayout
from catenary.hw.vector.layouts import POINTER_BITS, POINTERS, STRIP, Geometry
from catenary.isa.config import AcceleratorConfig


class Move(enum.Enum, shape=3):
    """How the cursor moves: not at all, to the next strip, back to the first, to the next parts, to the next row; or only
    as far as ``ahead`` is concerned: to the first strip of the next part or row, until it is moved back."""

    STAY = 0
    STRIP = 1
    REWIND = 2
    PARTS = 3
    ROW = 4
    AHEAD = 5


def advanced(pointer: Value, step: Value | int) -> Value:
    """``pointer`` + ``step``; once it has overflowed, its top bit stays set."""
    total = pointer[:-1] + step
    return Cat(total[: POINTER_BITS - 1], total[POINTER_BITS - 1 :].any() | pointer[-1])


class Cursor(wiring.Component):
    """The nest of loops of every microprogram: rows of parts of strips.

    A strip is at most 128 elements of one part; or, if the job has a ``block``, several whole parts at once, as many
    as a vector register holds, up to a power of two of them.

    Parameters:
        config: the accelerator.

    Members:
        load: take ``job``; the cursor is there two cycles later.
        job: the job.
        move: what to do in this cycle, else.
        held: the job, with what has changed since.
        pointers: addresses of the part (or the first of several).
        ahead: what the first of them will be in the next part or row.
        offset: elements before the strip.
        extent: elements of the strip, of each part.
        blocks: parts of the strip.
        head: the strip is the first.
        more_strips, more_parts, more_rows: there are more of the part, of the row, of the job.
        fault: the row has no elements, or more than it may have.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        g = Geometry(config)
        self._shift, self._beats = exact_log2(g.lanes), g.beats
        super().__init__(
            {
                "load": In(1),
                "job": In(JobLayout),
                "move": In(Move),
                "held": Out(JobLayout),
                "pointers": Out(data.ArrayLayout(POINTER_BITS, POINTERS)),
                "ahead": Out(POINTER_BITS),
                "offset": Out(LENGTH_BITS),
                "extent": Out(range(STRIP + 1)),
                "blocks": Out(range(g.beats + 1)),
                "head": Out(1),
                "more_strips": Out(1),
                "more_parts": Out(1),
                "more_rows": Out(1),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        held = self.held
        length, left = Signal(LENGTH_BITS + 1), Signal(LENGTH_BITS + 1)
        rows, parts = Signal.like(held.rows), Signal.like(held.parts)
        group = Signal(range(self._beats + 1), init=1)
        until_growth = Signal.like(held.every)
        begin = Signal()
        m.d.sync += begin.eq(self.load)
        m.d.comb += [
            self.more_strips.eq(left > STRIP),
            self.more_parts.eq(parts > group),
            self.more_rows.eq(rows > 1),
            self.extent.eq(Mux(self.more_strips, STRIP, left)),
            self.blocks.eq(Mux(self.more_parts, group, parts)),
            self.fault.eq(held.growing & ((length == 0) | (length > held.codes.total))),
        ]
        longer = Signal.like(length)
        m.d.comb += longer.eq(length + (held.growing & (until_growth <= 1)))

        with m.If(self.load):
            m.d.sync += held.eq(self.job)
        with m.Elif(begin):
            m.d.sync += [
                length.eq(held.length),
                left.eq(held.length),
                rows.eq(held.rows),
                parts.eq(held.parts),
                until_growth.eq(held.every),
                self.pointers.eq(held.pointers),
                self.offset.eq(0),
                self.head.eq(1),
                group.eq(1),
            ]
            with m.If(held.block != 0):
                self._group(m, held, group)
        with m.Else():
            self._move(m, held, length, longer, left, rows, parts, group, until_growth)
        return m

    def _group(self, m: Module, held: data.View, group: Signal) -> None:
        """As many parts at once as fit a vector register, at least one."""
        lanes = 1 << self._shift
        beats = Signal(range(self._beats + 1))
        m.d.comb += beats.eq((held.length + (lanes - 1)) >> self._shift)
        for power in range(1, exact_log2(self._beats) + 1):
            with m.If(beats <= self._beats >> power):
                m.d.sync += [group.eq(1 << power)]
                m.d.sync += [held.part_steps[at].eq(held.block << power) for at in range(2)]

    def _move(self, m, held, length, longer, left, rows, parts, group, until_growth) -> None:
        with m.Switch(self.move):
            with m.Case(Move.STRIP):
                m.d.sync += [left.eq(left - STRIP), self.offset.eq(self.offset + STRIP), self.head.eq(0)]
            with m.Case(Move.REWIND, Move.PARTS):
                m.d.sync += [left.eq(length), self.offset.eq(0), self.head.eq(1)]
            with m.Case(Move.ROW):
                m.d.sync += [left.eq(longer), self.offset.eq(0), self.head.eq(1)]
            with m.Case(Move.AHEAD):
                m.d.sync += left.eq(Mux(self.more_parts, length, longer))
        parts_on, row_on = (Signal(data.ArrayLayout(POINTER_BITS, size)) for size in (2, POINTERS))
        m.d.comb += [parts_on[at].eq(advanced(self.pointers[at], held.part_steps[at])) for at in range(2)]
        m.d.comb += [row_on[at].eq(advanced(held.pointers[at], held.row_steps[at])) for at in range(POINTERS)]
        m.d.comb += self.ahead.eq(Mux(self.more_parts, parts_on[0], row_on[0]))
        with m.If(self.move == Move.PARTS):
            m.d.sync += parts.eq(parts - group)
            m.d.sync += [self.pointers[at].eq(parts_on[at]) for at in range(2)]
        with m.If(self.move == Move.ROW):
            m.d.sync += [rows.eq(rows - 1), parts.eq(held.parts), length.eq(longer)]
            m.d.sync += until_growth.eq(Mux(until_growth <= 1, held.every, until_growth - 1))
            m.d.sync += [held.pointers.eq(row_on), self.pointers.eq(row_on)]
