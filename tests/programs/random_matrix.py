# SPDX-License-Identifier: Apache-2.0
"""Random blocks for the matrix unit: linear layers, scores and contexts, from streams and from A."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Literal

import numpy as np

from catenary.compiler.builder import Region
from catenary.isa.fields import Operand
from catenary.isa.instructions import Context, Load, MatrixMatrix, MatrixVector, Score
from catenary.isa.memory import RowLayout, key_pack
from catenary.isa.opcodes import KEY_LIMIT, LOOP_DEPTH, AluFunction, Buffer, MemoryFormat, Source
from catenary.isa.stream import pack, tensor_layouts
from catenary.isa.tensors import BLOCK, KEPT_CHOICES, QuantTensor
from catenary.sim.iss.scalars import MASK
from tests.programs.draft import Draft, NoRoomError, Place, code_words
from tests.programs.random_blocks import BURSTS, COMPUTE, interleaved_layout, layout_of, try_block
from tests.weights import random_weights

WEIGHT_BITS = (2, 3, 4, 8)


def linear(d: Draft) -> None:
    """A stream of one to three tensors, multiplied by any number of MM and MV."""
    blocks: list[tuple[int, int]] = []  # columns and rows of each row block
    parts = []
    columns = _columns(d)
    for _ in range(d.rng.choice([1, 1, 1, 2, 3])):
        tensor, bias = random_tensor(d, *_rows_and_kept(d, columns))
        parts.append(pack(tensor, bias, d.config))
        runs = tensor_layouts(tensor, bias is not None, d.config)
        blocks += [(columns, layout.rows) for _, count, layout in runs for _ in range(count)]
        columns = d.rng.choice([columns, _columns(d)])
    steps: list[tuple[int, int]] = []  # columns and rows of each instruction
    for width, rows in blocks:
        if steps and steps[-1][0] == width and steps[-1][1] + rows <= _most_rows(d) and d.often(0.6):
            steps[-1] = (width, steps[-1][1] + rows)
        else:
            steps.append((width, rows))
        if d.often(0.05):
            steps.append((width, 0))
    load_stream(d, keep_stream(d, np.concatenate(parts)))
    for width, rows in steps:
        multiply(d, width, rows)
        if d.often(0.3):
            try_block(d, COMPUTE)
    d.streaming = False


def _columns(d: Draft) -> int:
    """Columns: mostly any number, also whole words, or more than an 8-bit group of sparse rows may have."""
    if d.often(0.06):
        return min(d.rng.randint(513, 700), d.arenas["A"].size * BLOCK)
    return BLOCK * d.rng.randint(1, 10) if d.often(0.25) else d.size()


def _most_rows(d: Draft) -> int:
    """Rows of results that certainly find room."""
    return d.arenas["V"].size // 3


def _rows_and_kept(d: Draft, columns: int) -> tuple[int, int, int | None]:
    """Rows, columns and N of a tensor: now and then so many rows that they fill all lanes."""
    kept = d.rng.choice([None, *KEPT_CHOICES])
    full = d.config.block_rows(kept or BLOCK) * d.rng.choice([1, 1, 2]) + d.rng.choice([0, 0, 0, 1])
    if d.often(0.4) and full <= _most_rows(d) and full * columns <= 20_000:
        return full, columns, kept
    return min(_most_rows(d), d.size(60 if columns < 200 else 9)), columns, kept


def random_tensor(
    d: Draft, rows: int, columns: int, kept: int | Literal["any"] | None = "any"
) -> tuple[QuantTensor, np.ndarray | None]:
    """Weights of any kind, and perhaps a bias."""
    bits = d.rng.choice(WEIGHT_BITS)
    kept = d.rng.choice([None, *KEPT_CHOICES]) if kept == "any" else kept
    group = BLOCK * d.rng.randint(1, 5)
    row_block = d.rng.choice([4, 16, 32])
    table = bits != 8 and d.often(0.5)
    outliers = d.rng.choice([0, 1, 5, rows * columns // 30 + 1])
    tensor = random_weights(d.numbers, rows, columns, bits, group, kept, row_block, table, outliers)
    if bits == 8 and d.often(0.6):  # groups that say nothing, but in which index and codes are stored
        ones = np.ones((rows, -(-columns // group)), np.uint8)
        tensor = replace(tensor, group=group, scales=ones, zeros=ones * np.uint8(0))
        tensor.check("random weights")
    return tensor, d.numbers.normal(size=rows).astype(np.float32) if d.often(0.5) else None


def keep_stream(d: Draft, data: np.ndarray) -> int:
    """Put a stream into memory, now and then so that it begins or ends where a burst does; returns its first line."""
    burst, lines = BURSTS[Load], d.config.lines(data.size)
    if d.often(0.2):
        d.align(burst, d.rng.choice([0, -lines % burst]))
    return d.keep(data)


def load_stream(d: Draft, line: int, reads: tuple[Region, ...] = (), lines: int | None = None) -> None:
    """LD into W, by default of all that was kept last; no other load may come before its last use."""
    row = d.rng.randint(0, line) if d.often(0.2) else 0
    count = d.lines - line if lines is None else lines
    d.emit(
        Load(
            buffer=Buffer.W, format=MemoryFormat.LINES, memory=d.operand(line - row, 32), row=d.operand(row, 20),
            rows=d.operand(count, 24),
        ),
        reads,
    )  # fmt: skip
    d.streaming = True


def tokens_at_all(d: Draft, most: int) -> int:
    """A number of tokens, often 1 or the most."""
    return d.rng.choice([1, most, d.rng.randint(1, most)])


def multiply(d: Draft, columns: int, rows: int) -> None:
    """MM or MV with ``rows`` rows of the stream; every stream must be used up, so there is always room."""
    single = d.often(0.3)
    if d.often(0.04):  # for nobody, which takes nothing off the stream
        with suppress(NoRoomError):
            _multiply(d, columns, d.rng.randint(0, 9), 0, False)
    for _ in range(200):
        tokens = 1 if single else tokens_at_all(d, d.config.mm_tokens)
        try:
            _multiply(d, columns, rows, tokens, single)
        except NoRoomError:
            single = True  # takes least
            continue
        break
    else:
        raise AssertionError(f"{rows} rows must fit in V")


def _multiply(d: Draft, columns: int, rows: int, tokens: int, single: bool) -> None:
    words = code_words(columns)
    act_stride = d.stride(words)
    out_stride = d.stride(rows, disjoint=True, bits=20)
    act = d.rows_place("A", act_stride, tokens, words)
    scales = d.place("V", tokens)
    out = d.rows_place("V", out_stride, tokens, rows, scales.rows(0, 1, tokens))
    cls = MatrixVector if single else MatrixMatrix
    d.emit(
        cls(
            act=act.operand, act_stride=act_stride, tokens=Operand(0, 1) if single else d.operand(tokens, 12),
            depth=columns, rows=d.operand(rows, 20), out=out.operand, out_stride=out_stride, scales=scales.operand,
        ),
        [*act.rows(act_stride, tokens, words), *scales.rows(0, 1, tokens)] if rows else [],
        out.rows(out_stride, tokens, rows),
    )  # fmt: skip


def linear_turns(d: Draft) -> None:
    """Equal streams one behind the other, one in each turn of a loop; or one stream for all its turns."""
    if d.depth == LOOP_DEPTH:
        raise NoRoomError
    turns, columns = d.rng.randint(1, 4), d.size()
    one = d.often(0.5)
    bits, kept = d.rng.choice(WEIGHT_BITS), d.rng.choice(KEPT_CHOICES)
    rows = min(d.config.block_rows(kept), d.size(40))
    group = BLOCK * d.rng.randint(1, 3)
    tensors = [random_weights(d.numbers, rows, columns, bits, group, kept) for _ in range(turns)]
    streams = [pack(tensor, None, d.config) for tensor in tensors]
    words, tokens = code_words(columns), tokens_at_all(d, d.config.mm_tokens)
    if tokens * rows * turns + tokens > d.arenas["V"].size // 2:
        tokens = 1
    act_stride, out_stride = d.stride(words), d.stride(rows * turns, disjoint=True, bits=20)
    act = d.rows_place("A", act_stride, tokens, words)
    scales = d.place("V", tokens)
    out = d.rows_place("V", out_stride, tokens, rows * turns, scales.rows(0, 1, tokens))
    with d.b.scope(4) as (line, to, act_reg, scales_reg):
        for reg, at in ((to, out), (act_reg, act), (scales_reg, scales)):
            d.b.alu(AluFunction.ADD, reg, at.operand.reg, at.operand.imm)
        insn = MatrixMatrix(
            act=Operand(act_reg), act_stride=act_stride, tokens=Operand(0, tokens), depth=columns,
            rows=Operand(0, rows), out=Operand(to), out_stride=out_stride, scales=Operand(scales_reg),
        )  # fmt: skip
        reads = [*act.rows(act_stride, tokens, words), *scales.rows(0, 1, tokens)]
        writes = out.rows(out_stride, tokens, rows * turns)
        if one:
            load_stream(d, d.keep(np.concatenate(streams)))
        else:
            first = d.lines
            for stream in streams:
                d.keep(stream)
            lines = (d.lines - first) // turns
            d.b.set(line, first)
        with d.b.loop(Operand(0, turns)):
            if not one:
                stream = Load(buffer=Buffer.W, format=MemoryFormat.LINES, memory=Operand(line), rows=Operand(0, lines))
                d.b.emit(stream)
                d.streaming = True
            d.emit(insn, reads, writes)
            d.streaming = one
            d.b.alu(AluFunction.ADD, to, to, rows)
            if not one:
                d.b.alu(AluFunction.ADD, line, line, lines)
    d.streaming = False


def _kept_rows(d: Draft, rows: int, depth: int) -> tuple[dict, list[Region]]:
    """Fields and region of rows of keys or values in A."""
    stride = d.stride(code_words(depth))
    at = d.rows_place("A", stride, rows, code_words(depth))
    fields = {"source": Source.BUFFER, "rows_at": at.operand, "rows_stride": stride}
    return fields, list(at.rows(stride, rows, code_words(depth)))


def _stream_rows(d: Draft, layout: RowLayout, rows: int) -> None:
    """LD into W of so many rows of keys or values, new ones or what the pool holds."""
    lines = layout.lines(rows)
    if lines <= d.arenas["M"].size // 2 and d.often(0.4):
        at = Place("M", Operand(), d.arenas["M"].start + d.rng.randint(0, d.arenas["M"].size - lines))
        load_stream(d, at.start, at.rows(0, 1, lines), lines)
        return
    raw = d.numbers.integers(0, 256, (rows, layout.row_bytes), dtype=np.uint8)
    if lines and d.often(0.2):
        d.align(BURSTS[Load], d.rng.choice([0, -lines % BURSTS[Load]]))
    d.keep_rows(layout, raw)
    load_stream(d, d.lines - lines, (), lines)


def _stream_fields(layout: RowLayout) -> dict:
    return {"source": Source.STREAM, "pack": layout.pack, "row_lines": layout.row_lines}


def score(d: Draft) -> None:
    """SCORE: of rows in A, or several out of one load, perhaps with a linear layer behind them."""
    depth = d.size(KEY_LIMIT)
    if d.often(0.4):
        _score(d, depth, d.rows_at_all(min(40, d.arenas["V"].size // 4)), None, d.config.mm_tokens)
        return
    layout, together = layout_of(d, depth), key_pack(d.config)
    if together and d.often(0.6):
        layout = interleaved_layout(d, together, KEY_LIMIT // BLOCK)
        depth = layout.row_bytes
    most = min(40 if depth < 64 else 12, d.arenas["V"].size // 4)
    counts = [d.rng.randint(1, most) for _ in range(d.rng.choice([1, 1, 2, 3]))]
    apart = d.rng.choice([4, 8, 16, 32])
    if d.often(0.15) and d.config.lines(depth) <= apart:  # rows so far apart that a few of them fill a burst
        layout, counts = RowLayout(depth, 0, apart), [BURSTS[Load] // apart]
    if d.often(0.1):
        counts.insert(d.rng.randrange(len(counts) + 1), 0)
    # Whole lines are taken, so each instruction's rows start a line.
    blocks = sum(-(-count >> layout.pack) for count in counts)
    _stream_rows(d, layout, blocks << layout.pack)
    for count in counts:
        for attempt in range(200):
            try:
                _score(d, depth, count, layout, 1 if attempt > 20 else d.config.mm_tokens)
            except NoRoomError:
                continue
            break
        else:
            raise AssertionError(f"{count} scores must fit in V")
        if d.often(0.3):
            try_block(d, COMPUTE)
    d.streaming = False


def _score(d: Draft, depth: int, rows: int, layout: RowLayout | None, most: int) -> None:
    tokens, words = 0 if d.often(0.03) else tokens_at_all(d, most), code_words(depth)
    fields, reads = (_stream_fields(layout), []) if layout else _kept_rows(d, rows, depth)
    act_stride, out_stride = d.stride(words), d.stride(rows, disjoint=True, bits=20)
    act = d.rows_place("A", act_stride, tokens, words)
    scales = d.place("V", tokens)
    row_scales = d.place("V", rows)
    constants = [*scales.rows(0, 1, tokens), *row_scales.rows(0, 1, rows)]
    out = d.rows_place("V", out_stride, tokens, rows, constants)
    d.emit(
        Score(
            **fields, act=act.operand, act_stride=act_stride, tokens=d.operand(tokens, 12), depth=depth,
            rows=d.operand(rows, 20), out=out.operand, out_stride=out_stride, scales=scales.operand,
            row_scales=row_scales.operand,
        ),
        [*reads, *act.rows(act_stride, tokens, words), *constants] if rows and tokens else reads,
        out.rows(out_stride, tokens, rows),
    )  # fmt: skip


def context(d: Draft) -> None:
    """CONTEXT from clear to emit, in one instruction or several, each with its own source of rows."""
    for _ in range(50):
        depth = d.size(d.rng.choice([40, 150, 300]))
        most = d.config.context_rows(depth)
        if most:
            break
    else:
        raise NoRoomError
    tokens = 0 if d.often(0.03) else tokens_at_all(d, most)
    group = d.rng.randint(1, 5)
    width = min(group, max(1, tokens)) * depth
    outputs = -(-tokens // group)
    out_stride = d.stride(width, disjoint=True, bits=20)
    scales = d.place("V", 2 * tokens)
    constants = list(scales.rows(0, 1, 2 * tokens))
    out = d.rows_place("V", out_stride, outputs, width, constants)
    act_stride, first = d.rng.randint(0, 6), d.rng.choice([0, 0, d.rng.randint(1, 40)])
    act = d.rows_place("A", act_stride, 2 * tokens, code_words(first + 60))
    shared = {"act_stride": act_stride, "depth": depth, "group": group, "out_stride": out_stride}
    with d.b.scope(3) as (out_reg, act_reg, scales_reg):
        for name, reg, at in (("out", out_reg, out), ("act", act_reg, act), ("scales", scales_reg, scales)):
            shared[name] = _shared(d, reg, at)
        steps = d.rng.choice([1, 1, 2, 3])
        done = 0
        for step in range(steps):
            rows = d.rng.randint(0, (60 - done) if depth < 64 else min(12, 60 - done))
            last = step == steps - 1
            reads = list(act.rows(act_stride, 2 * tokens, code_words(first + 60)))
            fields = _value_rows(d, depth, rows if tokens else 0, reads)
            d.emit(
                Context(
                    **shared, **fields, clear=step == 0, emit=last, tokens=d.operand(tokens, 12),
                    rows=d.operand(rows if tokens else 0, 20), first=d.operand(first + done, 20),
                ),
                reads + (constants if last else []), out.rows(out_stride, outputs, width) if last else [],
            )  # fmt: skip
            d.streaming = False
            done += rows
            if not last and d.often(0.4):
                try_block(d, COMPUTE)


def _shared(d: Draft, reg: int, at: Place) -> Operand:
    """The same place, for several instructions: what it needs of a register is in ``reg``, which is theirs."""
    if not at.operand.reg:
        return at.operand
    rest = d.rng.choice([0, d.rng.randint(0, at.start), at.start + at.reach + d.rng.randint(1, 50)])
    d.b.alu(AluFunction.ADD, reg, at.operand.reg, at.operand.imm - rest & MASK)
    return Operand(reg, rest)


def _value_rows(d: Draft, depth: int, rows: int, reads: list[Region]) -> dict:
    """Fields of value rows from the stream, which is loaded, or from A, whose region joins ``reads``."""
    if d.often(0.4) or not rows:
        stride = d.rng.choice([code_words(depth), code_words(depth) + d.rng.randint(0, 3), 0, 1])
        try:
            at = d.rows_place("A", stride, rows, code_words(depth))
        except NoRoomError:
            pass
        else:
            reads += at.rows(stride, rows, code_words(depth))
            return {"source": Source.BUFFER, "rows_at": at.operand, "rows_stride": stride}
    layout = layout_of(d, depth)
    _stream_rows(d, layout, rows)
    return _stream_fields(layout)


MATRIX = (linear, linear, linear_turns, score, score, context, context)
