# SPDX-License-Identifier: Apache-2.0
"""FP32 multiplication."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.hdl import Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.fp.format import BIAS, MANTISSA_BITS, Float32, Outcome, pack, rounds_up
from catenary.hw.fp.pipeline import delay

_BIAS_BITS = BIAS.bit_length()

PORT_BITS = 17
"""Unsigned bits that a port of a multiplier takes, on devices of 18 signed bits."""


class FpMul(wiring.Component):
    """``o = a * b``, one a cycle, rounded to nearest even.

    Underflow is gradual before it is flushed: what would round to 2**-126 among the subnormal numbers, whose spacing
    is twice as wide as the mantissa's here, is 2**-126.

    Members:
        a, b: operands.
        missing: the product is -0.0, whatever they are, so that adding it changes nothing.
        enable: while 0, every register holds.
        o: the product of the operands of ``latency`` enabled cycles ago.
    """

    latency = 3

    a: In(32)
    b: In(32)
    missing: In(1)
    enable: In(1)
    o: Out(32)

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # 1: unpack.
        a, b = Float32(self.a), Float32(self.b)
        multiplicand = Signal(MANTISSA_BITS, reset_less=True)
        multiplier = Signal(MANTISSA_BITS, reset_less=True)
        unpacked = Signal(Outcome, reset_less=True)
        multiplied = Signal(Outcome, reset_less=True)
        zero = Signal()
        infinite = Signal()
        exponents = Signal(9)
        m.d.comb += [
            zero.eq(a.is_zero() | b.is_zero()),
            infinite.eq(a.is_infinite() | b.is_infinite()),
            exponents.eq((Cat(1, a.exponent) + Cat(1, b.exponent))[1:]),  # their sum, plus 1
        ]
        with m.If(self.enable):
            m.d.sync += [
                multiplicand.eq(Cat(a.fraction, 1)),
                multiplier.eq(Cat(b.fraction, 1)),
                # The sum less BIAS, for a product below 2; and BIAS + 1 is a power of two.
                unpacked.exponent.eq(Cat(exponents[:_BIAS_BITS], (exponents[_BIAS_BITS:] - 1)[:3])),
                unpacked.sign.eq((a.sign ^ b.sign) | self.missing),
                unpacked.zero.eq(zero | self.missing),
                unpacked.infinite.eq(infinite & ~self.missing),
                unpacked.nan.eq((a.is_nan() | b.is_nan() | (zero & infinite)) & ~self.missing),
            ]

        # 2: multiply.
        product = Signal(2 * MANTISSA_BITS, reset_less=True)
        with m.If(self.enable):
            m.d.sync += [product.eq(multiplicand * multiplier), multiplied.eq(unpacked)]

        # 3: normalise and round. 24 ones and an exponent one too small are half way, at least, to 2**-126.
        large, rest = product[-1], product[: MANTISSA_BITS - 2]
        normal = Signal(MANTISSA_BITS + 2)
        almost_normal = Signal()
        m.d.comb += [
            normal.eq(
                Cat(
                    rest.any() | (large & product[len(rest)]),
                    Mux(large, product[len(rest) + 1 :], product[len(rest) : -1]),
                )
            ),
            almost_normal.eq((multiplied.exponent == Mux(large, -1, 0)) & normal[-MANTISSA_BITS:].all()),
        ]
        with m.If(self.enable):
            m.d.sync += self.o.eq(pack(m, normal, multiplied, rounds_up(normal) | almost_normal, octaves=large))
        return m


def product_of(m: Module, enable: Value, a: Value, b: Value, name: str) -> Value:
    """``a * b`` of up to 34 unsigned bits each, with a register behind the four multipliers of 18 bits."""
    low, high = slice(0, PORT_BITS), slice(PORT_BITS, None)
    outer = delay(m, enable, Cat(a[low] * b[low], a[high] * b[high]), 1, f"{name}_outer")
    cross = delay(m, enable, a[low] * b[high] + a[high] * b[low], 1, f"{name}_cross")
    product = Signal.like(outer, name=name)
    m.d.comb += product.eq(outer + (cross << PORT_BITS))
    return product
