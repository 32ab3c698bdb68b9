# SPDX-License-Identifier: Apache-2.0
"""Random blocks for the load, store, vector and control units; each appends a few instructions to a draft."""

from __future__ import annotations

from math import lcm

import numpy as np

from catenary.compiler.builder import Region
from catenary.isa.fields import Operand
from catenary.isa.instructions import (
    Alu,
    Apply,
    Argmax,
    Combine,
    Load,
    LoadImmediate,
    LoadScalar,
    Nop,
    Norm,
    Quant,
    Rope,
    Softmax,
    Store,
)
from catenary.isa.memory import RowLayout
from catenary.isa.opcodes import AluFunction, ApplyFunction, Buffer, CombineFunction, MemoryFormat, NormFunction, Unit
from catenary.isa.rules import LOAD_FORMATS, STORE_FORMATS
from catenary.isa.tensors import BLOCK
from tests.programs.draft import Draft, NoRoomError, Place, code_words

BURSTS = {Load: 64, Store: 16}
"""Lines at whose multiples a load's, or a store's, bursts end."""

_FLOATS = (MemoryFormat.F32, MemoryFormat.F16, MemoryFormat.BF16)
_PARAMETERS = (30.0, 50.0, 1.0, 0.0, -3.5, float("inf"), 1e-40, 3e38)
_MULTIPLIERS = (1.0, 1.0, 0.08838834764831845, 0.0, -2.0, 1e-38, float("inf"))


def burst_range(d: Draft, burst: int) -> tuple[int, int]:
    """How many lines behind a burst's edge to begin, and how many lines: to an edge or not, in one burst or a few."""
    start = d.rng.choice([0, d.rng.randrange(1, burst)])
    end = burst * d.rng.choice([1, 1, 2]) - d.rng.choice([0, d.rng.randrange(1, burst)])
    return start, end - start if end > start else end - start + burst


def layout_of(d: Draft, row_bytes: int) -> RowLayout:
    """Some layout of rows: several in a line where they fit, or one in as many lines as it needs or more."""
    if d.often(0.6):
        packs = [pack for pack in range(1, 8) if row_bytes << pack <= d.config.line_bytes]
        if packs:
            return RowLayout(row_bytes, d.rng.choice(packs), 1)
    return RowLayout(row_bytes, 0, d.config.lines(row_bytes) + d.rng.choice([0, 0, 1, 3]))


def interleaved_layout(d: Draft, pack: int, most: int) -> RowLayout:
    """Interleaved rows of up to ``most`` words."""
    words = d.rng.randint(2, most)
    return RowLayout(BLOCK * words, pack, words)


def pool_place(d: Draft, layout: RowLayout, rows: int) -> Place:
    """A place for rows in the pool of memory that is loaded and stored."""
    return d.place("M", layout.lines(rows))


def load_vector(d: Draft, at: Place | None = None, stride: int = 0, rows: int = 0, words: int = 0) -> None:
    """LD into V: new numbers in any format to ``at``; without that, to anywhere, perhaps of what the pool holds."""
    pooled = at is None and d.often(0.2)
    fmt = None
    if at is None:
        rows, words = d.rows_at_all(5), 0 if d.often(0.03) else d.packed_size()
        if not pooled and d.often(0.1):  # rows that end where a line ends
            fmt = d.rng.choice(_FLOATS)
            words = lcm(d.config.line_bytes, fmt.bytes) // fmt.bytes * d.rng.choice([1, 1, 2, 3])
        stride = d.stride(words, disjoint=True)
        at = d.rows_place("V", stride, rows, words)
    fmt = fmt if fmt is not None else MemoryFormat.F32 if pooled else d.rng.choice(_FLOATS)
    layout = layout_of(d, max(1, words) * fmt.bytes)
    first = d.rng.choice([0, 0, d.rng.randint(1, 3)])
    reads = []
    if pooled:
        source = pool_place(d, layout, first + rows)
        memory, reads = source.operand, source.rows(0, 1, layout.lines(first + rows))
    else:
        raw = _stored(d.floats(max(1, rows), max(1, words)), fmt)
        memory = d.operand(d.keep_rows(layout, raw, first), 32)
    d.emit(
        Load(
            buffer=Buffer.V, format=fmt, address=at.operand, stride=stride, memory=memory, row=d.operand(first, 20),
            rows=d.operand(rows, 24), elements=d.operand(words, 20), pack=layout.pack, row_lines=layout.row_lines,
        ),
        reads, at.rows(stride, rows, words),
    )  # fmt: skip


