# SPDX-License-Identifier: Apache-2.0
"""The order of FP32 numbers, and their maximum."""

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.fp.format import NAN, Float32


def rank_key(x: Value) -> Value:
    """32 unsigned bits that compare as the numbers do: -0 equals +0, and NaN, as 0, is below everything.

    For what compares a number more than once. Of equal keys the one with the lowest index must win.
    """
    number = Float32(x)
    key = Cat(number.magnitude ^ number.sign.replicate(31), ~number.sign)
    return Mux(number.is_nan(), 0, Mux(number.is_zero(), 1 << 31, key))


def greater(a: Value, b: Value) -> Value:
    """Whether ``a`` > ``b``: -0 equals +0, and NaN is below every number.

    So ``a`` replaces a winner ``b`` of a lower index, as ARGMAX and TOPK have it, exactly where this is 1.
    """
    left, right = Float32(a), Float32(b)
    same_sign = Mux(left.sign, left.magnitude < right.magnitude, left.magnitude > right.magnitude)
    ahead = ~(left.is_zero() & right.is_zero()) & Mux(left.sign ^ right.sign, right.sign, same_sign)
    return ~left.is_nan() & (right.is_nan() | ahead)


class FpMax(wiring.Component):
    """The larger operand, without a register (IEEE 754-2019 maximumNumber): -0 < +0, NaN loses, two NaN give NaN.

    A running maximum begins with NaN, or with a floor; of magnitudes, with the sign bits of the operands tied to 0.

    Members:
        a, b: operands.
        o: the maximum; a subnormal number gives the zero of its sign.
    """

    latency = 0

    a: In(32)
    b: In(32)
    o: Out(32)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b = Float32(self.a), Float32(self.b)
        # Which of two zeros or subnormal numbers of one sign wins makes no difference.
        first = Signal()
        winner = Signal(Float32)
        ahead = Mux(a.sign ^ b.sign, b.sign, (a.magnitude >= b.magnitude) ^ a.sign)
        m.d.comb += [
            first.eq(b.is_nan() | (~a.is_nan() & ahead)),
            winner.eq(Mux(first, self.a, self.b)),
        ]
        with m.If(winner.is_nan()):
            m.d.comb += self.o.eq(NAN)
        with m.Elif(winner.is_zero()):
            m.d.comb += self.o.eq(winner.sign << 31)
        with m.Else():
            m.d.comb += self.o.eq(winner)
        return m
