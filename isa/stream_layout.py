# SPDX-License-Identifier: Apache-2.0
"""Layout of a weight stream's row block: the header's bit fields and the size of every section.

:data:`HEADER_FIELDS` is the only description of the header; encoder, decoder, hardware and the tables of
``docs/weight-stream.md`` derive from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from catenary.isa.bitpack import packed_length
from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import ProgramError
from catenary.isa.tensors import BLOCK, KEPT_CHOICES, TABLE_ENTRIES, WEIGHT_LIMIT

HEADER_BYTES = 16
MAGIC = 0xC7
VERSION = 1
BITS_CODES = (2, 3, 4, 8)
"""Weight bits by the header's ``bits`` code."""

SPARSE_GROUP_BLOCKS = 32
"""Most blocks in a group of sparse weights: the unit holds a group's index until the codes come."""

OUTLIER_BYTES = 4

_WEIGHTS_AT_ONCE = 1 << 20
"""Weights that one step handles: enough to hide the interpreter, few enough to stay in the caches."""


class IndexKind(IntEnum):
    """How a row block stores which positions of a block of 16 are kept."""

    NONE = 0
    BITMAP = 1
    INDEX4 = 2


class StreamField(NamedTuple):
    """Bits ``offset`` to ``offset + width - 1`` of a header or an outlier, read as one little-endian integer."""

    name: str
    offset: int
    width: int
    meaning: str


HEADER_FIELDS = (
    StreamField("magic", 0, 8, f"{MAGIC:#04x}; never 0, so padding cannot be taken for a row block"),
    StreamField("version", 8, 4, f"version of this format: {VERSION}"),
    StreamField("bits", 12, 2, "bits per code: 0 = 2, 1 = 3, 2 = 4, 3 = 8 (signed)"),
    StreamField("index", 14, 2, "index kind: 0 = none, 1 = bitmap, 2 = 4-bit indices; 3 is reserved"),
    StreamField("kept", 16, 3, "log2 N of N:16, 0 to 4"),
    StreamField("has_bias", 19, 1, "1 = a bias section follows the channel scales"),
    StreamField(
        "table",
        20,
        4,
        "0 = affine codes, T[q] = q; 1 = a table section follows the header (not for 8 bits); others are reserved",
    ),
    StreamField("reserved_a", 24, 8, "0"),
    StreamField("rows", 32, 16, "rows (output channels) of this block, 1 to chains x chain length / N"),
    StreamField("groups", 48, 16, "groups along K: blocks / group_blocks, rounded up"),
    StreamField("group_blocks", 64, 16, "blocks of 16 columns in a group; the last group may have fewer"),
    StreamField("blocks", 80, 16, "blocks of 16 columns in a row: columns / 16, rounded up"),
    StreamField("outliers", 96, 16, "entries of the outlier section; 0 = there is none"),
    StreamField("checksum_row", 112, 1, "0; reserved for a checksum row after the last row"),
    StreamField("reserved_b", 113, 15, "0"),
)
"""Every bit of the header, least significant first; each belongs to exactly one field."""

OUTLIER_FIELDS = (
    StreamField("value", 0, 8, f"INT8, -{WEIGHT_LIMIT} to {WEIGHT_LIMIT}: the weight that is added"),
    StreamField("column", 8, 4, f"column inside its block of {BLOCK}"),
    StreamField("advance", 12, 8, "blocks to go on before this entry, from block 0 on"),
    StreamField("lane", 20, 12, "lane that multiplies; row r of the row block owns lanes r N to r N + N - 1"),
)
"""Every bit of an entry of the outlier section, least significant first."""


class Section(NamedTuple):
    """One contiguous part of a row block: ``used`` bytes of payload at ``offset``, then zeros up to ``end``."""

    offset: int
    used: int
    end: int


@dataclass(frozen=True)
class GroupRun:
    """Consecutive groups of one size inside a row block.

    Attributes:
        offset: byte at which the first of them starts.
        stride: bytes of one group with all its padding.
        first: index of the first group.
        count: number of groups.
        blocks: blocks of 16 columns in each.
        first_block: index of the first block of the first group.
        params: scale and zero bytes, relative to the group's start; ``used`` is 0 for 8-bit codes.
        index: positions that are kept; ``used`` is 0 for N = 16.
        codes: packed codes.
    """

    offset: int
    stride: int
    first: int
    count: int
    blocks: int
    first_block: int
    params: Section
    index: Section
    codes: Section

    @property
    def group_span(self) -> slice:
        """These groups among the groups of a row."""
        return slice(self.first, self.first + self.count)

    @property
    def block_span(self) -> slice:
        """Their blocks among the blocks of a row."""
        return slice(self.first_block, self.first_block + self.count * self.blocks)

    @property
    def bytes(self) -> slice:
        """Their bytes among the bytes of a row block."""
        return slice(self.offset, self.offset + self.count * self.stride)


