# SPDX-License-Identifier: Apache-2.0
"""Rounding and flush of FP32 multiplication, for every product of mantissas and every exponent.

What a result must be is written down as ``docs/numerics.md`` says it: the IEEE result with gradual underflow, to
nearest even, and what is then smaller than 2**-126 becomes the zero of its sign. The hardware never makes subnormal
numbers; it knows the one case in which the gradual result is 2**-126 though its own rounding would stay below. The
corner: an exponent of -127 with 24 leading ones.

The 24 x 24 bit product itself is one operator of the hardware and is not looked into: its register may hold any number
that two mantissas can give.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType

import pytest
from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data

from catenary.hw.fp import multiply
from catenary.hw.fp.format import Outcome
from tests.formal.harness import Harness
from tests.formal.proofs import Record, mutant, prove

HIDDEN = 23
"""Bits of a fraction; a product of two mantissas has its point behind bit 46."""


def nearest(m: Module, value: Value, cut: int, name: str) -> Signal:
    """``value / 2**cut`` as a whole number, to nearest even."""
    whole, rest, half = value[cut:], value[:cut], 1 << cut - 1
    result = Signal(len(whole) + 1, name=name)
    m.d.comb += result.eq(whole + ((rest > half) | ((rest == half) & whole[0])))
    return result


def definition(m: Module, product: Value, exponent: Value, sign: Value) -> Signal:
    """The word of ``product * 2**(exponent - 127 - 46)``, of two mantissas and exponents that are neither zero nor all
    ones; ``exponent`` is signed."""
    word = Signal(32, name="defined")
    # Gradual: whole numbers of 2**-149; 2**(149 - 127 - 46) of them in a unit of product at exponent 0.
    steps = Signal(128)
    places = Signal(8)
    m.d.comb += [
        places.eq(Mux(exponent < -50, 74, 24 - exponent)),  # so many that nothing is left, or those
        steps.eq((product << 74) >> places),
    ]
    gradual = nearest(m, steps, 74, "gradual")
    # Normal: 24 bits.
    upper, lower = nearest(m, product, 24, "upper"), nearest(m, product, 23, "lower")
    large = product[47]
    mantissa, scale = Signal(25), Signal(signed(12))
    m.d.comb += [mantissa.eq(Mux(large, upper, lower)), scale.eq(exponent + large + mantissa[24])]
    normal = Mux(scale >= 255, 0x7F800000, Cat(Mux(mantissa[24], 0, mantissa[:23]), scale[:8]))
    smallest = Mux(gradual >= 1 << HIDDEN, 1 << HIDDEN, 0)
    with m.If(exponent + large >= 1):
        m.d.comb += word.eq(normal | (sign << 31))
    with m.Else():
        m.d.comb += word.eq(smallest | (sign << 31))
    return word


def harness(module: ModuleType = multiply) -> Harness:
    """The multiplier; copies of its operands go along with it."""
    h = Harness()
    m, dut = h.m, module.FpMul()
    inside = h.add(dut, "dut")
    product, multiplied = inside["product"], data.View(Outcome, inside["multiplied"])
    there = [Signal(name=f"there_{stage}") for stage in range(4)]
    m.d.comb += there[0].eq(1)
    ahead = [Cat(dut.a, dut.b, dut.missing)]
    for stage in (1, 2, 3):
        ahead.append(Signal(65, name=f"operands_{stage}"))
        with m.If(dut.enable):
            m.d.sync += [ahead[stage].eq(ahead[stage - 1]), there[stage].eq(there[stage - 1])]
    last_product, held = Signal(48), Signal(32)
    with m.If(dut.enable):
        m.d.sync += last_product.eq(product)
    m.d.sync += held.eq(dut.o)

    def known(operands: Value) -> tuple[Value, ...]:
        """(sum of exponents, sign, zero, infinite, nan) of the product of two operands."""
        a, b, missing = operands[:32], operands[32:64], operands[64]
        zeros = [~x[23:31].any() for x in (a, b)]
        infinities = [x[23:31].all() & ~x[:23].any() for x in (a, b)]
        nans = [x[23:31].all() & x[:23].any() for x in (a, b)]
        zero, infinite = zeros[0] | zeros[1], infinities[0] | infinities[1]
        nan = nans[0] | nans[1] | (zero & infinite)
        scale = Signal(signed(11), name=f"scale_{operands.name}")
        m.d.comb += scale.eq(a[23:31] + b[23:31] - 127)
        return scale, (a[31] ^ b[31]) | missing, zero | missing, infinite & ~missing, nan & ~missing

    def agrees(outcome: data.View, operands: Value) -> Value:
        scale, *flags = known(operands)
        named = [
            outcome.sign == flags[0],
            outcome.zero == flags[1],
            outcome.infinite == flags[2],
            outcome.nan == flags[3],
        ]
        plain = ~(flags[1] | flags[2] | flags[3])
        return Cat(*named, ~plain | (outcome.exponent == scale)).all()

    unpacked = data.View(Outcome, inside["unpacked"])
    h.claim("unpacked", ~there[1] | agrees(unpacked, ahead[1]))
    h.claim("one factor", ~there[1] | (inside["multiplicand"] == Cat(ahead[1][:23], 1)))
    h.claim("the other one", ~there[1] | (inside["multiplier"] == Cat(ahead[1][32:55], 1)))
    h.claim("multiplied", ~there[2] | agrees(multiplied, ahead[2]))
    # Two mantissas are at least 2**23 and less than 2**24.
    h.assume(~there[2] | product[46:].any())
    h.assume(~there[3] | last_product[46:].any())

    scale, sign, zero, infinite, nan = known(ahead[3])
    word = definition(m, last_product, scale, sign)
    expected = Signal(32)
    m.d.comb += expected.eq(Mux(nan, 0x7FC00000, Mux(zero, sign << 31, Mux(infinite, 0x7F800000 | (sign << 31), word))))
    plain = there[3] & ~(nan | zero | infinite)
    h.implies("the result is the defined one", there[3], dut.o == expected)
    waits = there[3] & ~h.past(dut.enable, "enable") & h.past(there[3], "there")
    h.implies("held while not enabled", waits, dut.o == held)
    small = plain & (scale + last_product[47] == 0)
    h.cover("the corner", small & (dut.o[:31] == 1 << HIDDEN))
    h.cover("just below it", small & (dut.o[:31] == 0) & last_product[24:46].all())
    h.cover("infinite by rounding", plain & (dut.o[:31] == 0x7F800000))
    return h


WRONG = {
    "the corner is flushed": ("rounds_up(normal) | almost_normal", "rounds_up(normal)"),
    "the corner is an octave away": ("Mux(large, -1, 0)", "Mux(large, 0, -1)"),
    "a sticky bit is lost": ("rest.any() | (large & product[len(rest)])", "rest.any()"),
    "zero times infinity is zero": ("| (zero & infinite))", ")"),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_multiply(record: Record) -> None:
    prove(
        record,
        "FpMul",
        "rounding, flush, overflow and special words for every product of mantissas and all exponents",
        harness,
        steps=1,
        controls={name: partial(harness, mutant(multiply, change)) for name, change in WRONG.items()},
    )
