# SPDX-License-Identifier: Apache-2.0
"""Random programs of linear layers with known results: every kind of row block, and prompts of several tiles.

``layer_case(config, seed)`` is a random program as of :mod:`tests.programs.random_programs` in which some blocks are
whole linear layers: one to three tensors of any format in one stream, 1 to 130 tokens. Their results are evaluated
here, from the tensors, by integer and FP32 arithmetic of numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catenary.compiler.builder import Region
from catenary.isa.config import AcceleratorConfig
from catenary.isa.fields import Operand
from catenary.isa.instructions import MatrixMatrix, MatrixVector, Store
from catenary.isa.opcodes import Buffer, MemoryFormat
from catenary.isa.stream import pack, tensor_layouts
from catenary.isa.tensors import BLOCK, KEPT_CHOICES, QuantTensor
from tests.programs.cases import Case
from tests.programs.draft import Draft, code_words
from tests.programs.random_blocks import COMPUTE, try_block
from tests.programs.random_matrix import load_stream, random_tensor
from tests.programs.random_programs import any_block, fill_arenas, finish, finished, taken

MOST_TOKENS = 130

_ARENA = 1024
"""Words of V that the other blocks of a program work on."""


@dataclass(frozen=True, eq=False)
class Result:
    """What a linear layer must leave in memory.

    Attributes:
        line: first line of the first row.
        row_lines: lines of a row.
        values: float32 [tokens, rows].
        what: the layer, for messages.
    """

    line: int
    row_lines: int
    values: NDArray[np.float32]
    what: str

    def found(self, memory: bytes, config: AcceleratorConfig) -> NDArray[np.float32]:
        """The same rows in the memory that a program left behind."""
        lines = np.frombuffer(memory, np.uint8).reshape(-1, config.line_bytes)[self.line :]
        rows = lines[: self.row_lines * len(self.values)].reshape(len(self.values), -1)
        return np.ascontiguousarray(rows[:, : 4 * self.values.shape[1]]).view("<f4")


@dataclass(frozen=True, eq=False)
class Part:
    """One tensor of a layer: ``rows`` are those of each of its row blocks."""

    tensor: QuantTensor
    bias: NDArray[np.float32] | None
    rows: tuple[int, ...]

    def evaluate(self, codes: NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [tokens, rows] of activations int8 [tokens, columns]."""
        tensor = self.tensor
        groups = np.arange(tensor.columns) // tensor.group
        values = tensor.codes if tensor.table is None else tensor.table[tensor.codes]
        zeros, factors = (array.astype(np.int64)[:, groups] for array in (tensor.zeros, tensor.scales))
        weights = (values[:, : tensor.columns] - zeros) * factors * tensor.mask[:, : tensor.columns]
        if tensor.outliers is not None:
            weights[tensor.outliers.rows, tensor.outliers.columns] += tensor.outliers.values
        sums = np.einsum("tk,rk->tr", codes.astype(np.int64), weights)
        result = _flushed(_flushed(sums.astype(np.float32) * tensor.channel_scales) * scales[:, None])
        return result if self.bias is None else _flushed(result + self.bias)


class Room:
    """A part of V or A that the layers use in turn; all places are declared, so they may be used again at once."""

    def __init__(self, d: Draft, space: str, words: int) -> None:
        arena = d.arenas[space]
        before, behind = (0, arena.start), (arena.start + arena.size, words)
        self._space = space
        self._first, self._end = max(before, behind, key=lambda part: part[1] - part[0])
        self._next = self._first

    @property
    def words(self) -> int:
        """Words in all."""
        return self._end - self._first

    def take(self, words: int) -> Region:
        """The next so many words, from the start again where they do not fit."""
        if self._next + words > self._end:
            self._next = self._first
        assert self._next + words <= self._end, f"{words} words of {self._space} must fit in {self.words}"
        place = Region(self._space, self._next, words)
        self._next += words
        return place


@dataclass(frozen=True, eq=False)
class LayerCase:
    """A program, what its layers must leave behind, and the weights of all of them."""

    case: Case
    results: tuple[Result, ...]
    tensors: tuple[QuantTensor, ...]


