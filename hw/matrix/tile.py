# SPDX-License-Identifier: Apache-2.0
"""The tile ring: for each lane and slot a weight and which activation it multiplies."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from catenary.hw.matrix.signatures import COLUMN_BITS, SLOTS, WEIGHT_BITS
from catenary.isa.tensors import BLOCK


class TileGroup(wiring.Component):
    """The slots of one group of 16 lanes.

    Weights are needed a cycle later than the index, so each half is read by itself, straight into the registers that
    need it: no copy of a slot travels along the pipeline.

    Parameters:
        slots: slots of the ring.

    Members:
        write: put ``weights`` and ``index`` into slot ``write_slot``.
        load_index: the index registers become those of slot ``index_slot``.
        weights_slot: the slot that ``weight`` shows.
        select: index registers of the lanes.
        weight: weights of the lanes in ``weights_slot``, in the same cycle; to be registered where they are used.
    """

    def __init__(self, slots: int = SLOTS):
        self._slots = slots
        super().__init__(
            {
                "write": In(1),
                "write_slot": In(range(slots)),
                "weights": In(data.ArrayLayout(signed(WEIGHT_BITS), BLOCK)),
                "index": In(data.ArrayLayout(COLUMN_BITS, BLOCK)),
                "load_index": In(1),
                "index_slot": In(range(slots)),
                "weights_slot": In(range(slots)),
                "select": Out(COLUMN_BITS).array(BLOCK),
                "weight": Out(signed(WEIGHT_BITS)).array(BLOCK),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.indices = indices = Memory(shape=self.index.shape(), depth=self._slots, init=[])
        m.submodules.weights = weights = Memory(shape=self.weights.shape(), depth=self._slots, init=[])
        for memory, value in ((indices, self.index), (weights, self.weights)):
            writer = memory.write_port()
            m.d.comb += [writer.addr.eq(self.write_slot), writer.data.eq(value), writer.en.eq(self.write)]
        index_reader, weights_reader = indices.read_port(domain="comb"), weights.read_port(domain="comb")
        m.d.comb += [index_reader.addr.eq(self.index_slot), weights_reader.addr.eq(self.weights_slot)]
        selects = [Signal(COLUMN_BITS, name=f"select_{lane}", reset_less=True) for lane in range(BLOCK)]
        with m.If(self.load_index):
            m.d.sync += [select.eq(index_reader.data[lane]) for lane, select in enumerate(selects)]
        for lane in range(BLOCK):
            m.d.comb += [self.select[lane].eq(selects[lane]), self.weight[lane].eq(weights_reader.data[lane])]
        return m
