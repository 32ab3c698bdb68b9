# SPDX-License-Identifier: Apache-2.0
"""exp(x), before it is rounded: a power of two and a mantissa."""

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.fp.evaluator import Evaluator
from catenary.hw.fp.format import BIAS, FRACTION_BITS, MANTISSA_BITS, Float32, constant
from catenary.hw.fp.pipeline import delay
from catenary.isa import functions as isa


def signed_digits(value: int) -> list[tuple[int, int]]:
    """``value`` > 0 as a sum of few powers of two, subtracted ones included: (exponent, +-1), exponents ascending.

    The non-adjacent form (Reitwiesner, Binary Arithmetic, 1960): no other has fewer terms.
    """
    digits = []
    exponent = 0
    while value:
        if value & 1:
            digit = 2 - (value & 3)
            digits.append((exponent, digit))
            value -= digit
        value >>= 1
        exponent += 1
    return digits


def _times(value: Value, digits: list[tuple[int, int]]) -> Value:
    """``value`` times the number that ``digits`` make."""
    total: Value = Const(0)
    for exponent, digit in digits:
        total = total + (value << exponent) if digit > 0 else total - (value << exponent)
    return total


class Exponential(wiring.Component):
    """``exp(x)`` as ``mantissa * 2**power``, one a cycle.

    x * log2(e) is made of sums, not with multipliers: the constant has 14 signed digits.

    Members:
        x: an FP32 number; for NaN, the results mean nothing.
        enable: while 0, every register holds.
        power: of the number of ``latency`` enabled cycles ago. From -151 to 128, for x is clamped where the result
            under- or overflows.
        mantissa: 1.0 is ``1 << 29``; at least 1.0, below 2.0.
    """

    latency = 7

    x: In(32)
    enable: In(1)
    power: Out(signed(9))
    mantissa: Out(isa.VALUE_BITS + 1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        digits = signed_digits(isa.LOG2E)
        # The product's lowest position, as a power of two, for exponent field 0, and the largest field after clamping.
        unit = -(BIAS + FRACTION_BITS + isa.LOG2E_BITS)
        limits = [constant(-isa.EXP_LOWEST), constant(isa.EXP_HIGHEST)]
        highest = max(limit.value for limit in limits) >> FRACTION_BITS
        # What of the product lies below one half of the last fraction bit of x * log2(e), even for the largest x.
        dropped = -(unit + highest) - isa.EXPONENT_FRACTION_BITS - 1

        # 1: clamp.
        number, clamped = Float32(self.x), Signal(Float32)
        limit = Mux(number.sign, *limits)
        m.d.comb += clamped.eq(Mux(number.magnitude > limit, limit, number.magnitude))
        mantissa = Signal(MANTISSA_BITS, reset_less=True)
        places = Signal(range(highest + 1), reset_less=True)
        with m.If(self.enable):
            m.d.sync += [mantissa.eq(Cat(clamped.fraction, 1)), places.eq(highest - clamped.exponent)]

        # 2 and 3: times log2(e).
        parts = [_times(mantissa, digits[first : first + 5]) for first in range(0, len(digits), 5)]
        parts = [delay(m, self.enable, part, 1, f"part_{index}") for index, part in enumerate(parts)]
        product = Signal(MANTISSA_BITS + isa.LOG2E.bit_length())
        scaled = Signal(len(product) - dropped, reset_less=True)
        m.d.comb += product.eq(sum(parts))
        with m.If(self.enable):
            m.d.sync += scaled.eq(product >> dropped)

        # 4: to fixed point, rounded half up. LOG2E is odd, so something was dropped from any product that is not 0,
        # and the complement of what is left is what is left of the negative product: hence one rule for both signs.
        negative = delay(m, self.enable, number.sign, 3, "negative")
        places = delay(m, self.enable, places, 2, "places")
        doubled = Signal.like(scaled)
        fixed = Signal(signed(len(scaled)))
        beyond = len(scaled).bit_length()
        m.d.comb += [
            doubled.eq(Mux(places[beyond:].any(), 0, scaled >> places[:beyond])),
            fixed.eq((doubled[1:] ^ negative.replicate(len(fixed))) + (doubled[0] ^ negative)),
        ]

        # 4 to 7: 2 to the power of the fraction.
        m.submodules.evaluator = evaluator = Evaluator([isa.EXP2])
        power = delay(m, self.enable, fixed[isa.EXPONENT_FRACTION_BITS :], evaluator.latency, "power")
        m.d.comb += [
            evaluator.entry.eq(fixed[isa.FRACTION_BITS : isa.EXPONENT_FRACTION_BITS]),
            evaluator.x.eq(fixed[: isa.FRACTION_BITS]),
            evaluator.enable.eq(self.enable),
            self.power.eq(power),
            self.mantissa.eq(evaluator.value),
        ]
        return m
