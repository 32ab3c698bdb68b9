# SPDX-License-Identifier: Apache-2.0
"""Emission of one attention node: one loop over KV heads and tiles of query rows together.

Keys and values of earlier passes stream from memory; those of this pass are used from the activation buffer while they
are being stored. Scores of a tile fill a row for every visible position, so softmax sees whole rows and no running
maximum is needed.

Heads overlap where buffers are large enough: the matrix unit computes the next head's scores while the vector unit is
at the softmax of one. The loop then takes two heads, as they use scratch in turn, and a head is one tile.

What belongs to a head and not to a tile (quantising and storing its new rows, loading its scales) stands in the same
loop and handles no rows in later tiles of the head. With a loop over tiles inside one over heads, nothing of a head
could be loaded before the tiles of the head before had all ended; so its keys are on their way as soon as the last
scores before them are done, and its values as soon as that tile's softmax is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from catenary.compiler.buffer_requests import words16
from catenary.compiler.buffers import AttentionScratch
from catenary.compiler.builder import Region
from catenary.compiler.emit_frame import POSITION, Frame, stream_load
from catenary.compiler.memory_plan import KvLayout
from catenary.isa.fields import Operand
from catenary.isa.graph import Attention
from catenary.isa.instructions import Apply, Context, Load, Quant, Rope, Score, Softmax, Store
from catenary.isa.memory import RowLayout
from catenary.isa.opcodes import AluFunction, ApplyFunction, Buffer, MemoryFormat, Source

KV_SPACE = "kv"
"""Storage space of the KV cache in dependence analysis; stores write it, the start of a pass reads it."""

KEYS, VALUES = ("query", "key", "key_codes", "key_scales"), ("query", "key", "value_codes", "value_scales")
"""Registers of a KV head that its scores need, and what comes after them."""


@dataclass(frozen=True)
class _Head:
    """Registers in force inside the loop; the first six point to what belongs to the KV head.

    The last two, which may be one, hold the lines that the codes of all earlier positions occupy.
    """

    query: int
    key: int
    key_codes: int
    key_scales: int
    value_codes: int
    value_scales: int
    past_keys: int
    past_values: int


@dataclass(frozen=True)
class _Tile:
    """A tile of query rows.

    Attributes:
        rows: query rows.
        act: 16-byte words from the first query row of the pass to that of the tile.
        row: query rows before the tile.
        out: words from the output row of the pass's first token and this KV head to the tile's.
        length: visible positions of the first row.
        current: rows of this pass that the last row of the tile sees.
        total: positions that the last row sees.
        every: query rows that share a token.
        once: a number of rows as an operand for the next instruction, 0 in all tiles of a head but its first.
    """

    rows: Operand
    act: int
    row: int
    out: int
    length: Operand
    current: Operand
    total: Operand
    every: int
    once: Callable[[Operand], Operand]


def emit_attention(frame: Frame, node: Attention, index: int) -> None:
    """Append the code of attention node number ``index`` of the stage."""
    b = frame.b
    layout = frame.plans.memory.kv[frame.schedule.stage.name, node.out]
    group = node.heads // node.kv_heads
    if node.rope is not None:
        _rotate(frame, node.rope, node.q, node.heads, node)
        _rotate(frame, node.rope, node.k, node.kv_heads, node)
    layouts = [layout.keys] if layout.keys == layout.values else [layout.keys, layout.values]
    with b.scope(6 + len(layouts)) as registers:
        head = _Head(*(registers[:7] + registers[-1:]))
        for register, rows in zip(registers[6:], layouts, strict=True):
            _past_lines(frame, register, rows)
        for offset, register in enumerate((head.key_codes, head.key_scales, head.value_codes, head.value_scales)):
            frame.descriptor(register, frame.table.kv(index) + offset)
        b.set(head.query, 0)
        b.set(head.key, 0)
        if node.out in frame.buffers.ahead:
            _overlapping(frame, node, head, layout, group)
        elif frame.tokens.reg == 0 and frame.plans.buffers.whole_groups:
            with _whole(frame, head, group) as tile, b.loop(Operand(0, node.kv_heads)):
                _tile(frame, node, head, layout, tile, group)
                _next_head(frame, node, head, layout, group)
        else:
            with _tiles(frame, node, head, layout, group) as tile:
                _tile(frame, node, head, layout, tile, group)


def _overlapping(frame: Frame, node: Attention, head: _Head, layout: KvLayout, group: int) -> None:
    """All heads, each in one tile: scores are a head ahead."""
    b, this, other = frame.b, frame.buffers.attention[node.out], frame.buffers.ahead[node.out]
    with b.scope(2) as (query, key):
        b.set(query, 0)
        b.set(key, 0)
        of_scores, of_values = replace(head, query=query, key=key), head

        def begin(scratch: AttentionScratch) -> None:
            _scores(frame, node, of_scores, layout, tile, group, scratch)
            _next_head(frame, node, of_scores, layout, group, KEYS)

        def end(scratch: AttentionScratch) -> None:
            _values(frame, node, of_values, layout, tile, group, scratch)
            _next_head(frame, node, of_values, layout, group, VALUES)

        with _whole(frame, head, group) as tile:
            begin(this)
            if pairs := (node.kv_heads - 1) // 2:
                with b.loop(Operand(0, pairs)):
                    for ahead, behind in ((other, this), (this, other)):
                        begin(ahead)
                        end(behind)
            if node.kv_heads % 2 == 0:
                begin(other)
                end(this)
            end(this if node.kv_heads % 2 else other)


def _tile(frame: Frame, node: Attention, head: _Head, layout: KvLayout, tile: _Tile, group: int) -> None:
    scratch = frame.buffers.attention[node.out]
    _scores(frame, node, head, layout, tile, group, scratch)
    _values(frame, node, head, layout, tile, group, scratch)


def _scores(
    frame: Frame,
    node: Attention,
    head: _Head,
    layout: KvLayout,
    tile: _Tile,
    group: int,
    scratch: AttentionScratch,
) -> None:
    """One tile up to its scores."""
    past = Operand(POSITION)
    _load_scales(frame, scratch.key_scales, head.key_scales, layout, tile.once(past))
    rows = tile.once(frame.tokens)
    _quantise(frame, node.q, head.query, rows, group, node, scratch.queries, scratch.query_scales, 0, node.scale)
    _quantise(frame, node.k, head.key, rows, 1, node, scratch.keys, scratch.key_scales, POSITION, 1.0)
    _store(frame, node, layout.keys, rows, scratch.keys, head.key_codes)
    _store_scales(frame, layout.scales, rows, scratch.key_scales, head.key_scales)
    _score(frame, node, head, layout, tile, scratch)


def _values(
    frame: Frame,
    node: Attention,
    head: _Head,
    layout: KvLayout,
    tile: _Tile,
    group: int,
    scratch: AttentionScratch,
) -> None:
    """One tile from its scores on. Values are quantised here, so that their scales need not wait for what is before."""
    _load_scales(frame, scratch.value_scales, head.value_scales, layout, tile.once(Operand(POSITION)))
    rows = tile.once(frame.tokens)
    _quantise(frame, node.v, head.key, rows, 1, node, scratch.values, scratch.value_scales, POSITION, 1.0)
    _store(frame, node, layout.values, rows, scratch.values, head.value_codes)
    _store_scales(frame, layout.scales, rows, scratch.value_scales, head.value_scales)
    _context(frame, node, head, layout, tile, group, scratch)


def _next_head(
    frame: Frame, node: Attention, head: _Head, layout: KvLayout, group: int, names: Sequence[str] = (*KEYS, *VALUES)
) -> None:
    """Let registers ``names`` point to the next KV head."""
    steps = {
        "query": group * node.head_dim,
        "key": node.head_dim,
        "key_codes": layout.head_keys,
        "key_scales": layout.head_scales,
        "value_codes": layout.head_values,
        "value_scales": layout.head_scales,
    }
    for name in dict.fromkeys(names):
        register = getattr(head, name)
        frame.b.alu(AluFunction.ADD, register, register, steps[name])


def _past_lines(frame: Frame, rd: int, codes: RowLayout) -> None:
    """``R[rd]`` = lines that the codes of all earlier positions occupy, for one head."""
    if codes.pack:
        frame.b.alu(AluFunction.ADD, rd, POSITION, (1 << codes.pack) - 1)
        frame.b.alu(AluFunction.SHR, rd, rd, codes.pack)
        if codes.row_lines > 1:
            frame.b.alu(AluFunction.MUL, rd, rd, codes.row_lines)
    else:
        frame.b.alu(AluFunction.MUL, rd, POSITION, codes.row_lines)


def _rotate(frame: Frame, rope: str, value: str, heads: int, node: Attention) -> None:
    slot, table = frame.slot(value), frame.plans.buffers.rope[rope]
    insn = Rope(
        x=frame.at(value), x_stride=slot.stride, rows=frame.tokens, parts=heads, elements=node.head_dim,
        rotary=node.rotary_dim, table=Operand(0, table.start), table_stride=node.rotary_dim,
    )  # fmt: skip
    frame.emit(insn, [slot.region, table], [slot.region])


def _quantise(
    frame: Frame,
    value: str,
    offset: int,
    rows: Operand,
    count: int,
    node: Attention,
    codes: Region,
    scales: Region,
    first: int,
    multiplier: float,
) -> None:
    """Quantise ``count`` heads of ``value`` from the offset in register ``offset`` on; scales from ``R[first]`` on."""
    slot, x = frame.slot(value), frame.at(value)
    b = frame.b
    with b.scope(1) as (address,):
        b.set(address, Operand(offset, x.imm))
        if x.reg:
            b.alu(AluFunction.ADD, address, address, Operand(x.reg))
        insn = Quant(
            dst=Operand(0, codes.start), dst_stride=words16(node.head_dim), x=Operand(address), x_stride=slot.stride,
            rows=rows, parts=count, elements=node.head_dim, scales=Operand(first, scales.start), scale_stride=count,
            scale_step=1, multiplier=multiplier,
        )  # fmt: skip
        frame.emit(insn, [slot.region], [codes, scales])


def _store(frame: Frame, node: Attention, layout: RowLayout, rows: Operand, codes: Region, line: int) -> None:
    """Store the codes of this pass's keys or values behind those of earlier ones."""
    store = Store(
        buffer=Buffer.A, format=MemoryFormat.I8, address=Operand(0, codes.start), stride=words16(node.head_dim),
        memory=Operand(line), row=Operand(POSITION), rows=rows, elements=Operand(0, node.head_dim),
        pack=layout.pack, row_lines=layout.row_lines,
    )  # fmt: skip
    frame.emit(store, [codes], [Region(KV_SPACE, 0, 1)])


