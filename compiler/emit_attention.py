# SPDX-License-Identifier: Apache-2.0
"""Emission of one attention node: a loop over KV heads, and inside it one over tiles of query rows.

Keys and values of earlier passes stream from memory; those of this pass are used from the activation buffer while they
are being stored. Scores of a tile fill a row for every visible position, so softmax sees whole rows and no running
maximum is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from catenary.compiler.buffer_requests import words16
from catenary.compiler.builder import Region
from catenary.compiler.emit_frame import POSITION, Frame, stream_load
from catenary.compiler.memory_plan import KvLayout
from catenary.isa.fields import Operand
from catenary.isa.graph import Attention
from catenary.isa.instructions import (
    AluFunction,
    Apply,
    ApplyFunction,
    Buffer,
    Context,
    Load,
    MemoryFormat,
    Quant,
    Rope,
    Score,
    Softmax,
    Source,
    Store,
)  # fmt: skip
from catenary.isa.memory import RowLayout

KV_SPACE = "kv"
"""Storage space of the KV cache in dependence analysis; stores write it, the start of a pass reads it."""


@dataclass(frozen=True)
class _Head:
    """Registers in force inside the loop over KV heads."""

    query: int
    key: int
    key_codes: int
    key_scales: int
    value_codes: int
    value_scales: int
    past_lines: int


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
    """

    rows: Operand
    act: int
    row: int
    out: int
    length: Operand
    current: Operand
    total: Operand
    every: int


def emit_attention(frame: Frame, node: Attention, index: int) -> None:
    """Append the code of attention node number ``index`` of the stage."""
    b = frame.b
    layout = frame.plans.memory.kv[frame.schedule.stage.name, node.out]
    group = node.heads // node.kv_heads
    scratch = frame.buffers.attention[node.out]
    if node.rope is not None:
        _rotate(frame, node.rope, node.q, node.heads, node)
        _rotate(frame, node.rope, node.k, node.kv_heads, node)
    with b.scope(7) as registers:
        head = _Head(*registers)
        _past_lines(frame, head.past_lines, layout.codes)
        for offset, register in enumerate((head.key_codes, head.key_scales, head.value_codes, head.value_scales)):
            frame.descriptor(register, frame.table.kv(index) + offset)
        b.set(head.query, 0)
        b.set(head.key, 0)
        with b.loop(Operand(0, node.kv_heads)):
            tiled = frame.tokens.reg != 0 or not frame.plans.buffers.whole_groups
            _load_scales(frame, scratch.key_scales, head.key_scales, layout)
            if tiled:
                _load_scales(frame, scratch.value_scales, head.value_scales, layout)
            _quantise(frame, node, head, group)
            _store_current(frame, node, head, layout)
            if tiled:
                with _tiles(frame, node, head, group) as tile:
                    _scores(frame, node, head, layout, tile)
                    _context(frame, node, head, layout, tile, group)
            else:
                # The loads of the next head's keys wait for these scores only, and overlap all that follows them.
                tile = _whole(frame, head, group)
                _scores(frame, node, head, layout, tile)
                _load_scales(frame, scratch.value_scales, head.value_scales, layout)
                _context(frame, node, head, layout, tile, group)
            b.alu(AluFunction.ADD, head.query, head.query, group * node.head_dim)
            b.alu(AluFunction.ADD, head.key, head.key, node.head_dim)
            for register, step in (
                (head.key_codes, layout.head_codes),
                (head.key_scales, layout.head_scales),
                (head.value_codes, layout.head_codes),
                (head.value_scales, layout.head_scales),
            ):
                b.alu(AluFunction.ADD, register, register, step)


def _past_lines(frame: Frame, rd: int, codes: RowLayout) -> None:
    """``R[rd]`` = lines that the codes of all earlier positions occupy, for one head."""
    if codes.pack:
        frame.b.alu(AluFunction.ADD, rd, POSITION, (1 << codes.pack) - 1)
        frame.b.alu(AluFunction.SHR, rd, rd, codes.pack)
    else:
        frame.b.alu(AluFunction.MUL, rd, POSITION, codes.row_lines)


def _rotate(frame: Frame, rope: str, value: str, heads: int, node: Attention) -> None:
    slot, table = frame.slot(value), frame.plans.buffers.rope[rope]
    insn = Rope(
        x=frame.at(value), x_stride=slot.stride, rows=frame.tokens, parts=heads, elements=node.head_dim,
        rotary=node.rotary_dim, table=Operand(0, table.start), table_stride=node.rotary_dim,
    )  # fmt: skip
    frame.emit(insn, [slot.region, table], [slot.region])


def _quantise(frame: Frame, node: Attention, head: _Head, group: int) -> None:
    scratch = frame.buffers.attention[node.out]
    words = words16(node.head_dim)
    parts: tuple[tuple[str, int, int, Region, Region, Operand, float], ...] = (
        (node.q, head.query, group, scratch.queries, scratch.query_scales, Operand(0, 0), node.scale),
        (node.k, head.key, 1, scratch.keys, scratch.key_scales, Operand(POSITION, 0), 1.0),
        (node.v, head.key, 1, scratch.values, scratch.value_scales, Operand(POSITION, 0), 1.0),
    )
    for value, offset, count, codes, scales, first, multiplier in parts:
        slot, x = frame.slot(value), frame.at(value)
        b = frame.b
        with b.scope(1) as (address,):
            b.set(address, Operand(offset, x.imm))
            if x.reg:
                b.alu(AluFunction.ADD, address, address, Operand(x.reg))
            insn = Quant(
                dst=Operand(0, codes.start), dst_stride=words, x=Operand(address), x_stride=slot.stride,
                rows=frame.tokens, parts=count, elements=node.head_dim,
                scales=Operand(first.reg, scales.start), scale_stride=count, scale_step=1, multiplier=multiplier,
            )  # fmt: skip
            frame.emit(insn, [slot.region], [codes, scales])


