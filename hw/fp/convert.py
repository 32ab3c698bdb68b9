# SPDX-License-Identifier: Apache-2.0
"""From integers to FP32."""

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.fp.format import BIAS, MANTISSA_BITS, Outcome, normalize, pack, rounds_up


class IntToFloat(wiring.Component):
    """``o = float(i)``, one a cycle, rounded once, to nearest even. Zero is +0.

    Parameters:
        width: bits of the integer, 2 to 64.

    Members:
        i: the integer.
        enable: while 0, every register holds.
        o: the number of ``latency`` enabled cycles ago.
    """

    latency = 3

    def __init__(self, width: int = 32) -> None:
        if not 2 <= width <= 64:
            raise ValueError(f"width must be in 2..64, not {width}")
        self.width = width
        super().__init__({"i": In(signed(width)), "enable": In(1), "o": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # 1: sign and magnitude.
        sign = Signal(reset_less=True)
        magnitude = Signal(self.width, reset_less=True)
        with m.If(self.enable):
            m.d.sync += [sign.eq(self.i < 0), magnitude.eq(Mux(self.i < 0, -self.i, self.i))]

        # 2: normalise. A narrow magnitude gets zeros below, so that there is something to round.
        normal, places = normalize(m, magnitude, "normal")
        padding = max(0, MANTISSA_BITS + 2 - self.width)
        mantissa = Signal(self.width + padding, reset_less=True)
        outcome = Signal(Outcome, reset_less=True)
        with m.If(self.enable):
            m.d.sync += [
                mantissa.eq(normal << padding),
                outcome.exponent.eq(BIAS + self.width - 1 - places),
                outcome.sign.eq(sign),
                outcome.zero.eq(~normal[-1]),
            ]

        # 3: round.
        with m.If(self.enable):
            m.d.sync += self.o.eq(pack(m, mantissa, outcome, rounds_up(mantissa)))
        return m
