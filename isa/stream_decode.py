# SPDX-License-Identifier: Apache-2.0
"""Reading row blocks of a weight stream; the layout is in :mod:`catenary.isa.stream_layout`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from catenary.isa.bitpack import count_bits, transposed, unpack_codes, unused_bits
from catenary.isa.errors import ProgramError
from catenary.isa.outliers import Outliers
from catenary.isa.stream_layout import BlockLayout, IndexKind, Section, index_kind
from catenary.isa.stream_outliers import read_outliers
from catenary.isa.tensors import BLOCK, TABLE_ENTRIES, WEIGHT_LIMIT

_Byte = TypeVar("_Byte", np.int8, np.uint8)


@dataclass(frozen=True, eq=False)
class Decoded:
    """Checked row blocks of one layout, in compact form.

    Attributes:
        layout: of each row block.
        codes: uint8 [rows, blocks, kept]; rows of all row blocks together. 8-bit codes are two's complement.
        bitmaps: uint16 [rows, blocks], bit i = column i kept; ``None`` when all are.
        scales, zeros: uint8 [rows, groups]; 1 and 0 for 8-bit codes.
        row_scales: float32 [rows].
        bias: float32 [rows], or ``None``.
        tables: int8 [row blocks, 16], or ``None`` for ``T[q] = q``.
        outliers: integers to add, or ``None``.
    """

    layout: BlockLayout
    codes: NDArray[np.uint8]
    bitmaps: NDArray[np.uint16] | None
    scales: NDArray[np.uint8]
    zeros: NDArray[np.uint8]
    row_scales: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    tables: NDArray[np.int8] | None
    outliers: Outliers | None

    def mask(self) -> NDArray[np.bool_]:
        """Kept positions, bool [rows, blocks * 16]."""
        rows, blocks, _ = self.codes.shape
        if self.bitmaps is None:
            return np.ones((rows, blocks * BLOCK), np.bool_)
        return np.unpackbits(self.bitmaps.astype("<u2").view(np.uint8), axis=1, bitorder="little").view(np.bool_)

    def filled_codes(self) -> NDArray[np.int16]:
        """Codes, int16 [rows, blocks * 16]; dropped positions hold the filler ``q = z``, or 0 if there are tables."""
        rows, blocks, _ = self.codes.shape
        codes = (self.codes.view(np.int8) if self.layout.bits == 8 else self.codes).astype(np.int16)
        if self.bitmaps is None:
            return codes.reshape(rows, blocks * BLOCK)
        if self.tables is not None:
            filled = np.zeros((rows, blocks * BLOCK), np.int16)
            filled.reshape(-1)[np.flatnonzero(self.mask())] = codes.reshape(-1)
            return filled
        # A zero beyond the codes' range cannot be a code; dropped positions weigh 0 by the mask all the same.
        filler = np.minimum(self.zeros, (1 << self.layout.bits) - 1).astype(np.int16)
        width = min(self.layout.group_blocks, blocks) * BLOCK
        filled = np.ascontiguousarray(np.repeat(filler, width, axis=1)[:, : blocks * BLOCK])
        filled.reshape(-1)[np.flatnonzero(self.mask())] = codes.reshape(-1)
        return filled

    def values(self) -> NDArray[np.int8]:
        """``T[q]`` of every code, int8 [rows, blocks, kept]; without tables a view of the codes."""
        if self.tables is None:
            return self.codes.view(np.int8)
        by_block = self.codes.reshape(len(self.tables), -1)
        return np.take_along_axis(self.tables, by_block, axis=1).reshape(self.codes.shape)

    def weights(self) -> NDArray[np.int8]:
        """Expanded weights, int8 [rows, blocks * 16]; outliers are not added."""
        rows, blocks, _ = self.codes.shape
        compact = self.values().view(np.uint8)
        if self.layout.bits != 8:
            # Arithmetic modulo 256 is exact here, because every result is known to lie in -127 .. 127.
            compact = compact.copy() if self.tables is None else compact
            for groups, view in _groups(compact, self.layout):
                view -= self.zeros[:, groups, None]
                view *= self.scales[:, groups, None]
        if self.bitmaps is None:
            return compact.reshape(rows, blocks * BLOCK).view(np.int8)
        weights = np.zeros(rows * blocks * BLOCK, np.uint8)
        # Indexing by position is 5 times as fast as by a half-full mask, on whose every element a branch is guessed.
        weights[np.flatnonzero(self.mask())] = compact.reshape(-1)
        return weights.view(np.int8).reshape(rows, blocks * BLOCK)


def _groups(cells: NDArray[_Byte], layout: BlockLayout) -> Iterator[tuple[slice, NDArray[_Byte]]]:
    """Views [rows, groups, codes of a group] of contiguous ``cells`` [rows, blocks, kept], with the groups' range."""
    for run in layout.runs():
        yield run.group_span, cells[:, run.block_span].reshape(len(cells), run.count, run.blocks * layout.kept)