def _stored(values: np.ndarray, fmt: MemoryFormat) -> np.ndarray:
    """Floats as bytes of ``fmt``, [rows, bytes]."""
    with np.errstate(over="ignore"):
        match fmt:
            case MemoryFormat.F16:
                raw = values.astype("<f2")
            case MemoryFormat.BF16:
                raw = (values.view(np.uint32) >> 16).astype("<u2")
            case _:
                raw = values.astype("<f4")
    return raw.view(np.uint8)


def load_codes(d: Draft) -> None:
    """LD into A: any bytes."""
    rows, codes = d.rows_at_all(6), d.config.line_bytes if d.often(0.1) else d.packed_size()
    stride = d.stride(code_words(codes), disjoint=True)
    at = d.rows_place("A", stride, rows, code_words(codes))
    layout = layout_of(d, codes)
    first = d.rng.choice([0, 0, d.rng.randint(1, 3)])
    reads = []
    if d.often(0.3):
        source = pool_place(d, layout, first + rows)
        memory, reads = source.operand, source.rows(0, 1, layout.lines(first + rows))
    else:
        raw = d.numbers.integers(0, 256, (max(1, rows), codes), dtype=np.uint8)
        memory = d.operand(d.keep_rows(layout, raw, first), 32)
    d.emit(
        Load(
            buffer=Buffer.A, format=MemoryFormat.I8, address=at.operand, stride=stride, memory=memory,
            row=d.operand(first, 20), rows=d.operand(rows, 24), elements=d.operand(codes, 20), pack=layout.pack,
            row_lines=layout.row_lines,
        ),
        reads, at.rows(stride, rows, code_words(codes)),
    )  # fmt: skip


