# SPDX-License-Identifier: Apache-2.0
"""From numbers to rows of codes in A."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.buffers.signatures import A_ADDRESS_BITS, CODE_BITS, AWrite
from catenary.hw.fp.convert import FpToInt
from catenary.hw.vector.decode import LENGTH_BITS, JobLayout
from catenary.isa.config import AcceleratorConfig
from catenary.isa.numbers import LOW_BITS, PROBABILITY_LIMIT
from catenary.isa.tensors import BLOCK


class Packer(wiring.Component):
    """Rounds elements and packs their codes into words of A: one row, or two for the parts of softmax weights.

    A row begins behind the one before, and is closed by a beat without elements: then zeros fill it up to its length.

    Parameters:
        config: the accelerator.

    Members:
        load: a job begins.
        codes: the job's rows of codes.
        enable: elements move on.
        valid: a beat comes: ``elements``, of which ``count`` count; or the end of the row, if ``close``.
        stall: elements cannot move on in this cycle.
        busy: something is not in A yet.
        write: A.
        numeric: a NaN has become 0.
        fault: an address has overflowed.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._lanes = config.vector_lanes
        super().__init__(
            {
                "load": In(1),
                "codes": In(JobLayout["codes"].shape),
                "enable": In(1),
                "valid": In(1),
                "elements": In(data.ArrayLayout(32, self._lanes)),
                "count": In(range(self._lanes + 1)),
                "close": In(1),
                "stall": Out(1),
                "busy": Out(1),
                "write": Out(AWrite(config)),
                "numeric": Out(1),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, latency = self._lanes, FpToInt.latency
        size = max(lanes, BLOCK)  # codes of the tray
        words = size // BLOCK

        # Rounding. What goes with the elements: valid, count, close.
        present, closes = Signal(latency), Signal(latency)
        counts = [Signal.like(self.count, name=f"count_{at}") for at in range(latency)]
        moves = self.enable & (self.valid | present.any())
        with m.If(moves):
            m.d.sync += [present.eq((present << 1) | self.valid), closes.eq((closes << 1) | self.close)]
            m.d.sync += [after.eq(before) for after, before in zip(counts, [self.count, *counts[:-1]], strict=True)]
        arrived, count = present[-1], counts[-1]
        high = Signal(data.ArrayLayout(CODE_BITS, lanes))
        low = Signal(data.ArrayLayout(CODE_BITS, lanes))
        lost = Signal(lanes)
        for lane in range(lanes):
            # Numbers for one-part codes are never beyond their smaller limit.
            m.submodules[f"convert_{lane}"] = convert = FpToInt(PROBABILITY_LIMIT)
            code = Signal(signed(PROBABILITY_LIMIT.bit_length() + 1), name=f"code_{lane}")
            m.d.comb += [
                convert.enable.eq(moves),
                convert.i.eq(self.elements[lane]),
                lost[lane].eq(convert.nan & (lane < count)),
            ]
            with m.If(lane < count):
                m.d.comb += code.eq(convert.o)
            with m.If(~self.codes.two):
                m.d.comb += high[lane].eq(code[:CODE_BITS])
            with m.Elif(code >= 0):
                m.d.comb += [high[lane].eq(code[LOW_BITS:]), low[lane].eq(code[:LOW_BITS])]

        # Packing into a tray of at least one word. A full tray, or the last one, goes to the door.
        slots = size // lanes
        slot = Signal(range(slots))
        tray_high, tray_low = (Signal(data.ArrayLayout(lanes * CODE_BITS, slots)) for _ in range(2))
        full_high, full_low = (Signal(data.ArrayLayout(lanes * CODE_BITS, slots)) for _ in range(2))
        door_high, door_low = (Signal(data.ArrayLayout(BLOCK * CODE_BITS, words)) for _ in range(2))
        waiting = Signal(range(words + 1))  # words at the door
        tray_words, fills = Signal(range(words + 1)), Signal()
        m.d.comb += [full_high.eq(tray_high), full_low.eq(tray_low)]
        with m.If(~closes[-1]):
            m.d.comb += [full_high[slot].eq(high.as_value()), full_low[slot].eq(low.as_value())]
        m.d.comb += tray_words.eq(Mux(closes[-1], 1, (count + (BLOCK - 1)) >> exact_log2(BLOCK)))

        # The end of a row: first what is in the tray, then words of zeros, as the tray is empty by then.
        total = Signal(range((1 << LENGTH_BITS) // BLOCK + 1))
        word, entered = Signal.like(total), Signal.like(total)  # words of the row that are in A; and those at the door
        m.d.comb += total.eq((self.codes.total + (BLOCK - 1)) >> exact_log2(BLOCK))
        finished = closes[-1] & (slot == 0) & (entered >= total) & (waiting == 0)
        with m.If(arrived):
            with m.If(closes[-1]):
                m.d.comb += [fills.eq((waiting == 0) & ~finished), self.stall.eq(~finished)]
            with m.Elif((slot == slots - 1) | (lanes >= BLOCK)):
                m.d.comb += [fills.eq(waiting == 0), self.stall.eq(waiting != 0)]
        with m.If(arrived & ~self.stall & self.enable & ~closes[-1]):
            m.d.sync += slot.eq(slot + 1)
            with m.If(~fills):
                m.d.sync += [tray_high.eq(full_high), tray_low.eq(full_low)]
            m.d.comb += self.numeric.eq(lost.any() & ~self.codes.two)
        with m.If(fills & (self.enable | closes[-1])):
            m.d.sync += [
                door_high.eq(full_high),
                door_low.eq(full_low),
                tray_high.eq(0),
                tray_low.eq(0),
                slot.eq(0),
                waiting.eq(tray_words),
                entered.eq(entered + tray_words),
            ]

        # The door: word by word, both parts of each.
        row, second = Signal(A_ADDRESS_BITS + 1), Signal()
        lower_row = Signal(A_ADDRESS_BITS + 1)
        address = Signal(A_ADDRESS_BITS + 2)
        front_high, front_low = door_high[0], door_low[0]
        m.d.comb += [
            lower_row.eq(_next(row, self.codes.stride)),
            address.eq(Mux(second, lower_row, row) + word),
            self.fault.eq((waiting != 0) & address[A_ADDRESS_BITS:].any()),
            self.write.request.valid.eq((waiting != 0) & ~self.fault),
            self.write.request.payload.address.eq(address),
            self.write.request.payload.mask.eq(~0),
            self.write.request.payload.data.eq(Mux(second, front_low, front_high)),
        ]
        with m.If(self.write.request.valid & self.write.request.ready):
            m.d.sync += second.eq(~second & self.codes.two)
            with m.If(second | ~self.codes.two):
                m.d.sync += [word.eq(word + 1), waiting.eq(waiting - 1)]
                m.d.sync += [door[at].eq(door[at + 1]) for door in (door_high, door_low) for at in range(words - 1)]
        with m.If(arrived & finished & self.enable):
            m.d.sync += [word.eq(0), entered.eq(0)]
            m.d.sync += row.eq(Mux(self.codes.two, _next(lower_row, self.codes.stride), lower_row))
        with m.If(self.load):
            m.d.sync += [row.eq(self.codes.address), word.eq(0), entered.eq(0)]
        m.d.comb += self.busy.eq(present.any() | (waiting != 0))
        return m


def _next(row, stride):
    """The next row; one that is behind every address stays there."""
    total = row[:-1] + stride
    return total[: A_ADDRESS_BITS + 1] | (row[-1] << A_ADDRESS_BITS)
