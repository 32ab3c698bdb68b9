# SPDX-License-Identifier: Apache-2.0
"""Scales and biases of rows: several arrive in a cycle, and they are written one by one."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from catenary.hw.matrix.signatures import BANKS, ConstantsWrite, fill_groups, lanes_of
from catenary.isa.config import AcceleratorConfig

CONSTANT_BITS = 32


def constants_of(config: AcceleratorConfig) -> int:
    """Constants of rows that are taken off the stream in one cycle."""
    return 2 * fill_groups(config)


class ConstantsLayout(data.StructLayout):
    """Constants of neighbouring rows.

    Members:
        bias: they are biases, not scales.
        ends: they are the last of them.
        count: how many there are.
        data: FP32 each.
    """

    def __init__(self, config: AcceleratorConfig):
        most = constants_of(config)
        super().__init__(
            {"bias": 1, "ends": 1, "count": range(most + 1), "data": data.ArrayLayout(CONSTANT_BITS, most)}
        )


class ConstantsQueue(wiring.Component):
    """A FIFO in front of the constants port, so that the stream goes on while constants are written.

    Parameters:
        config: the accelerator.
        depth: takes that can wait.

    Members:
        write: append ``item``, in the cycle after a ``room`` that was used, or later.
        item: off the stream.
        room: there is room for another item, even if one is on its way.
        bank: of the row block that all constants in here belong to.
        port: to the emitter.
        pending: some are not written yet.
    """

    def __init__(self, config: AcceleratorConfig, depth: int = 16):
        self._config, self._depth = config, depth
        super().__init__(
            {
                "write": In(1),
                "item": In(ConstantsLayout(config)),
                "room": Out(1),
                "bank": In(range(BANKS)),
                "port": Out(ConstantsWrite(config)),
                "pending": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        most = constants_of(self._config)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=self.item.shape().size, depth=self._depth)
        item = Signal(self.item.shape())
        number, row = Signal(range(most)), Signal(range(lanes_of(self._config)))
        last = number + 1 == item.count
        m.d.comb += [
            fifo.w_en.eq(self.write),
            fifo.w_data.eq(self.item),
            self.room.eq(fifo.level < self._depth - 1),
            item.eq(fifo.r_data),
            fifo.r_en.eq(last),
            self.port.valid.eq(fifo.r_rdy),
            self.port.payload.bank.eq(self.bank),
            self.port.payload.bias.eq(item.bias),
            self.port.payload.row.eq(row),
            self.port.payload.data.eq(item.data[number]),
            self.pending.eq(self.write | (fifo.level != 0)),
        ]
        with m.If(fifo.r_rdy):
            m.d.sync += [number.eq(Mux(last, 0, number + 1)), row.eq(Mux(last & item.ends, 0, row + 1))]
        return m
