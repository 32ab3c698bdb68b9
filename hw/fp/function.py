# SPDX-License-Identifier: Apache-2.0
"""The function unit: exp, reciprocal, rsqrt, tanh, sigmoid and erf in one pipeline."""

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.fp.evaluator import Evaluator
from catenary.hw.fp.exponential import Exponential
from catenary.hw.fp.format import (
    BIAS,
    FRACTION_BITS,
    MANTISSA_BITS,
    SCALE,
    Float32,
    Outcome,
    pack,
    rounds_up,
    shifted_down,
)
from catenary.hw.fp.multiply import product_of
from catenary.hw.fp.pipeline import delay
from catenary.hw.fp.tables import Tables, entry_of
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


class _Exponent(data.Struct):
    """A biased exponent: ``base + offset + one_more``."""

    base: SCALE
    offset: SCALE
    one_more: 1


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

    latency = Exponential.latency + Evaluator.latency + 4

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

        # 8: what the table of a sigmoid or of an odd function is asked for, and the factor.
        factor = Signal(isa.VALUE_BITS + 1)
        fixed = delay(m, self.enable, self._fixed(m, exponential, function, number), 1, "fixed")
        self._factor(m, exponential, function, number, factor)
        power = delay(m, self.enable, exponential.power, 1, "power")
        function = delay(m, self.enable, function, 1, "asked_function")
        number = delay(m, self.enable, number, 1, "asked_number")

        # 9 to 12: one value from the tables.
        m.submodules.evaluator = evaluator = Evaluator()
        m.submodules.tables = tables = Tables()
        entry = tables.entries[0]
        m.d.comb += [
            tables.enable.eq(self.enable),
            evaluator.coefficients.eq(tables.rows[0]),
            tables.entries[1].eq(exponential.entry),
            exponential.coefficients.eq(tables.rows[1]),
        ]
        outcome = Signal(Outcome)
        m.d.comb += [evaluator.enable.eq(self.enable), outcome.nan.eq(number.is_nan())]
        exponent = Signal(_Exponent)
        with m.Switch(function):
            with m.Case(Function.RECIPROCAL):
                self._reciprocal(m, entry, evaluator.x, number, outcome, exponent)
            with m.Case(Function.RSQRT):
                self._rsqrt(m, entry, evaluator.x, number, outcome, exponent)
            with m.Case(Function.EXP):
                m.d.comb += [
                    entry.eq(entry_of(isa.RECIPROCAL, Const(0, 8))),  # 1/1, exactly 1.0
                    exponent.base.eq(BIAS),
                    exponent.offset.eq(power),
                ]
            with m.Case(Function.SIGMOID):
                # e = exp(-|x|) in fixed point is 0 to 1 inclusive; if it is 1, then 1 + e is 2.
                m.d.comb += [
                    entry.eq(entry_of(isa.RECIPROCAL, fixed[isa.FRACTION_BITS : -1])),
                    evaluator.x.eq(fixed[: isa.FRACTION_BITS]),
                    exponent.base.eq(BIAS - 1),
                    exponent.offset.eq(Mux(number.sign, power, 0)),
                    exponent.one_more.eq(~fixed[-1]),
                ]
            with m.Case(*ODD):
                self._odd(m, entry, evaluator.x, function, number, outcome, exponent, fixed)
        # One adder for all. Its result is an octave below, so that rounding has none to subtract.
        m.d.comb += outcome.exponent.eq(
            (Cat(1, (exponent.base - 1)[: len(exponent.base)]) + Cat(exponent.one_more, exponent.offset))[1:]
        )
        outcome = delay(m, self.enable, outcome, evaluator.latency, "outcome")
        factor = delay(m, self.enable, factor, 1 + evaluator.latency, "factor")

        # 13 and 14: times the factor.
        product = delay(m, self.enable, product_of(m, self.enable, evaluator.value, factor, "product"), 1, "rounding")
        outcome = delay(m, self.enable, outcome, 2, "outcome_product")

        # 15: round. The value is at least 1/2 and below 2, the factor at least 1 and below 2.
        normal = Signal(MANTISSA_BITS + 2)
        octaves = Signal(2)
        for above, condition in enumerate((~product[-2] & ~product[-1], product[-2] & ~product[-1], product[-1])):
            cut = len(product) - 2 + above - (MANTISSA_BITS + 1)
            with m.If(condition):
                m.d.comb += [
                    normal.eq(Cat(product[:cut].any(), product[cut : cut + MANTISSA_BITS + 1])),
                    octaves.eq(above),
                ]
        with m.If(self.enable):
            m.d.sync += self.o.eq(pack(m, normal, outcome, rounds_up(normal), octaves=octaves))
        return m

    def _fixed(self, m: Module, exponential: Exponential, function: Signal, number: Float32) -> Value:
        """Sigmoid: exp(-|x|) with 25 fraction bits, rounded half up. Odd functions: |x| with 24, truncated, which is
        the mantissa of 1/2 and up. One shifter for both.
        """
        cut = isa.VALUE_BITS - isa.EXPONENT_FRACTION_BITS - 1
        sigmoid = function == Function.SIGMOID
        source = Signal(len(exponential.mantissa) - cut)
        places = Signal(8)
        m.d.comb += [
            source.eq(Mux(sigmoid, exponential.mantissa[cut:], Cat(Const(0, 1), number.fraction, 1))),
            # -power, or BIAS - 1 - exponent; a complement is what is left to -1
            places.eq(Mux(sigmoid, ~exponential.power[:8], ~number.exponent) + Mux(sigmoid, 1, BIAS)),
        ]
        doubled = shifted_down(m, source, places, "doubled")
        fixed = Signal(isa.EXPONENT_FRACTION_BITS + 1)
        m.d.comb += fixed.eq(doubled[1:] + (doubled[0] & sigmoid))
        return fixed

    def _factor(self, m: Module, exponential: Exponential, function: Signal, number: Float32, factor: Signal) -> None:
        """EXP: the mantissa. SIGMOID of a negative number: 25 bits of it. Odd functions below 1: |x|. Else 1."""
        sigmoid = function == Function.SIGMOID
        cut = isa.VALUE_BITS - isa.EXPONENT_FRACTION_BITS
        mantissa = exponential.mantissa
        rounded = Cat(
            mantissa[:cut] & (~sigmoid).replicate(cut),
            (mantissa[cut:] + (mantissa[cut - 1] & sigmoid))[: len(mantissa) - cut],
        )
        m.d.comb += factor.eq(_ONE)
        with m.If((function == Function.EXP) | (sigmoid & number.sign)):
            m.d.comb += factor.eq(rounded)
        with m.Elif(function.as_value().matches(*(odd.value for odd in ODD)) & (number.exponent < BIAS)):
            m.d.comb += factor.eq(Cat(number.fraction, 1) << isa.VALUE_BITS - FRACTION_BITS)

    # Below, ``exponent`` is the biased exponent of a result whose value and factor are 1.0, as a sum.

    def _reciprocal(
        self, m: Module, entry: Value, x: Value, number: Float32, outcome: data.View, exponent: data.View
    ) -> None:
        index = FRACTION_BITS - 8
        m.d.comb += [
            entry.eq(entry_of(isa.RECIPROCAL, number.fraction[index:])),
            x.eq(number.fraction[:index] << isa.FRACTION_BITS - index),
            # 2 * BIAS - exponent
            exponent.base.eq(2 * BIAS - 255),
            exponent.offset.eq(~number.exponent),
            outcome.sign.eq(number.sign),
            outcome.infinite.eq(number.is_zero()),
        ]

    def _rsqrt(
        self, m: Module, entry: Value, x: Value, number: Float32, outcome: data.View, exponent: data.View
    ) -> None:
        index = FRACTION_BITS - 7
        m.d.comb += [
            entry.eq(entry_of(isa.RSQRT, number.magnitude[index : index + 8])),
            x.eq(number.fraction[:index] << isa.FRACTION_BITS - index),
            # BIAS - floor((exponent - BIAS) / 2), which is 191 - (exponent >> 1) - exponent[0]
            exponent.base.eq(BIAS + (BIAS + 1) // 2 - 127 - 1),
            exponent.offset.eq(~number.exponent[1:]),
            exponent.one_more.eq(~number.exponent[0]),
            outcome.sign.eq(number.sign),
            outcome.zero.eq(number.is_infinite()),
            outcome.infinite.eq(number.is_zero()),
            outcome.nan.eq(number.is_nan() | (number.sign & ~number.is_zero())),
        ]

    def _odd(
        self,
        m: Module,
        entry: Value,
        x: Value,
        function: Signal,
        number: Float32,
        outcome: data.View,
        exponent: data.View,
        fixed: Value,
    ) -> None:
        # From 1 on: what the word has above that of 1.0, which is the octave and the position in it.
        octaves = max(odd.octaves for odd in ODD.values())
        above = Signal((octaves << FRACTION_BITS).bit_length() - 1)
        index = FRACTION_BITS - 7
        large = Signal()
        m.d.comb += [
            large.eq(number.exponent >= BIAS),
            above.eq(Cat(number.fraction, (number.exponent - BIAS)[:8])),
            outcome.sign.eq(number.sign),
            outcome.zero.eq(number.is_zero()),
            x.eq(Mux(large, above[:index] << isa.FRACTION_BITS - index, fixed[: isa.FRACTION_BITS])),
            exponent.base.eq(Mux(large, BIAS, 0)),
            exponent.offset.eq(Mux(large, 0, number.exponent)),
        ]
        with m.Switch(function):
            for name, odd in ODD.items():
                with m.Case(name):
                    m.d.comb += entry.eq(
                        Mux(
                            large,
                            entry_of(odd.large, above[index : index + exact_log2(odd.large.entries)]),
                            entry_of(odd.small, fixed[isa.FRACTION_BITS : isa.FRACTION_BITS + 7]),
                        )
                    )
                    with m.If(number.exponent >= BIAS + odd.octaves):
                        m.d.comb += above.eq((odd.octaves << FRACTION_BITS) - 1)  # the end of the table