def load_table(d: Draft) -> None:
    """LD into the half of D that operands do not rely on, and LDS of some of it."""
    arena = d.arenas["D"]
    fixed = len(d.fixed)
    rows = d.rng.randint(1, 3)
    words = d.rng.randint(1, (arena.size - fixed) // 4)
    stride = words + d.rng.randint(0, 1)
    start = arena.start + fixed + d.rng.randint(0, arena.size - fixed - (rows - 1) * stride - words)
    at = Place("D", d.operand(start, 20), start)
    layout = layout_of(d, 8 * words)
    first = d.rng.choice([0, 0, d.rng.randint(1, 3)])
    raw = d.numbers.integers(0, 256, (rows, 8 * words), dtype=np.uint8)
    d.emit(
        Load(
            buffer=Buffer.D, format=MemoryFormat.U64, address=at.operand, stride=stride,
            memory=d.operand(d.keep_rows(layout, raw, first), 32), row=d.operand(first, 20), rows=d.operand(rows, 24),
            elements=d.operand(words, 20), pack=layout.pack, row_lines=layout.row_lines,
        ),
        [], at.rows(stride, rows, words),
    )  # fmt: skip
    with d.b.scope(1) as (reg,):
        word = Place("D", d.operand(start + (rows - 1) * stride, 20), start + (rows - 1) * stride)
        d.emit(LoadScalar(rd=reg, address=word.operand), word.rows(0, 1, 1))
        d.mix(reg)


def store(d: Draft) -> None:
    """ST from V or A into the pool."""
    interleaved = None
    if d.often(0.5):
        buffer, fmt, space, elements = Buffer.V, MemoryFormat.F32, "V", d.packed_size()
        elements = d.config.line_bytes // fmt.bytes if d.often(0.1) else elements
        words = elements
    else:
        buffer, fmt, space, elements = Buffer.A, MemoryFormat.I8, "A", d.packed_size()
        elements = d.config.line_bytes if d.often(0.1) else elements
        packs = [pack for pack in range(1, 8) if BLOCK << pack <= d.config.line_bytes]
        if packs and d.often(0.4):
            interleaved = interleaved_layout(d, d.rng.choice(packs), 6)
            elements = interleaved.row_bytes
        words = code_words(elements)
    rows, elements = d.rows_at_all(6), 0 if not interleaved and d.often(0.03) else elements
    words = words if elements else 0
    stride = d.stride(words)
    at = d.rows_place(space, stride, rows, words)
    layout = interleaved or layout_of(d, max(1, elements) * fmt.bytes)
    first = d.rng.choice([0, 0, d.rng.randint(1, 3)])
    target = pool_place(d, layout, first + rows)
    d.emit(
        Store(
            buffer=buffer, format=fmt, address=at.operand, stride=stride, memory=target.operand,
            row=d.operand(first, 20), rows=d.operand(rows, 24), elements=d.operand(elements, 20), pack=layout.pack,
            row_lines=layout.row_lines,
        ),
        at.rows(stride, rows, words), target.rows(0, 1, layout.lines(first + rows)) if rows and elements else [],
    )  # fmt: skip


def transfer_far(d: Draft) -> None:
    """LD or ST of a few short rows so far apart that they take several bursts, or a burst exactly."""
    cls = d.rng.choice([Load, Load, Store])
    start, lines = burst_range(d, BURSTS[cls])
    rows = d.rng.choice([rows for rows in range(1, 7) if lines % rows == 0])
    layout_lines = lines // rows
    buffers = [Buffer.V, Buffer.V, Buffer.A, Buffer.D] if cls is Load else [Buffer.V, Buffer.A]
    buffer = d.rng.choice(buffers)
    fmt = d.rng.choice(LOAD_FORMATS[buffer] if cls is Load else STORE_FORMATS[buffer])
    most = 24 if buffer is not Buffer.D else 2
    elements = d.rng.randint(1, min(most, layout_lines * d.config.line_bytes // fmt.bytes))
    words = code_words(elements) if buffer is Buffer.A else elements
    stride = d.stride(words, disjoint=cls is Load)
    if buffer is Buffer.D:
        arena, fixed = d.arenas["D"], len(d.fixed)
        room = arena.size - fixed - (rows - 1) * stride - words
        if room < 0:
            raise NoRoomError
        place = arena.start + fixed + d.rng.randint(0, room)
        at = Place("D", d.operand(place, 20), place)
    else:
        at = d.rows_place(buffer.name, stride, rows, words)
    d.align(BURSTS[cls], start)
    row_bytes = elements * fmt.bytes
    raw = d.numbers.integers(0, 256, (rows, row_bytes), dtype=np.uint8)
    if buffer is Buffer.V:
        raw = _stored(d.floats(rows, elements), fmt)
    line = d.keep_rows(RowLayout(row_bytes, 0, layout_lines), raw)
    inside, outside = list(at.rows(stride, rows, words)), [Region("M", line, lines)]
    d.emit(
        cls(
            buffer=buffer, format=fmt, address=at.operand, stride=stride, memory=d.operand(line, 32),
            rows=d.operand(rows, 24), elements=d.operand(elements, 20), row_lines=layout_lines,
        ),
        outside if cls is Load else inside, inside if cls is Load else outside,
    )  # fmt: skip


def norm(d: Draft) -> None:
    """NORM, in place or not."""
    rows, n = d.rows_at_all(4), d.size(300)
    in_place = d.often(0.3)
    stride = d.stride(n, disjoint=in_place)
    x = d.rows_place("V", stride, rows, n)
    weight, bias = (d.place("V", n, x.rows(stride, rows, n) if in_place else ()) for _ in range(2))
    reads = [*x.rows(stride, rows, n), *weight.rows(0, 1, n)]
    has_bias = d.often(0.5)
    if has_bias:
        reads += bias.rows(0, 1, n)
    dst, dst_stride = x, stride
    if not in_place:
        dst_stride = d.stride(n, disjoint=True)
        dst = d.rows_place("V", dst_stride, rows, n, reads)
    d.emit(
        Norm(
            function=d.rng.choice(list(NormFunction)), dst=dst.operand, dst_stride=dst_stride, x=x.operand,
            x_stride=stride, rows=d.operand(rows, 12), elements=n, weight=weight.operand, has_bias=has_bias,
            bias=bias.operand, eps=d.rng.choice([1e-5, 1e-6, 0.0, 1.0]),
        ),
        reads, dst.rows(dst_stride, rows, n),
    )  # fmt: skip


def apply(d: Draft) -> None:
    """APPLY, in place or not."""
    rows, n = d.rows_at_all(4), 0 if d.often(0.03) else d.size()
    in_place = d.often(0.3)
    stride = d.stride(n, disjoint=in_place)
    x = d.rows_place("V", stride, rows, n)
    dst, dst_stride = x, stride
    if not in_place:
        dst_stride = d.stride(n, disjoint=True)
        dst = d.rows_place("V", dst_stride, rows, n, x.rows(stride, rows, n))
    d.emit(_apply(d, x, stride, dst, dst_stride, rows, n), x.rows(stride, rows, n), dst.rows(dst_stride, rows, n))


def _apply(d: Draft, x: Place, stride: int, dst: Place, dst_stride: int, rows: int, n: int) -> Apply:
    function = d.rng.choice(list(ApplyFunction))
    return Apply(
        function=function, dst=dst.operand, dst_stride=dst_stride, x=x.operand, x_stride=stride,
        rows=d.operand(rows, 12), elements=d.operand(n, 20),
        parameter=d.rng.choice(_PARAMETERS) if function is ApplyFunction.SOFT_CAP or d.often(0.1) else 0.0,
    )  # fmt: skip


def combine(d: Draft) -> None:
    """COMBINE: apart, into either operand, or an operand with itself."""
    rows, n = d.rows_at_all(4), 0 if d.often(0.03) else d.size()
    target = d.rng.choice(["apart", "apart", "a", "b", "both"])
    a_stride = d.stride(n, disjoint=target in ("a", "both"))
    a = d.rows_place("V", a_stride, rows, n)
    b_stride = d.stride(n, disjoint=target == "b")
    b = d.rows_place("V", b_stride, rows, n, a.rows(a_stride, rows, n) if target in ("a", "b") else ())
    if target == "both":
        b, b_stride = a, a_stride
    reads = [*a.rows(a_stride, rows, n), *b.rows(b_stride, rows, n)]
    dst, dst_stride = (b, b_stride) if target == "b" else (a, a_stride)
    if target == "apart":
        dst_stride = d.stride(n, disjoint=True)
        dst = d.rows_place("V", dst_stride, rows, n, reads)
    d.emit(
        Combine(
            function=d.rng.choice(list(CombineFunction)), dst=dst.operand, dst_stride=dst_stride, a=a.operand,
            a_stride=a_stride, b=b.operand, b_stride=b_stride, rows=d.operand(rows, 12), elements=d.operand(n, 20),
        ),
        reads, dst.rows(dst_stride, rows, n),
    )  # fmt: skip


def rope(d: Draft) -> None:
    """ROPE."""
    rows, parts = d.rows_at_all(4), d.rng.choice([1, 1, 2, 3, 0 if d.often(0.1) else 1])
    elements = 0 if d.often(0.03) else d.size(80)
    rotary = 2 * d.rng.randint(0, elements // 2)
    width = parts * elements
    stride, table_stride = d.stride(width, disjoint=True), d.stride(rotary)
    x = d.rows_place("V", stride, rows, width)
    table = d.rows_place("V", table_stride, rows, rotary, x.rows(stride, rows, width))
    d.emit(
        Rope(
            x=x.operand, x_stride=stride, rows=d.operand(rows, 12), parts=parts, elements=elements, rotary=rotary,
            table=table.operand, table_stride=table_stride,
        ),
        [*x.rows(stride, rows, width), *table.rows(table_stride, rows, rotary)], x.rows(stride, rows, width),
    )  # fmt: skip


def quant(d: Draft) -> None:
    """QUANT."""
    rows, parts, n = d.rows_at_all(4), d.rng.choice([1, 1, 2, 3, 0 if d.often(0.1) else 1]), d.size()
    stride = d.stride(parts * n)
    x = d.rows_place("V", stride, rows, parts * n)
    words = code_words(n)
    dst_stride = d.stride(words, disjoint=True)
    dst = d.rows_place("A", dst_stride, rows * parts, words)
    if d.often(0.5):
        step = d.rng.randint(1, 3)
        scale_stride = step * parts + d.rng.randint(0, 3)
    else:
        scale_stride = d.rng.randint(1, 3)
        step = scale_stride * rows + d.rng.randint(0, 3)
    extent = (rows - 1) * scale_stride + (parts - 1) * step + 1 if rows and parts else 0
    scales = d.place("V", extent, x.rows(stride, rows, parts * n))
    d.emit(
        Quant(
            dst=dst.operand, dst_stride=dst_stride, x=x.operand, x_stride=stride, rows=d.operand(rows, 12), parts=parts,
            elements=n, scales=scales.operand, scale_stride=scale_stride, scale_step=step,
            multiplier=d.rng.choice(_MULTIPLIERS),
        ),
        x.rows(stride, rows, parts * n),
        [*dst.rows(dst_stride, rows * parts, words), *scales.rows(0, 1, extent)],
    )  # fmt: skip


def softmax(d: Draft) -> None:
    """SOFTMAX, and something that gives the words of its scores, which are undefined now, a value again."""
    rows, total = d.rows_at_all(4), d.size(300)
    every = d.rng.choice([1, 1, 2, 3, 9])
    length = d.rng.randint(1, max(1, total - max(0, rows - 1) // every))
    if length + max(0, rows - 1) // every > total:
        every = rows
    if rows == 0 and d.often(0.5):  # then nobody looks at them
        length, total = 0, d.rng.choice([0, total])
    stride, words = d.stride(total, disjoint=True), code_words(total)
    x = d.rows_place("V", stride, rows, total)
    scores = x.rows(stride, rows, total)
    value_scales = d.place("V", total, scores)
    scales = d.place("V", 2 * rows, [*scores, *value_scales.rows(0, 1, total)])
    dst_stride = d.stride(words, disjoint=True)
    dst = d.rows_place("A", dst_stride, 2 * rows, words)
    source_stride = d.stride(total)
    source = d.rows_place("V", source_stride, rows, total, scores)
    d.emit(
        Softmax(
            x=x.operand, x_stride=stride, rows=d.operand(rows, 12), length=d.operand(length, 20), every=every,
            total=d.operand(total, 20), value_scales=value_scales.operand, dst=dst.operand, dst_stride=dst_stride,
            scales=scales.operand,
        ),
        [*scores, *value_scales.rows(0, 1, total)],
        [*scores, *scales.rows(0, 1, 2 * rows), *dst.rows(dst_stride, 2 * rows, words)],
        keep_operands=True,
    )  # fmt: skip
    if d.streaming or d.often(0.7):
        insn = _apply(d, source, source_stride, x, stride, rows, total)
        d.emit(insn, source.rows(source_stride, rows, total), scores)
    else:
        load_vector(d, x, stride, rows, total)


def argmax(d: Draft) -> None:
    """ARGMAX, running or not; its result goes into the program's, or says where a vector instruction works."""
    n = 0 if d.often(0.05) else d.size(300)
    x = d.place("V", n)
    first = not d.ranked or d.often(0.5)
    base = d.rng.choice([0, 7, d.rng.getrandbits(31)])
    arena = d.arenas["V"]
    start = arena.start + d.rng.randint(0, arena.size - 20)
    dst = d.place("V", 3, [Region("V", start, 18)])
    with d.b.scope(1) as (reg,):
        insn = Argmax(rd=reg, first=first, x=x.operand, elements=d.operand(n, 20), base=d.operand(base, 32))
        d.emit(insn, x.rows(0, 1, n), keep_operands=True)
        d.mix(reg)
        if d.depth == 0:
            d.ranked = True
        if d.often(0.5):
            d.b.alu(AluFunction.AND, reg, reg, 15)
            source = Place("V", Operand(reg, start), start, 15)
            d.emit(_apply(d, source, 0, dst, 0, 1, 3), source.rows(0, 1, 3), dst.rows(0, 1, 3))


def scalars(d: Draft) -> None:
    """LI and ALU on any values, mixed into the result."""
    with d.b.scope(2) as (a, b):
        for reg in (a, b):
            d.emit(LoadImmediate(rd=reg, imm=d.rng.choice([d.rng.getrandbits(40), d.rng.randrange(64), (1 << 40) - 1])))
        for _ in range(d.rng.randint(1, 3)):
            operand = d.rng.choice([Operand(b), Operand(0, d.rng.getrandbits(40)), Operand(b, d.rng.getrandbits(6))])
            d.emit(Alu(function=d.rng.choice(list(AluFunction)), rd=a, ra=a, b=operand), fence=0.6)
            d.mix(a)


def nop(d: Draft) -> None:
    """NOP in any queue."""
    target = d.rng.choice([unit for unit in Unit if not (d.streaming and unit is Unit.LOAD)])
    d.emit(Nop(target=target), fence=0.7)


def meeting(d: Draft) -> None:
    """NOPs of several units: one waits for all others at once, or gives to all of them."""
    if d.streaming:
        raise NoRoomError  # nobody may wait for a load then
    unit, *others = d.rng.sample(list(Unit), d.rng.randint(2, len(Unit)))
    regions = [Region("meeting", other, 1) for other in others]
    if d.often(0.5):
        for other, region in zip(others, regions, strict=True):
            d.emit(Nop(target=other), [], [region], fence=0)
        d.emit(Nop(target=unit), regions, fence=0)
    else:
        d.emit(Nop(target=unit), [], regions, fence=0)
        for other, region in zip(others, regions, strict=True):
            d.emit(Nop(target=other), [region], fence=0)


COMPUTE = (norm, apply, combine, rope, quant, softmax, argmax, scalars, nop, meeting)
"""Blocks that may stand between a stream's load and its use."""

TRANSFER = (load_vector, load_vector, load_codes, load_table, store, store, transfer_far)


def try_block(d: Draft, blocks: tuple) -> None:
    """One of ``blocks`` that finds room."""
    for _ in range(8):
        try:
            d.rng.choice(blocks)(d)
        except NoRoomError:
            continue
        return
