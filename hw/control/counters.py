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
        m.submodules.memory = memory = Memory(shape=COUNTER_BITS, depth=size, init=[])
        reader, writer = memory.read_port(domain="comb"), memory.write_port()
        turn = Signal(range(size))
        m.d.sync += turn.eq(Mux(turn == size - 1, 0, turn + 1))
        everything = (1 << size) - 1
        cleared = Signal(size, init=everything)  # counters whose memory is still to be cleared
        recent = Signal(range(max(self._limits.values()) * size + 1))
        for number, (name, limit) in enumerate(self._limits.items()):
            short = Signal(range(limit * size + 1), name=f"{name.lower()}_recent")
            step = self.steps[name]
            m.d.sync += short.eq(short + step)
            with m.If(turn == number):
                m.d.comb += recent.eq(short)
                m.d.sync += short.eq(step)
            with m.If(self.clear):
                m.d.sync += short.eq(0)
        m.d.comb += [
            reader.addr.eq(turn),
            writer.addr.eq(turn),
            writer.en.eq(1),
            self.value.eq(Mux(cleared.bit_select(turn, 1), 0, reader.data) + recent),
            self.valid.eq(self.number == turn),
            writer.data.eq(self.value),
        ]
        m.d.sync += cleared.bit_select(turn, 1).eq(0)
        with m.If(self.clear):
            m.d.sync += cleared.eq(everything)
        return m
