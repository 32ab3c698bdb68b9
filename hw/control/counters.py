# SPDX-License-Identifier: Apache-2.0
"""Many long counters in one memory.

A counter of 64 bits in registers costs 64 of them and as many LUTs. Here each event has a short counter, and one adder
goes round: every cycle it adds the short counter of one event to the memory and starts it anew. A short counter
therefore has room for what happens in one round.
"""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

COUNTER_BITS = 64


class Counters(wiring.Component):
    """64-bit counters.

    Parameters:
        limits: by name, in the order of their numbers: the most that a counter goes up in a cycle.

    Members:
        steps: by name, by how much each goes up in this cycle.
        clear: all counters to 0, without what this cycle adds.
        number: of the counter to read.
        valid: ``value`` is that of counter ``number``; so once in as many cycles as there are counters.
        value: with everything up to the cycle before this one.
    """

    def __init__(self, limits: Mapping[str, int]):
        self._limits = dict(limits)
        super().__init__(
            {
                "steps": In(data.StructLayout({name: range(limit + 1) for name, limit in limits.items()})),
                "clear": In(1),
                "number": In(range(len(limits))),
                "valid": Out(1),
                "value": Out(COUNTER_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        size = len(self._limits)
        m.submodules.memory = memory = Memory(shape=COUNTER_BITS, depth=size, init=[], attrs={"ram_style": "block"})
        reader, writer = memory.read_port(), memory.write_port()
        turn, following = Signal(range(size)), Signal(range(size))
        stale = Signal(range(size + 1), init=size)  # turns in which memory holds what has been cleared
        m.d.comb += following.eq(Mux(turn == size - 1, 0, turn + 1))
        m.d.sync += turn.eq(following)
        shorts = Signal(data.ArrayLayout(range(max(self._limits.values()) * size + 1), size))  # of few, all bits
        recent = Signal(shorts.shape().elem_shape)
        m.d.comb += recent.eq(shorts[turn])
        for number, (name, limit) in enumerate(self._limits.items()):
            short, step = shorts[number][: bits_for(limit * size)], self.steps[name]
            m.d.sync += short.eq(short + step)
            with m.If(turn == number):
                m.d.sync += short.eq(step)
            with m.If(self.clear):
                m.d.sync += short.eq(0)
        m.d.comb += [
            reader.addr.eq(following),
            writer.addr.eq(turn),
            writer.en.eq(1),
            self.value.eq(Mux(stale != 0, 0, reader.data) + recent),
            self.valid.eq(self.number == turn),
            writer.data.eq(self.value),
        ]
        with m.If(self.clear):
            m.d.sync += stale.eq(size)
        with m.Elif(stale != 0):
            m.d.sync += stale.eq(stale - 1)
        return m
