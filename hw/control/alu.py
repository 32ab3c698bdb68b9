# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of ALU instructions: a few cycles each, no multiplier."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.isa.fields import SCALAR_BITS
from catenary.isa.instructions import INSTRUCTIONS, AluFunction, Opcode

[FUNCTION_BITS] = [field.width for field in INSTRUCTIONS[Opcode.ALU].body if field.name == "function"]

SHIFT_BITS = 6
"""Bits of the second operand of a shift that count."""


class Alu(wiring.Component):
    """One operation at a time; shifts and products take one cycle per bit.

    A shift by n takes n cycles longer than the other functions, a product as many as its second factor has bits. A
    product is summed up from the low end in the manner of paper and pencil: programs multiply a few dozen times a step.

    Members:
        start: take the operands.
        function: an ``AluFunction``; it must not change until ``done``.
        a, b: operands.
        done: ``result`` is there; low from the cycle after ``start`` until then.
        result: the result; it stays until the next start.
    """

    def __init__(self):
        super().__init__(
            {
                "start": In(1),
                "function": In(FUNCTION_BITS),
                "a": In(SCALAR_BITS),
                "b": In(SCALAR_BITS),
                "done": Out(1),
                "result": Out(SCALAR_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        a, b, product = Signal(SCALAR_BITS), Signal(SCALAR_BITS), Signal(SCALAR_BITS)
        difference = Signal(SCALAR_BITS + 1)
        less = difference[-1]
        m.d.comb += [difference.eq(a - b), self.done.eq(1)]
        with m.If(self.start):
            m.d.sync += [a.eq(self.a), b.eq(self.b), product.eq(0)]
        with m.Switch(self.function):
            with m.Case(AluFunction.ADD.value):
                m.d.comb += self.result.eq(a + b)
            with m.Case(AluFunction.SUB.value):
                m.d.comb += self.result.eq(difference)
            with m.Case(AluFunction.AND.value):
                m.d.comb += self.result.eq(a & b)
            with m.Case(AluFunction.MIN.value):
                m.d.comb += self.result.eq(Mux(less, a, b))
            with m.Case(AluFunction.MAX.value):
                m.d.comb += self.result.eq(Mux(less, b, a))
            with m.Case(AluFunction.LESS.value):
                m.d.comb += self.result.eq(less)
            with m.Case(AluFunction.SHL.value, AluFunction.SHR.value):
                count = b[:SHIFT_BITS]
                m.d.comb += [self.result.eq(a), self.done.eq(count == 0)]
                with m.If(~self.start & (count != 0)):
                    left = self.function == AluFunction.SHL.value
                    m.d.sync += [a.eq(Mux(left, a << 1, a >> 1)), b[:SHIFT_BITS].eq(count - 1)]
            with m.Case(AluFunction.MUL.value):
                m.d.comb += [self.result.eq(product), self.done.eq(b == 0)]
                with m.If(~self.start & (b != 0)):
                    m.d.sync += [a.eq(a << 1), b.eq(b >> 1)]
                    with m.If(b[0]):
                        m.d.sync += product.eq(product + a)
        return m
