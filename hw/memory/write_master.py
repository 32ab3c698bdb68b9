# SPDX-License-Identifier: Apache-2.0
"""Writes ranges of beats through one AXI4 port."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.axi import NORMAL_MEMORY, AXI4WriteSignature, Burst, address_bits
from catenary.hw.memory.bursts import BurstSplitter, check_burst, check_depth, range_layout

WRITE_DEPTH = 64
"""Beats that a write FIFO holds unless told otherwise: what comes while refresh blocks the port."""

WRITE_BURSTS = 16
"""Most bursts that wait for their response unless told otherwise."""

SLACK = 8
"""Free beats that ``room`` promises."""


def written_layout(data_bytes: int) -> data.StructLayout:
    """One beat to write: ``data``, and a ``strobe`` for each of its bytes."""
    return data.StructLayout({"data": 8 * data_bytes, "strobe": data_bytes})


class WriteMaster(wiring.Component):
    """AXI4 write master of one port.

    Where a burst ends follows from the address alone (see :class:`BurstSplitter`), so channel W needs no queue of
    lengths. A burst's address is offered when all its beats are in the FIFO, and the beats from that cycle on; neither
    waits for the other to be accepted. So a store that waits for its buffer never holds up an interconnect.

    Parameters:
        data_bytes: width of the port.
        beats: beats of the memory behind it.
        max_burst: most beats of a burst, a power of two; a burst of so many bytes must not exceed 4 KB.
        depth: beats that the FIFO holds, at least ``max_burst + SLACK``: whoever heeds ``room`` must be able to put all
            beats of a burst into it.
        bursts: most bursts that wait for their response.

    Members:
        command: a range of beats. Ready when everything of the one before has been offered.
        data: the beats of all commands, in order, with their byte strobes. Beats before their command are kept.
        room: the FIFO takes ``SLACK`` more beats at least.
        axi: the port.
        written: bytes that the beat in this cycle wrote, 0 without one.
        error: a burst was answered with an error in this cycle.
        abort: drop commands and data; finish bursts that have begun, with no strobe set. For one cycle, or until
            ``idle``, or longer; no new command is taken meanwhile.
        idle: all that was commanded has been acknowledged.
    """

    def __init__(
        self,
        data_bytes: int,
        beats: int,
        *,
        max_burst: int,
        depth: int = WRITE_DEPTH,
        bursts: int = WRITE_BURSTS,
    ):
        check_burst(max_burst, data_bytes)
        check_depth(depth, max_burst + SLACK)
        self._data_bytes = data_bytes
        self._beats = beats
        self._max_burst = max_burst
        self._depth = depth
        self._bursts = bursts
        super().__init__(
            {
                "command": In(stream.Signature(range_layout(beats))),
                "data": In(stream.Signature(written_layout(data_bytes))),
                "room": Out(1),
                "axi": Out(AXI4WriteSignature(address_bits(beats, data_bytes), 8 * data_bytes)),
                "written": Out(range(data_bytes + 1)),
                "error": Out(1),
                "abort": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        axi = self.axi
        draining, stop = Signal(), Signal()
        m.d.comb += stop.eq(self.abort | draining)

        m.submodules.splitter = splitter = BurstSplitter(self._beats, self._max_burst)
        burst = splitter.bursts.payload
        left = Signal.like(self.command.payload.count)  # beats that W has not offered
        m.d.comb += [
            splitter.clear.eq(stop),
            splitter.command.payload.eq(self.command.payload),
            splitter.command.valid.eq(self.command.valid & (left == 0)),
            self.command.ready.eq(splitter.command.ready & (left == 0)),
        ]

        # AW, and the bursts that are under way.
        issue, last_offered = Signal(), Signal()
        offered = Signal(range(self._bursts + 1))  # addresses whose last beat has not been offered
        unanswered = Signal(range(self._bursts + 1))
        collected = Signal(range(self._depth + 1))  # beats in the FIFO that belong to no burst that has been offered
        beat = Signal()  # crosses the port
        m.d.comb += [
            issue.eq(
                splitter.bursts.valid
                & (~axi.awvalid | axi.awready)
                & (unanswered != self._bursts)
                & (collected > burst.length)
                & ~stop
            ),
            splitter.bursts.ready.eq(issue),
            axi.awsize.eq(exact_log2(self._data_bytes)),
            axi.awburst.eq(Burst.INCR),
            axi.awcache.eq(NORMAL_MEMORY),
        ]
        with m.If(axi.awready):
            m.d.sync += axi.awvalid.eq(0)
        with m.If(issue):
            m.d.sync += [
                axi.awvalid.eq(1),
                axi.awaddr.eq(Cat(Const(0, exact_log2(self._data_bytes)), burst.first)),
                axi.awlen.eq(burst.length),
            ]
        with m.If(issue | last_offered):
            m.d.sync += offered.eq(offered + issue - last_offered)
        put = self.data.valid & self.data.ready
        with m.If(draining):
            m.d.sync += collected.eq(0)
        with m.Elif(issue | put):
            m.d.sync += collected.eq(collected + put - Mux(issue, burst.length + 1, 0))
        with m.If(issue | axi.bvalid):
            m.d.sync += unanswered.eq(unanswered + issue - axi.bvalid)

        # W: a register, so that a beat stays as it is whatever happens behind it.
        fifo = SyncFIFOBuffered(width=9 * self._data_bytes, depth=self._depth)
        m.submodules.fifo = ResetInserter(draining)(fifo)
        place = Signal(exact_log2(self._max_burst))  # of the next beat, modulo max_burst
        offer, final = Signal(), Signal()
        source = data.View(self.data.payload.shape(), fifo.r_data)
        m.d.comb += [
            fifo.w_data.eq(self.data.payload),
            fifo.w_en.eq(self.data.valid & ~stop),
            self.data.ready.eq(fifo.w_rdy & ~stop),
            self.room.eq(fifo.w_level <= self._depth - SLACK),
            offer.eq((~axi.wvalid | axi.wready) & (offered != 0) & ((fifo.r_rdy & ~stop) | draining)),
            fifo.r_en.eq(offer),
            final.eq((left == 1) | (place == self._max_burst - 1)),
            last_offered.eq(offer & final),
        ]
        with m.If(axi.wready):
            m.d.sync += axi.wvalid.eq(0)
        with m.If(offer):
            m.d.sync += [
                axi.wvalid.eq(1),
                axi.wdata.eq(source.data),
                axi.wstrb.eq(source.strobe),
                axi.wlast.eq(final),
                left.eq(left - 1),
                place.eq(place + 1),
            ]
            with m.If(draining):
                m.d.sync += axi.wstrb.eq(0)
        with m.If(self.command.valid & self.command.ready):
            m.d.sync += [left.eq(self.command.payload.count), place.eq(self.command.payload.first)]

        m.d.comb += [
            beat.eq(axi.wvalid & axi.wready),
            axi.bready.eq(1),
            self.error.eq(axi.bvalid & axi.bresp.as_value()[1] & ~stop),
            self.idle.eq(splitter.idle & ((left == 0) | draining) & (unanswered == 0)),
        ]
        with m.If(beat):
            m.d.comb += self.written.eq(_ones(list(axi.wstrb)))

        with m.If(self.abort):
            m.d.sync += draining.eq(1)
        with m.Elif(draining & (offered == 0) & (unanswered == 0)):
            m.d.sync += [draining.eq(0), left.eq(0)]
        return m


def _ones(bits: list):
    """How many of ``bits`` are set."""
    if len(bits) == 1:
        return bits[0]
    half = len(bits) // 2
    return _ones(bits[:half]) + _ones(bits[half:])
