# SPDX-License-Identifier: Apache-2.0
"""The tile ring: for each lane and slot a weight and which activation it multiplies."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from catenary.hw.dsp.segment import SEGMENT
from catenary.hw.matrix.signatures import COLUMN_BITS, WEIGHT_BITS
from catenary.isa.tensors import BLOCK


class TileGroup(wiring.Component):
    """The slots of one group of 16 lanes.

    Lanes whose position in their segment is the same have a memory of their own, because each position works on a step
    a cycle later than the one before it. Weights are needed a cycle later than the index, so each half is read by
    itself, straight into the registers that need it: no copy of a slot travels along the pipeline.

    Parameters:
        slots: slots of the ring.

    Members:
        write: put ``weights`` and ``index`` into slot ``write_slot``.
        load_index: by position: the index registers become those of slot ``index_slots``.
        weights_slots: by position: the slot that ``weight`` shows.
        select: index registers of the lanes.
        weight: weights of the lanes in their position's ``weights_slots``, in the same cycle; to be registered where
            they are used.
    """

    def __init__(self, slots: int):
        self._slots = slots
        super().__init__(
            {
                "write": In(1),
                "write_slot": In(range(slots)),
                "weights": In(data.ArrayLayout(signed(WEIGHT_BITS), BLOCK)),
                "index": In(data.ArrayLayout(COLUMN_BITS, BLOCK)),
                "load_index": In(SEGMENT),
                "index_slots": In(range(slots)).array(SEGMENT),
                "weights_slots": In(range(slots)).array(SEGMENT),
                "select": Out(COLUMN_BITS).array(BLOCK),
                "weight": Out(signed(WEIGHT_BITS)).array(BLOCK),
            }
        )

    def elaborate(self, platform):
        m = Module()
        for position in range(SEGMENT):
            lanes = range(position, BLOCK, SEGMENT)
            readers = []
            for name, value, slot in (
                ("indices", self.index, self.index_slots[position]),
                ("weights", self.weights, self.weights_slots[position]),
            ):
                shape = data.ArrayLayout(value.shape().elem_shape, len(lanes))
                m.submodules[f"{name}_{position}"] = memory = Memory(shape=shape, depth=self._slots, init=[])
                writer, reader = memory.write_port(), memory.read_port(domain="comb")
                m.d.comb += [writer.addr.eq(self.write_slot), writer.en.eq(self.write), reader.addr.eq(slot)]
                m.d.comb += [writer.data[i].eq(value[lane]) for i, lane in enumerate(lanes)]
                readers.append(reader.data)
            selects = [Signal(COLUMN_BITS, name=f"select_{lane}", reset_less=True) for lane in lanes]
            with m.If(self.load_index[position]):
                m.d.sync += [select.eq(readers[0][i]) for i, select in enumerate(selects)]
            for i, lane in enumerate(lanes):
                m.d.comb += [self.select[lane].eq(selects[i]), self.weight[lane].eq(readers[1][i])]
        return m
