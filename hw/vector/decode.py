# SPDX-License-Identifier: Apache-2.0
"""From instructions to jobs: what the sequencer has to know, whatever the instruction."""

from __future__ import annotations

from amaranth import Module, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.vector.layouts import PC_BITS, POINTER_BITS, POINTERS, STRIP
from catenary.hw.vector.microcode import (
    AUX,
    BIAS,
    DST,
    ENTRIES,
    SCALES,
    SCALES2,
    TABLE,
    TABLE2,
    VALUE_SCALES,
    X2,
    X,
)
from catenary.hw.words import command_layout
from catenary.isa.fields import REGISTER_BITS, SCALAR_BITS
from catenary.isa.opcodes import ApplyFunction, CombineFunction, NormFunction, Opcode, Unit

LENGTH_BITS = 20

JobLayout = data.StructLayout(
    {
        "entry": PC_BITS,  # the microprogram
        "empty": 1,  # there is nothing to do
        "pointers": data.ArrayLayout(POINTER_BITS, POINTERS),  # first row
        "row_steps": data.ArrayLayout(LENGTH_BITS, POINTERS),
        "part_steps": data.ArrayLayout(LENGTH_BITS, 2),  # of the first two pointers
        "rows": 12,
        "parts": 10,
        "length": LENGTH_BITS,  # elements of a row (part, half)
        "block": 12,  # elements from block to block, where a strip has several
        "parameter": 32,
        "codes": data.StructLayout({"address": 16, "stride": 12, "total": LENGTH_BITS, "two": 1}),  # in A
        "growing": 1,  # rows grow by one element after `every` rows, up to codes.total
        "every": 12,
        "inverse": 1,  # FP32(1/length) is wanted
        "search": data.StructLayout({"active": 1, "first": 1, "register": REGISTER_BITS, "base": SCALAR_BITS}),
    }
)
"""An instruction in the sequencer's terms. ``block`` is 0 unless parts of a row may share a strip."""