def _store_scales(frame: Frame, layout: RowLayout, rows: Operand, scales: Region, line: int) -> None:
    """Store the scales of this pass's keys or values behind those of earlier ones."""
    store = Store(
        buffer=Buffer.V, format=MemoryFormat.F32, address=Operand(POSITION, scales.start), stride=1,
        memory=Operand(line), row=Operand(POSITION), rows=rows, elements=Operand(0, 1),
        pack=layout.pack, row_lines=layout.row_lines,
    )  # fmt: skip
    frame.emit(store, [scales], [Region(KV_SPACE, 0, 1)])


def _load_scales(frame: Frame, scales: Region, line: int, layout: KvLayout, rows: Operand) -> None:
    """Load the scales of earlier passes."""
    load = Load(
        buffer=Buffer.V, format=MemoryFormat.F32, address=Operand(0, scales.start), stride=1,
        memory=Operand(line), rows=rows, elements=Operand(0, 1),
        pack=layout.scales.pack, row_lines=layout.scales.row_lines,
    )  # fmt: skip
    frame.emit(load, [], [scales])


@contextmanager
def _whole(frame: Frame, head: _Head, group: int) -> Iterator[_Tile]:
    """The one tile of a pass whose tokens, with all heads of a KV group, fit in it."""
    b, tokens, first = frame.b, frame.tokens, Operand(POSITION, 1)
    if not tokens.reg:
        rows, total = Operand(0, tokens.imm * group), Operand(POSITION, tokens.imm)
        yield _Tile(rows, 0, 0, head.query, first, tokens, total, group, lambda rows: rows)
        return
    with b.scope(2) as (queries, visible):
        b.alu(AluFunction.MUL, queries, tokens.reg, group)
        b.alu(AluFunction.ADD, visible, POSITION, tokens)
        rows, total = Operand(queries), Operand(visible)
        yield _Tile(rows, 0, 0, head.query, first, tokens, total, group, lambda rows: rows)


