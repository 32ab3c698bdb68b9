# SPDX-License-Identifier: Apache-2.0
"""Accumulators: for each lane sums that grow, and complete ones that wait for the emitter."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from catenary.isa.config import AcceleratorConfig

SUM_BITS = 32


class AccumulatorControl(wiring.Signature):
    """What accumulators do in a cycle, from the point of view of who controls them.

    Members:
        address: of the sum that is added to.
        first: the sum starts from 0.
        show: the new sum is one that the emitter may want: it can be read from the next cycle on.
        read_address: of the sum that is read.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "address": Out(range(config.mm_tokens)),
                "first": Out(1),
                "show": Out(1),
                "read_address": Out(range(config.mm_tokens)),
            }
        )


class Accumulators(wiring.Component):
    """The accumulators of one lane: one addition and one read a cycle.

    Memory is read, added to and written in one cycle, so that a sum may grow in successive cycles. What is read is not
    that memory but a second one, which takes sums as they become complete: so the next sums grow while those before
    them are read, and no multiplexer is needed between an adder and two banks.

    Parameters:
        config: the accelerator.
        width: bits of an addend.

    Members:
        control: addresses, common to lanes.
        add: add ``addend`` in this cycle.
        addend: signed.
        sum: the sum that is read, in the same cycle.
    """

    def __init__(self, config: AcceleratorConfig, width: int):
        self._depth = config.mm_tokens
        super().__init__(
            {
                "control": In(AccumulatorControl(config)),
                "add": In(1),
                "addend": In(signed(width)),
                "sum": Out(signed(SUM_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        control = self.control
        m.submodules.growing = growing = Memory(shape=signed(SUM_BITS), depth=self._depth, init=[])
        m.submodules.shown = shown = Memory(shape=signed(SUM_BITS), depth=self._depth, init=[])
        before, after = growing.read_port(domain="comb"), growing.write_port()
        taken, read = shown.write_port(), shown.read_port(domain="comb")
        m.d.comb += [
            before.addr.eq(control.address),
            after.addr.eq(control.address),
            after.data.eq(Mux(control.first, 0, before.data) + self.addend),
            after.en.eq(self.add),
            taken.addr.eq(control.address),
            taken.data.eq(after.data),
            taken.en.eq(self.add & control.show),
            read.addr.eq(control.read_address),
            self.sum.eq(read.data),
        ]
        return m
