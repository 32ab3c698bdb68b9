# SPDX-License-Identifier: Apache-2.0
"""Weight streams: what the memory channels deliver to the matrix unit for one linear layer.

A stream is a sequence of self-describing row blocks (see :mod:`catenary.isa.stream_layout` and
``docs/weight-stream.md``). :func:`pack` writes one from a :class:`QuantTensor` and :func:`unpack` is its strict
inverse; :func:`read_block` and :func:`unpack_weights` give the integers that the multipliers see.

Row blocks with equal headers have equal layouts, so all but :func:`read_block` work on runs of them at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import ProgramError
from catenary.isa.outliers import Outliers
from catenary.isa.stream_decode import Decoded, decode_blocks
from catenary.isa.stream_encode import pack, packed_bytes, tensor_layouts
from catenary.isa.stream_layout import HEADER_BYTES, BlockLayout
from catenary.isa.stream_outliers import joined
from catenary.isa.tensors import BLOCK, QuantTensor

__all__ = [
    "Expanded", "Outline", "RowBlock", "outline", "pack", "packed_bytes", "read_block", "read_rows", "tensor_layouts",
    "unpack", "unpack_weights",
]  # fmt: skip

Bytes = bytes | bytearray | memoryview | NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class RowBlock:
    """One row block as the matrix unit sees it.

    Attributes:
        layout: what the header says.
        weights: int8 [rows, columns], expanded; 0 where dropped.
        row_scales: float32 [rows], ``s_w``.
        bias: float32 [rows], or ``None``.
        outliers: what is added to single weights, or ``None``.
        stored_bytes: bytes that the block occupies.
        next_offset: byte at which the next block starts.
    """

    layout: BlockLayout
    weights: NDArray[np.int8]
    row_scales: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    outliers: Outliers | None
    stored_bytes: int
    next_offset: int

    @property
    def rows(self) -> int:
        """Output channels."""
        return self.layout.rows

    @property
    def kept(self) -> int:
        """N of N:16."""
        return self.layout.kept


@dataclass(frozen=True, eq=False)
class Expanded:
    """A whole stream as the matrix unit sees it.

    Attributes:
        weights: int8 [rows, columns], expanded; 0 where dropped.
        row_scales: float32 [rows], ``s_w``.
        bias: float32 [rows], or ``None``.
        outliers: what is added to single weights, or ``None``.
        kept: uint8 [rows], N of each row.
        consumed: bytes of all row blocks, without padding to a line.
    """

    weights: NDArray[np.int8]
    row_scales: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    outliers: Outliers | None
    kept: NDArray[np.uint8]
    consumed: int


@dataclass(frozen=True, eq=False)
class Outline:
    """What the headers of a whole stream say; see :func:`outline`.

    Attributes:
        rows: output channels of all row blocks.
        bias: float32 [rows], or ``None``.
        consumed: bytes of all row blocks, without padding to a line.
        sizes: those bytes by what they hold.
    """

    rows: int
    bias: NDArray[np.float32] | None
    consumed: int
    sizes: Mapping[str, int]


def unpack(data: Bytes, columns: int, config: AcceleratorConfig) -> tuple[QuantTensor, NDArray[np.float32] | None, int]:
    """Read a whole stream; the strict inverse of :func:`pack`.

    Args:
        data: a stream, then less than a line of zeros.
        columns: K of the layer.
        config: the accelerator that it was packed for.

    Returns:
        The tensor (dropped positions hold the filler ``q = z``), the bias, and the bytes consumed, which leave out the
        padding at the end.

    Raises:
        ProgramError: a truncated or damaged stream, or one that breaks a rule of the format.
    """
    parts, consumed = _decode_all(data, columns, config)
    layout = parts[0].layout
    for part in parts:
        if (part.layout.bits, part.layout.group_blocks) != (layout.bits, layout.group_blocks):
            raise ProgramError(
                f"Row blocks of one tensor must have {layout.bits} bits and {layout.group_blocks} blocks in a group, "
                f"not {part.layout.bits} and {part.layout.group_blocks}"
            )
        if part.layout.has_table != layout.has_table:
            raise ProgramError("Row blocks of one tensor must all have a table or none, not some")
    tensor = QuantTensor(
        columns=columns,
        bits=layout.bits,
        group=layout.group_blocks * BLOCK,
        codes=np.concatenate([part.filled_codes() for part in parts]),
        mask=np.concatenate([part.mask() for part in parts]),
        kept=_kept(parts),
        scales=np.concatenate([part.scales for part in parts]),
        zeros=np.concatenate([part.zeros for part in parts]),
        channel_scales=_row_scales(parts),
        table=_table(parts),
        outliers=_outliers(parts),
    )
    return tensor, _bias(parts), consumed


def outline(data: Bytes, columns: int, config: AcceleratorConfig) -> Outline:
    """Walk a whole stream from header to header; arguments as for :func:`unpack`, whose cost it is far below.

    Headers and biases are verified; the other sections are not looked at.

    Raises:
        ProgramError: a truncated stream, a damaged header, or a bias that is not finite or only in some row blocks.
    """
    rows = consumed = 0
    sizes: Counter[str] = Counter()
    biases: list[NDArray[np.float32]] = []
    for layout, blocks in _runs(_as_array(data), columns, config):
        section, count = layout.bias, len(blocks) * layout.rows
        if layout.has_bias:
            octets = np.ascontiguousarray(blocks[:, section.offset : section.offset + section.used])
            biases.append(octets.view("<f4").astype(np.float32).reshape(count))
        rows, consumed = rows + count, consumed + blocks.size
        sizes.update({name: len(blocks) * size for name, size in layout.breakdown().items()})
    bias = np.concatenate(biases) if biases else None
    if bias is not None and len(bias) != rows:
        raise ProgramError("Row blocks of one layer must all have a bias or none, not some")
    if bias is not None and not np.isfinite(bias).all():
        raise ProgramError(f"Bias of a row block must be finite, not {bias[~np.isfinite(bias)][0]}")
    return Outline(rows, bias, consumed, sizes)


def unpack_weights(data: Bytes, columns: int, config: AcceleratorConfig) -> Expanded:
    """Read a whole stream as expanded integers; arguments and errors as for :func:`unpack`."""
    parts, consumed = _decode_all(data, columns, config)
    weights = np.empty((sum(len(part.codes) for part in parts), columns), np.int8)
    row = 0
    for part in parts:
        weights[row : row + len(part.codes)] = part.weights()[:, :columns]
        row += len(part.codes)
    return Expanded(weights, _row_scales(parts), _bias(parts), _outliers(parts), _kept(parts), consumed)


def read_rows(data: Bytes, columns: int, rows: int, config: AcceleratorConfig) -> Expanded:
    """Read the row blocks at the start of ``data`` that have ``rows`` rows together.

    The blocks may belong to several layers with the same inputs. If any has a bias, those without get -0.0, which
    changes nothing when it is added.

    Raises:
        ProgramError: a truncated or damaged block, or one that ends behind row ``rows``.
    """
    stream = _as_array(data)
    if 4 * rows > len(stream):  # the channel scales alone: nothing is allocated for rows that cannot be there
        raise ProgramError(f"Row blocks of {rows} rows must have at least {4 * rows} bytes, not {len(stream)}")
    parts: list[Decoded] = []
    weights = np.empty((rows, columns), np.int8)
    offset = row = 0
    while row < rows:
        layout = _layout_at(stream, offset, columns, config)
        if layout.rows > rows - row:
            raise ProgramError(f"A row block must end at row {rows} of the instruction, not at {row + layout.rows}")
        blocks = _equal_blocks(stream[offset:], layout)[: (rows - row) // layout.rows]
        part = decode_blocks(blocks, layout, columns)
        weights[row : row + len(part.codes)] = part.weights()[:, :columns]
        parts.append(part)
        row += len(part.codes)
        offset += blocks.size
    bias = None
    if any(part.bias is not None for part in parts):
        bias = np.concatenate([np.full(len(p.codes), -0.0, np.float32) if p.bias is None else p.bias for p in parts])
    return Expanded(weights, _row_scales(parts), bias, _outliers(parts), _kept(parts), offset)


def read_block(data: Bytes, offset: int, columns: int, config: AcceleratorConfig) -> RowBlock:
    """Read the one row block at byte ``offset`` of ``data``.

    Raises:
        ProgramError: a truncated or damaged block, or one that breaks a rule of the format.
    """
    stream = _as_array(data)
    layout = _layout_at(stream, offset, columns, config)
    size = layout.stored_bytes
    part = decode_blocks(stream[offset : offset + size].reshape(1, size), layout, columns)
    return RowBlock(layout, part.weights()[:, :columns], part.row_scales, part.bias, part.outliers, size, offset + size)


def _as_array(data: Bytes) -> NDArray[np.uint8]:
    return data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)


def _kept(parts: list[Decoded]) -> NDArray[np.uint8]:
    return np.concatenate([np.full(len(part.codes), part.layout.kept, np.uint8) for part in parts])


def _bias(parts: list[Decoded]) -> NDArray[np.float32] | None:
    found = [part.bias for part in parts if part.bias is not None]
    if found and len(found) != len(parts):
        raise ProgramError("Row blocks of one layer must all have a bias or none, not some")
    return np.concatenate(found) if found else None


def _row_scales(parts: list[Decoded]) -> NDArray[np.float32]:
    return np.concatenate([part.row_scales for part in parts])


def _outliers(parts: list[Decoded]) -> Outliers | None:
    return joined([(len(part.codes), part.outliers) for part in parts])


def _table(parts: list[Decoded]) -> NDArray[np.int8] | None:
    """The one table of row blocks that all have one, or all have none."""
    tables = [part.tables for part in parts if part.tables is not None]
    if not tables:
        return None
    every = np.concatenate(tables)[:, : 1 << parts[0].layout.bits]
    other = every[(every != every[0]).any(axis=1)]
    if len(other):
        raise ProgramError(f"Row blocks of one tensor must have the table {every[0].tolist()}, not {other[0].tolist()}")
    table: NDArray[np.int8] = every[0].copy()
    return table


def _layout_at(stream: NDArray[np.uint8], offset: int, columns: int, config: AcceleratorConfig) -> BlockLayout:
    """Check the header at ``offset`` against the layer and the accelerator, and that the block is all there."""
    left = len(stream) - offset
    if offset < 0 or left < HEADER_BYTES:
        raise ProgramError(f"A row block must have a header of {HEADER_BYTES} bytes, not {max(0, left)}")
    layout = BlockLayout.decode(stream[offset : offset + HEADER_BYTES].tobytes(), config.stream_atom)
    blocks, limit = -(-columns // BLOCK), config.block_rows(layout.kept)
    if layout.blocks != blocks:
        raise ProgramError(f"blocks of a row block must be {blocks} for {columns} columns, not {layout.blocks}")
    if layout.rows > limit:
        raise ProgramError(f"rows of a row block of {layout.kept}:{BLOCK} must be at most {limit}, not {layout.rows}")
    if layout.stored_bytes > left:
        raise ProgramError(f"A row block must have its {layout.stored_bytes} bytes, not {left}")
    return layout


def _decode_all(data: Bytes, columns: int, config: AcceleratorConfig) -> tuple[list[Decoded], int]:
    """All row blocks in runs of equal headers, and the bytes that they occupy."""
    stream = _as_array(data)
    parts: list[Decoded] = []
    offset = 0
    for layout, blocks in _runs(stream, columns, config):
        parts.append(decode_blocks(blocks, layout, columns))
        offset += blocks.size
    return parts, offset


def _equal_blocks(stream: NDArray[np.uint8], layout: BlockLayout) -> NDArray[np.uint8]:
    """The run of row blocks with the first one's header, at most one step long: uint8 [count, stored_bytes]."""
    size = layout.stored_bytes
    most = min(layout.at_once, len(stream) // size)
    blocks = stream[: most * size].reshape(most, size)
    other = (blocks[:, :HEADER_BYTES] != blocks[0, :HEADER_BYTES]).any(axis=1)
    return blocks[: int(other.argmax())] if other.any() else blocks


def _runs(
    stream: NDArray[np.uint8], columns: int, config: AcceleratorConfig
) -> Iterator[tuple[BlockLayout, NDArray[np.uint8]]]:
    """Runs of row blocks with equal headers: their layout, and their bytes [count, stored_bytes]."""
    layout = _layout_at(stream, 0, columns, config)
    offset = 0
    while True:
        blocks = _equal_blocks(stream[offset:], layout)
        yield layout, blocks
        offset += blocks.size
        rest = stream[offset:]
        if len(rest) < config.line_bytes and not rest.any():
            return
        layout = _layout_at(stream, offset, columns, config)
