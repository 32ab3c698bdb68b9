# SPDX-License-Identifier: Apache-2.0
"""From whole numbers to rows of codes in A."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.buffers.signatures import A_ADDRESS_BITS, CODE_BITS, AWrite
from catenary.hw.fp.format import FRACTION_BITS, Float32, constant
from catenary.hw.vector.decode import LENGTH_BITS, JobLayout
from catenary.hw.vector.microcode import ROUND
from catenary.isa.config import AcceleratorConfig
from catenary.isa.numbers import LOW_BITS
from catenary.isa.tensors import BLOCK


class Packer(wiring.Component):
    """Packs codes into words of A: one row, or two for the parts of softmax weights.

    Elements are sums with :data:`~catenary.hw.vector.microcode.ROUND`, so their lowest bits are whole numbers. No
    number is too large for its codes. Of two parts, numbers below 0 and NaN become 0.

    A row begins behind the one before, and ends with a ``final`` beat: then zeros fill it up to its length.

    Parameters:
        config: the accelerator.

    Members:
        load: a job begins.
        codes: the job's rows of codes.
        valid, ready: a beat comes: ``elements``, of which ``count`` count; the row's last one if ``final``.
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
                "valid": In(1),
                "ready": Out(1),
                "elements": In(data.ArrayLayout(32, self._lanes)),
                "count": In(range(self._lanes + 1)),
                "final": In(1),
                "busy": Out(1),
                "write": Out(AWrite(config)),
                "numeric": Out(1),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self._lanes
        size = max(lanes, BLOCK)  # codes of the tray
        words, slots = size // BLOCK, size // lanes

        # Codes of a beat; while there is none, they are 0.
        high, low = (Signal(data.ArrayLayout(CODE_BITS, lanes), name=name) for name in ("high", "low"))
        count, final, lost = Signal.like(self.count), Signal(), Signal()
        present, taken = Signal(), Signal()
        accepts = self.valid & self.ready
        lost_here = [self._codes(m, lane, accepts, taken, high[lane], low[lane]) for lane in range(lanes)]
        with m.If(accepts):
            m.d.sync += [present.eq(1), count.eq(self.count), final.eq(self.final), lost.eq(Cat(*lost_here).any())]
        with m.Elif(taken):
            m.d.sync += present.eq(0)
        closing = Signal()
        m.d.comb += [
            self.ready.eq(~closing & (~present | (taken & ~final))),
            self.numeric.eq(present & taken & lost & ~self.codes.two),
        ]

        # Beats move into a tray of at least one word. A full tray goes to the door. The end of a row: beats of zeros
        # until the tray is full, then words of zeros.
        slot = Signal(range(slots))
        tray_high, tray_low = (Signal((slots - 1) * lanes * CODE_BITS, name=f"tray_{name}") for name in ("high", "low"))
        door_high, door_low = (
            Signal(data.ArrayLayout(BLOCK * CODE_BITS, words), name=f"door_{name}") for name in ("high", "low")
        )
        waiting = Signal(range(words + 1))  # words at the door
        word = Signal(range((1 << LENGTH_BITS) // BLOCK + 1))  # words of the row that are in A
        moves, full, finished = Signal(), Signal(), Signal()
        padding = closing & ((slot != 0) | (Cat(Const(0, exact_log2(BLOCK)), word) < self.codes.total))
        m.d.comb += [
            full.eq(slot == slots - 1),
            moves.eq((present | padding) & ((waiting == 0) | ~(full | (closing & (slot == 0))))),
            taken.eq(present & moves),
            finished.eq(closing & ~padding & (waiting == 0)),
        ]
        with m.If(moves):
            m.d.sync += slot.eq(slot + 1)
            for tray, codes, door in ((tray_high, high, door_high), (tray_low, low, door_low)):
                whole = Cat(tray, codes)
                m.d.sync += tray.eq(whole[lanes * CODE_BITS :])
                with m.If(full | (closing & (slot == 0))):
                    m.d.sync += [tray.eq(0), door.eq(whole), slot.eq(0)]
            with m.If(full | (closing & (slot == 0))):
                m.d.sync += waiting.eq(Mux(present, (count + (BLOCK - 1)) >> exact_log2(BLOCK), 1) if words > 1 else 1)
        with m.If(taken & final):
            m.d.sync += closing.eq(1)
        with m.Elif(finished):
            m.d.sync += closing.eq(0)

        self._write(m, waiting, word, finished, door_high, door_low)
        m.d.comb += self.busy.eq(present | closing | (waiting != 0))
        return m

    def _codes(self, m: Module, lane: int, accepts: Value, taken: Value, high: Value, low: Value) -> Value:
        """Codes of one lane; returns whether it has no code."""
        number, here = Float32(self.elements[lane]), lane < self.count
        rounded = constant(ROUND)
        whole = number.exponent == rounded[FRACTION_BITS:-1]  # else it is NaN, or far from 0
        positive = whole & ~number.sign & number.fraction[-1]
        with m.If(accepts):
            with m.If(self.codes.two):
                m.d.sync += [high.eq(number.fraction[LOW_BITS:-1]), low.eq(number.fraction[:LOW_BITS])]
            with m.Else():
                m.d.sync += high.eq(number.fraction)
        with m.If(Mux(accepts, ~here | ~Mux(self.codes.two, positive, whole), taken)):
            m.d.sync += [high.eq(0), low.eq(0)]
        return here & ~whole

    def _write(
        self, m: Module, waiting: Signal, word: Signal, finished: Value, high: data.View, low: data.View
    ) -> None:
        """From the door to A, word by word, both parts of each."""
        row, second = Signal(A_ADDRESS_BITS + 1), Signal()
        high_at, low_at, address = (Signal(A_ADDRESS_BITS + 2, name=name) for name in ("high_at", "low_at", "address"))
        lower_row, next_row = Signal.like(row), Signal.like(row)
        with m.If(self.load):
            m.d.comb += next_row.eq(self.codes.address)
        with m.Else():
            m.d.comb += next_row.eq(Mux(self.codes.two, _next(lower_row, self.codes.stride), lower_row))
        m.d.comb += [
            lower_row.eq(_next(row, self.codes.stride)),
            address.eq(Mux(second, low_at, high_at)),
            self.fault.eq((waiting != 0) & address[A_ADDRESS_BITS:].any()),
            self.write.request.valid.eq((waiting != 0) & ~self.fault),
            self.write.request.payload.address.eq(address),
            self.write.request.payload.mask.eq(~0),
            self.write.request.payload.data.eq(Mux(second, low[0], high[0])),
        ]
        with m.If(self.write.request.valid & self.write.request.ready):
            m.d.sync += second.eq(~second & self.codes.two)
            with m.If(second | ~self.codes.two):
                m.d.sync += [word.eq(word + 1), waiting.eq(waiting - 1)]
                m.d.sync += [high_at.eq(high_at + 1), low_at.eq(low_at + 1)]
                m.d.sync += [door[at].eq(door[at + 1]) for door in (high, low) for at in range(len(high) - 1)]
        with m.If(finished | self.load):
            m.d.sync += [word.eq(0), row.eq(next_row)]
            m.d.sync += [high_at.eq(next_row), low_at.eq(_next(next_row, self.codes.stride))]


def _next(row, stride):
    """The next row; one that is behind every address stays there."""
    total = row[:-1] + stride
    return total[: A_ADDRESS_BITS + 1] | (row[-1] << A_ADDRESS_BITS)
