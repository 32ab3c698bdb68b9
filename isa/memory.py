# SPDX-License-Identifier: Apache-2.0
"""How rows lie in memory lines, and the named regions of a program's memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import ProgramError
from catenary.isa.json_values import checked
from catenary.isa.tensors import BLOCK


class Range(NamedTuple):
    """``lines`` lines from ``line`` on."""

    line: int
    lines: int

    @property
    def end(self) -> int:
        """First line behind the range."""
        return self.line + self.lines


@dataclass(frozen=True)
class RowLayout:
    """Rows of ``row_bytes`` bytes in lines: one row in several lines, several rows in one, or rows interleaved.

    ``1 << pack`` rows are a *block* of ``row_lines`` lines. A block of one row is that row, continued from line to
    line. In a block of several rows each line holds even *pieces* of all of them, one directly behind the other. In one
    line that are whole rows; in more lines, rows are *interleaved*, and line w holds piece w of each.

    The number of rows in a block is a power of two, so that hardware finds a row by shifting; lines may be any width.

    Attributes:
        row_bytes: bytes of one row.
        pack: log2 of the rows in a block.
        row_lines: lines of a block.
    """

    row_bytes: int
    pack: int
    row_lines: int

    @property
    def piece_bytes(self) -> int:
        """Bytes of a row of several in a block that lie in one line."""
        return self.row_bytes // self.row_lines if self.pack else self.row_bytes

    def lines(self, rows: int) -> int:
        """Lines that ``rows`` rows occupy."""
        return -(-rows >> self.pack) * self.row_lines

    def tail(self, rows: int, line_bytes: int) -> tuple[int, int]:
        """The last of the lines that ``rows`` rows, at least one, occupy: how many of them, and bytes of each, have
        something of these rows and perhaps of rows behind them.
        """
        if self.pack:
            return self.row_lines, (((rows - 1) & ((1 << self.pack) - 1)) + 1) * self.piece_bytes
        return 1, self.row_bytes - (self.row_lines - 1) * line_bytes

    def locate(self, row: int) -> tuple[int, int]:
        """(line, byte offset in it) of row ``row``: where it begins. Each further piece begins a line further on."""
        return (row >> self.pack) * self.row_lines, (row & ((1 << self.pack) - 1)) * self.piece_bytes

    def pieces(self, lines: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A view of the lines [n, line_bytes] of whole blocks of several rows: [block, line, row, piece_bytes]."""
        used = lines[:, : self.piece_bytes << self.pack]
        return used.reshape(-1, self.row_lines, 1 << self.pack, self.piece_bytes)

    def gather(self, lines: NDArray[np.uint8], rows: int) -> NDArray[np.uint8]:
        """Rows 0 .. ``rows`` - 1 of ``lines`` [n, line_bytes] as uint8 [rows, row_bytes]; a view where possible."""
        if self.pack:
            return self.pieces(lines).swapaxes(1, 2).reshape(-1, self.row_bytes)[:rows]
        return lines.reshape(-1, self.row_lines * lines.shape[1])[:rows, : self.row_bytes]

    def scatter(self, rows: NDArray[np.uint8], line_bytes: int) -> NDArray[np.uint8]:
        """Inverse of :meth:`gather`: uint8 [rows, row_bytes] to lines [n, line_bytes], filled with zeros."""
        count = rows.shape[0]
        lines = np.zeros((self.lines(count), line_bytes), np.uint8)
        if self.pack:
            index = np.arange(count)
            pieces = rows.reshape(count, self.row_lines, self.piece_bytes)
            self.pieces(lines)[index >> self.pack, :, index & ((1 << self.pack) - 1)] = pieces
        else:
            lines.reshape(count, self.row_lines * line_bytes)[:, : self.row_bytes] = rows
        return lines


def row_layout(config: AcceleratorConfig, row_bytes: int) -> RowLayout:
    """The layout of rows of ``row_bytes`` bytes in the lines of ``config``."""
    per_line = config.line_bytes // row_bytes
    if per_line >= 2:
        return RowLayout(row_bytes, per_line.bit_length() - 1, 1)
    return RowLayout(row_bytes, 0, config.lines(row_bytes))


def key_pack(config: AcceleratorConfig) -> int:
    """log2 of the keys that are interleaved, 16 bytes of each in a line; 0 where keys lie as other rows do.

    As many as a line holds, to a power of two, if the matrix unit takes them in one cycle, in which it writes half as
    many groups of 8-bit codes as of others, and if no line of them is for two writes.
    """
    keys = 1 << (max(1, config.line_bytes // BLOCK).bit_length() - 1)
    fill = config.fill_groups
    whole = fill >= config.groups or fill % keys == 0
    return keys.bit_length() - 1 if keys <= fill // 2 and whole else 0


def key_layout(config: AcceleratorConfig, row_bytes: int) -> RowLayout:
    """The layout of rows of ``row_bytes`` bytes that SCORE takes off the stream: interleaved where that is faster."""
    pack, words = key_pack(config), row_bytes // BLOCK
    if pack and words > 1 and row_bytes % BLOCK == 0:
        return RowLayout(row_bytes, pack, words)
    return row_layout(config, row_bytes)


@dataclass(frozen=True)
class MemoryMap:
    """Regions of memory, in address order. The host writes ``code``, ``tables`` and ``image`` once.

    Attributes:
        code: the instruction words.
        tables: the descriptor table.
        image: constants and weight streams, as the program file holds them.
        ids: mailbox for the token ids of a prefill, one 64-bit word each.
        kv: the KV cache.
        logits: rows of logits, each from a line on.
    """

    code: Range
    tables: Range
    image: Range
    ids: Range
    kv: Range
    logits: Range

    def regions(self) -> dict[str, Range]:
        """Name and range of every region."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def lines(self) -> int:
        """Lines in all."""
        return max(region.end for region in self.regions().values())

    def to_json(self) -> dict[str, list[int]]:
        """First line and number of lines of every region."""
        return {name: list(region) for name, region in self.regions().items()}

    @classmethod
    def from_json(cls, data: Any) -> MemoryMap:  # noqa: ANN401 - JSON is dynamically typed
        """Inverse of :meth:`to_json`.

        Raises:
            ProgramError: a region is missing or unknown, or is not two integers.
        """
        regions = checked(data, "memory", {f.name: list[int] for f in fields(cls)})
        for name, region in regions.items():
            if len(region) != 2:
                raise ProgramError(f"memory.{name} must be a line and a number of lines, not {len(region)} integers")
        return cls(**{name: Range(*region) for name, region in regions.items()})

    def check(self, config: AcceleratorConfig, contents: Mapping[str, int]) -> None:
        """Verify that regions follow one another within memory.

        Args:
            config: whose memory it is.
            contents: bytes of each region that has contents, which it must fit exactly.

        Raises:
            ProgramError: names the region.
        """
        end = 0
        for name, region in self.regions().items():
            if region.line < end or region.lines < 0:
                raise ProgramError(
                    f"Region {name} must start at line {end} or later and have at least 0 lines, not {tuple(region)}"
                )
            end = region.end
        if end > config.memory_lines:
            raise ProgramError(f"Memory must be at most {config.memory_lines} lines, not {end}")
        for name, nbytes in contents.items():
            needed, lines = config.lines(nbytes), self.regions()[name].lines
            if needed != lines:
                raise ProgramError(f"Region {name} must have the {needed} lines of its contents, not {lines}")
