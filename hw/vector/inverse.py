# SPDX-License-Identifier: Apache-2.0
"""FP32(1/n) of a whole number."""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.fp.format import BIAS, MANTISSA_BITS


class Inverse(wiring.Component):
    """The reciprocal of a whole number, rounded to nearest: long division, one bit of the quotient a cycle.

    The leading zeros of the quotient count the exponent; then come 24 bits and one more to round by. A tie is
    impossible, since 1/n has either one digit or infinitely many. So it takes up to ``width`` + 25 cycles, about as
    long as the sum that waits for it.

    Parameters:
        width: bits of the number.

    Members:
        start: begin with ``n``, at least 1.
        n: the number.
        busy: the result is not there yet.
        o: FP32(1/n); it stays until the next start.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__({"start": In(1), "n": In(width), "busy": Out(1), "o": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        divisor, rest = Signal(self.width), Signal(self.width + 1)
        exponent = Signal(8)
        quotient = Signal(MANTISSA_BITS + 1)
        difference = Signal(range(-(1 << self.width), 1 << self.width + 1))
        m.d.comb += difference.eq(rest - divisor)
        with m.If(self.start):
            m.d.sync += [divisor.eq(self.n), rest.eq(1), quotient.eq(0), exponent.eq(BIAS), self.busy.eq(1)]
        with m.Elif(self.busy):
            fits = difference >= 0
            m.d.sync += quotient.eq(Cat(fits, quotient))
            with m.If(fits):
                m.d.sync += rest.eq(difference << 1)
            with m.Else():
                m.d.sync += rest.eq(rest << 1)
            with m.If(~fits & (quotient == 0)):
                m.d.sync += exponent.eq(exponent - 1)
            with m.If(quotient[-2]):  # this digit is the last one
                m.d.sync += self.busy.eq(0)
        # Rounding up cannot overflow: quotients close to 2 belong to numbers with more bits than a mantissa has.
        m.d.comb += self.o.eq(Cat((quotient[1:-1] + quotient[0])[: MANTISSA_BITS - 1], exponent))
        return m
