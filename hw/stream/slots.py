# SPDX-License-Identifier: Apache-2.0
"""Who owns the slots of the tile ring, and the banks of accumulators and constants."""

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.matrix.signatures import BANKS


class SlotRing(wiring.Component):
    """Gives slots away in order; the array gives them back in the same order.

    Parameters:
        slots: of the tile ring.

    Members:
        claim: take a slot; only while ``free``.
        free: there is a slot to take.
        slot: the one that a claim in this cycle gets, else the one last taken.
        freed: pulse: the oldest slot in use is free again.
    """

    def __init__(self, slots: int):
        self._slots = slots
        super().__init__({"claim": In(1), "free": Out(1), "slot": Out(range(slots)), "freed": In(1)})

    def elaborate(self, platform):
        m = Module()
        following, latest = Signal(range(self._slots)), Signal(range(self._slots))
        used = Signal(range(self._slots + 1))
        m.d.comb += [self.free.eq(used != self._slots), self.slot.eq(Mux(self.claim, following, latest))]
        with m.If(self.claim):
            m.d.sync += [
                latest.eq(following),
                following.eq(Mux(following == self._slots - 1, 0, following + 1)),
            ]
        with m.If(self.claim != self.freed):
            m.d.sync += used.eq(Mux(self.claim, used + 1, used - 1))
        return m


class BankRing(wiring.Component):
    """Gives the banks away in turn.

    Members:
        claim: wait for the next bank and take it.
        given: it is taken in this cycle.
        bank: the one last taken, from the cycle after ``given`` on.
        free: pulses that give banks back.
    """

    claim: In(1)
    given: Out(1)
    bank: Out(range(BANKS))
    free: In(BANKS)

    def elaborate(self, platform):
        m = Module()
        used, following = Signal(BANKS), Signal(range(BANKS))
        m.d.comb += self.given.eq(self.claim & ~used.bit_select(following, 1))
        with m.If(self.given):
            m.d.sync += [self.bank.eq(following), following.eq(following + 1)]
        with m.If(self.given | self.free.any()):
            m.d.sync += used.eq((used & ~self.free) | (self.given << following))
        return m