def _take(region: NDArray[np.uint8], section: Section) -> NDArray[np.uint8]:
    """Payload of ``section`` in ``region`` [..., bytes]; its padding must be zero."""
    if region[..., section.offset + section.used : section.end].any():
        raise ProgramError("Padding of a row block must be zero, not other bytes")
    return region[..., section.offset : section.offset + section.used]


def _floats(region: NDArray[np.uint8], section: Section, what: str) -> NDArray[np.float32]:
    values = np.ascontiguousarray(_take(region, section)).view("<f4").astype(np.float32).reshape(-1)
    if not np.isfinite(values).all():
        raise ProgramError(f"{what} of a row block must be finite, not {values[~np.isfinite(values)][0]}")
    return values


def _tables(region: NDArray[np.uint8], layout: BlockLayout) -> NDArray[np.int8]:
    """Tables int8 [count, 16] of row blocks ``region`` [count, bytes]; entries that no code reaches must be 0."""
    tables = np.ascontiguousarray(_take(region, layout.table)).view(np.int8)
    beyond = tables[:, 1 << layout.bits :]
    if beyond.any():
        rule = f"from {1 << layout.bits} to {TABLE_ENTRIES - 1} must be 0"
        raise ProgramError(f"Entries of a table of a row block {rule}, not {beyond[beyond != 0][0]}")
    return tables


def _outliers(region: NDArray[np.uint8], layout: BlockLayout, columns: int) -> Outliers | None:
    words = np.ascontiguousarray(_take(region, layout.outliers)).view("<u4").astype(np.uint32)
    return read_outliers(words, layout, columns)


def _positions(payload: NDArray[np.uint8], kept: int, cells: int) -> NDArray[np.uint16]:
    """Bitmaps [..., cells] of 4-bit indices ``payload`` [..., bytes], which must ascend inside each block."""
    if unused_bits(payload, 4, cells * kept):
        raise ProgramError("Padding of a row block must be zero, not other bits")
    index = unpack_codes(payload, 4, cells * kept).reshape(*payload.shape[:-1], cells, kept)
    if (index[..., 1:] <= index[..., :-1]).any():
        raise ProgramError("Indices of a block must ascend, not repeat or fall")
    bitmaps: NDArray[np.uint16] = np.bitwise_or.reduce(np.uint16(1) << index.astype(np.uint16), axis=-1)
    return bitmaps


def _bitmaps(payload: NDArray[np.uint8], kept: int) -> NDArray[np.uint16]:
    """Bitmaps of a bitmap section ``payload`` [..., bytes], each with ``kept`` bits set."""
    bitmaps = np.ascontiguousarray(payload).view("<u2").astype(np.uint16)
    counts = count_bits(bitmaps)
    if (counts != kept).any():
        raise ProgramError(f"A block of a row must keep {kept} of {BLOCK} weights, not {counts[counts != kept][0]}")
    return bitmaps


def _check_range(part: Decoded) -> None:
    """Verify ``|(T[q] - z) s| <= 127`` for every stored code."""
    limit = WEIGHT_LIMIT
    if part.layout.bits == 8:
        if (part.codes == 0x80).any():
            raise ProgramError(f"Weight of a row block must be at most {limit} in magnitude, not 128")
        return
    size = 1 << part.layout.bits
    if part.tables is None:
        low, high = np.int32(0), np.int32(size - 1)
    else:
        entries = np.repeat(part.tables[:, :size].astype(np.int32), part.layout.rows, axis=0)
        low, high = entries.min(axis=1, keepdims=True), entries.max(axis=1, keepdims=True)
    scales, zeros = part.scales.astype(np.int32), part.zeros.astype(np.int32)
    # Only a group whose range of codes could leave the limit is looked at code by code.
    suspect = np.maximum(zeros - low, high - zeros) * scales > limit
    if not suspect.any():
        return
    for groups, view in _groups(part.values(), part.layout):
        where = suspect[:, groups]
        codes, z, s = view[where], zeros[:, groups][where], scales[:, groups][where]
        if not len(codes):
            continue
        worst = np.maximum((z - codes.min(axis=1)) * s, (codes.max(axis=1) - z) * s).max()
        if worst > limit:
            raise ProgramError(f"Weight of a row block must be at most {limit} in magnitude, not {worst}")


