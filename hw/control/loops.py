# SPDX-License-Identifier: Apache-2.0
"""The stack of hardware loops."""

from __future__ import annotations

from itertools import pairwise

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.words import value_width
from catenary.isa.instructions import INSTRUCTIONS, LOOP_DEPTH, Opcode

_WIDTHS = {field.name: value_width(field) for field in INSTRUCTIONS[Opcode.LOOP].body}
COUNT_BITS = _WIDTHS["count"]
LENGTH_BITS = _WIDTHS["length"]


class LoopStack(wiring.Component):
    """Open loops, the innermost on top.

    Parameters:
        pc_bits: width of an instruction's index.

    Members:
        pc: instruction that is being executed.
        clear: forget all loops.
        count, length: of the loop that the LOOP at ``pc`` describes.
        refused: that loop would nest too deep, or end behind the one around it.
        enter: open it.
        at_end: ``pc`` is the last instruction of the innermost loop.
        turn: such an instruction has finished: begin the next turn, or close the loop.
        again: there is a next turn.
        first: where it begins.
    """

    def __init__(self, pc_bits: int):
        self._pc_bits = pc_bits
        super().__init__(
            {
                "pc": In(pc_bits),
                "clear": In(1),
                "count": In(COUNT_BITS),
                "length": In(LENGTH_BITS),
                "refused": Out(1),
                "enter": In(1),
                "at_end": Out(1),
                "turn": In(1),
                "again": Out(1),
                "first": Out(pc_bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        entry = data.StructLayout({"open": 1, "first": self._pc_bits, "last": self._pc_bits, "left": COUNT_BITS})
        stack = [Signal(entry, name=f"loop{level}") for level in range(LOOP_DEPTH)]  # the innermost first
        top = stack[0]
        last = Signal(self._pc_bits)
        m.d.comb += [
            last.eq(self.pc + self.length),
            self.refused.eq(stack[-1].open | (top.open & (last > top.last))),
            self.at_end.eq(top.open & (self.pc == top.last)),
            self.again.eq(top.left != 1),
            self.first.eq(top.first),
        ]
        with m.If(self.clear):
            m.d.sync += [level.open.eq(0) for level in stack]
        with m.Elif(self.enter):
            m.d.sync += [outer.eq(inner) for inner, outer in pairwise(stack)]
            m.d.sync += [top.open.eq(1), top.first.eq(self.pc + 1), top.last.eq(last), top.left.eq(self.count)]
        with m.Elif(self.turn & self.again):
            m.d.sync += top.left.eq(top.left - 1)
        with m.Elif(self.turn):
            m.d.sync += [inner.eq(outer) for inner, outer in pairwise(stack)]
            m.d.sync += stack[-1].open.eq(0)
        return m
