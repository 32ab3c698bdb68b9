# SPDX-License-Identifier: Apache-2.0
"""Accumulators: two banks of INT32 sums for each lane."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from catenary.hw.matrix.signatures import BANKS
from catenary.isa.config import AcceleratorConfig

SUM_BITS = 32


class AccumulatorControl(wiring.Signature):
    """What all accumulators of the array do in a cycle, from the point of view of who controls them.

    Each bank has an address of its own: that of the addition in the bank that is added to, that of the reader in the
    other one. So a bank needs only one read port, which is half the memory of two.

    Members:
        bank: where the addition goes.
        first: the sum starts from 0.
        addresses: of the sum that is added to or read in each bank.
        read_bank: the bank that is read.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "bank": Out(range(BANKS)),
                "first": Out(1),
                "addresses": Out(range(config.mm_tokens)).array(BANKS),
                "read_bank": Out(range(BANKS)),
            }
        )


class Accumulators(wiring.Component):
    """The accumulators of one lane: one addition a cycle into one bank, while the other is read.

    Memory is read, added to and written in one cycle, so that a sum may grow in successive cycles.

    Parameters:
        config: the accelerator.
        width: bits of an addend.

    Members:
        control: addresses, common to all lanes.
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
        sums = []
        for bank in range(BANKS):
            memory = Memory(shape=signed(SUM_BITS), depth=self._depth, init=[])
            m.submodules[f"bank_{bank}"] = memory
            writer, reader = memory.write_port(), memory.read_port(domain="comb")
            # An adder for each bank takes no more logic than a multiplexer between the banks in front of one.
            m.d.comb += [
                reader.addr.eq(control.addresses[bank]),
                writer.addr.eq(control.addresses[bank]),
                writer.data.eq(Mux(control.first, 0, reader.data) + self.addend),
                writer.en.eq(self.add & (control.bank == bank)),
            ]
            sums.append(reader.data)
        m.d.comb += self.sum.eq(Mux(control.read_bank, sums[1], sums[0]))
        return m
