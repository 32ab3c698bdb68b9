# SPDX-License-Identifier: Apache-2.0
"""The function unit: exp, reciprocal, rsqrt, tanh, sigmoid and erf in one pipeline."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.fp.evaluator import Evaluator
from catenary.hw.fp.exponential import Exponential
from catenary.hw.fp.format import BIAS, FRACTION_BITS, MANTISSA_BITS, SCALE, Float32, Outcome, pack, rounds_up
from catenary.hw.fp.pipeline import delay
from catenary.isa import functions as isa


class Function(enum.Enum, shape=3):
    """What the function unit computes."""

    RECIPROCAL = 0
    RSQRT = 1
    EXP = 2
    SIGMOID = 3
    TANH = 4
    ERF = 5


ODD = {Function.TANH: isa.TANH, Function.ERF: isa.ERF}
"""Functions that need nothing but their tables."""

_ONE = 1 << isa.VALUE_BITS
_SPLIT = 16
"""Bits of the lower part of a value, for the last product."""


class FunctionUnit(wiring.Component):
    """``o = function(x)``, one a cycle, any function after any other.

    Every function is ``value * factor * 2**scale``, with one value from the evaluator. Two pipelines in a row make
    that: :class:`Exponential`, which the others only wait for, and then evaluator, product and rounding. So a sigmoid,
    which needs an exponential and a reciprocal, keeps up with the others.

    Members:
        function: which one; may change every cycle.
        x: its argument.
        enable: while 0, every register holds.
        o: the result for function and argument of ``latency`` enabled cycles ago.
    """

    latency = Exponential.latency + Evaluator.latency + 3

    function: In(Function)
    x: In(32)
    enable: In(1)
    o: Out(32)

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # 1 to 7: the exponential of x, or of -|x|.
        m.submodules.exponential = exponential = Exponential()
        m.d.comb += [
            exponential.enable.eq(self.enable),
            exponential.x.eq(Cat(self.x[:-1], self.x[-1] | (self.function == Function.SIGMOID))),
        ]
        function = delay(m, self.enable, self.function, exponential.latency, "function")
        number = delay(m, self.enable, Float32(self.x), exponential.latency, "number")

        # 8 to 11: one value from the tables.
        odd_tables = [table for odd in ODD.values() for table in (odd.small, odd.large)]
        m.submodules.evaluator = evaluator = Evaluator([isa.RECIPROCAL, isa.RSQRT, *odd_tables])
        outcome = Signal(Outcome)
        factor = Signal(isa.VALUE_BITS + 1, init=_ONE)
        m.d.comb += [evaluator.enable.eq(self.enable), outcome.nan.eq(number.is_nan())]
        with m.Switch(function):
            with m.Case(Function.RECIPROCAL):
                self._reciprocal(m, evaluator, number, outcome)
            with m.Case(Function.RSQRT):
                self._rsqrt(m, evaluator, number, outcome)
            with m.Case(Function.EXP):
                self._exp(m, evaluator, exponential, outcome, factor)
            with m.Case(Function.SIGMOID):
                self._sigmoid(m, evaluator, exponential, number, outcome, factor)
            with m.Case(*ODD):
                self._odd(m, evaluator, function, number, outcome, factor)
        outcome = delay(m, self.enable, outcome, evaluator.latency, "outcome")
        factor = delay(m, self.enable, factor, evaluator.latency, "factor")

        # 12 and 13: times the factor.
        low = delay(m, self.enable, evaluator.value[:_SPLIT] * factor, 1, "product_low")
        high = delay(m, self.enable, evaluator.value[_SPLIT:] * factor, 1, "product_high")
        total = Signal(len(evaluator.value) + len(factor))
        m.d.comb += total.eq((high << _SPLIT) + low)
        product = delay(m, self.enable, total, 1, "product")
        outcome = delay(m, self.enable, outcome, 2, "outcome_product")

        # 14: round. The value is at least 1/2 and below 2, the factor at least 1 and below 2.
        normal = Signal.like(product)
        final = Signal(Outcome)
        m.d.comb += final.eq(outcome)
        with m.If(product[-1]):
            m.d.comb += [normal.eq(product), final.exponent.eq(outcome.exponent + 1)]
        with m.Elif(product[-2]):
            m.d.comb += normal.eq(product << 1)
        with m.Else():
            m.d.comb += [normal.eq(product << 2), final.exponent.eq(outcome.exponent - 1)]
        with m.If(self.enable):
            m.d.sync += self.o.eq(pack(m, normal, final, rounds_up(normal)))
        return m

    # Below, `outcome.exponent` is the biased exponent of a result whose value and factor are 1.0.

    def _reciprocal(self, m: Module, evaluator: Evaluator, number: Float32, outcome: Outcome) -> None:
        index = FRACTION_BITS - 8
        m.d.comb += [
            evaluator.entry.eq(evaluator.base(isa.RECIPROCAL) + number.fraction[index:]),
            evaluator.x.eq(number.fraction[:index] << isa.FRACTION_BITS - index),
            outcome.exponent.eq(2 * BIAS - number.exponent),
            outcome.sign.eq(number.sign),
            outcome.infinite.eq(number.is_zero()),
        ]

    def _rsqrt(self, m: Module, evaluator: Evaluator, number: Float32, outcome: Outcome) -> None:
        index = FRACTION_BITS - 7
        m.d.comb += [
            evaluator.entry.eq(evaluator.base(isa.RSQRT) + number.magnitude[index : index + 8]),
            evaluator.x.eq(number.fraction[:index] << isa.FRACTION_BITS - index),
            # BIAS - floor((exponent - BIAS) / 2)
            outcome.exponent.eq(BIAS + (BIAS + 1) // 2 - (number.exponent + 1 >> 1)),
            outcome.sign.eq(number.sign),
            outcome.zero.eq(number.is_infinite()),
            outcome.infinite.eq(number.is_zero()),
            outcome.nan.eq(number.is_nan() | (number.sign & ~number.is_zero())),
        ]

    def _exp(self, m: Module, evaluator: Evaluator, exponential: Exponential, outcome: Outcome, factor: Signal) -> None:
        m.d.comb += [
            evaluator.entry.eq(evaluator.base(isa.RECIPROCAL)),  # 1/1, exactly 1.0
            evaluator.x.eq(0),
            outcome.exponent.eq(BIAS + exponential.power),
            factor.eq(exponential.mantissa),
        ]

    def _sigmoid(
        self,
        m: Module,
        evaluator: Evaluator,
        exponential: Exponential,
        number: Float32,
        outcome: Outcome,
        factor: Signal,
    ) -> None:
        # e = exp(-|x|) in fixed point, rounded half up: 0 to 1 inclusive. 1/(1 + e), and for x < 0 e/(1 + e).
        cut = isa.VALUE_BITS - isa.EXPONENT_FRACTION_BITS - 1
        doubled = Signal(len(exponential.mantissa) - cut)
        fixed = Signal(isa.EXPONENT_FRACTION_BITS + 1)
        places = Signal(8)
        beyond = len(doubled).bit_length()
        one = fixed[-1]  # then 1 + e is 2, whose reciprocal is half of that of 1
        scale = Signal(SCALE)
        m.d.comb += [
            places.eq(-exponential.power),
            doubled.eq(Mux(places[beyond:].any(), 0, exponential.mantissa[cut:] >> places[:beyond])),
            fixed.eq(doubled[1:] + doubled[0]),
            evaluator.entry.eq(evaluator.base(isa.RECIPROCAL) + fixed[isa.FRACTION_BITS : -1]),
            evaluator.x.eq(fixed[: isa.FRACTION_BITS]),
            scale.eq(Mux(number.sign, exponential.power, 0)),
            outcome.exponent.eq(BIAS + scale - one),
        ]
        with m.If(number.sign):
            m.d.comb += factor.eq((exponential.mantissa[4:] + exponential.mantissa[3]) << 4)  # 25 fraction bits

    def _odd(
        self,
        m: Module,
        evaluator: Evaluator,
        function: enum.Enum,
        number: Float32,
        outcome: Outcome,
        factor: Signal,
    ) -> None:
        # Below 1: |x| with 24 fraction bits; the mantissa of 1/2 and up is that.
        fixed = Signal(MANTISSA_BITS)
        places = Signal(range(BIAS))
        beyond = MANTISSA_BITS.bit_length()
        # From 1 on: what the word has above that of 1.0, which is the octave and the position in it.
        octaves = max(odd.octaves for odd in ODD.values())
        above = Signal((octaves << FRACTION_BITS).bit_length() - 1)
        index = FRACTION_BITS - 7
        large = Signal()
        m.d.comb += [
            places.eq(BIAS - 1 - number.exponent),
            fixed.eq(Mux(places[beyond:].any(), 0, Cat(number.fraction, 1) >> places[:beyond])),
            large.eq(number.exponent >= BIAS),
            above.eq(Cat(number.fraction, (number.exponent - BIAS)[:8])),
            outcome.sign.eq(number.sign),
            outcome.zero.eq(number.is_zero()),
        ]
        with m.If(large):
            m.d.comb += [
                evaluator.x.eq(above[:index] << isa.FRACTION_BITS - index),
                outcome.exponent.eq(BIAS),
            ]
        with m.Else():
            m.d.comb += [
                evaluator.x.eq(fixed[: isa.FRACTION_BITS]),
                outcome.exponent.eq(number.exponent),
                factor.eq(Cat(number.fraction, 1) << isa.VALUE_BITS - FRACTION_BITS),
            ]
        with m.Switch(function):
            for name, odd in ODD.items():
                with m.Case(name):
                    m.d.comb += evaluator.entry.eq(
                        Mux(
                            large,
                            evaluator.base(odd.large) + above[index:],
                            evaluator.base(odd.small) + fixed[isa.FRACTION_BITS :],
                        )
                    )
                    with m.If(number.exponent >= BIAS + odd.octaves):
                        m.d.comb += above.eq((odd.octaves << FRACTION_BITS) - 1)  # the end of the table