class Decode(wiring.Component):
    """Maps an instruction to a job. Combinational.

    Members:
        command: the instruction.
        job: what to do.
    """

    def __init__(self) -> None:
        super().__init__({"command": In(command_layout(Unit.VECTOR)), "job": Out(JobLayout)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        job, body = self.job, self.command.body
        m.d.comb += job.parts.eq(1)
        with m.Switch(self.command.opcode):
            with m.Case(Opcode.NORM):
                self._norm(m, job, body.norm)
            with m.Case(Opcode.APPLY):
                self._apply(m, job, body.apply)
            with m.Case(Opcode.COMBINE):
                self._combine(m, job, body.combine)
            with m.Case(Opcode.ROPE):
                self._rope(m, job, body.rope)
            with m.Case(Opcode.QUANT):
                self._quant(m, job, body.quant)
            with m.Case(Opcode.SOFTMAX):
                self._softmax(m, job, body.softmax)
            with m.Case(Opcode.ARGMAX):
                self._argmax(m, job, body.argmax)
        return m

    def _norm(self, m: Module, job: data.View, norm: data.View) -> None:
        self._pointer(m, job, X, norm.x, norm.x_stride)
        self._pointer(m, job, DST, norm.dst, norm.dst_stride)
        self._pointer(m, job, AUX, norm.weight)
        self._pointer(m, job, BIAS, norm.bias)
        self._rows(m, job, norm.rows, norm.elements)
        m.d.comb += [job.parameter.eq(norm.eps), job.inverse.eq(1)]
        for function in NormFunction:
            with m.If(norm.function == function.value):
                with m.If(norm.has_bias):
                    m.d.comb += job.entry.eq(ENTRIES[function, True])
                with m.Else():
                    m.d.comb += job.entry.eq(ENTRIES[function, False])

    def _apply(self, m: Module, job: data.View, apply: data.View) -> None:
        self._pointer(m, job, X, apply.x, apply.x_stride)
        self._pointer(m, job, DST, apply.dst, apply.dst_stride)
        self._rows(m, job, apply.rows, apply.elements)
        m.d.comb += job.parameter.eq(apply.parameter)
        with m.Switch(apply.function):
            for function in ApplyFunction:
                with m.Case(function.value):
                    m.d.comb += job.entry.eq(ENTRIES[function])

    def _combine(self, m: Module, job: data.View, combine: data.View) -> None:
        self._pointer(m, job, X, combine.a, combine.a_stride)
        self._pointer(m, job, AUX, combine.b, combine.b_stride)
        self._pointer(m, job, DST, combine.dst, combine.dst_stride)
        self._rows(m, job, combine.rows, combine.elements)
        with m.Switch(combine.function):
            for function in CombineFunction:
                with m.Case(function.value):
                    m.d.comb += job.entry.eq(ENTRIES[function])

    def _rope(self, m: Module, job: data.View, rope: data.View) -> None:
        half = rope.rotary[1:]
        self._pointer(m, job, X, rope.x, rope.x_stride)
        self._pointer(m, job, X2, rope.x + half, rope.x_stride)
        self._pointer(m, job, TABLE, rope.table, rope.table_stride)
        self._pointer(m, job, TABLE2, rope.table + half, rope.table_stride)
        self._rows(m, job, rope.rows, half)
        self._parts(m, job, rope.parts, rope.elements, rope.elements)
        with m.If(half > STRIP):
            m.d.comb += job.entry.eq(ENTRIES["long rope"])
        with m.Else():
            m.d.comb += [job.entry.eq(ENTRIES["rope"]), job.block.eq(rope.elements)]

    def _quant(self, m: Module, job: data.View, quant: data.View) -> None:
        self._pointer(m, job, X, quant.x, quant.x_stride)
        self._pointer(m, job, SCALES, quant.scales, quant.scale_stride)
        self._rows(m, job, quant.rows, quant.elements)
        self._parts(m, job, quant.parts, quant.elements, quant.scale_step)
        m.d.comb += [
            job.entry.eq(ENTRIES["quant"]),
            job.parameter.eq(quant.multiplier),
            job.codes.address.eq(quant.dst),
            job.codes.stride.eq(quant.dst_stride),
            job.codes.total.eq(quant.elements),
        ]

    def _softmax(self, m: Module, job: data.View, softmax: data.View) -> None:
        self._pointer(m, job, X, softmax.x, softmax.x_stride)
        self._pointer(m, job, SCALES, softmax.scales, 2)
        self._pointer(m, job, SCALES2, softmax.scales + 1, 2)
        self._pointer(m, job, VALUE_SCALES, softmax.value_scales)
        m.d.comb += [
            job.entry.eq(ENTRIES["softmax"]),
            job.empty.eq(softmax.rows == 0),
            job.rows.eq(softmax.rows),
            job.length.eq(softmax.length),
            job.codes.address.eq(softmax.dst),
            job.codes.stride.eq(softmax.dst_stride),
            job.codes.total.eq(softmax.total),
            job.codes.two.eq(1),
            job.growing.eq(1),
            job.every.eq(softmax.every),
        ]

    def _argmax(self, m: Module, job: data.View, argmax: data.View) -> None:
        self._pointer(m, job, X, argmax.x)
        self._rows(m, job, 1, argmax.elements)
        m.d.comb += [
            job.entry.eq(ENTRIES["argmax"]),
            job.search.active.eq(1),
            job.search.first.eq(argmax.first),
            job.search.register.eq(argmax.rd),
            job.search.base.eq(argmax.base),
        ]

    def _pointer(self, m: Module, job: data.View, number: int, start: Value, row_step: Value | int = 0) -> None:
        m.d.comb += [job.pointers[number].eq(start), job.row_steps[number].eq(row_step)]

    def _rows(self, m: Module, job: data.View, rows: Value | int, length: Value) -> None:
        m.d.comb += [job.rows.eq(rows), job.length.eq(length), job.empty.eq((rows == 0) | (length == 0))]

    def _parts(self, m: Module, job: data.View, parts: Value, first: Value, second: Value) -> None:
        """Several parts in a row; steps of the first two pointers from part to part."""
        m.d.comb += [job.parts.eq(parts), job.part_steps[0].eq(first), job.part_steps[1].eq(second)]
        with m.If(parts == 0):
            m.d.comb += job.empty.eq(1)
