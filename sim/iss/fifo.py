# SPDX-License-Identifier: Apache-2.0
"""The weight stream FIFO: lines in load order, taken out as row blocks or as rows of keys and values.

Expanding a row block costs far more than using it, and a decode loop sees the same blocks every step; expanded weights
are therefore kept, by their place in memory, until those lines are written or the budget is used up.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catenary.isa import stream
from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import ExecutionError, ProgramError
from catenary.isa.memory import RowLayout
from catenary.sim import arith
from catenary.sim.iss.hazards import LoadedLines

WEIGHT_CACHE_BYTES = 6 << 30
"""Expanded weights (four bytes each) that one machine keeps."""


@dataclass(slots=True)
class _Chunk:
    """Lines of one load, ``size`` bytes, that are still in the FIFO; ``offset`` bytes of them are taken."""

    line: int
    data: NDArray[np.uint8]
    size: int
    loaded: LoadedLines | None
    offset: int = 0


@dataclass(frozen=True, eq=False)
class StreamWeights:
    """Row blocks taken from the stream, ready to multiply.

    Attributes:
        weights: prepared [rows, depth].
        row_scales: float32 [rows].
        bias: float32 [rows], or ``None`` if no block has one; blocks without one add -0.0, which changes nothing.
        consumed: bytes of the stream.
    """

    weights: arith.PreparedWeights
    row_scales: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    consumed: int


class StreamFifo:
    """The FIFO between the load and the matrix unit.

    Args:
        config: the accelerator.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        self._line_bytes = config.line_bytes
        self._chunks: deque[_Chunk] = deque()
        self._cache: OrderedDict[tuple[int, int, int], tuple[StreamWeights, int]] = OrderedDict()
        self._cached_bytes = 0
        self._cached = (0, 0)  # no expanded weights lie outside these bytes of memory
        self.held_lines = 0
        self.on_taken: Callable[[LoadedLines, int, int, int, int], None] = lambda *lines: None

    def push(self, line: int, lines: NDArray[np.uint8], loaded: LoadedLines | None) -> None:
        """Append the lines of one load, at least one, which begin at memory line ``line``."""
        self._chunks.append(_Chunk(line, lines.reshape(-1), lines.size, loaded))
        self.held_lines += lines.shape[0]

    def take_rows(self, layout: RowLayout, count: int) -> NDArray[np.int8]:
        """The next ``count`` rows of keys or values, int8 [count, row_bytes]; whole lines are taken.

        Raises:
            ExecutionError: the stream holds less, or is inside a row block.
        """
        nbytes = layout.lines(count) * self._line_bytes
        if not nbytes:
            return np.zeros((0, layout.row_bytes), np.int8)
        chunk = self._front()
        if chunk.offset % self._line_bytes or chunk.size - chunk.offset < nbytes:
            left = chunk.size - chunk.offset
            raise ExecutionError(f"Stream must hold {nbytes} bytes of rows from a line on, not {left}")
        lines = chunk.data[chunk.offset : chunk.offset + nbytes].reshape(-1, self._line_bytes)
        self._advance(chunk, nbytes, *layout.tail(count, self._line_bytes))
        return layout.gather(lines, count).view(np.int8)

    def take_weights(self, depth: int, rows: int) -> StreamWeights:
        """The next row blocks, which must have ``rows`` rows together.

        Raises:
            ExecutionError: the stream ends too early, or its blocks do not fit the instruction.
        """
        chunk = self._front()
        key = (chunk.line * self._line_bytes + chunk.offset, depth, rows)
        known = self._cache.get(key)
        if known is None:
            known = self._expand(chunk, depth, rows), 4 * depth * rows
            self._remember(key, known)
        else:
            self._cache.move_to_end(key)
        self._advance(chunk, known[0].consumed, 0, 0)
        return known[0]

    def finish(self) -> None:
        """Check that nothing but padding is left.

        Raises:
            ExecutionError: bytes of a row block or whole lines are left.
        """
        self._drop_padding()
        if self._chunks:
            left = sum(chunk.size - chunk.offset for chunk in self._chunks)
            raise ExecutionError(f"Stream must be empty at the end, not hold {left} bytes")

    def reset(self) -> None:
        """Empty the FIFO."""
        self._chunks.clear()
        self.held_lines = 0

    def forget(self, line: int, lines: int) -> None:
        """Drop expanded weights that lie in memory lines which have been written."""
        low, high = line * self._line_bytes, (line + lines) * self._line_bytes
        if high <= self._cached[0] or self._cached[1] <= low:
            return  # as nearly always: a store of keys, values or logits
        stale = [key for key, (known, _) in self._cache.items() if key[0] < high and low < key[0] + known.consumed]
        for key in stale:
            self._cached_bytes -= self._cache.pop(key)[1]

    def _front(self) -> _Chunk:
        self._drop_padding()
        if not self._chunks:
            raise ExecutionError("Stream must hold what the instruction takes, not be empty")
        return self._chunks[0]

    def _drop_padding(self) -> None:
        """Remove leading chunks of which only padding is left: less than a line, all zero."""
        while self._chunks:
            chunk = self._chunks[0]
            if chunk.size - chunk.offset >= self._line_bytes or chunk.data[chunk.offset :].any():
                return
            self._pop()

    def _pop(self) -> None:
        chunk = self._chunks.popleft()
        self.held_lines -= -(-(chunk.size - chunk.offset) // self._line_bytes)

    def _advance(self, chunk: _Chunk, nbytes: int, tail: int, used: int) -> None:
        """Take ``nbytes`` bytes, of whose last ``tail`` lines ``used`` bytes each count."""
        if chunk.loaded is not None and nbytes:
            first, end = chunk.offset // self._line_bytes, -(-(chunk.offset + nbytes) // self._line_bytes)
            self.on_taken(chunk.loaded, chunk.line + first, end - first, tail, used)
        before = -(-(chunk.size - chunk.offset) // self._line_bytes)
        chunk.offset += nbytes
        self.held_lines -= before - -(-(chunk.size - chunk.offset) // self._line_bytes)
        if chunk.offset == chunk.size:
            self._chunks.popleft()

    def _expand(self, chunk: _Chunk, depth: int, rows: int) -> StreamWeights:
        try:
            parts = stream.read_rows(chunk.data[chunk.offset :], depth, rows, self._config)
        except ProgramError as error:
            raise ExecutionError(f"Stream at line {chunk.line}: {error}") from None
        weights = arith.PreparedWeights.from_codes(parts.weights, parts.outliers)
        return StreamWeights(weights, parts.row_scales, parts.bias, parts.consumed)

    def _remember(self, key: tuple[int, int, int], entry: tuple[StreamWeights, int]) -> None:
        if entry[1] > WEIGHT_CACHE_BYTES:
            return
        self._cache[key] = entry
        self._cached_bytes += entry[1]
        first, end = self._cached if len(self._cache) > 1 else (key[0], key[0])
        self._cached = min(first, key[0]), max(end, key[0] + entry[0].consumed)
        while self._cached_bytes > WEIGHT_CACHE_BYTES:
            self._cached_bytes -= self._cache.popitem(last=False)[1][1]
