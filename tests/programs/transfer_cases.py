# SPDX-License-Identifier: Apache-2.0
"""Programs for corners of the load and store units: every place in a line, rows far apart, every kind of half float."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from catenary.compiler.builder import Region
from catenary.isa.config import AcceleratorConfig
from catenary.isa.fields import Operand
from catenary.isa.instructions import Instruction, Load, LoadScalar, Store
from catenary.isa.memory import RowLayout
from catenary.isa.opcodes import Buffer, MemoryFormat
from catenary.isa.tensors import BLOCK
from tests.programs.cases import Case
from tests.programs.directed_cases import Bench
from tests.programs.draft import code_words

FAR_BYTES = 1 << 20
"""Of memory that rows which are far apart lie in."""
FAR_LINES = 9000
"""Lines, at most, that one transfer of two rows passes over."""
TABLE_WORDS = 96
"""Words of D, at most, that are loaded into: each takes three instructions to look at."""
SPACES = {Buffer.V: "V", Buffer.A: "A", Buffer.D: "D"}
FORMATS = (
    (Buffer.V, MemoryFormat.F32),
    (Buffer.V, MemoryFormat.BF16),
    (Buffer.A, MemoryFormat.I8),
    (Buffer.D, MemoryFormat.U64),
)


class _Transfers(Bench):
    """A straight program of loads and stores, each behind the one before."""

    def step(self, insn: Instruction) -> None:
        """An instruction that is ordered with everything."""
        everything = [Region(space, 0, 1 << 32) for space in "VADM"]
        self.d.b.emit(insn, everything, everything)

    def filled(self, config: AcceleratorConfig) -> None:
        """Contents for all of V and A, which begin as nothing that may be read, and for D."""
        d = self.d
        d.fill(Buffer.V, MemoryFormat.F32, 0, d.floats(config.vector_words).view(np.uint8))
        d.fill(Buffer.A, MemoryFormat.I8, 0, d.numbers.integers(0, 256, config.act_bytes, dtype=np.uint8))
        d.fill(Buffer.D, MemoryFormat.U64, 0, d.numbers.integers(0, 256, 8 * config.desc_words, dtype=np.uint8))

    def ended(self, config: AcceleratorConfig) -> Case:
        """The program that also stores V and A and reads D."""
        self.d.dump(Buffer.V, 0, config.vector_words)
        self.d.dump(Buffer.A, 0, config.act_bytes // BLOCK)
        with self.d.b.scope(1) as (reg,):
            for at in range(_table_words(config)):
                self.d.b.emit(LoadScalar(rd=reg, address=Operand(0, at)), [Region("D", at, 1)])
                self.d.mix(reg)
        return self.done()


def _table_words(config: AcceleratorConfig) -> int:
    """Words of D that are loaded into."""
    return min(config.desc_words, TABLE_WORDS)


def _layouts(config: AcceleratorConfig, fmt: MemoryFormat) -> list[tuple[int, RowLayout]]:
    """Elements of a row and layout: the shortest and the longest rows for each number of rows in a line."""
    found = []
    for pack in range(1, 8):
        most = (config.line_bytes >> pack) // fmt.bytes
        found += [(n, RowLayout(n * fmt.bytes, pack, 1)) for n in sorted({1, most}) if most]
    return found


def packed_rows(config: AcceleratorConfig, store: bool) -> Case:
    """Loads, or stores, of rows of all lengths that share lines, from all places in a line on, as many as fit or more.

    All of memory that a store may touch is random before, so that bytes beside the rows show.
    """
    b = _Transfers(config, f"{'stores' if store else 'loads'} of packed rows")
    b.filled(config)
    numbers, next_word = b.d.numbers, dict.fromkeys(SPACES, 0)
    for buffer, fmt in FORMATS:
        if store and (buffer is Buffer.D or fmt is MemoryFormat.BF16):
            continue
        for elements, layout in _layouts(config, fmt):
            per_line = 1 << layout.pack
            words = code_words(elements) if buffer is Buffer.A else elements
            room = {Buffer.V: config.vector_words, Buffer.A: config.act_bytes // BLOCK, Buffer.D: _table_words(config)}
            for first in sorted({0, 1, per_line // 2, per_line - 2, per_line - 1, per_line + per_line // 2 + 1}):
                rows = int(numbers.choice([1, 2, per_line - 1, per_line, per_line + 1, 2 * per_line + 1]))
                stride = words + int(numbers.integers(0, 2))
                reach = (rows - 1) * stride + words
                if reach > room[buffer] or not rows:
                    continue
                if next_word[buffer] + reach > room[buffer]:
                    next_word[buffer] = 0
                content = numbers.integers(0, 256, layout.lines(first + rows) * config.line_bytes, dtype=np.uint8)
                if buffer is Buffer.V and not store:  # numbers, not patterns that no two units need treat alike
                    content = _plain(content, fmt)
                kind = Store if store else Load
                b.step(
                    kind(
                        buffer=buffer, format=fmt, address=Operand(0, next_word[buffer]), stride=stride,
                        memory=Operand(0, b.d.keep(content)), row=Operand(0, first), rows=Operand(0, rows),
                        elements=Operand(0, elements), pack=layout.pack, row_lines=1,
                    )
                )  # fmt: skip
                next_word[buffer] += reach
    return b.ended(config)


def _plain(content: np.ndarray, fmt: MemoryFormat) -> np.ndarray:
    """Bytes of floats that are no NaN."""
    if fmt is MemoryFormat.F32:
        whole = content.view(np.uint32)
        return np.where(whole >> 23 & 0xFF == 0xFF, whole & 0xBFFFFFFF, whole).astype("<u4").view(np.uint8)
    whole = content.view(np.uint16)
    return np.where(whole >> 7 & 0xFF == 0xFF, whole & 0xBFFF, whole).astype("<u2").view(np.uint8)


def half_floats(config: AcceleratorConfig) -> Case:
    """Every exponent and sign of FP16 with many mantissas, subnormals and the like among them, but no NaN."""
    b = _Transfers(config, "half floats")
    mantissas = [0, 1, 0x3FF, 0x2AA, 0x155, *(1 << bit for bit in range(1, 10)), *(0x3FF >> bit for bit in range(1, 9))]
    halves = [s << 15 | e << 10 | m for s in (0, 1) for e in range(32) for m in mantissas if e < 31 or not m]
    values = np.array(halves, "<u2")[: config.vector_words]
    b.d.fill(Buffer.V, MemoryFormat.F16, 0, values.view(np.uint8))
    b.d.dump(Buffer.V, 0, values.size)
    return b.done()


def far_rows(config: AcceleratorConfig) -> Case:
    """Rows that begin wherever one bit of an address, of a row's number or of its lines says, and rows far apart."""
    b = _Transfers(config, "rows far apart")
    b.filled(config)
    lines = min(config.memory_lines, FAR_BYTES // config.line_bytes)
    words = config.line_bytes // 4
    b.d.keep(b.d.numbers.integers(0, 256, (lines // 2 - b.d.lines) * config.line_bytes, dtype=np.uint8) & 0x3F)
    last, address = b.d.lines - 2, 0
    one = Operand(0, 1)
    shared = {"buffer": Buffer.V, "format": MemoryFormat.F32, "elements": Operand(0, words)}
    for bit in range(last.bit_length() - 1):
        places = [
            {"memory": Operand(0, 1 << bit)},
            {"memory": one, "row": Operand(0, 1 << bit)},
            {"memory": Operand(0, 5), "row": Operand(0, (1 << bit) // 3), "row_lines": 3},
            {"memory": Operand(0, 2), "row": one, "row_lines": 1 << bit},
        ]
        for place in places:
            b.step(Load(address=Operand(0, address), rows=one, **shared, **place))
            address = (address + words) % (config.vector_words - 4 * words)
    start = b.d.keep(b.d.numbers.integers(0, 256, (lines // 3) * config.line_bytes, dtype=np.uint8) & 0x3F)
    left = b.d.lines - start
    for apart in {min(left // 2, FAR_LINES // 2), min(left // 2, FAR_LINES // 2) * 2 // 3}:
        for kind in (Load, Store):
            place = {"memory": Operand(0, start), "row_lines": apart, "stride": words + 1}
            b.step(kind(address=Operand(0, 3), rows=Operand(0, 2), **shared, **place))
    for bit in range((left - 1).bit_length() - 1):
        b.step(
            Store(address=Operand(0, 2 * bit), rows=one, row=Operand(0, 1 << bit), memory=Operand(0, start), **shared)
        )
    return b.ended(config)


def tables(config: AcceleratorConfig) -> Case:
    """Loads of rows of one element each: side by side in memory, in the buffer, in both, or in neither."""
    b = _Transfers(config, "rows of one element")
    b.filled(config)
    numbers, address = b.d.numbers, 0
    for buffer, fmt in FORMATS:
        packs = [pack for pack in range(8) if fmt.bytes << pack <= config.line_bytes]
        for pack in packs[-2:]:
            for stride in (1, 2):
                rows = 2 * (config.line_bytes // fmt.bytes) + 3
                rows = min(rows, 30 if buffer is Buffer.D else 200)
                if buffer is Buffer.A:
                    rows = 9
                layout = RowLayout(fmt.bytes, pack, 1)
                content = numbers.integers(0, 64, layout.lines(rows + 3) * config.line_bytes, dtype=np.uint8)
                for first in (0, 3):
                    if address + 2 * rows > min(config.vector_words, config.act_bytes // BLOCK, _table_words(config)):
                        address = 0
                    b.step(
                        Load(
                            buffer=buffer, format=fmt, address=Operand(0, address), stride=stride,
                            memory=Operand(0, b.d.keep(content)), row=Operand(0, first), rows=Operand(0, rows),
                            elements=Operand(0, 1), pack=pack, row_lines=1,
                        )
                    )  # fmt: skip
                    address += 2 * rows if 2 * rows < 30 else 7
    return b.ended(config)


TRANSFERS: Mapping[str, Callable[[AcceleratorConfig], Case]] = {
    "packed-loads": partial(packed_rows, store=False),
    "packed-stores": partial(packed_rows, store=True),
    "half-floats": half_floats,
    "rows-far": far_rows,
    "rows-of-one": tables,
}
"""Makers of cases by name; all run to END."""
