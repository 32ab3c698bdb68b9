# SPDX-License-Identifier: Apache-2.0
"""The table of a row block: what its codes stand for."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.matrix.signatures import WEIGHT_BITS, fill_groups
from catenary.isa.config import AcceleratorConfig
from catenary.isa.tensors import BLOCK, TABLE_ENTRIES

TABLE_CODE_BITS = exact_log2(TABLE_ENTRIES)

PAIR_BITS = 2 * WEIGHT_BITS
"""Bits that are taken in one cycle: whole units, so that they need no alignment."""


class TableSignature(wiring.Signature):
    """Looking codes up, from the point of view of who has them.

    Members:
        codes: of all lanes of a tile write.
        entries: what they stand for, in the same cycle.
    """

    def __init__(self, config: AcceleratorConfig):
        lanes = fill_groups(config) * BLOCK
        super().__init__({"codes": Out(lanes * TABLE_CODE_BITS), "entries": In(lanes * WEIGHT_BITS)})


class CodeTable(wiring.Component):
    """Sixteen entries that all lanes look their codes up in, written one by one.

    Codes without a table go through it, too, as numbers that stand for themselves. That is what it holds soon after
    reset, and what it is given back for the first row block without a table behind one that has one.

    Parameters:
        config: the accelerator.

    Members:
        write: write ``pair``, which stays for another cycle.
        pair: two entries.
        room: two more can be taken in this cycle.
        restore: pulse: the next row block has no table; only while not ``busy``, unless after reset.
        busy: entries are being written.
        port: who looks codes up.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "write": In(1),
                "pair": In(PAIR_BITS),
                "room": Out(1),
                "restore": In(1),
                "busy": Out(1),
                "port": In(TableSignature(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(
            shape=WEIGHT_BITS, depth=TABLE_ENTRIES, init=[], attrs={"ram_style": "distributed"}
        )
        writer = memory.write_port()
        at, second = Signal(range(TABLE_ENTRIES)), Signal()
        restoring, plain = Signal(init=1), Signal(init=1)
        low, high = self.pair.word_select(0, WEIGHT_BITS), self.pair.word_select(1, WEIGHT_BITS)
        m.d.comb += [
            writer.en.eq(self.write | second | restoring),
            writer.addr.eq(at),
            writer.data.eq(Mux(restoring, at, Mux(second, high, low))),
            self.room.eq(~self.write & ~restoring),
            self.busy.eq(writer.en),
        ]
        m.d.sync += second.eq(self.write)
        with m.If(writer.en):
            m.d.sync += at.eq(at + 1)
            with m.If(at == TABLE_ENTRIES - 1):
                m.d.sync += restoring.eq(0)
        with m.If(self.write):
            m.d.sync += plain.eq(0)
        with m.If(self.restore & ~plain):
            m.d.sync += [restoring.eq(1), plain.eq(1)]

        for lane in range(fill_groups(self._config) * BLOCK):
            reader = memory.read_port(domain="comb")
            m.d.comb += [
                reader.addr.eq(self.port.codes.word_select(lane, TABLE_CODE_BITS)),
                self.port.entries.word_select(lane, WEIGHT_BITS).eq(reader.data),
            ]
        return m
