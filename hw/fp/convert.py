# SPDX-License-Identifier: Apache-2.0
"""Between FP32 and integers."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.fp.format import BIAS, MANTISSA_BITS, Float32, Outcome, normalize, pack, rounds_up


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


class FpToInt(wiring.Component):
    """``o = rint(i)`` clamped to [low, limit], one a cycle; ties go to even.

    Parameters:
        limit: largest result, at least 1 and below 2**24.
        low: smallest result, in -limit..0; default -limit.

    Members:
        i: an FP32 number.
        enable: while 0, every register holds.
        o: the integer of ``latency`` enabled cycles ago; 0 for NaN.
        nan: the number of ``latency`` enabled cycles ago was NaN.
    """

    latency = 2

    def __init__(self, limit: int, low: int | None = None) -> None:
        if not 1 <= limit < 1 << MANTISSA_BITS:
            raise ValueError(f"limit must be in 1..{(1 << MANTISSA_BITS) - 1}, not {limit}")
        self.limit = limit
        self.low = -limit if low is None else low
        if not -limit <= self.low <= 0:
            raise ValueError(f"low must be in {-limit}..0, not {low}")
        super().__init__({"i": In(32), "enable": In(1), "o": Out(range(self.low, limit + 1)), "nan": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.limit.bit_length()
        # The largest exponent below 2**bits, and that of [1/2, 1): what is smaller rounds to 0.
        highest, lowest = BIAS + bits - 1, BIAS - 1

        # 1: shift the mantissa so that `bits` integer bits are on top.
        number = Float32(self.i)
        places = Signal(range(bits + 1))
        fixed = Signal(MANTISSA_BITS + bits, reset_less=True)
        sign = Signal(reset_less=True)
        huge = Signal(reset_less=True)
        nan = Signal(reset_less=True)
        m.d.comb += places.eq(highest - number.exponent)
        with m.If(self.enable):
            m.d.sync += [
                fixed.eq(Mux(number.exponent < lowest, 0, (Cat(number.fraction, 1) << bits) >> places)),
                sign.eq(number.sign),
                huge.eq(number.exponent > highest),
                nan.eq(number.is_nan()),
            ]

        # 2: round and clamp.
        whole, half, rest = fixed[MANTISSA_BITS:], fixed[MANTISSA_BITS - 1], fixed[: MANTISSA_BITS - 1]
        near = Signal(bits + 1)
        bound = Mux(sign, -self.low, self.limit)
        m.d.comb += near.eq(whole + (half & (whole[0] | rest.any())))
        magnitude = Signal(bits)
        with m.If(nan):
            m.d.comb += magnitude.eq(0)
        with m.Elif(huge | (near > bound)):
            m.d.comb += magnitude.eq(bound)
        with m.Else():
            m.d.comb += magnitude.eq(near)
        with m.If(self.enable):
            m.d.sync += [self.o.eq(Mux(sign, -magnitude, magnitude)), self.nan.eq(nan)]
        return m
