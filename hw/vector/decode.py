# SPDX-License-Identifier: Apache-2.0
"""From instructions to jobs: what the sequencer has to know, whatever the instruction."""

from __future__ import annotations

from amaranth import Module, Mux, Shape, Value
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
from catenary.hw.words import command_layout, record_layout
from catenary.isa.fields import REGISTER_BITS, SCALAR_BITS
from catenary.isa.instructions import Apply, Argmax, Combine, Instruction, Norm, Quant, Rope, Softmax
from catenary.isa.opcodes import ApplyFunction, CombineFunction, NormFunction, Opcode, Unit


def _widest(name: str, *classes: type[Instruction]) -> int:
    """Bits of the widest of the fields of this name."""
    return max(Shape.cast(record_layout(cls)[name].shape).width for cls in classes)


LENGTH_BITS = max(
    _widest("elements", Norm, Apply, Combine, Rope, Quant, Argmax),
    _widest("length", Softmax),
    _widest("total", Softmax),
)
"""Bits of a number of elements, and of a step between rows."""

JobLayout = data.StructLayout(
    {
        "entry": PC_BITS,  # the microprogram
        "empty": 1,  # there is nothing to do
        "pointers": data.ArrayLayout(POINTER_BITS, POINTERS),  # first row
        "row_steps": data.ArrayLayout(LENGTH_BITS, POINTERS),
        "part_steps": data.ArrayLayout(LENGTH_BITS, 2),  # of the first two pointers
        "rows": _widest("rows", Norm, Apply, Combine, Rope, Quant, Softmax),
        "parts": _widest("parts", Rope, Quant),
        "length": LENGTH_BITS,  # elements of a row (part, half)
        "block": _widest("elements", Rope),  # elements from block to block, where a strip has several
        "parameter": 32,
        "codes": data.StructLayout(  # in A
            {
                "address": _widest("dst", Quant, Softmax),
                "stride": _widest("dst_stride", Quant, Softmax),
                "total": LENGTH_BITS,
                "two": 1,
            }
        ),
        "growing": 1,  # rows grow by one element after `every` rows, up to codes.total
        "every": _widest("every", Softmax),
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
        # Members that mean nothing to some instructions: where they come from, by instruction.
        self._sources: dict[str, tuple[Value, list[tuple[Opcode, Value]]]] = {}
        m.d.comb += job.parts.eq(1)
        with m.Switch(self.command.opcode):
            for opcode, decode, record in (
                (Opcode.NORM, self._norm, body.norm),
                (Opcode.APPLY, self._apply, body.apply),
                (Opcode.COMBINE, self._combine, body.combine),
                (Opcode.ROPE, self._rope, body.rope),
                (Opcode.QUANT, self._quant, body.quant),
                (Opcode.SOFTMAX, self._softmax, body.softmax),
                (Opcode.ARGMAX, self._argmax, body.argmax),
            ):
                with m.Case(opcode):
                    self._opcode = opcode
                    decode(m, job, record)
        for target, sources in self._sources.values():
            with m.Switch(self.command.opcode):
                for opcode, value in sources[:-1]:
                    with m.Case(opcode):
                        m.d.comb += target.eq(value)
                with m.Default():
                    m.d.comb += target.eq(sources[-1][1])
        return m

    def _take(self, name: str, target: Value, value: Value | int) -> None:
        """``target`` comes from ``value``; what it is for instructions that do not say so means nothing."""
        self._sources.setdefault(name, (target, []))[1].append((self._opcode, Value.cast(value)))

    def _norm(self, m: Module, job: data.View, norm: data.View) -> None:
        self._pointer(job, X, norm.x, norm.x_stride)
        self._pointer(job, DST, norm.dst, norm.dst_stride)
        self._pointer(job, AUX, norm.weight)
        self._pointer(job, BIAS, norm.bias)
        self._rows(m, job, norm.rows, norm.elements)
        self._take("parameter", job.parameter, norm.eps)
        m.d.comb += job.inverse.eq(1)
        for function in NormFunction:
            with m.If(norm.function == function.value):
                with m.If(norm.has_bias):
                    m.d.comb += job.entry.eq(ENTRIES[function, True])
                with m.Else():
                    m.d.comb += job.entry.eq(ENTRIES[function, False])

    def _apply(self, m: Module, job: data.View, apply: data.View) -> None:
        self._pointer(job, X, apply.x, apply.x_stride)
        self._pointer(job, DST, apply.dst, apply.dst_stride)
        self._rows(m, job, apply.rows, apply.elements)
        self._take("parameter", job.parameter, apply.parameter)
        with m.Switch(apply.function):
            for function in ApplyFunction:
                with m.Case(function.value):
                    m.d.comb += job.entry.eq(ENTRIES[function])

    def _combine(self, m: Module, job: data.View, combine: data.View) -> None:
        self._pointer(job, X, combine.a, combine.a_stride)
        self._pointer(job, AUX, combine.b, combine.b_stride)
        self._pointer(job, DST, combine.dst, combine.dst_stride)
        self._rows(m, job, combine.rows, combine.elements)
        with m.Switch(combine.function):
            for function in CombineFunction:
                with m.Case(function.value):
                    m.d.comb += job.entry.eq(ENTRIES[function])

    def _rope(self, m: Module, job: data.View, rope: data.View) -> None:
        half = rope.rotary[1:]
        self._pointer(job, X, rope.x, rope.x_stride)
        self._pointer(job, X2, rope.x + half, rope.x_stride)
        self._pointer(job, TABLE, rope.table, rope.table_stride)
        self._pointer(job, TABLE2, rope.table + half, rope.table_stride)
        self._rows(m, job, rope.rows, half)
        self._parts(m, job, rope.parts, rope.elements, rope.elements)
        with m.If(half > STRIP):
            m.d.comb += job.entry.eq(ENTRIES["long rope"])
        with m.Else():
            m.d.comb += [job.entry.eq(ENTRIES["rope"]), job.block.eq(rope.elements)]

    def _quant(self, m: Module, job: data.View, quant: data.View) -> None:
        self._pointer(job, X, quant.x, quant.x_stride)
        self._pointer(job, SCALES, quant.scales, quant.scale_stride)
        self._rows(m, job, quant.rows, quant.elements)
        self._parts(m, job, quant.parts, quant.elements, quant.scale_step)
        self._take("parameter", job.parameter, quant.multiplier)
        self._codes(job, quant, quant.elements)
        m.d.comb += job.entry.eq(ENTRIES["quant"])

    def _softmax(self, m: Module, job: data.View, softmax: data.View) -> None:
        self._pointer(job, X, softmax.x, softmax.x_stride)
        self._pointer(job, SCALES, softmax.scales, 2)
        self._pointer(job, SCALES2, softmax.scales + 1, 2)
        self._pointer(job, VALUE_SCALES, softmax.value_scales)
        m.d.comb += [
            job.empty.eq(softmax.rows == 0),  # a row without elements is a fault
            job.entry.eq(Mux(softmax.total > STRIP, ENTRIES["softmax"], ENTRIES["short softmax"])),
            job.codes.two.eq(1),
            job.growing.eq(1),
        ]
        self._take("rows", job.rows, softmax.rows)
        self._take("length", job.length, softmax.length)
        self._take("every", job.every, softmax.every)
        self._codes(job, softmax, softmax.total)

    def _argmax(self, m: Module, job: data.View, argmax: data.View) -> None:
        self._pointer(job, X, argmax.x)
        self._rows(m, job, 1, argmax.elements)
        m.d.comb += [job.entry.eq(ENTRIES["argmax"]), job.search.active.eq(1)]
        self._take("first", job.search.first, argmax.first)
        self._take("register", job.search.register, argmax.rd)
        self._take("base", job.search.base, argmax.base)

    def _pointer(self, job: data.View, number: int, start: Value, row_step: Value | int = 0) -> None:
        self._take(f"pointer_{number}", job.pointers[number], start)
        self._take(f"row_step_{number}", job.row_steps[number], row_step)

    def _codes(self, job: data.View, record: data.View, total: Value) -> None:
        self._take("codes.address", job.codes.address, record.dst)
        self._take("codes.stride", job.codes.stride, record.dst_stride)
        self._take("codes.total", job.codes.total, total)

    def _rows(self, m: Module, job: data.View, rows: Value | int, length: Value) -> None:
        self._take("rows", job.rows, rows)
        self._take("length", job.length, length)
        m.d.comb += job.empty.eq((rows == 0) | (length == 0))

    def _parts(self, m: Module, job: data.View, parts: Value, first: Value, second: Value) -> None:
        """Several parts in a row; steps of the first two pointers from part to part."""
        self._take("part_step_0", job.part_steps[0], first)
        self._take("part_step_1", job.part_steps[1], second)
        m.d.comb += job.parts.eq(parts)
        with m.If(parts == 0):
            m.d.comb += job.empty.eq(1)
