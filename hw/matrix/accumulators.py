# SPDX-License-Identifier: Apache-2.0
"""Accumulators: for each lane sums that grow, and complete ones that wait for the emitter."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from catenary.hw.matrix.signatures import tokens_of
from catenary.isa.config import AcceleratorConfig

SUM_BITS = 32


def depth_of(config: AcceleratorConfig) -> int:
    """Accumulators that are behind each other: tokens that go side by side have their own."""
    return -(-config.mm_tokens // tokens_of(config))


class Accumulators(wiring.Component):
    """The accumulators of one lane: one addition and one read a cycle.

    Memory is read, added to and written in one cycle, so that a sum may grow in successive cycles. What is read is not
    that memory but a second one, which takes sums as they become complete, one behind the other: so the next sums grow
    while those before them are read, and no multiplexer is needed between an adder and several places.

    Parameters:
        config: the accelerator.
        width: bits of an addend.
        carries: an addend may come with a carry.

    Members:
        add: add ``addend`` and ``carry`` in this cycle.
        address: to this sum.
        first: the sum starts from 0.
        show: the new sum is one that the emitter may want: it can be read from the next cycle on, at ``show_at``.
        addend: signed.
        carry: one more, if there are carries.
        read_address: of the sum that is read.
        sum: the sum that is read, in the same cycle.
    """

    def __init__(self, config: AcceleratorConfig, width: int, carries: bool = False):
        self._carries = carries
        self._depth = depth_of(config)
        super().__init__(
            {
                "add": In(1),
                "address": In(range(self._depth)),
                "first": In(1),
                "show": In(1),
                "show_at": In(range(self._depth)),
                "addend": In(signed(width)),
                "carry": In(1),
                "read_address": In(range(self._depth)),
                "sum": Out(signed(SUM_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.growing = growing = Memory(shape=signed(SUM_BITS), depth=self._depth, init=[])
        m.submodules.shown = shown = Memory(shape=signed(SUM_BITS), depth=self._depth, init=[])
        before, after = growing.read_port(domain="comb"), growing.write_port()
        taken, read = shown.write_port(), shown.read_port(domain="comb")
        old, total = Mux(self.first, 0, before.data), Signal(signed(SUM_BITS))
        if self._carries:  # the lowest position makes the carry: one adder for all three
            m.d.comb += total.eq((Cat(1, old) + Cat(self.carry, self.addend).as_signed())[1:])
        else:
            m.d.comb += total.eq(old + self.addend)
        m.d.comb += [
            before.addr.eq(self.address),
            after.addr.eq(self.address),
            after.data.eq(total),
            after.en.eq(self.add),
            taken.addr.eq(self.show_at),
            taken.data.eq(total),
            taken.en.eq(self.add & self.show),
            read.addr.eq(self.read_address),
            self.sum.eq(read.data),
        ]
        return m