@contextmanager
def _tiles(frame: Frame, node: Attention, head: _Head, layout: KvLayout, group: int) -> Iterator[_Tile]:
    """A loop that covers all query rows of all KV heads; the block inside emits the body for one tile.

    A tile holds whole tokens while all heads of a KV group fit in one, else some heads of one token. One loop serves
    both, with the same instructions: hardware loops nest four deep, and code must not depend on the context's length.
    """
    b, most = frame.b, frame.plans.buffers.tile_rows
    out = frame.slot(node.out)
    step = max(1, most // group)
    splits = -(-group // most)
    with b.scope(10) as (token, first, rows, act, row, offset, length, current, total, once):

        def in_first_tile(number: Operand) -> Operand:
            b.alu(AluFunction.LESS, once, row, 1)
            b.alu(AluFunction.MUL, once, once, number)
            return Operand(once)

        visible = Operand(length), Operand(current), Operand(total)
        tile = _Tile(Operand(rows), act, row, offset, *visible, group, in_first_tile)
        b.set(token, 0)
        b.set(first, 0)  # query heads of the group that earlier tiles of this token took
        if frame.tokens.reg:
            b.ceil_div(rows, frame.tokens, step, frame.plans.buffers.tokens)
            b.alu(AluFunction.MUL, rows, rows, splits * node.kv_heads)
            tiles = b.loop(Operand(rows))
        else:
            tiles = b.loop(Operand(0, -(-frame.tokens.imm // step) * splits * node.kv_heads))
        with tiles:
            b.set(current, frame.tokens)
            b.alu(AluFunction.SUB, current, current, Operand(token))
            b.alu(AluFunction.MIN, current, current, step)
            b.alu(AluFunction.MUL, rows, current, group)
            b.alu(AluFunction.SUB, rows, rows, Operand(first))
            b.alu(AluFunction.MIN, rows, rows, most)
            b.alu(AluFunction.MUL, row, token, group)
            b.alu(AluFunction.ADD, row, row, Operand(first))
            b.alu(AluFunction.MUL, act, row, words16(node.head_dim))
            b.alu(AluFunction.MUL, offset, token, out.stride)
            b.alu(AluFunction.MUL, total, first, node.head_dim)
            b.alu(AluFunction.ADD, offset, offset, Operand(total))
            b.alu(AluFunction.ADD, offset, offset, Operand(head.query))
            b.alu(AluFunction.ADD, current, current, Operand(token))
            b.alu(AluFunction.ADD, length, POSITION, Operand(token, 1))
            b.alu(AluFunction.ADD, total, POSITION, Operand(current))
            yield tile
            # The next heads of the same token if there are any left, else the next tokens, else the next KV head.
            b.alu(AluFunction.ADD, first, first, Operand(rows))
            b.alu(AluFunction.LESS, rows, first, group)
            b.alu(AluFunction.MUL, first, first, Operand(rows))
            b.alu(AluFunction.ADD, token, token, step)
            b.alu(AluFunction.MUL, rows, rows, step)
            b.alu(AluFunction.SUB, token, token, Operand(rows))
            b.alu(AluFunction.LESS, rows, token, frame.tokens)
            b.alu(AluFunction.MUL, token, token, Operand(rows))
            b.alu(AluFunction.LESS, rows, rows, 1)
            with b.loop(Operand(rows), once=True):
                _next_head(frame, node, head, layout, group)


def _score(
    frame: Frame, node: Attention, head: _Head, layout: KvLayout, tile: _Tile, scratch: AttentionScratch
) -> None:
    context = frame.plans.graph.max_context
    words = words16(node.head_dim)
    frame.emit(stream_load(Operand(head.key_codes), Operand(head.past_keys)), [], [])
    reads = [scratch.queries, scratch.query_scales, scratch.key_scales]
    for source in Source:
        now = source is Source.BUFFER
        first = POSITION if now else 0
        insn = Score(
            source=source, act=Operand(tile.act, scratch.queries.start), act_stride=words, tokens=tile.rows,
            depth=node.head_dim, rows=tile.current if now else Operand(POSITION),
            out=Operand(first, scratch.scores.start), out_stride=context,
            scales=Operand(tile.row, scratch.query_scales.start),
            row_scales=Operand(first, scratch.key_scales.start),
            rows_at=Operand(0, scratch.keys.start if now else 0), rows_stride=words if now else 0,
            pack=0 if now else layout.keys.pack, row_lines=1 if now else layout.keys.row_lines,
        )  # fmt: skip
        frame.emit(insn, [*reads, scratch.keys] if now else reads, [scratch.scores])
    if node.soft_cap is not None:
        cap = Apply(
            function=ApplyFunction.SOFT_CAP, dst=Operand(0, scratch.scores.start), dst_stride=context,
            x=Operand(0, scratch.scores.start), x_stride=context, rows=tile.rows, elements=tile.total,
            parameter=node.soft_cap,
        )  # fmt: skip
        frame.emit(cap, [scratch.scores], [scratch.scores])


def _context(
    frame: Frame,
    node: Attention,
    head: _Head,
    layout: KvLayout,
    tile: _Tile,
    group: int,
    scratch: AttentionScratch,
) -> None:
    """Softmax and what it weighs."""
    out = frame.slot(node.out)
    words, part_words = words16(node.head_dim), words16(frame.plans.graph.max_context)
    frame.emit(stream_load(Operand(head.value_codes), Operand(head.past_values)), [], [])
    softmax = Softmax(
        x=Operand(0, scratch.scores.start), x_stride=frame.plans.graph.max_context, rows=tile.rows, length=tile.length,
        every=tile.every, total=tile.total, value_scales=Operand(0, scratch.value_scales.start),
        dst=Operand(0, scratch.parts.start), dst_stride=part_words, scales=Operand(0, scratch.row_constants.start),
    )  # fmt: skip
    frame.emit(softmax, [scratch.scores, scratch.value_scales], [scratch.parts, scratch.row_constants, scratch.scores])
    for source in Source:
        now = source is Source.BUFFER
        insn = Context(
            source=source, clear=not now, emit=now, act=Operand(0, scratch.parts.start), act_stride=part_words,
            tokens=tile.rows, depth=node.head_dim, rows=tile.current if now else Operand(POSITION),
            first=Operand(POSITION if now else 0), out=Operand(tile.out, out.start), out_stride=out.stride, group=group,
            scales=Operand(0, scratch.row_constants.start),
            rows_at=Operand(0, scratch.values.start if now else 0), rows_stride=words if now else 0,
            pack=0 if now else layout.values.pack, row_lines=1 if now else layout.values.row_lines,
        )  # fmt: skip
        reads = [scratch.parts, scratch.values] if now else [scratch.parts]
        writes = [out.region] if now else []
        frame.emit(insn, [*reads, scratch.row_constants] if now else reads, writes)