def _check_tail(part: Decoded, columns: int) -> None:
    """Verify that padding columns weigh 0."""
    width = columns - (part.layout.blocks - 1) * BLOCK
    if width == BLOCK:
        return
    last = Decoded(
        layout=replace(part.layout, blocks=1),
        codes=np.ascontiguousarray(part.codes[:, -1:]),
        bitmaps=None if part.bitmaps is None else part.bitmaps[:, -1:],
        scales=part.scales[:, -1:],
        zeros=part.zeros[:, -1:],
        row_scales=part.row_scales,
        bias=None,
        tables=part.tables,
        outliers=None,
    )
    if last.weights()[:, width:].any():
        raise ProgramError(f"Weights in columns past {columns} must be 0, not others")


def decode_blocks(data: NDArray[np.uint8], layout: BlockLayout, columns: int) -> Decoded:
    """Read row blocks of one layout.

    Args:
        data: uint8 [count, layout.stored_bytes], each row one block, headers already checked.
        layout: of every block.
        columns: K of the layer, before padding.

    Raises:
        ProgramError: padding that is not zero, a block of 16 that keeps another number than N, a scale or bias that is
            not finite, a weight beyond 127, a padding column that does not weigh 0, an entry of a table that must be
            0, an outlier outside the row block or the layer.
    """
    count, n = len(data), layout.kept
    _take(data, layout.header)
    cells = np.empty((count, layout.rows, layout.blocks, n), np.uint8)
    params = np.empty((count, layout.rows, layout.groups, 2), np.uint8)
    if layout.bits == 8:
        params[...] = (1, 0)
    bitmaps = np.empty((count, layout.rows, layout.blocks), np.uint16)
    for run in layout.runs():
        region = data[:, run.bytes].reshape(count, run.count, run.stride)
        if run.params.used:
            pairs = _take(region, run.params).reshape(count, run.count, layout.rows, 2)
            params[:, :, run.group_span] = pairs.transpose(0, 2, 1, 3)
        cell_count = run.blocks * layout.rows
        if run.index.used:
            payload = _take(region, run.index)
            bitmap = index_kind(n) is IndexKind.BITMAP
            index = _bitmaps(payload, n) if bitmap else _positions(payload, n, cell_count)
            index = index.reshape(count, run.count, run.blocks, layout.rows)
            bitmaps[:, :, run.block_span] = index.transpose(0, 3, 1, 2).reshape(count, layout.rows, -1)
        packed = _take(region, run.codes)
        if unused_bits(packed, layout.bits, cell_count * n):
            raise ProgramError("Padding of a row block must be zero, not other bits")
        codes = unpack_codes(packed, layout.bits, cell_count * n)
        ordered = transposed(codes.reshape(count, run.count, run.blocks, layout.rows, n), (0, 3, 1, 2))
        cells[:, :, run.block_span] = ordered.reshape(count, layout.rows, -1, n)
    rows = count * layout.rows
    part = Decoded(
        layout=layout,
        codes=cells.reshape(rows, layout.blocks, n),
        bitmaps=bitmaps.reshape(rows, layout.blocks) if n != BLOCK else None,
        scales=params[..., 0].reshape(rows, layout.groups),
        zeros=params[..., 1].reshape(rows, layout.groups),
        row_scales=_floats(data, layout.channel_scales, "Channel scales"),
        bias=_floats(data, layout.bias, "Bias") if layout.has_bias else None,
        tables=_tables(data, layout) if layout.has_table else None,
        outliers=_outliers(data, layout, columns) if layout.outlier_words else None,
    )
    _check_range(part)
    _check_tail(part, columns)
    return part
