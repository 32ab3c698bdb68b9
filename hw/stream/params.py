# SPDX-License-Identifier: Apache-2.0
"""Scales and zeros of one group: written four rows at a time, read as 16 lanes."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from catenary.hw.matrix.signatures import groups_of
from catenary.hw.stream.products import gated_product
from catenary.isa.config import AcceleratorConfig
from catenary.isa.tensors import BLOCK, KEPT_CHOICES

PARAM_ROWS = 4
"""Rows whose scales and zeros are written in one cycle."""

PairLayout = data.StructLayout({"scale": 8, "zero": 8})
"""Scale and zero of a row, as they stand in the stream."""

LaneParams = data.StructLayout({"scale": 8, "shift": 8})
"""What expands a code q: ``q * scale - shift``, modulo 256, with ``shift = zero * scale``."""


class ParamsSignature(wiring.Signature):
    """Reading scales and zeros, from the reader's point of view.

    Members:
        read: ask for the rows of a group of lanes.
        group: lanes 16 * group to 16 * group + 15.
        kept: log2 N of the row block.
        lanes: what was asked for in the cycle before, for each lane of the group.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "read": Out(1),
                "group": Out(range(groups_of(config))),
                "kept": Out(range(len(KEPT_CHOICES))),
                "lanes": In(data.ArrayLayout(LaneParams, BLOCK)),
            }
        )


class GroupParams(wiring.Component):
    """Scale and shift of every row of a row block, for one group of columns.

    A write is visible to reads from the second cycle after it on.

    Parameters:
        config: the accelerator.

    Members:
        clear: the next write begins with row 0.
        write: append ``pairs``.
        pairs: of four rows.
        port: the reader.
    """

    def __init__(self, config: AcceleratorConfig):
        self._groups = groups_of(config)
        super().__init__(
            {
                "clear": In(1),
                "write": In(1),
                "pairs": In(data.ArrayLayout(PairLayout, PARAM_ROWS)),
                "port": In(ParamsSignature(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        parts = BLOCK // PARAM_ROWS
        quarter = data.ArrayLayout(LaneParams, PARAM_ROWS)
        m.submodules.memory = memory = Memory(
            shape=data.ArrayLayout(quarter.size, parts), depth=self._groups, init=[], attrs={"ram_style": "distributed"}
        )
        writer, reader = memory.write_port(granularity=1), memory.read_port()

        # Products need a cycle of their own.
        pending, pairs = Signal(), Signal.like(self.pairs, reset_less=True)
        place = Signal(range(self._groups * parts))
        m.d.sync += pending.eq(self.write)
        with m.If(self.write):
            m.d.sync += pairs.eq(self.pairs)
        with m.If(pending):
            m.d.sync += place.eq(place + 1)
        with m.If(self.clear):
            m.d.sync += place.eq(0)
        rows = Signal(quarter)
        for row, pair in zip(rows, pairs, strict=True):
            m.d.comb += [row.scale.eq(pair.scale), row.shift.eq(gated_product(pair.zero, pair.scale))]
        m.d.comb += [
            writer.addr.eq(place // parts),
            writer.en.eq(pending << (place % parts)),
            *(part.eq(rows) for part in writer.data),
        ]

        # A word holds 16 rows, which are the rows of N groups: halve until the first row of this group is in front.
        port = self.port
        first, row_lanes = Signal(range(BLOCK), reset_less=True), Signal.like(port.kept, reset_less=True)
        m.d.comb += [reader.en.eq(port.read), reader.addr.eq(port.group >> port.kept)]
        with m.If(port.read):
            m.d.sync += row_lanes.eq(port.kept)
            with m.Switch(port.kept):
                for code, kept in enumerate(KEPT_CHOICES):
                    with m.Case(code):
                        m.d.sync += first.eq((port.group % kept) * (BLOCK // kept))
        shown = [reader.data.as_value().word_select(i, LaneParams.size) for i in range(BLOCK)]
        for bit in reversed(range(len(first))):
            half = 1 << bit
            shown[:half] = [Mux(first[bit], shown[i + half], shown[i]) for i in range(half)]
        with m.Switch(row_lanes):
            for code, kept in enumerate(KEPT_CHOICES):
                with m.Case(code):
                    m.d.comb += [port.lanes[lane].eq(shown[lane // kept]) for lane in range(BLOCK)]
        return m
