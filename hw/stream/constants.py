# SPDX-License-Identifier: Apache-2.0
"""Scales and biases of rows: they arrive by twos and are written one by one."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from catenary.hw.matrix.signatures import ConstantsWrite, lanes_of
from catenary.hw.stream.gearbox import WORD_BITS
from catenary.isa.config import AcceleratorConfig

CONSTANTS = 2
"""Constants of rows that are taken off the stream in one cycle."""


class ConstantPairLayout(data.StructLayout):
    """Constants of two neighbouring rows.

    Members:
        bias: they are biases, not scales.
        row: the first row, which is even.
        both: there are two.
        data: FP32 each.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {"bias": 1, "row": range(lanes_of(config)), "both": 1, "data": data.ArrayLayout(WORD_BITS, CONSTANTS)}
        )


class ConstantsQueue(wiring.Component):
    """A FIFO in front of the constants port, so that the stream goes on while constants are written.

    Parameters:
        config: the accelerator.
        depth: pairs that can wait.

    Members:
        pairs: off the stream.
        bank: of the row block that all constants in here belong to.
        port: to the emitter.
        pending: some are not written yet.
    """

    def __init__(self, config: AcceleratorConfig, depth: int = 16):
        self._layout, self._depth = ConstantPairLayout(config), depth
        super().__init__(
            {
                "pairs": In(stream.Signature(self._layout)),
                "bank": In(1),
                "port": Out(ConstantsWrite(config)),
                "pending": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=self._layout.size, depth=self._depth)
        pair, second = Signal(self._layout), Signal()
        m.d.comb += [
            fifo.w_en.eq(self.pairs.valid & self.pairs.ready),
            fifo.w_data.eq(self.pairs.payload),
            self.pairs.ready.eq(fifo.w_rdy),
            pair.eq(fifo.r_data),
            fifo.r_en.eq(second | ~pair.both),
            self.port.valid.eq(fifo.r_rdy),
            self.port.payload.bank.eq(self.bank),
            self.port.payload.bias.eq(pair.bias),
            self.port.payload.row.eq(pair.row | second),
            self.port.payload.data.eq(Mux(second, pair.data[1], pair.data[0])),
            self.pending.eq(fifo.level != 0),
        ]
        with m.If(fifo.r_rdy):
            m.d.sync += second.eq(~fifo.r_en)
        return m
