# SPDX-License-Identifier: Apache-2.0
"""FP32 addition."""

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.fp.format import MANTISSA_BITS, Float32, Outcome, normalize, pack, rounds_up

_GUARD_BITS = 3
"""Guard, round and sticky bit: with them, a sum rounds as the exact one does."""


class FpAdd(wiring.Component):
    """``o = a + b``, one a cycle, rounded to nearest even.

    A sum below 2**-126 is exact, so flushing it is all there is to underflow.

    Members:
        a, b: operands.
        enable: while 0, every register holds.
        o: the sum of the operands of ``latency`` enabled cycles ago.
    """

    latency = 4

    a: In(32)
    b: In(32)
    enable: In(1)
    o: Out(32)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        outcomes = [Signal(Outcome, name=f"outcome_{stage}", reset_less=True) for stage in (1, 2, 3)]
        with m.If(self.enable):
            m.d.sync += [outcomes[1].eq(outcomes[0]), outcomes[2].eq(outcomes[1])]

        # 1: order by magnitude. Nothing is larger than a NaN, and only that than an infinity.
        a, b = Float32(self.a), Float32(self.b)
        swap = Signal()
        larger = Signal(Float32)
        smaller = Signal(Float32)
        gap = Signal(8)
        opposite = Signal()
        m.d.comb += [
            swap.eq(a.magnitude < b.magnitude),
            larger.eq(Mux(swap, self.b, self.a)),
            smaller.eq(Mux(swap, self.a, self.b)),
            gap.eq(larger.exponent - smaller.exponent),
            opposite.eq(a.sign ^ b.sign),
        ]
        subtract = Signal(reset_less=True)
        augend = Signal(MANTISSA_BITS, reset_less=True)
        addend = Signal(MANTISSA_BITS, reset_less=True)
        distance = Signal(5, reset_less=True)
        with m.If(self.enable):
            m.d.sync += [
                outcomes[0].exponent.eq(larger.exponent),
                outcomes[0].sign.eq(larger.sign),
                outcomes[0].infinite.eq(larger.is_infinite()),
                outcomes[0].nan.eq(larger.is_nan() | (larger.is_infinite() & smaller.is_infinite() & opposite)),
                subtract.eq(opposite),
                augend.eq(larger.mantissa),
                addend.eq(smaller.mantissa),
                distance.eq(gap[:5] | gap[5:].any().replicate(5)),  # 31 is as good as any larger one
            ]

        # 2: align, and add or subtract. Of what leaves the guard bits it matters only whether it is 0.
        aligned = self._aligned(m, addend, distance)
        total = Signal(MANTISSA_BITS + _GUARD_BITS + 1, reset_less=True)
        difference = Signal(reset_less=True)
        invert = subtract.replicate(len(total))
        shifted = (augend << _GUARD_BITS)[: len(total)]
        with m.If(self.enable):
            # The lowest position makes the carry that completes -aligned: one adder for both.
            m.d.sync += [
                total.eq((Cat(subtract, shifted) + Cat(subtract, aligned ^ invert))[1:]),
                difference.eq(subtract),
            ]

        # 3: normalise. A difference of 0 is +0; a sum of zeros keeps their sign.
        normal, places = normalize(m, total, "normal")
        mantissa = Signal.like(total, reset_less=True)
        with m.If(self.enable):
            m.d.sync += [
                mantissa.eq(normal),
                outcomes[2].exponent.eq(outcomes[1].exponent - places),
                outcomes[2].sign.eq(outcomes[1].sign & (normal[-1] | ~difference)),
                outcomes[2].zero.eq(~normal[-1]),
            ]

        # 4: round. The top bit is that of a carry, an octave above the larger operand's.
        with m.If(self.enable):
            m.d.sync += self.o.eq(pack(m, mantissa, outcomes[2], rounds_up(mantissa), octaves=Const(1)))
        return m

    def _aligned(self, m: Module, addend: Value, distance: Value) -> Value:
        """``addend`` moved down by ``distance``, above its guard, round and sticky bit."""
        value, lost = Cat(Const(0, _GUARD_BITS - 1), addend), []
        for power in reversed(range(len(distance))):
            step = 1 << power
            moved = Signal(len(value), name=f"aligned_by_{step}")
            m.d.comb += moved.eq(Mux(distance[power], value[step:], value))
            lost.append(distance[power] & value[:step].any())
            value = moved
        return Cat(Cat(*lost).any(), value)
