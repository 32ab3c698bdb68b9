# SPDX-License-Identifier: Apache-2.0
"""What load, store and matrix instructions do, by the loop nests of the instruction set.

Each function here prepares one instruction: it works out once what does not change from one execution to the next, and
returns what executes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import ExecutionError
from catenary.isa.instructions import Context, Load, MatrixMatrix, MatrixVector, Score, Store
from catenary.isa.memory import RowLayout, key_pack
from catenary.isa.opcodes import Buffer, MemoryFormat, Source
from catenary.isa.rules import insn_layout, interleaves
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
        a: activation buffer, int8 [words * 16].
        d: descriptor buffer, uint64 [words].
        fifo: weight stream.
        memory: memory behind the ports.
        scalars: scalar registers.
        hazards: the race detector.
        config: the accelerator, for its limits.
        accumulating: CONTEXT has cleared its accumulators and not emitted yet.
        nan_seen: a NaN was quantised in this run.
    """

    v: RowBuffer[np.float32]
    a: RowBuffer[np.int8]
    d: RowBuffer[np.uint64]
    fifo: StreamFifo
    memory: Memory
    scalars: Scalars
    hazards: Hazards
    config: AcceleratorConfig
    nan_seen: bool = False
    accumulating: bool = False

    @classmethod
    def of(cls, config: AcceleratorConfig, memory: Memory, check_hazards: bool) -> Storage:
        """Empty storage of ``config``'s sizes."""
        v = RowBuffer("V", np.zeros(config.vector_words, np.float32))
        a = RowBuffer("A", np.zeros(config.act_bytes, np.int8), BLOCK)
        d = RowBuffer("D", np.zeros(config.desc_words, np.uint64))
        sizes = {"V": v.size, "A": a.size, "D": d.size, "memory": memory.lines}
        hazards = Hazards(sizes if check_hazards else {})
        return cls(v, a, d, StreamFifo(config), memory, Scalars(), hazards, config)

    def check_tokens(self, tokens: int) -> None:
        """Check that every token of MM, MV or SCORE has an accumulator, and that CONTEXT is not using them.

        Raises:
            ExecutionError: there are fewer, or CONTEXT is in the middle of a sum.
        """
        if tokens > self.config.mm_tokens:
            most = self.config.mm_tokens
            raise ExecutionError(f"Tokens of a matrix instruction must be at most {most}, not {tokens}")
        if self.accumulating:
            raise ExecutionError("Accumulators must have been emitted by CONTEXT before another matrix instruction")

    def read_v(self, start: int, stride: int, rows: int, words: int) -> NDArray[np.float32]:
        """Checked view of V, [rows, words]."""
        if self.hazards.enabled:
            self.hazards.read("V", start, stride, rows, words)
        return self.v.read(start, stride, rows, words)

    def write_v(self, start: int, stride: int, rows: int, words: int) -> NDArray[np.float32]:
        """View of V to assign to, [rows, words]."""
        if self.hazards.enabled:
            self.hazards.write("V", start, stride, rows, words)
        return self.v.write(start, stride, rows, words)

    def read_a(self, start: int, stride: int, rows: int, codes: int) -> NDArray[np.int8]:
        """Checked copy-free rows of codes from A, int8 [rows, codes]."""
        words = -(-codes // BLOCK)
        if self.hazards.enabled:
            self.hazards.read("A", start, stride, rows, words)
        return self.a.read(start, stride, rows, words)[:, :codes]

    def write_a(self, start: int, stride: int, rows: int, codes: int) -> NDArray[np.int8]:
        """View of A to assign rows of codes to, int8 [rows, codes]; the rest of each row's last word is zeros."""
        words = -(-codes // BLOCK)
        if self.hazards.enabled:
            self.hazards.write("A", start, stride, rows, words)
        view = self.a.write(start, stride, rows, words)
        if codes == words * BLOCK:
            return view
        view[:, codes:] = 0
        return view[:, :codes]


Executor = Callable[[], None]

_FLOATS = {
    MemoryFormat.F32: FloatFormat.F32,
    MemoryFormat.F16: FloatFormat.F16,
    MemoryFormat.BF16: FloatFormat.BF16,
}


def load(s: Storage, insn: Load) -> Executor:
    """LD."""
    if insn.buffer is Buffer.W:
        return _load_stream(s, insn)
    values = s.scalars.reader(insn.memory, insn.row, insn.rows, insn.elements, insn.address)
    layout_of = _layouts(s, insn)
    put = _put(s, insn)

    def run() -> None:
        memory, row, rows, elements, address = values()
        if not rows or not elements:
            return
        layout = layout_of(elements)
        first, count, skip = _located(layout, row, rows)
        data = s.memory.fetch(memory + first, count, stream=False)
        if s.hazards.enabled:
            loaded = s.hazards.load_lines(memory + first, count)
            s.hazards.use_lines(loaded, memory + first, count, *layout.tail(skip + rows, s.memory.line_bytes))
        put(address, layout.gather(data, skip + rows)[skip:], elements)

    return run


def _load_stream(s: Storage, insn: Load) -> Executor:
    values = s.scalars.reader(insn.memory, insn.row, insn.rows)

    def run() -> None:
        memory, row, rows = values()
        if rows:
            data = s.memory.fetch(memory + row, rows, stream=True)
            s.fifo.push(memory + row, data, s.hazards.load_lines(memory + row, rows))

    return run


def _put(s: Storage, insn: Load) -> Callable[[int, NDArray[np.uint8], int], None]:
    """What writes rows from memory, uint8 [rows, bytes], into the buffer from an address on."""
    stride, fmt = insn.stride, _FLOATS.get(insn.format)

    def put_v(address: int, raw: NDArray[np.uint8], elements: int) -> None:
        if fmt is None:
            raise ExecutionError(f"Format of a load into V must be a float format, not {insn.format.name}")
        data = raw.view(fmt.dtype) if fmt is FloatFormat.F32 else widen(raw.view(fmt.dtype), fmt)
        s.write_v(address, stride, len(raw), elements)[...] = data

    def put_a(address: int, raw: NDArray[np.uint8], elements: int) -> None:
        s.write_a(address, stride, len(raw), elements)[...] = raw.view(np.int8)

    def put_d(address: int, raw: NDArray[np.uint8], elements: int) -> None:
        s.hazards.write("D", address, stride, len(raw), elements)
        s.d.write(address, stride, len(raw), elements)[...] = raw.view(np.uint64)

    match insn.buffer:
        case Buffer.V:
            return put_v
        case Buffer.A:
            return put_a
        case _:
            return put_d


def store(s: Storage, insn: Store) -> Executor:
    """ST."""
    values = s.scalars.reader(insn.memory, insn.row, insn.rows, insn.elements, insn.address)
    layout_of = _layouts(s, insn)
    read: Callable[[int, int, int, int], NDArray[np.float32] | NDArray[np.int8]]
    read = s.read_v if insn.buffer is Buffer.V else s.read_a

    def run() -> None:
        memory, row, rows, elements, address = values()
        if not rows or not elements:
            return
        layout = layout_of(elements)
        s.memory.store(memory, layout, row, _bytes(read(address, insn.stride, rows, elements)))
        if s.hazards.enabled:
            first, count, skip = _located(layout, row, rows)
            shared = layout.row_lines if skip else 0
            s.hazards.store_lines(memory + first, count, shared, skip * layout.piece_bytes)

    return run


def _bytes(rows: NDArray[np.float32] | NDArray[np.int8]) -> NDArray[np.uint8]:
    """Bytes of ``rows``; a view where they lie side by side."""
    if rows.strides[1] != rows.itemsize:  # where rows of one element lie side by side, numpy may see a column
        rows = rows.copy()
    return rows.view(np.uint8)


def _layouts(s: Storage, insn: Load | Store) -> Callable[[int], RowLayout]:
    """What gives the layout of rows of so many elements in memory."""

    @cache
    def layout_of(elements: int) -> RowLayout:
        layout = insn_layout(insn, elements * insn.format.bytes)
        if interleaves(insn) and layout.row_bytes != BLOCK * layout.row_lines:
            wanted = BLOCK * layout.row_lines
            raise ExecutionError(
                f"Rows interleaved in {layout.row_lines} lines must have {wanted} bytes, not {layout.row_bytes}"
            )
        room = s.memory.line_bytes if layout.pack else layout.row_lines * s.memory.line_bytes
        if layout.piece_bytes << layout.pack > room:
            needed = layout.piece_bytes << layout.pack
            raise ExecutionError(f"Rows must fit in {room} bytes of lines, not need {needed}")
        return layout

    return layout_of


def _located(layout: RowLayout, row: int, rows: int) -> tuple[int, int, int]:
    """(first line, lines, rows to skip in the first line) of ``rows`` rows from ``row`` on."""
    first, _ = layout.locate(row)
    last, _ = layout.locate(row + rows - 1)
    return first, last + layout.row_lines - first, row & ((1 << layout.pack) - 1)


def linear(s: Storage, insn: MatrixMatrix | MatrixVector) -> Executor:
    """MM and MV."""
    values = s.scalars.reader(insn.tokens, insn.rows, insn.act, insn.scales, insn.out)

    def run() -> None:
        tokens, rows, act, scales_at, out = values()
        if not rows or not tokens:
            return
        s.check_tokens(tokens)
        block = s.fifo.take_weights(insn.depth, rows)
        codes = s.read_a(act, insn.act_stride, tokens, insn.depth)
        scales = s.read_v(scales_at, tokens, 1, tokens)[0]
        acc = arith.integer_matmul(codes, block.weights)
        result = arith.linear_epilogue(acc, block.row_scales, scales, block.bias)
        s.write_v(out, insn.out_stride, tokens, rows)[...] = result

    return run


def _rows_of(s: Storage, insn: Score | Context) -> Callable[[int], NDArray[np.int8]]:
    """What takes so many rows of keys or values, int8 [rows, depth], from where the instruction has them."""
    if insn.source is Source.STREAM:
        layout, pack = insn_layout(insn, insn.depth), key_pack(s.config)

        def take(rows: int) -> NDArray[np.int8]:
            if interleaves(insn) and insn.pack != pack:
                raise ExecutionError(f"Interleaved rows from the stream must have pack {pack}, not {insn.pack}")
            return s.fifo.take_rows(layout, rows)

        return take
    values = s.scalars.reader(insn.rows_at)
    return lambda rows: s.read_a(values()[0], insn.rows_stride, rows, insn.depth)


def score(s: Storage, insn: Score) -> Executor:
    """SCORE."""
    values = s.scalars.reader(insn.tokens, insn.rows, insn.act, insn.row_scales, insn.scales, insn.out)
    rows_of = _rows_of(s, insn)

    def run() -> None:
        tokens, rows, act, row_scales_at, scales_at, out = values()
        s.check_tokens(tokens)
        if not rows:
            return
        keys = rows_of(rows)
        if not tokens:
            return
        codes = s.read_a(act, insn.act_stride, tokens, insn.depth)
        acc = arith.integer_matmul(codes, keys)
        row_scales = s.read_v(row_scales_at, rows, 1, rows)[0]
        scales = s.read_v(scales_at, tokens, 1, tokens)[0]
        s.write_v(out, insn.out_stride, tokens, rows)[...] = arith.linear_epilogue(acc, row_scales, scales)

    return run


class ContextAccumulators:
    """The accumulators of CONTEXT, which live from a clearing instruction to an emitting one."""

    def __init__(self) -> None:
        self._sums: NDArray[np.int32] | None = None

    def reset(self) -> None:
        """Forget everything."""
        self._sums = None

    def prepare(self, s: Storage, insn: Context) -> Executor:
        """CONTEXT."""
        values = s.scalars.reader(insn.tokens, insn.rows, insn.first, insn.act, insn.scales, insn.out)
        rows_of = _rows_of(s, insn)
        depth, most = insn.depth, s.config.context_rows(insn.depth)

        def run() -> None:
            tokens, rows, first, act, scales_at, out = values()
            if tokens > most:
                raise ExecutionError(f"Tokens of CONTEXT must be at most {most}, not {tokens}")
            s.accumulating = not insn.emit
            if insn.clear:
                self._sums = np.zeros((2 * tokens, depth), np.int32)
            if self._sums is None or self._sums.shape != (2 * tokens, depth):
                found = None if self._sums is None else self._sums.shape
                raise ExecutionError(f"Accumulators must have been cleared for {(2 * tokens, depth)}, not {found}")
            rows_read = rows_of(rows) if rows else None
            if rows_read is not None and tokens:
                word, skip = divmod(first, BLOCK)
                parts = s.read_a(act + word, insn.act_stride, 2 * tokens, skip + rows)[:, skip:]
                self._sums += arith.integer_matmul(parts, rows_read.T)
            if insn.emit:
                sums, self._sums = self._sums, None
                emit(sums, tokens, scales_at, out)

        def emit(sums: NDArray[np.int32], tokens: int, scales_at: int, out: int) -> None:
            constants = s.read_v(scales_at, 2, tokens, 2)
            merged = arith.merge_parts(sums[0::2], sums[1::2], constants[:, 0], constants[:, 1])
            group = min(insn.group, max(tokens, 1))
            for first in range(0, tokens, group):
                count = min(group, tokens - first)
                start = out + first // group * insn.out_stride
                s.write_v(start, depth, count, depth)[...] = merged[first : first + count]

        return run
