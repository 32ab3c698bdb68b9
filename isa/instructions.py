# SPDX-License-Identifier: Apache-2.0
"""The instructions: every field, and the meaning of each instruction as a loop nest.

The docstring of an instruction is its semantics; the instruction chapter of the manual prints it. ``V``, ``A`` and
``D`` are the on-chip buffers, ``W`` is the weight stream FIFO, ``mem[line]`` is memory by lines (one beat of all
ports). Operands written as plain names have been read (register plus immediate) when the instruction was dispatched.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, ClassVar

from catenary.isa.fields import BitField, Bits, Float32, Operand, Reg, RegisterNumber, layout
from catenary.isa.opcodes import (
    AluFunction,
    ApplyFunction,
    Buffer,
    CombineFunction,
    MemoryFormat,
    NormFunction,
    Opcode,
    Source,
    Unit,
    Units,
)


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """What all instructions share.

    ``wait``: units from which one token each is taken before the instruction starts. ``release``: units to which one
    token each is given when it has finished. A token counter belongs to each ordered pair of different units.
    """

    opcode: ClassVar[Opcode]
    unit: ClassVar[Unit]
    prefix: ClassVar[tuple[BitField, ...]]
    body: ClassVar[tuple[BitField, ...]]

    wait: Annotated[Units, Bits(5)] = field(default=Units.NONE)
    release: Annotated[Units, Bits(5)] = field(default=Units.NONE)

    @property
    def executing_unit(self) -> Unit:
        """The unit whose queue the instruction enters."""
        return self.unit


OPCODE_FIELD = BitField("opcode", 0, 6, Bits(6), Opcode)


@dataclass(frozen=True, kw_only=True)
class _Transfer(Instruction):
    buffer: Annotated[Buffer, Bits(2)]
    format: Annotated[MemoryFormat, Bits(3)]
    address: Annotated[Operand, Reg(20)] = Operand()
    stride: Annotated[int, Bits(20)] = 0
    memory: Annotated[Operand, Reg(32)] = Operand()
    row: Annotated[Operand, Reg(20)] = Operand()
    rows: Annotated[Operand, Reg(24)] = Operand()
    elements: Annotated[Operand, Reg(20)] = Operand()
    pack: Annotated[int, Bits(5)] = 0
    row_lines: Annotated[int, Bits(16)] = 1


@dataclass(frozen=True, kw_only=True)
class Load(_Transfer):
    """Copy rows from memory into a buffer; one instruction drives all memory ports.

    ::

        for r in range(rows):
            p = row + r
            if pack: line, offset = memory + (p >> pack), (p & ((1 << pack) - 1)) * elements * format.bytes
            else:    line, offset = memory + p * row_lines, 0
            for e in range(elements):
                buffer[address + r * stride + e] = widen(mem[line][offset + e * format.bytes])

    Packed rows are not interleaved: there, ``row_lines`` does not count. A row that spans lines continues in the next
    one. Into ``A`` the elements are bytes and ``stride`` counts 16-byte
    words; a row's last word is filled with zeros. Into ``W`` the format is LINES and the lines
    ``memory + row .. memory + row + rows - 1`` are pushed in order; the load finishes when the last line is pushed, and
    the FIFO holds it back while full.
    """

    opcode = Opcode.LD
    unit = Unit.LOAD


@dataclass(frozen=True, kw_only=True)
class Store(_Transfer):
    """Copy rows from ``V`` (as F32) or ``A`` (as I8) into memory; the mirror image of LD.

    From ``A`` with ``pack`` > 0 and ``row_lines`` > 1, rows of ``16 * row_lines`` bytes are interleaved::

        for r in range(rows):
            p = row + r
            for w in range(row_lines):
                line, offset = memory + (p >> pack) * row_lines + w, (p & ((1 << pack) - 1)) * 16
                mem[line][offset : offset + 16] = A[address + r * stride + w]

    Bytes of a line outside the rows keep their value (write strobes). The store finishes when memory has acknowledged.
    """

    opcode = Opcode.ST
    unit = Unit.STORE


@dataclass(frozen=True, kw_only=True)
class _Linear(Instruction):
    act: Annotated[Operand, Reg(16)]
    act_stride: Annotated[int, Bits(12)]
    tokens: Annotated[Operand, Reg(12)]
    depth: Annotated[int, Bits(20)]
    rows: Annotated[Operand, Reg(20)]
    out: Annotated[Operand, Reg(20)]
    out_stride: Annotated[int, Bits(20)]
    scales: Annotated[Operand, Reg(20)]


@dataclass(frozen=True, kw_only=True)
class MatrixMatrix(_Linear):
    """Linear layer on many tokens; the weights, their scales and the bias come from the stream.

    ::

        done = 0
        while done < rows:
            block = pop_row_block(W, depth)            # header, then everything that it announces
            for t in range(tokens):
                for r in range(block.rows):
                    acc = sum(block.weight[r][k] * A[act + t * act_stride][k] for k in range(depth))
                    acc += sum(v * A[act + t * act_stride][k] for v, k in block.outliers[r])
                    y = (float(acc) * block.row_scale[r]) * V[scales + t]
                    V[out + t * out_stride + done + r] = y + block.bias[r] if block.has_bias else y
            done += block.rows

    ``done`` must end at ``rows`` exactly. A weight is what codes, table, scales and zeros of the row block make of it;
    ``outliers[r]`` are value and column of each entry of row ``r``. Each weight is expanded once and kept for all
    tokens. What remains of a line after the last block of a stream is padding: the first block of the next load starts
    at a line.
    """

    opcode = Opcode.MM
    unit = Unit.MATRIX


@dataclass(frozen=True, kw_only=True)
class MatrixVector(_Linear):
    """Linear layer on one token: as MM with ``tokens`` = 1, all chains on one activation vector."""

    opcode = Opcode.MV
    unit = Unit.MATRIX


@dataclass(frozen=True, kw_only=True)
class Score(Instruction):
    """Attention scores of query rows against key rows.

    ::

        for r in range(rows):
            key = next_row(W, depth) if source is STREAM else A[rows_at + r * rows_stride]
            for t in range(tokens):
                acc = sum(key[c] * A[act + t * act_stride][c] for c in range(depth))
                V[out + t * out_stride + r] = (float(acc) * V[row_scales + r]) * V[scales + t]

    Stream rows lie in lines as ST lays them out: one row in ``row_lines`` lines if ``pack`` is 0, else ``1 << pack``
    rows of ``depth`` bytes in a line or, interleaved, in ``row_lines`` lines, 16 bytes of each row in a line. Of
    interleaved rows an accelerator takes one ``pack`` only (``catenary.isa.memory.key_pack``). The instruction consumes
    whole lines, even where ``tokens`` is 0, and of interleaved rows all ``row_lines`` lines that the last ones lie in.
    """

    opcode = Opcode.SCORE
    unit = Unit.MATRIX

    source: Annotated[Source, Bits(1)]
    act: Annotated[Operand, Reg(16)]
    act_stride: Annotated[int, Bits(12)]
    tokens: Annotated[Operand, Reg(12)]
    depth: Annotated[int, Bits(12)]
    rows: Annotated[Operand, Reg(20)]
    out: Annotated[Operand, Reg(20)]
    out_stride: Annotated[int, Bits(20)]
    scales: Annotated[Operand, Reg(20)]
    row_scales: Annotated[Operand, Reg(20)]
    rows_at: Annotated[Operand, Reg(16)] = Operand()
    rows_stride: Annotated[int, Bits(12)] = 0
    pack: Annotated[int, Bits(5)] = 0
    row_lines: Annotated[int, Bits(8)] = 1


@dataclass(frozen=True, kw_only=True)
class Context(Instruction):
    """Attention output: probabilities times value rows, every channel an accumulator of its own.

    ::

        if clear: hi[...] = lo[...] = 0
        for r in range(rows):
            value = next_row(W, depth) if source is STREAM else A[rows_at + r * rows_stride]
            for t in range(tokens):
                for c in range(depth):
                    hi[t][c] += A[act + (2 * t) * act_stride][first + r] * value[c]
                    lo[t][c] += A[act + (2 * t + 1) * act_stride][first + r] * value[c]
        if emit:
            for t in range(tokens):
                for c in range(depth):
                    y = ((float(hi[t][c]) * 128 + float(lo[t][c])) * V[scales + 2 * t]) * V[scales + 2 * t + 1]
                    V[out + (t // group) * out_stride + (t % group) * depth + c] = y

    ``first`` counts bytes. The two parts of a probability are two tokens to the chains: with 128 lanes and 16
    accumulators in each, 8 rows of 128 channels or 4 of 256 fit (``AcceleratorConfig.context_rows``). The accumulators
    live from the instruction that clears them to the one that emits: no other matrix instruction may come between, and
    all of them have the same ``tokens`` and ``depth``. ``group`` heads of one token lie side by side in its output row.
    Rows from the stream are consumed as by SCORE, but are never interleaved.
    """

    opcode = Opcode.CONTEXT
    unit = Unit.MATRIX

    source: Annotated[Source, Bits(1)]
    clear: Annotated[bool, Bits(1)]
    emit: Annotated[bool, Bits(1)]
    act: Annotated[Operand, Reg(16)]
    act_stride: Annotated[int, Bits(12)]
    tokens: Annotated[Operand, Reg(12)]
    depth: Annotated[int, Bits(12)]
    rows: Annotated[Operand, Reg(20)]
    first: Annotated[Operand, Reg(20)]
    out: Annotated[Operand, Reg(20)]
    out_stride: Annotated[int, Bits(20)]
    group: Annotated[int, Bits(8)]
    scales: Annotated[Operand, Reg(20)]
    rows_at: Annotated[Operand, Reg(16)] = Operand()
    rows_stride: Annotated[int, Bits(12)] = 0
    pack: Annotated[int, Bits(5)] = 0
    row_lines: Annotated[int, Bits(8)] = 1


@dataclass(frozen=True, kw_only=True)
class Norm(Instruction):
    """RMSNorm or LayerNorm of rows. ``dst`` may be ``x``.

    ::

        for r in range(rows):
            V[dst + r * dst_stride ..] = norm(V[x + r * x_stride ..][:elements], V[weight ..], V[bias ..], eps)
    """

    opcode = Opcode.NORM
    unit = Unit.VECTOR

    function: Annotated[NormFunction, Bits(2)]
    dst: Annotated[Operand, Reg(20)]
    dst_stride: Annotated[int, Bits(20)]
    x: Annotated[Operand, Reg(20)]
    x_stride: Annotated[int, Bits(20)]
    rows: Annotated[Operand, Reg(12)]
    elements: Annotated[int, Bits(20)]
    weight: Annotated[Operand, Reg(20)]
    has_bias: Annotated[bool, Bits(1)]
    bias: Annotated[Operand, Reg(20)]
    eps: Annotated[float, Float32()]


@dataclass(frozen=True, kw_only=True)
class Apply(Instruction):
    """Elementwise function of one operand; ``parameter`` is the cap of SOFT_CAP. ``dst`` may be ``x``.

    ::

        for r in range(rows):
            for e in range(elements):
                V[dst + r * dst_stride + e] = function(V[x + r * x_stride + e], parameter)
    """

    opcode = Opcode.APPLY
    unit = Unit.VECTOR

    function: Annotated[ApplyFunction, Bits(4)]
    dst: Annotated[Operand, Reg(20)]
    dst_stride: Annotated[int, Bits(20)]
    x: Annotated[Operand, Reg(20)]
    x_stride: Annotated[int, Bits(20)]
    rows: Annotated[Operand, Reg(12)]
    elements: Annotated[Operand, Reg(20)]
    parameter: Annotated[float, Float32()] = 0.0


@dataclass(frozen=True, kw_only=True)
class Combine(Instruction):
    """Elementwise function of two operands. ``dst`` may be ``a`` or ``b``.

    ::

        for r in range(rows):
            for e in range(elements):
                V[dst + r * dst_stride + e] = function(V[a + r * a_stride + e], V[b + r * b_stride + e])
    """

    opcode = Opcode.COMBINE
    unit = Unit.VECTOR

    function: Annotated[CombineFunction, Bits(2)]
    dst: Annotated[Operand, Reg(20)]
    dst_stride: Annotated[int, Bits(20)]
    a: Annotated[Operand, Reg(20)]
    a_stride: Annotated[int, Bits(20)]
    b: Annotated[Operand, Reg(20)]
    b_stride: Annotated[int, Bits(20)]
    rows: Annotated[Operand, Reg(12)]
    elements: Annotated[Operand, Reg(20)]


@dataclass(frozen=True, kw_only=True)
class Rope(Instruction):
    """Rotary position embedding in place, half-split order; elements from ``rotary`` on stay as they are.

    ::

        h = rotary / 2
        for r in range(rows):
            cos, sin = V[table + r * table_stride ..][:h], V[table + r * table_stride + h ..][:h]
            for p in range(parts):
                x1, x2 = V[x + r * x_stride + p * elements ..][:h], V[... + h ..][:h]
                x1, x2 = x1 * cos - x2 * sin, x2 * cos + x1 * sin
    """

    opcode = Opcode.ROPE
    unit = Unit.VECTOR

    x: Annotated[Operand, Reg(20)]
    x_stride: Annotated[int, Bits(20)]
    rows: Annotated[Operand, Reg(12)]
    parts: Annotated[int, Bits(10)]
    elements: Annotated[int, Bits(12)]
    rotary: Annotated[int, Bits(12)]
    table: Annotated[Operand, Reg(20)]
    table_stride: Annotated[int, Bits(20)]


@dataclass(frozen=True, kw_only=True)
class Quant(Instruction):
    """Dynamic symmetric INT8 quantisation of row parts into the activation buffer.

    ::

        for r in range(rows):
            for p in range(parts):
                codes, s = quantize(V[x + r * x_stride + p * elements ..][:elements])
                A[dst + (r * parts + p) * dst_stride] = codes, padded with zeros to whole 16-byte words
                V[scales + r * scale_stride + p * scale_step] = s * multiplier
    """

    opcode = Opcode.QUANT
    unit = Unit.VECTOR

    dst: Annotated[Operand, Reg(16)]
    dst_stride: Annotated[int, Bits(12)]
    x: Annotated[Operand, Reg(20)]
    x_stride: Annotated[int, Bits(20)]
    rows: Annotated[Operand, Reg(12)]
    parts: Annotated[int, Bits(10)]
    elements: Annotated[int, Bits(20)]
    scales: Annotated[Operand, Reg(20)]
    scale_stride: Annotated[int, Bits(16)]
    scale_step: Annotated[int, Bits(16)]
    multiplier: Annotated[float, Float32()] = 1.0


@dataclass(frozen=True, kw_only=True)
class Softmax(Instruction):
    """Softmax of score rows into two-part probabilities with the value scales folded in.

    ::

        for r in range(rows):
            n = length + r // every                   # visible elements of this row
            hi, lo, c1, c2 = softmax_weights(V[x + r * x_stride ..][:n], V[value_scales ..][:n])
            A[dst + (2 * r) * dst_stride], A[dst + (2 * r + 1) * dst_stride] = hi, lo    # zeros from n to total
            V[scales + 2 * r], V[scales + 2 * r + 1] = c1, c2

    The last word of each part is filled with zeros. The scores are working storage: what ``x`` holds afterwards is
    undefined.
    """

    opcode = Opcode.SOFTMAX
    unit = Unit.VECTOR

    x: Annotated[Operand, Reg(20)]
    x_stride: Annotated[int, Bits(20)]
    rows: Annotated[Operand, Reg(12)]
    length: Annotated[Operand, Reg(20)]
    every: Annotated[int, Bits(12)]
    total: Annotated[Operand, Reg(20)]
    value_scales: Annotated[Operand, Reg(20)]
    dst: Annotated[Operand, Reg(16)]
    dst_stride: Annotated[int, Bits(12)]
    scales: Annotated[Operand, Reg(20)]


@dataclass(frozen=True, kw_only=True)
class Argmax(Instruction):
    """Running arg-max: the lowest index wins, NaN never wins.

    ::

        if first: best, where = -inf, base
        for e in range(elements):
            if V[x + e] > best: best, where = V[x + e], base + e
        R[rd] = where

    ``rd`` is marked busy at dispatch; a later read of it waits for this instruction.
    """

    opcode = Opcode.ARGMAX
    unit = Unit.VECTOR

    rd: Annotated[int, RegisterNumber(written=True)]
    first: Annotated[bool, Bits(1)]
    x: Annotated[Operand, Reg(20)]
    elements: Annotated[Operand, Reg(20)]
    base: Annotated[Operand, Reg(32)]


@dataclass(frozen=True, kw_only=True)
class LoadImmediate(Instruction):
    """``R[rd] = imm``."""

    opcode = Opcode.LI
    unit = Unit.CONTROL

    rd: Annotated[int, RegisterNumber(written=True)]
    imm: Annotated[int, Bits(40)]


@dataclass(frozen=True, kw_only=True)
class Alu(Instruction):
    """``R[rd] = function(R[ra], b)`` on unsigned 40-bit values that wrap; LESS gives 1 or 0, shifts use ``b & 63``."""

    opcode = Opcode.ALU
    unit = Unit.CONTROL

    function: Annotated[AluFunction, Bits(4)]
    rd: Annotated[int, RegisterNumber(written=True)]
    ra: Annotated[int, RegisterNumber()]
    b: Annotated[Operand, Reg(40)]


@dataclass(frozen=True, kw_only=True)
class LoadScalar(Instruction):
    """``R[rd] = D[address]``, the low 40 bits."""

    opcode = Opcode.LDS
    unit = Unit.CONTROL

    rd: Annotated[int, RegisterNumber(written=True)]
    address: Annotated[Operand, Reg(20)]


@dataclass(frozen=True, kw_only=True)
class Loop(Instruction):
    """Run the next ``length`` instructions ``count`` times (0 skips them). Loops nest four deep and end inside their
    enclosing loop.
    """

    opcode = Opcode.LOOP
    unit = Unit.CONTROL

    count: Annotated[Operand, Reg(24)]
    length: Annotated[int, Bits(12)]


@dataclass(frozen=True, kw_only=True)
class Nop(Instruction):
    """Do nothing in ``target``'s queue, but wait and release there."""

    opcode = Opcode.NOP
    unit = Unit.CONTROL

    target: Annotated[Unit, Bits(3)]

    @property
    def executing_unit(self) -> Unit:
        """``target``."""
        return self.target


@dataclass(frozen=True, kw_only=True)
class End(Instruction):
    """Wait until every queue is empty and every store is acknowledged, put ``R[result]`` into the RESULT register of
    the host interface and report done. All token counters and the stream FIFO must be empty.
    """

    opcode = Opcode.END
    unit = Unit.CONTROL

    result: Annotated[int, RegisterNumber()] = 0


INSTRUCTIONS: dict[Opcode, type[Instruction]] = {
    cls.opcode: cls
    for cls in (
        Load, Store, MatrixMatrix, MatrixVector, Score, Context, Norm, Apply, Combine, Rope, Quant, Softmax, Argmax,
        LoadImmediate, Alu, LoadScalar, Loop, Nop, End,
    )
}  # fmt: skip

for _cls in INSTRUCTIONS.values():
    _cls.prefix = (OPCODE_FIELD, *layout(_cls, ["wait", "release"], OPCODE_FIELD.width))
    _start = _cls.prefix[-1].offset + _cls.prefix[-1].width
    _cls.body = layout(_cls, [f.name for f in fields(_cls) if f.name not in ("wait", "release")], _start)
