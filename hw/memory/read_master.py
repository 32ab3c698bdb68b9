# SPDX-License-Identifier: Apache-2.0
"""Reads ranges of beats through one AXI4 port, with as many bursts outstanding as there is room for their data."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.axi import NORMAL_MEMORY, AXI4ReadSignature, Burst, address_bits
from catenary.hw.memory.bursts import BurstSplitter, check_burst, check_depth, range_layout

READ_DEPTH = 256
"""Beats that a read FIFO holds unless told otherwise.

A beat of the FIFO is reserved from the request until the data has been taken. At full rate a memory latency of 120
cycles keeps 120 beats reserved, the burst that waits to be asked for 64, and 60 beats let the other ports go on while
one of them is blocked by refresh: 244. Block RAM is no smaller than 512 beats anyway.
"""

LEAST_DEPTH = 3
"""Least depth of a read FIFO: one of two beats does not take the second right behind the first, whatever its room."""


def beat_layout(data_bytes: int) -> data.StructLayout:
    """A beat that has been read: ``data``, and whether it came with an ``error`` response."""
    return data.StructLayout({"data": 8 * data_bytes, "error": 1})


class ReadMaster(wiring.Component):
    """AXI4 read master of one port.

    It asks for a burst only when the FIFO has room for all of it, so RREADY is always high and one port never holds up
    an interconnect that others share. All bursts have the same ID, so data comes in order.

    Parameters:
        data_bytes: width of the port.
        beats: beats of the memory behind it.
        max_burst: most beats of a burst, a power of two; a burst of so many bytes must not exceed 4 KB.
        depth: beats that the FIFO holds, at least ``max_burst`` and ``LEAST_DEPTH``.

    Members:
        command: a range of beats. Ready when everything of the one before has been asked for.
        beats: the beats of all commands, in order.
        axi: the port.
        beat: a beat crossed the port in this cycle.
        abort: drop commands and data, and what comes from bursts that have begun. For one cycle, or until ``idle``, or
            longer; no new command is taken meanwhile.
        idle: nothing is outstanding on the bus, and no command is left.
    """

    def __init__(self, data_bytes: int, beats: int, *, max_burst: int, depth: int = READ_DEPTH):
        check_burst(max_burst, data_bytes)
        check_depth(depth, max(max_burst, LEAST_DEPTH))
        self._data_bytes = data_bytes
        self._beats = beats
        self._max_burst = max_burst
        self._depth = depth
        super().__init__(
            {
                "command": In(stream.Signature(range_layout(beats))),
                "beats": Out(stream.Signature(beat_layout(data_bytes))),
                "axi": Out(AXI4ReadSignature(address_bits(beats, data_bytes), 8 * data_bytes)),
                "beat": Out(1),
                "abort": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        axi = self.axi
        draining = Signal()
        stop = Signal()
        m.d.comb += stop.eq(self.abort | draining)

        m.submodules.splitter = splitter = BurstSplitter(self._beats, self._max_burst)
        wiring.connect(m, wiring.flipped(self.command), splitter.command)
        m.d.comb += splitter.clear.eq(stop)
        burst = splitter.bursts.payload

        # AR: a register, so that a request stays as it is whatever happens behind it.
        credit = Signal(range(self._depth + 1), init=self._depth)
        owed = Signal(range(self._depth + 1))  # beats asked for that have not come
        issue, taken = Signal(), Signal()
        m.d.comb += [
            issue.eq(splitter.bursts.valid & (~axi.arvalid | axi.arready) & (credit > burst.length) & ~stop),
            splitter.bursts.ready.eq(issue),
            taken.eq(self.beats.valid & self.beats.ready),
            axi.arsize.eq(exact_log2(self._data_bytes)),
            axi.arburst.eq(Burst.INCR),
            axi.arcache.eq(NORMAL_MEMORY),
        ]
        with m.If(axi.arready):
            m.d.sync += axi.arvalid.eq(0)
        with m.If(issue):
            m.d.sync += [
                axi.arvalid.eq(1),
                axi.araddr.eq(Cat(Const(0, exact_log2(self._data_bytes)), burst.first)),
                axi.arlen.eq(burst.length),
            ]
        asked = Signal.like(owed)
        m.d.comb += asked.eq(Mux(issue, burst.length + 1, 0))
        with m.If(issue | taken):
            m.d.sync += credit.eq(credit - asked + taken)
        with m.If(issue | self.beat):
            m.d.sync += owed.eq(owed + asked - self.beat)

        # R
        fifo = SyncFIFOBuffered(width=self.beats.payload.shape().size, depth=self._depth)
        m.submodules.fifo = ResetInserter(draining)(fifo)
        m.d.comb += [
            axi.rready.eq(1),
            self.beat.eq(axi.rvalid),
            fifo.w_data.eq(Cat(axi.rdata, axi.rresp.as_value()[1])),
            fifo.w_en.eq(axi.rvalid & ~stop),
            self.beats.payload.eq(fifo.r_data),
            self.beats.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.beats.ready),
        ]

        m.d.comb += self.idle.eq(splitter.idle & ~axi.arvalid & (owed == 0))
        with m.If(self.abort):
            m.d.sync += draining.eq(1)
        with m.Elif(draining & ~axi.arvalid & (owed == 0)):
            m.d.sync += [draining.eq(0), credit.eq(self._depth)]
        return m