def _store_current(frame: Frame, node: Attention, head: _Head, layout: KvLayout) -> None:
    scratch = frame.buffers.attention[node.out]
    kv = Region(KV_SPACE, 0, 1)
    for codes, scales, code_line, scale_line in (
        (scratch.keys, scratch.key_scales, head.key_codes, head.key_scales),
        (scratch.values, scratch.value_scales, head.value_codes, head.value_scales),
    ):
        store = Store(
            buffer=Buffer.A, format=MemoryFormat.I8, address=Operand(0, codes.start), stride=words16(node.head_dim),
            memory=Operand(code_line), row=Operand(POSITION), rows=frame.tokens, elements=Operand(0, node.head_dim),
            pack=layout.codes.pack, row_lines=layout.codes.row_lines,
        )  # fmt: skip
        frame.emit(store, [codes], [kv])
        store = Store(
            buffer=Buffer.V, format=MemoryFormat.F32, address=Operand(POSITION, scales.start), stride=1,
            memory=Operand(scale_line), row=Operand(POSITION), rows=frame.tokens, elements=Operand(0, 1),
            pack=layout.scales.pack, row_lines=layout.scales.row_lines,
        )  # fmt: skip
        frame.emit(store, [scales], [kv])


def _load_scales(frame: Frame, scales: Region, line: int, layout: KvLayout) -> None:
    load = Load(
        buffer=Buffer.V, format=MemoryFormat.F32, address=Operand(0, scales.start), stride=1,
        memory=Operand(line), rows=Operand(POSITION), elements=Operand(0, 1),
        pack=layout.scales.pack, row_lines=layout.scales.row_lines,
    )  # fmt: skip
    frame.emit(load, [], [scales])


def _whole(frame: Frame, head: _Head, group: int) -> _Tile:
    """The one tile of a single token whose heads all fit in it."""
    one = frame.tokens
    visible = Operand(POSITION, one.imm)
    return _Tile(Operand(0, group), 0, 0, head.query, visible, one, visible, group)


@contextmanager
def _tiles(frame: Frame, node: Attention, head: _Head, group: int) -> Iterator[_Tile]:
    """A loop that covers all query rows of a KV head; the block inside emits the body for one tile.

    A tile holds whole tokens while all heads of a KV group fit in one, else some heads of one token. One loop serves
    both, with the same instructions: hardware loops nest four deep, and code must not depend on the context's length.
    """
    b, most = frame.b, frame.plans.buffers.tile_rows
    out = frame.slot(node.out)
    step = max(1, most // group)
    splits = -(-group // most)
    with b.scope(9) as (token, first, rows, act, row, offset, length, current, total):
        tile = _Tile(Operand(rows), act, row, offset, Operand(length), Operand(current), Operand(total), group)
        b.set(token, 0)
        b.set(first, 0)  # query heads of the group that earlier tiles of this token took
        if frame.tokens.reg:
            b.ceil_div(rows, frame.tokens, step, frame.plans.buffers.tokens)
            b.alu(AluFunction.MUL, rows, rows, splits)
            tiles = b.loop(Operand(rows))
        else:
            tiles = b.loop(Operand(0, -(-frame.tokens.imm // step) * splits))
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
            # The next heads of the same token if there are any left, else the next tokens.
            b.alu(AluFunction.ADD, first, first, Operand(rows))
            b.alu(AluFunction.LESS, rows, first, group)
            b.alu(AluFunction.MUL, first, first, Operand(rows))
            b.alu(AluFunction.ADD, token, token, step)
            b.alu(AluFunction.MUL, rows, rows, step)
            b.alu(AluFunction.SUB, token, token, Operand(rows))


def _scores(frame: Frame, node: Attention, head: _Head, layout: KvLayout, tile: _Tile) -> None:
    scratch = frame.buffers.attention[node.out]
    context = frame.plans.graph.max_context
    words = words16(node.head_dim)
    frame.emit(stream_load(Operand(head.key_codes), Operand(head.past_lines)), [], [])
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
            pack=0 if now else layout.codes.pack, row_lines=1 if now else layout.codes.row_lines,
        )  # fmt: skip
        frame.emit(insn, [*reads, scratch.keys] if now else reads, [scratch.scores])
    if node.soft_cap is not None:
        cap = Apply(
            function=ApplyFunction.SOFT_CAP, dst=Operand(0, scratch.scores.start), dst_stride=context,
            x=Operand(0, scratch.scores.start), x_stride=context, rows=tile.rows, elements=tile.total,
            parameter=node.soft_cap,
        )  # fmt: skip
        frame.emit(cap, [scratch.scores], [scratch.scores])


def _context(frame: Frame, node: Attention, head: _Head, layout: KvLayout, tile: _Tile, group: int) -> None:
    scratch = frame.buffers.attention[node.out]
    out = frame.slot(node.out)
    words, part_words = words16(node.head_dim), words16(frame.plans.graph.max_context)
    frame.emit(stream_load(Operand(head.value_codes), Operand(head.past_lines)), [], [])
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
            pack=0 if now else layout.codes.pack, row_lines=1 if now else layout.codes.row_lines,
        )  # fmt: skip
        reads = [scratch.parts, scratch.values] if now else [scratch.parts]
        writes = [out.region] if now else []
        frame.emit(insn, [*reads, scratch.row_constants] if now else reads, writes)
