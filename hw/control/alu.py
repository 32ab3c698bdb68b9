# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of ALU instructions: a few cycles each, no multiplier."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.isa.fields import SCALAR_BITS
from catenary.isa.instructions import INSTRUCTIONS
from catenary.isa.opcodes import AluFunction, Opcode

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
        a, b = Signal(SCALAR_BITS), Signal(SCALAR_BITS)  # factors: one to be added, one to be looked at
        count = b[:SHIFT_BITS]
        is_product, is_left, is_shift, subtract = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            is_product.eq(self.function == AluFunction.MUL.value),
            is_left.eq(self.function == AluFunction.SHL.value),
            is_shift.eq(is_left | (self.function == AluFunction.SHR.value)),
            subtract.eq((self.function != AluFunction.ADD.value) & ~is_product),
        ]
        # One adder: sum and difference of the operands, and the sum of a product so far and what is to be added to it.
        total, summand = Signal(SCALAR_BITS + 1), Signal(SCALAR_BITS)
        less = ~total[-1]
        m.d.comb += [
            summand.eq(Mux(is_product, a, Mux(subtract, ~self.b, self.b))),
            total.eq(Mux(is_product, self.result, self.a) + summand + subtract),
        ]
        # Operands, one of them, or the bits that both have: what either lacks is filled up with ones.
        selected, without_a, without_b = Signal(SCALAR_BITS), Signal(), Signal()
        with m.Switch(self.function):
            with m.Case(AluFunction.MIN.value):
                m.d.comb += [without_a.eq(~less), without_b.eq(less)]
            with m.Case(AluFunction.MAX.value):
                m.d.comb += [without_a.eq(less), without_b.eq(~less)]
            with m.Case(AluFunction.SHL.value, AluFunction.SHR.value):
                m.d.comb += without_b.eq(1)
        m.d.comb += selected.eq(
            (self.a | without_a.replicate(SCALAR_BITS)) & (self.b | without_b.replicate(SCALAR_BITS))
        )

        is_sum, is_flag = Signal(), Signal()
        m.d.comb += [
            is_sum.eq(is_product | (self.function == AluFunction.ADD.value) | (self.function == AluFunction.SUB.value)),
            is_flag.eq(self.function == AluFunction.LESS.value),
        ]
        following = Signal(SCALAR_BITS)
        with m.If(is_sum):
            m.d.comb += following.eq(total)
        with m.Elif(self.start):
            m.d.comb += following.eq(selected)
        with m.Else():
            m.d.comb += following.eq(Mux(is_left, self.result << 1, self.result >> 1))
        with m.If(self.start):
            m.d.sync += [a.eq(self.a), b.eq(self.b)]
        with m.Elif(is_product):
            m.d.sync += [a.eq(a << 1), b.eq(b >> 1)]
        with m.Elif(~self.done):
            m.d.sync += count.eq(count - 1)
        with m.If(self.start | (is_product & b[0]) | (is_shift & ~self.done)):
            m.d.sync += self.result.eq(following)
        with m.If(self.start & (is_product | is_flag)):
            m.d.sync += self.result.eq(is_flag & less)
        m.d.comb += self.done.eq(~(is_product & (b != 0)) & ~(is_shift & (count != 0)))
        return m
