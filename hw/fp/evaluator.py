# SPDX-License-Identifier: Apache-2.0
"""The quadratic evaluator of piecewise polynomials."""

from amaranth import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.fp.pipeline import delay
from catenary.hw.fp.tables import Coefficients
from catenary.isa.functions import C1_BITS, FRACTION_BITS, SHIFT1, SHIFT2, VALUE_BITS


class Evaluator(wiring.Component):
    """``value = c0 + (((c1 + ((c2 * x) >> 17)) * x) >> 21)``, one a cycle.

    Products are at most 19 x 17 and 27 x 17 bits.

    Members:
        x: position inside the interval of a table's entry.
        coefficients: that entry, a cycle later, as :class:`~catenary.hw.fp.tables.Tables` answers.
        enable: while 0, every register holds.
        value: for the position of ``latency`` enabled cycles ago, from 0 to just below 2; 1.0 is ``1 << 29``.
    """

    latency = 4

    x: In(FRACTION_BITS)
    coefficients: In(Coefficients)
    enable: In(1)
    value: Out(VALUE_BITS + 1)

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # 1: the entry is looked up.
        coefficients = self.coefficients
        x = delay(m, self.enable, self.x, 1, "x")

        # 2 and 3: the two products, each with the sum before it.
        slope = Signal.like(coefficients.c2 * x >> SHIFT2, reset_less=True)
        with m.If(self.enable):
            m.d.sync += slope.eq(coefficients.c2 * x >> SHIFT2)
        c1 = delay(m, self.enable, coefficients.c1, 1, "c1")
        x = delay(m, self.enable, x, 1, "x_slope")
        tangent = Signal(signed(C1_BITS))
        rise = Signal.like(tangent * x >> SHIFT1, reset_less=True)
        m.d.comb += tangent.eq(c1 + slope)
        with m.If(self.enable):
            m.d.sync += rise.eq(tangent * x >> SHIFT1)

        # 4: add up.
        c0 = delay(m, self.enable, coefficients.c0, 2, "c0")
        with m.If(self.enable):
            m.d.sync += self.value.eq(c0 + rise)
        return m
