# SPDX-License-Identifier: Apache-2.0
"""What load, store and matrix instructions do, by the loop nests of the instruction set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import ExecutionError
from catenary.isa.instructions import Buffer, Context, Load, MatrixMatrix, MatrixVector, Score, Source, Store
from catenary.isa.memory import RowLayout
from catenary.isa.tensors import BLOCK, FloatFormat, widen
from catenary.sim import arith
from catenary.sim.iss.buffers import RowBuffer
from catenary.sim.iss.fifo import StreamFifo
from catenary.sim.iss.hazards import Hazards
from catenary.sim.iss.memory import Memory
from catenary.sim.iss.scalars import Scalars


@dataclass
class Storage:
    """Everything that units read and write.

    Attributes:
        v: vector buffer, float32 [words].
        a: activation buffer, int8 [words, 16].
        d: descriptor buffer, uint64 [words].
        fifo: weight stream.
        memory: memory behind the ports.
        scalars: scalar registers.
        hazards: the race detector.
    """

    v: RowBuffer[np.float32]
    a: RowBuffer[np.int8]
    d: RowBuffer[np.uint64]
    fifo: StreamFifo
    memory: Memory
    scalars: Scalars
    hazards: Hazards

    @classmethod
    def of(cls, config: AcceleratorConfig, memory: Memory, check_hazards: bool) -> Storage:
        """Empty storage of ``config``'s sizes."""
        v = RowBuffer("V", np.zeros(config.vector_words, np.float32))
        a = RowBuffer("A", np.zeros((config.act_bytes // BLOCK, BLOCK), np.int8))
        d = RowBuffer("D", np.zeros(config.desc_words, np.uint64))
        sizes = {"V": v.size, "A": a.size, "D": d.size, "memory": memory.lines}
        return cls(v, a, d, StreamFifo(config), memory, Scalars(), Hazards(sizes if check_hazards else {}))

    def read_v(self, start: int, stride: int, rows: int, words: int) -> NDArray[np.float32]:
        """Checked view of V, [rows, words]."""
        self.hazards.read("V", start, stride, rows, words)
        return self.v.read(start, stride, rows, words)

    def write_v(self, start: int, stride: int, rows: int, words: int) -> NDArray[np.float32]:
        """View of V to assign to, [rows, words]."""
        self.hazards.write("V", start, stride, rows, words)
        return self.v.write(start, stride, rows, words)

    def read_a(self, start: int, stride: int, rows: int, codes: int) -> NDArray[np.int8]:
        """Checked copy-free rows of codes from A, int8 [rows, codes]."""
        words = -(-codes // BLOCK)
        self.hazards.read("A", start, stride, rows, words)
        return self.a.read(start, stride, rows, words).reshape(rows, words * BLOCK)[:, :codes]

    def write_a(self, start: int, stride: int, codes: NDArray[np.int8]) -> None:
        """Write rows of codes into A; the last word of each row is filled with zeros."""
        rows, count = codes.shape
        words = -(-count // BLOCK)
        self.hazards.write("A", start, stride, rows, words)
        view = self.a.write(start, stride, rows, words)
        if count != words * BLOCK:
            view[:, -1] = 0
            padded = np.zeros((rows, words * BLOCK), np.int8)
            padded[:, :count] = codes
            codes = padded
        view[...] = codes.reshape(rows, words, BLOCK)


_FLOATS = {1: FloatFormat.F32, 2: FloatFormat.F16, 3: FloatFormat.BF16}


def load(s: Storage, insn: Load) -> None:
    """LD."""
    value = s.scalars.value
    memory, row, rows = value(insn.memory), value(insn.row), value(insn.rows)
    if insn.buffer is Buffer.W:
        if rows:
            data = s.memory.fetch(memory + row, rows, stream=True)
            s.fifo.push(memory + row, data, s.hazards.load_lines(memory + row, rows, None))
        return
    elements = value(insn.elements)
    if not rows or not elements:
        return
    layout = _layout(s, insn, elements)
    lines, skip = _located(layout, row, rows)
    data = s.memory.fetch(memory + lines[0], lines[1], stream=False)
    s.hazards.load_lines(memory + lines[0], lines[1], layout.last_line_bytes(skip + rows, s.memory.line_bytes))
    raw = layout.gather(data, skip + rows)[skip:]
    address = value(insn.address)
    match insn.buffer:
        case Buffer.V:
            fmt = _FLOATS[insn.format.value]
            data = np.ascontiguousarray(raw).view(fmt.dtype)
            s.write_v(address, insn.stride, rows, elements)[...] = widen(data, fmt)
        case Buffer.A:
            s.write_a(address, insn.stride, raw.view(np.int8))
        case _:
            s.hazards.write("D", address, insn.stride, rows, elements)
            s.d.write(address, insn.stride, rows, elements)[...] = np.ascontiguousarray(raw).view(np.uint64)


def store(s: Storage, insn: Store) -> None:
    """ST."""
    value = s.scalars.value
    rows, elements = value(insn.rows), value(insn.elements)
    if not rows or not elements:
        return
    memory, row, address = value(insn.memory), value(insn.row), value(insn.address)
    layout = _layout(s, insn, elements)
    if insn.buffer is Buffer.V:
        raw = np.ascontiguousarray(s.read_v(address, insn.stride, rows, elements)).view(np.uint8)
    else:
        raw = s.read_a(address, insn.stride, rows, elements).view(np.uint8)
    lines, skip = _located(layout, row, rows)
    s.memory.store(memory, layout, row, raw)
    s.hazards.store_lines(memory + lines[0], lines[1], skip * layout.row_bytes)


def _layout(s: Storage, insn: Load | Store, elements: int) -> RowLayout:
    layout = RowLayout(elements * insn.format.bytes, insn.pack, insn.row_lines)
    room = s.memory.line_bytes if layout.pack else layout.row_lines * s.memory.line_bytes
    if layout.row_bytes << layout.pack > room:
        raise ExecutionError(f"Rows must fit in {room} bytes of lines, not need {layout.row_bytes << layout.pack}")
    return layout


def _located(layout: RowLayout, row: int, rows: int) -> tuple[tuple[int, int], int]:
    """((first line, lines), rows to skip in the first line) of ``rows`` rows from ``row`` on."""
    first, _ = layout.locate(row)
    last, _ = layout.locate(row + rows - 1)
    skip = row & ((1 << layout.pack) - 1)
    return (first, last + layout.row_lines - first), skip


def linear(s: Storage, insn: MatrixMatrix | MatrixVector) -> None:
    """MM and MV."""
    value = s.scalars.value
    tokens, rows = value(insn.tokens), value(insn.rows)
    if not rows or not tokens:
        return
    block = s.fifo.take_weights(insn.depth, rows)
    codes = s.read_a(value(insn.act), insn.act_stride, tokens, insn.depth)
    scales = s.read_v(value(insn.scales), tokens, 1, tokens)[0]
    acc = arith.integer_matmul(codes, block.weights)
    out = s.write_v(value(insn.out), insn.out_stride, tokens, rows)
    out[...] = arith.linear_epilogue(acc, block.row_scales, scales, block.bias)


def score(s: Storage, insn: Score) -> None:
    """SCORE."""
    value = s.scalars.value
    tokens, rows = value(insn.tokens), value(insn.rows)
    if insn.source is Source.STREAM:
        keys = s.fifo.take_rows(RowLayout(insn.depth, insn.pack, insn.row_lines), rows)
    elif rows:
        keys = s.read_a(value(insn.rows_at), insn.rows_stride, rows, insn.depth)
    if not rows or not tokens:
        return
    codes = s.read_a(value(insn.act), insn.act_stride, tokens, insn.depth)
    acc = arith.integer_matmul(codes, keys)
    row_scales = s.read_v(value(insn.row_scales), rows, 1, rows)[0]
    scales = s.read_v(value(insn.scales), tokens, 1, tokens)[0]
    s.write_v(value(insn.out), insn.out_stride, tokens, rows)[...] = arith.linear_epilogue(acc, row_scales, scales)


class ContextAccumulators:
    """The accumulators of CONTEXT, which live from a clearing instruction to an emitting one."""

    def __init__(self) -> None:
        self._sums: NDArray[np.int32] | None = None

    def reset(self) -> None:
        """Forget everything."""
        self._sums = None

    def run(self, s: Storage, insn: Context) -> None:
        """CONTEXT."""
        value = s.scalars.value
        tokens, rows, depth = value(insn.tokens), value(insn.rows), insn.depth
        if insn.clear:
            self._sums = np.zeros((2 * tokens, depth), np.int32)
        if self._sums is None or self._sums.shape != (2 * tokens, depth):
            found = None if self._sums is None else self._sums.shape
            raise ExecutionError(f"Accumulators must have been cleared for {(2 * tokens, depth)}, not {found}")
        if insn.source is Source.STREAM:
            values = s.fifo.take_rows(RowLayout(depth, insn.pack, insn.row_lines), rows)
        elif rows:
            values = s.read_a(value(insn.rows_at), insn.rows_stride, rows, depth)
        if rows and tokens:
            first = value(insn.first)
            word = first // BLOCK
            skip = first - word * BLOCK
            parts = s.read_a(value(insn.act) + word, insn.act_stride, 2 * tokens, skip + rows)[:, skip:]
            self._sums += arith.integer_matmul(parts, values.T)
        if not insn.emit:
            return
        constants = s.read_v(value(insn.scales), 2, tokens, 2)
        merged = arith.merge_parts(self._sums[0::2], self._sums[1::2], constants[:, 0], constants[:, 1])
        self._sums = None
        group = min(insn.group, max(tokens, 1))
        for first in range(0, tokens, group):
            count = min(group, tokens - first)
            start = value(insn.out) + first // group * insn.out_stride
            s.write_v(start, depth, count, depth)[...] = merged[first : first + count]