def layer_case(config: AcceleratorConfig, seed: int, layers: int = 2) -> LayerCase:
    """A random program with so many linear layers.

    Args:
        config: the accelerator; its buffers have room for 130 tokens' rows of a few hundred words.
        seed: of everything.
        layers: number of linear layers; as many other blocks stand between them.
    """
    d = Draft(config, seed, _ARENA)
    rooms = Room(d, "V", config.vector_words), Room(d, "A", config.act_bytes // BLOCK)
    results: list[Result] = []
    tensors: list[QuantTensor] = []

    def layer(draft: Draft) -> None:
        tensors.extend(_layer(draft, *rooms, results))

    blocks = [taken(d, fill_arenas)]
    for _ in range(layers):
        blocks += [taken(d, any_block), taken(d, layer)]
    case = finished(d, f"layers of seed {seed}", [*blocks, taken(d, finish)])
    return LayerCase(case, tuple(results), tuple(tensors))


def _layer(d: Draft, vectors: Room, codes_room: Room, results: list[Result]) -> list[QuantTensor]:
    """Append one layer; returns its weights."""
    columns = d.rng.choice([1, d.size(), d.size(), d.rng.randint(150, 700)])
    parts = [_part(d, columns) for _ in range(d.rng.choice([1, 1, 2, 3]))]
    line = d.keep(np.concatenate([pack(part.tensor, part.bias, d.config) for part in parts]))
    lines = d.lines - line
    rows = sum(part.tensor.rows for part in parts)
    most = d.config.mm_tokens
    tokens = d.rng.choice([1, 2, most, most + 1, d.rng.randint(1, MOST_TOKENS), MOST_TOKENS])
    # A third of the room for each tile: while one is stored, the next is computed and a third one loaded.
    fits = min(vectors.words // (3 * (rows + 10)), codes_room.words // (3 * (code_words(columns) + 3)))
    step = min(fits, d.rng.choice([most, most, d.rng.randint(1, most)]))
    step = max(step, -(-tokens // 12))  # not too many instructions
    for first in range(0, tokens, step):
        _tile(d, parts, columns, min(step, tokens - first), (line, lines), vectors, codes_room, results)
    return [part.tensor for part in parts]


def _part(d: Draft, columns: int) -> Part:
    """A random tensor whose rows are any number, a full row block of some N, or one more or less."""
    full = d.config.block_rows(d.rng.choice(KEPT_CHOICES))
    rows = d.rng.choice([1, d.size(60), min(240, max(1, full + d.rng.choice([-1, 0, 1])))])
    tensor, bias = random_tensor(d, rows, columns)
    layouts = tensor_layouts(tensor, bias is not None, d.config)
    return Part(tensor, bias, tuple(layout.rows for _, count, layout in layouts for _ in range(count)))


def _tile(
    d: Draft,
    parts: Sequence[Part],
    columns: int,
    tokens: int,
    stream: tuple[int, int],
    vectors: Room,
    codes_room: Room,
    results: list[Result],
) -> None:
    """Activations and scales, the stream, MM or MV for one or more row blocks each, and stores of the results."""
    words = code_words(columns)
    act_stride = words + d.rng.choice([0, 0, 1, 3])
    act = codes_room.take((tokens - 1) * act_stride + words)
    cells = d.numbers.integers(-127, 128, (act.size, BLOCK)).astype(np.int8)
    if d.often(0.2):
        cells = d.numbers.choice(np.int8([-127, 127]), cells.shape)
    d.fill(Buffer.A, MemoryFormat.I8, act.start, cells.reshape(-1).view(np.uint8))
    rows = [cells[t * act_stride : t * act_stride + words].reshape(-1)[:columns] for t in range(tokens)]
    scales_at = vectors.take(tokens)
    scales = d.numbers.choice(np.float32([0, 1, -1, 1e-30, 0.01, 0.3]), tokens) * d.numbers.random(tokens, np.float32)
    d.fill(Buffer.V, MemoryFormat.F32, scales_at.start, scales.astype("<f4").view(np.uint8))
    values = np.concatenate([part.evaluate(np.stack(rows), scales) for part in parts], axis=1)

    load_stream(d, stream[0], lines=stream[1])
    stores = []
    done = 0
    for count in _cut(d, [rows for part in parts for rows in part.rows]):
        out_stride = count + d.rng.choice([0, 0, d.rng.randint(1, 9)])
        out = vectors.take((tokens - 1) * out_stride + count)
        single = tokens == 1 and d.often(0.7)
        d.emit(
            (MatrixVector if single else MatrixMatrix)(
                act=d.operand(act.start, 16), act_stride=act_stride, depth=columns, rows=d.operand(count, 20),
                tokens=Operand(0, 1) if single else d.operand(tokens, 12), out=d.operand(out.start, 20),
                out_stride=out_stride, scales=Operand(0, scales_at.start),
            ),
            [act, scales_at], [out],
        )  # fmt: skip
        stores.append((out, out_stride, values[:, done : done + count]))
        done += count
        if d.often(0.2):
            try_block(d, COMPUTE)
    d.streaming = False
    for out, out_stride, part in stores:
        results.append(_stored(d, out, out_stride, part))


def _cut(d: Draft, blocks: Sequence[int]) -> list[int]:
    """Rows of each instruction: those of one or more row blocks that follow one another, at most 8 instructions."""
    most = max(1, -(-len(blocks) // 8))
    cuts = []
    at = 0
    while at < len(blocks):
        size = max(most, d.rng.choice([1, 2, len(blocks)]))
        cuts.append(sum(blocks[at : at + size]))
        at += size
    return cuts


def _stored(d: Draft, out: Region, stride: int, values: NDArray[np.float32]) -> Result:
    """ST of a result into memory of its own."""
    tokens, rows = values.shape
    row_lines = d.config.lines(4 * rows)
    line = d.keep(np.zeros(tokens * row_lines * d.config.line_bytes, np.uint8))
    insn = Store(
        buffer=Buffer.V, format=MemoryFormat.F32, address=Operand(0, out.start), stride=stride, memory=Operand(0, line),
        rows=Operand(0, tokens), elements=Operand(0, rows), row_lines=row_lines,
    )  # fmt: skip
    d.emit(insn, [out], [Region("M", line, tokens * row_lines)])
    return Result(line, row_lines, values, f"{rows} rows of {tokens} tokens, stored at line {line}")


def _flushed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Results below 2**-126 become zeros of their sign."""
    return np.where(np.abs(values) < np.float32(2.0**-126), np.copysign(np.float32(0), values), values)