def index_kind(kept: int) -> IndexKind:
    """The smaller index for N = ``kept``: a bitmap of 16 bits or N indices of 4, a bitmap where they tie."""
    if kept == BLOCK:
        return IndexKind.NONE
    return IndexKind.BITMAP if 4 * kept >= BLOCK else IndexKind.INDEX4


def index_bits(kept: int) -> int:
    """Index bits of one block of 16 of one row."""
    return {IndexKind.NONE: 0, IndexKind.BITMAP: BLOCK, IndexKind.INDEX4: 4 * kept}[index_kind(kept)]


@dataclass(frozen=True)
class BlockLayout:
    """Everything that a row block's header says, and the section sizes that follow from it.

    Attributes:
        rows: output channels in the block.
        kept: N of N:16.
        bits: bits per code, 2, 3, 4 or 8.
        blocks: blocks of 16 columns.
        group_blocks: blocks in a group.
        has_bias: a bias section is present.
        atom: bytes to which every section is padded; a property of the accelerator, not of the header.
        has_table: a table section is present.
        outlier_words: entries of the outlier section.
    """

    rows: int
    kept: int
    bits: int
    blocks: int
    group_blocks: int
    has_bias: bool
    atom: int
    has_table: bool = False
    outlier_words: int = 0

    @property
    def groups(self) -> int:
        """Groups along K."""
        return -(-self.blocks // self.group_blocks)

    @property
    def at_once(self) -> int:
        """Row blocks that the host packs or reads in one step."""
        return max(1, _WEIGHTS_AT_ONCE // (self.rows * self.blocks * BLOCK))

    @property
    def index_too_long(self) -> bool:
        """Whether a group's index would not fit the buffer that holds it until the codes come."""
        return self.kept < BLOCK and self.group_blocks > SPARSE_GROUP_BLOCKS

    def _section(self, offset: int, used: int) -> Section:
        return Section(offset, used, offset + -(-used // self.atom) * self.atom)

    @property
    def header(self) -> Section:
        """The header."""
        return self._section(0, HEADER_BYTES)

    @property
    def table(self) -> Section:
        """What each code stands for, INT8; or nothing."""
        return self._section(self.header.end, TABLE_ENTRIES if self.has_table else 0)

    @property
    def channel_scales(self) -> Section:
        """One FP32 per row."""
        return self._section(self.table.end, 4 * self.rows)

    @property
    def bias(self) -> Section:
        """One FP32 per row, or nothing."""
        return self._section(self.channel_scales.end, 4 * self.rows if self.has_bias else 0)

    @property
    def outliers(self) -> Section:
        """Entries of :data:`OUTLIER_FIELDS`, or nothing."""
        return self._section(self.bias.end, OUTLIER_BYTES * self.outlier_words)

    def _run(self, offset: int, first: int, count: int, blocks: int) -> GroupRun:
        cells = blocks * self.rows
        params = self._section(0, 0 if self.bits == 8 else 2 * self.rows)
        index = self._section(params.end, packed_length(cells, index_bits(self.kept)))
        codes = self._section(index.end, packed_length(cells * self.kept, self.bits))
        return GroupRun(offset, codes.end, first, count, blocks, first * self.group_blocks, params, index, codes)

    def runs(self) -> Iterator[GroupRun]:
        """The full groups, then the last one if it is short."""
        offset = self.outliers.end
        full, rest = divmod(self.blocks, self.group_blocks)
        if full:
            run = self._run(offset, 0, full, self.group_blocks)
            offset += full * run.stride
            yield run
        if rest:
            yield self._run(offset, full, 1, rest)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the whole row block, padding included."""
        end = self.outliers.end
        for run in self.runs():
            end = run.offset + run.count * run.stride
        return end

    def breakdown(self) -> dict[str, int]:
        """Bytes of the row block by what they hold; together :attr:`stored_bytes`."""
        sizes = {
            "header": HEADER_BYTES,
            "table": self.table.used,
            "channel scales": self.channel_scales.used,
            "bias": self.bias.used,
            "outliers": self.outliers.used,
            "scales and zeros": sum(run.count * run.params.used for run in self.runs()),
            "index": sum(run.count * run.index.used for run in self.runs()),
            "codes": sum(run.count * run.codes.used for run in self.runs()),
        }
        return {**sizes, "padding": self.stored_bytes - sum(sizes.values())}

    def encode(self) -> bytes:
        """The header, 16 bytes.

        Raises:
            ProgramError: a size that its field cannot hold.
        """
        values = {
            "magic": MAGIC,
            "version": VERSION,
            "bits": BITS_CODES.index(self.bits),
            "index": index_kind(self.kept),
            "kept": KEPT_CHOICES.index(self.kept),
            "has_bias": int(self.has_bias),
            "table": int(self.has_table),
            "rows": self.rows,
            "groups": self.groups,
            "group_blocks": self.group_blocks,
            "blocks": self.blocks,
            "outliers": self.outlier_words,
        }
        if self.has_table and self.bits == 8:
            raise ProgramError("Table of a row block must be for codes of at most 4 bits, not 8")
        if self.index_too_long:
            raise ProgramError(
                f"Group of sparse weights must have at most {SPARSE_GROUP_BLOCKS * BLOCK} columns, "
                f"not {self.group_blocks * BLOCK}"
            )
        word = 0
        for field in HEADER_FIELDS:
            value = values.get(field.name, 0)
            if not 0 <= value < 1 << field.width:
                raise ProgramError(f"{field.name} of a row block must be below {1 << field.width}, not {value}")
            word |= value << field.offset
        return word.to_bytes(HEADER_BYTES, "little")

    @classmethod
    def decode(cls, header: bytes, atom: int) -> BlockLayout:
        """Inverse of :meth:`encode`; every field is checked.

        Raises:
            ProgramError: names the field, the rule and the value.
        """
        word = int.from_bytes(header, "little")
        values = {field.name: word >> field.offset & ((1 << field.width) - 1) for field in HEADER_FIELDS}
        wanted = {"magic": MAGIC, "version": VERSION}
        for name in ("magic", "version", "reserved_a", "checksum_row", "reserved_b"):
            if values[name] != wanted.get(name, 0):
                raise ProgramError(f"{name} of a row block must be {wanted.get(name, 0):#x}, not {values[name]:#x}")
        bits = BITS_CODES[values["bits"]]
        tables = 0 if bits == 8 else 1
        if values["table"] > tables:
            raise ProgramError(
                f"table of a row block of {bits}-bit codes must be at most {tables}, not {values['table']}"
            )
        if values["kept"] >= len(KEPT_CHOICES):
            raise ProgramError(f"kept of a row block must be at most {len(KEPT_CHOICES) - 1}, not {values['kept']}")
        kept = KEPT_CHOICES[values["kept"]]
        if values["index"] != index_kind(kept):
            raise ProgramError(
                f"index of a row block of {kept}:{BLOCK} must be {index_kind(kept)}, not {values['index']}"
            )
        for name in ("rows", "groups", "group_blocks", "blocks"):
            if values[name] < 1:
                raise ProgramError(f"{name} of a row block must be at least 1, not 0")
        layout = cls(
            rows=values["rows"],
            kept=kept,
            bits=bits,
            blocks=values["blocks"],
            group_blocks=values["group_blocks"],
            has_bias=bool(values["has_bias"]),
            atom=atom,
            has_table=bool(values["table"]),
            outlier_words=values["outliers"],
        )
        if layout.index_too_long:
            raise ProgramError(
                f"group_blocks of a sparse row block must be at most {SPARSE_GROUP_BLOCKS}, not {layout.group_blocks}"
            )
        if values["groups"] != layout.groups:
            raise ProgramError(f"groups of a row block must be {layout.groups}, not {values['groups']}")
        return layout


def stream_layouts(
    kept: NDArray[np.uint8],
    columns: int,
    bits: int,
    group: int,
    has_bias: bool,
    config: AcceleratorConfig,
    has_table: bool = False,
) -> Iterator[tuple[int, int, BlockLayout]]:
    """Split rows without outliers into row blocks: at changes of N, and at ``config.block_rows(N)``.

    Args:
        kept: uint8 [rows], N of each row.
        columns: K, before padding.
        bits, group: as in :class:`QuantTensor`.
        has_bias: the layer has a bias.
        config: the accelerator.
        has_table: the row blocks have a table.

    Yields:
        (first row, number of row blocks, their layout): row blocks of equal layout together.
    """
    blocks, group_blocks = -(-columns // BLOCK), group // BLOCK
    edges = [0, *(np.flatnonzero(np.diff(kept)) + 1).tolist(), len(kept)]
    for first, end in pairwise(edges):
        n = int(kept[first])
        size = config.block_rows(n)
        full, rest = divmod(end - first, size)
        for row, count, rows in ((first, full, size), (first + full * size, 1, rest)):
            if count and rows:
                layout = BlockLayout(rows, n, bits, blocks, group_blocks, has_bias, config.stream_atom, has_table)
                yield row, count, layout
