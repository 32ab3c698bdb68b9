# SPDX-License-Identifier: Apache-2.0
"""exp(x), before it is rounded: a power of two and a mantissa."""

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.fp.evaluator import Evaluator
from catenary.hw.fp.format import BIAS, FRACTION_BITS, MANTISSA_BITS, Float32, constant, shifted_down
from catenary.hw.fp.multiply import product_of
from catenary.hw.fp.pipeline import delay
from catenary.hw.fp.tables import ENTRY_BITS, Coefficients, entry_of
from catenary.isa import functions as isa


class Exponential(wiring.Component):
    """``exp(x)`` as ``mantissa * 2**power``, one a cycle.

    Members:
        x: an FP32 number; for NaN, the results mean nothing.
        enable: while 0, every register holds.
        power: of the number of ``latency`` enabled cycles ago. From -151 to 128, for x is clamped where the result
            under- or overflows.
        entry, coefficients: a port of :class:`~catenary.hw.fp.tables.Tables`, which holds with ``enable``.
        mantissa: 1.0 is ``1 << 29``; at least 1.0, below 2.0.
    """

    latency = 7

    x: In(32)
    enable: In(1)
    entry: Out(ENTRY_BITS)
    coefficients: In(Coefficients)
    power: Out(signed(9))
    mantissa: Out(isa.VALUE_BITS + 1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # The product's lowest position, as a power of two, for exponent field 0, and the largest field after clamping.
        unit = -(BIAS + FRACTION_BITS + isa.LOG2E_BITS)
        limits = [constant(-isa.EXP_LOWEST), constant(isa.EXP_HIGHEST)]
        highest = max(limit.value for limit in limits) >> FRACTION_BITS
        # What of the product lies below one half of the last fraction bit of x * log2(e), even for the largest x.
        dropped = -(unit + highest) - isa.EXPONENT_FRACTION_BITS - 1

        # 1: clamp. Limits are short numbers, so it takes their upper bits alone to find what is beyond.
        number, clamped = Float32(self.x), Signal(Float32)
        limit = Mux(number.sign, *limits)
        short = min((word.value & -word.value).bit_length() - 1 for word in limits)
        m.d.comb += clamped.eq(Mux(number.magnitude[short:] >= limit[short:], limit, number.magnitude))
        mantissa = Signal(MANTISSA_BITS, reset_less=True)
        places = Signal(range(highest + 1), reset_less=True)
        with m.If(self.enable):
            m.d.sync += [mantissa.eq(Cat(clamped.fraction, 1)), places.eq(highest - clamped.exponent)]

        # 2 and 3: times log2(e).
        product = product_of(m, self.enable, mantissa, Const(isa.LOG2E), "log2e")
        scaled = Signal(len(product) - dropped, reset_less=True)
        with m.If(self.enable):
            m.d.sync += scaled.eq(product >> dropped)

        # 4: to fixed point, rounded half up. LOG2E is odd, so something was dropped from any product that is not 0,
        # and the complement of what is left is what is left of the negative product: hence one rule for both signs.
        negative = delay(m, self.enable, number.sign, 3, "negative")
        places = delay(m, self.enable, places, 2, "places")
        doubled = shifted_down(m, scaled, places, "doubled")
        fixed = Signal(signed(len(scaled)))
        m.d.comb += fixed.eq((doubled[1:] ^ negative.replicate(len(fixed))) + (doubled[0] ^ negative))

        # 4 to 7: 2 to the power of the fraction.
        m.submodules.evaluator = evaluator = Evaluator()
        power = delay(m, self.enable, fixed[isa.EXPONENT_FRACTION_BITS :], evaluator.latency, "power")
        m.d.comb += [
            self.entry.eq(entry_of(isa.EXP2, fixed[isa.FRACTION_BITS : isa.EXPONENT_FRACTION_BITS])),
            evaluator.coefficients.eq(self.coefficients),
            evaluator.x.eq(fixed[: isa.FRACTION_BITS]),
            evaluator.enable.eq(self.enable),
            self.power.eq(power),
            self.mantissa.eq(evaluator.value),
        ]
        return m
