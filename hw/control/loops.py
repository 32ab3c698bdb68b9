# SPDX-License-Identifier: Apache-2.0
"""The stack of hardware loops."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from catenary.hw.words import value_width
from catenary.isa.instructions import INSTRUCTIONS
from catenary.isa.opcodes import LOOP_DEPTH, Opcode

_WIDTHS = {field.name: value_width(field) for field in INSTRUCTIONS[Opcode.LOOP].body}
COUNT_BITS = _WIDTHS["count"]
LENGTH_BITS = _WIDTHS["length"]


class LoopStack(wiring.Component):
    """Open loops, the innermost on top.

    Parameters:
        words: instructions of the longest program; ``pc`` is that of an instruction of a program.

    Members:
        pc: instruction that is being executed.
        clear: forget all loops.
        count, length: of the loop that the LOOP at ``pc`` describes.
        refused: that loop would nest too deep, or end behind the one around it. A cycle later than ``pc`` and
            ``length``, which have been there for longer when it matters.
        enter: open it.
        at_end: ``pc`` is the last instruction of the innermost loop.
        turn: such an instruction has finished: begin the next turn, or close the loop.
        again: there is a next turn.
        first: where it begins.
    """

    def __init__(self, words: int):
        # A loop may be said to end behind the program.
        self._pc_bits = bits_for(words + (1 << LENGTH_BITS))
        super().__init__(
            {
                "pc": In(self._pc_bits),
                "clear": In(1),
                "count": In(COUNT_BITS),
                "length": In(LENGTH_BITS),
                "refused": Out(1),
                "enter": In(1),
                "at_end": Out(1),
                "turn": In(1),
                "again": Out(1),
                "first": Out(self._pc_bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        entry = data.StructLayout({"first": self._pc_bits, "last": self._pc_bits, "left": COUNT_BITS})
        m.submodules.stack = stack = Memory(shape=entry, depth=LOOP_DEPTH, init=[])
        reader, writer = stack.read_port(domain="comb"), stack.write_port()
        level = Signal(range(LOOP_DEPTH + 1))  # open loops
        inside, last = Signal(), Signal(self._pc_bits)
        top = reader.data
        m.d.comb += [
            inside.eq(level != 0),
            reader.addr.eq(level - 1),
            last.eq(self.pc + self.length),
            self.at_end.eq(inside & (self.pc == top.last)),
            self.again.eq(top.left != 1),
            self.first.eq(top.first),
            writer.en.eq(self.enter | (self.turn & self.again)),
        ]
        with m.If(self.enter):
            m.d.comb += [
                writer.addr.eq(level),
                writer.data.first.eq(self.pc + 1),
                writer.data.last.eq(last),
                writer.data.left.eq(self.count),
            ]
        with m.Else():
            m.d.comb += [writer.addr.eq(level - 1), writer.data.eq(top), writer.data.left.eq(top.left - 1)]
        m.d.sync += self.refused.eq((level == LOOP_DEPTH) | (inside & (last > top.last)))
        with m.If(self.clear):
            m.d.sync += level.eq(0)
        with m.Elif(self.enter):
            m.d.sync += level.eq(level + 1)
        with m.Elif(self.turn & ~self.again):
            m.d.sync += level.eq(level - 1)
        return m
