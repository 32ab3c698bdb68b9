# SPDX-License-Identifier: Apache-2.0
"""What a single instruction must satisfy beyond its encoding, as tables.

:data:`RULES` hold for every accelerator; :func:`misfits` compares immediate values with the sizes of one. The manual
prints the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from catenary.isa.config import AcceleratorConfig
from catenary.isa.fields import BitField, Operand, RegisterNumber
from catenary.isa.instructions import INSTRUCTIONS, Context, Instruction, Load, MatrixMatrix, Score, Store
from catenary.isa.memory import RowLayout, key_pack
from catenary.isa.opcodes import KEY_LIMIT, Buffer, MemoryFormat, Opcode, Source, Units
from catenary.isa.tensors import BLOCK

LOAD_FORMATS: Mapping[Buffer, tuple[MemoryFormat, ...]] = {
    Buffer.V: (MemoryFormat.F32, MemoryFormat.F16, MemoryFormat.BF16),
    Buffer.A: (MemoryFormat.I8,),
    Buffer.D: (MemoryFormat.U64,),
    Buffer.W: (MemoryFormat.LINES,),
}
"""Formats in memory that LD can bring into each buffer."""

STORE_FORMATS: Mapping[Buffer, tuple[MemoryFormat, ...]] = {
    Buffer.V: (MemoryFormat.F32,),
    Buffer.A: (MemoryFormat.I8,),
    Buffer.D: (),
    Buffer.W: (),
}
"""Formats in memory that ST can write from each buffer."""


@dataclass(frozen=True)
class Rule:
    """A rule about one field of some instructions.

    Attributes:
        opcodes: the instructions that it is about.
        field: the field.
        text: what the field must be, to stand behind "must be".
        holds: whether an instruction satisfies it.
    """

    opcodes: tuple[Opcode, ...]
    field: str
    text: str
    holds: Callable[[Any], bool]


def consumes_stream(insn: Instruction) -> bool:
    """Whether ``insn`` takes lines out of the stream FIFO."""
    if isinstance(insn, Score | Context):
        return insn.source is Source.STREAM
    return insn.opcode in (Opcode.MM, Opcode.MV)


def interleaves(insn: Load | Store | Score | Context) -> bool:
    """Whether the rows of ``insn`` in memory, or from the stream, are interleaved."""
    return bool(insn.pack) and insn.row_lines > 1 and getattr(insn, "source", None) is not Source.BUFFER


def insn_layout(insn: Load | Store | Score | Context, row_bytes: int) -> RowLayout:
    """How rows of ``row_bytes`` bytes lie in memory, or come from the stream."""
    return RowLayout(row_bytes, insn.pack, max(1, insn.row_lines) if insn.pack else insn.row_lines)


_REGISTER_FIELDS = {
    (cls, written): tuple(f for f in cls.body if isinstance(f.kind, RegisterNumber) and f.kind.written is written)
    for cls in INSTRUCTIONS.values()
    for written in (False, True)
}


def register_fields(cls: type[Instruction], written: bool) -> tuple[BitField, ...]:
    """Fields of ``cls`` that hold the number of a register that it writes, or else only reads."""
    return _REGISTER_FIELDS[cls, written]


def _formats(table: Mapping[Buffer, tuple[MemoryFormat, ...]]) -> str:
    words = [
        f"{' or '.join(fmt.name.lower() for fmt in formats)} with buffer {buffer.name.lower()}"
        for buffer, formats in table.items()
        if formats
    ]
    return ", ".join(words)


_ALL = tuple(INSTRUCTIONS)
_MATRIX = (Opcode.MM, Opcode.MV, Opcode.SCORE, Opcode.CONTEXT)
_ATTENTION = (Opcode.SCORE, Opcode.CONTEXT)
_WRITERS = tuple(opcode for opcode, cls in INSTRUCTIONS.items() if register_fields(cls, written=True))

RULES: tuple[Rule, ...] = (
    Rule(_ALL, "wait", "units other than its own", lambda i: not i.wait & Units(1 << i.executing_unit)),
    Rule(_ALL, "release", "units other than its own", lambda i: not i.release & Units(1 << i.executing_unit)),
    Rule((Opcode.LD,), "format", _formats(LOAD_FORMATS), lambda i: i.format in LOAD_FORMATS[i.buffer]),
    Rule((Opcode.ST,), "format", _formats(STORE_FORMATS), lambda i: i.format in STORE_FORMATS[i.buffer]),
    Rule((Opcode.MV,), "tokens", "1", lambda i: i.tokens == Operand(0, 1)),
    Rule(_MATRIX, "depth", "at least 1", lambda i: i.depth >= 1),
    Rule((Opcode.SCORE,), "depth", f"at most {KEY_LIMIT}", lambda i: i.depth <= KEY_LIMIT),
    Rule(
        _ATTENTION,
        "row_lines",
        "at least 1 for rows from the stream that are not packed",
        lambda i: i.row_lines >= 1 or i.pack or i.source is Source.BUFFER,
    ),
    Rule((Opcode.LD,), "row_lines", "at most 1 for packed rows", lambda i: not interleaves(i)),
    Rule(
        (Opcode.ST,),
        "row_lines",
        "at most 1 for packed rows of floats",
        lambda i: not interleaves(i) or i.format is MemoryFormat.I8,
    ),
    Rule(
        (Opcode.SCORE,),
        "row_lines",
        f"at most 1 or depth / {BLOCK} for packed rows from the stream",
        lambda i: not interleaves(i) or i.row_lines * BLOCK == i.depth,
    ),
    Rule(
        (Opcode.CONTEXT,),
        "row_lines",
        "at most 1 for packed rows from the stream",
        lambda i: not interleaves(i),
    ),
    Rule((Opcode.CONTEXT,), "group", "at least 1", lambda i: i.group >= 1),
    Rule((Opcode.NORM, Opcode.QUANT), "elements", "at least 1", lambda i: i.elements >= 1),
    Rule((Opcode.ROPE,), "rotary", "even", lambda i: i.rotary % 2 == 0),
    Rule((Opcode.ROPE,), "rotary", "at most elements", lambda i: i.rotary <= i.elements),
    Rule((Opcode.SOFTMAX,), "every", "at least 1", lambda i: i.every >= 1),
    Rule(_WRITERS, "rd", "a register other than r0", lambda i: i.rd != 0),
    Rule((Opcode.LOOP,), "length", "at least 1", lambda i: i.length >= 1),
)


class Span(NamedTuple):
    """A part of an on-chip buffer that an instruction reads or writes: rows of ``width`` elements, ``stride`` apart.

    ``width`` and ``rows`` are products of fields and numbers. Elements are FP32 words in V, bytes in A (whose
    addresses and strides count 16-byte words) and 64-bit words in D.
    """

    buffer: Buffer
    base: str
    width: tuple[str | int, ...]
    rows: tuple[str | int, ...] = (1,)
    stride: str = ""


_V, _A, _D = Buffer.V, Buffer.A, Buffer.D
_LINEAR = (
    Span(_A, "act", ("depth",), ("tokens",), "act_stride"),
    Span(_V, "out", ("rows",), ("tokens",), "out_stride"),
    Span(_V, "scales", ("tokens",)),
)
_KEPT_ROWS = Span(_A, "rows_at", ("depth",), ("rows",), "rows_stride")

SPANS: Mapping[Opcode, tuple[Span, ...]] = {
    Opcode.MM: _LINEAR,
    Opcode.MV: _LINEAR,
    Opcode.SCORE: (*_LINEAR, Span(_V, "row_scales", ("rows",)), _KEPT_ROWS),
    Opcode.CONTEXT: (
        Span(_A, "act", ("rows",), (2, "tokens"), "act_stride"),
        Span(_V, "scales", (2, "tokens")),
        _KEPT_ROWS,
    ),
    Opcode.NORM: (
        Span(_V, "dst", ("elements",), ("rows",), "dst_stride"),
        Span(_V, "x", ("elements",), ("rows",), "x_stride"),
        Span(_V, "weight", ("elements",)),
        Span(_V, "bias", ("elements", "has_bias")),
    ),
    Opcode.APPLY: (
        Span(_V, "dst", ("elements",), ("rows",), "dst_stride"),
        Span(_V, "x", ("elements",), ("rows",), "x_stride"),
    ),
    Opcode.COMBINE: (
        Span(_V, "dst", ("elements",), ("rows",), "dst_stride"),
        Span(_V, "a", ("elements",), ("rows",), "a_stride"),
        Span(_V, "b", ("elements",), ("rows",), "b_stride"),
    ),
    Opcode.ROPE: (
        Span(_V, "x", ("parts", "elements"), ("rows",), "x_stride"),
        Span(_V, "table", ("rotary",), ("rows",), "table_stride"),
    ),
    Opcode.QUANT: (
        Span(_A, "dst", ("elements",), ("rows", "parts"), "dst_stride"),
        Span(_V, "x", ("parts", "elements"), ("rows",), "x_stride"),
        Span(_V, "scales", (1,), ("rows",), "scale_stride"),
    ),
    Opcode.SOFTMAX: (
        Span(_V, "x", ("length",), ("rows",), "x_stride"),
        Span(_V, "value_scales", ("length",)),
        Span(_A, "dst", ("total",), (2, "rows"), "dst_stride"),
        Span(_V, "scales", (2, "rows")),
    ),
    Opcode.ARGMAX: (Span(_V, "x", ("elements",)),),
    Opcode.LDS: (Span(_D, "address", (1,)),),
}
"""Buffer accesses of each instruction; those of LD and ST depend on their buffer."""


def spans(insn: Instruction) -> tuple[Span, ...]:
    """Buffer accesses of ``insn``."""
    buffer = getattr(insn, "buffer", None)
    if buffer is not None:
        return () if buffer is Buffer.W else (Span(buffer, "address", ("elements",), ("rows",), "stride"),)
    if getattr(insn, "source", None) is Source.STREAM:
        return tuple(span for span in SPANS[insn.opcode] if span is not _KEPT_ROWS)
    return SPANS.get(insn.opcode, ())


def misfits(insn: Instruction, config: AcceleratorConfig) -> Iterator[str]:
    """What the immediates of ``insn`` ask for that ``config`` does not have.

    A size in a register counts as 1. It may be 0 when the instruction runs, but then too nothing is gained by a place
    that is not there, and without this rule nothing could be said about most instructions of a prefill.
    """
    owner = insn.opcode.name
    for span in spans(insn):
        end, size = _end(insn, span), _words(span.buffer, config)
        if end is not None and end > size:
            yield f"{owner}.{span.base} must end within the {size} words of {span.buffer.name}, not at {end}"
    if isinstance(insn, MatrixMatrix | Score | Context):
        tokens = _value(insn, "tokens")
        most = config.context_rows(insn.depth) if isinstance(insn, Context) else config.mm_tokens
        if tokens is not None and tokens > most:
            yield f"{owner}.tokens must be at most {most}, not {tokens}"
    pack, size_of_row = getattr(insn, "pack", 0), _row_bytes(insn)
    if isinstance(insn, Load | Store | Score | Context) and pack and size_of_row is not None:
        lines = insn.row_lines if interleaves(insn) else 1
        if size_of_row != lines * BLOCK and lines > 1:
            yield f"{owner}.elements must be {lines * BLOCK} for rows interleaved in {lines} lines, not {size_of_row}"
        elif size_of_row // lines << pack > config.line_bytes:
            what = "rows" if lines == 1 else "pieces"
            size = size_of_row // lines
            yield f"{owner}.pack must keep {what} of {size} bytes within lines of {config.line_bytes}, not {pack}"
        elif lines > 1 and isinstance(insn, Score) and pack != key_pack(config):
            yield f"{owner}.pack must be {key_pack(config)} for interleaved rows, not {pack}"
    if isinstance(insn, Score | Context) and insn.source is Source.STREAM and not pack:
        needed = config.lines(insn.depth)
        if insn.row_lines < needed:
            yield f"{owner}.row_lines must be at least {needed} for rows of {insn.depth} bytes, not {insn.row_lines}"
    if getattr(insn, "memory", Operand()).reg == 0:
        line = _value(insn, "memory")
        if line is not None and line >= config.memory_lines:
            yield f"{owner}.memory must be within the {config.memory_lines} lines of memory, not {line}"


def _words(buffer: Buffer, config: AcceleratorConfig) -> int:
    sizes = {_V: config.vector_words, _A: config.act_bytes // BLOCK, _D: config.desc_words}
    return sizes[buffer]


def _row_bytes(insn: Instruction) -> int | None:
    """Bytes of a row in memory, if known."""
    if isinstance(insn, Score | Context):
        return insn.depth if insn.source is Source.STREAM else None
    fmt, elements = getattr(insn, "format", None), _value(insn, "elements")
    return None if fmt is None or elements is None else elements * int(fmt.bytes)


def _value(insn: Instruction, name: str | int) -> int | None:
    """The value of a field, if it does not depend on a register."""
    value = getattr(insn, name, None) if isinstance(name, str) else name
    if isinstance(value, Operand):
        return value.imm if value.reg == 0 else None
    return None if value is None else int(value)


def _product(insn: Instruction, names: tuple[str | int, ...]) -> int:
    """Product of the factors; one that is in a register counts as 1."""
    product = 1
    for name in names:
        value = _value(insn, name)
        product *= 1 if value is None else value
    return product


def _end(insn: Instruction, span: Span) -> int | None:
    """First word behind ``span`` at the least; ``None`` if its base is in a register or it is empty."""
    base, rows, width = _value(insn, span.base), _product(insn, span.rows), _product(insn, span.width)
    if base is None or not rows or not width:
        return None
    words = -(-width // BLOCK) if span.buffer is _A else width
    stride = int(getattr(insn, span.stride)) if span.stride else 0
    return base + (rows - 1) * stride + words
