# SPDX-License-Identifier: Apache-2.0
"""Writing weight streams; the layout is in :mod:`catenary.isa.stream_layout`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from catenary.isa.bitpack import count_bits, pack_codes, transposed
from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import GraphError
from catenary.isa.stream_layout import HEADER_BYTES, BlockLayout, IndexKind, Section, index_kind, stream_layouts
from catenary.isa.stream_outliers import outlier_words
from catenary.isa.tensors import BLOCK, TABLE_ENTRIES, QuantTensor


def _put(out: NDArray[np.uint8], section: Section, payload: NDArray[np.generic]) -> None:
    """Copy little-endian ``payload`` into ``section`` of each row of ``out`` [..., bytes]."""
    octets = np.ascontiguousarray(payload).view(np.uint8).reshape(*out.shape[:-1], section.used)
    out[..., section.offset : section.offset + section.used] = octets


def encode_blocks(
    out: NDArray[np.uint8], tensor: QuantTensor, bias: NDArray[np.float32] | None, row: int, layout: BlockLayout
) -> None:
    """Write row blocks of one layout.

    Args:
        out: uint8 [count, layout.stored_bytes], all zeros; receives the row blocks.
        tensor: the weights.
        bias: float32 [tensor.rows], or ``None``.
        row: first row of the first block.
        layout: of every block.

    Raises:
        GraphError: a row that keeps another number of weights than ``layout`` says.
    """
    count, n, blocks = len(out), layout.kept, layout.blocks
    rows = slice(row, row + count * layout.rows)
    out[:, :HEADER_BYTES] = np.frombuffer(layout.encode(), np.uint8)
    if tensor.table is not None:
        entries = np.zeros((count, TABLE_ENTRIES), np.int8)
        entries[:, : len(tensor.table)] = tensor.table
        _put(out, layout.table, entries)
    _put(out, layout.channel_scales, tensor.channel_scales[rows].astype("<f4"))
    if bias is not None:
        _put(out, layout.bias, bias[rows].astype("<f4"))
    if tensor.outliers is not None and layout.outlier_words:
        firsts = range(rows.start, rows.stop, layout.rows)
        words = [outlier_words(tensor.outliers.rows_of(slice(first, first + layout.rows)), n) for first in firsts]
        _put(out, layout.outliers, np.stack(words).astype("<u4"))
    codes, mask = tensor.codes[rows].astype(np.uint8), tensor.mask[rows]
    bitmaps = np.packbits(mask, axis=1, bitorder="little").view("<u2")
    wrong = count_bits(bitmaps) != n
    if wrong.any():
        at = int(np.argwhere(wrong)[0][0])
        raise GraphError(f"Row {row + at} must keep {n} of {BLOCK} weights in every block, not another number in one")
    cells = (codes if n == BLOCK else codes.reshape(-1)[np.flatnonzero(mask)]).reshape(count, layout.rows, blocks, n)
    bitmaps = bitmaps.reshape(count, layout.rows, blocks)
    for run in layout.runs():
        region = out[:, run.bytes].reshape(count, run.count, run.stride)
        if run.params.used:
            pairs = np.stack([array[rows, run.group_span] for array in (tensor.scales, tensor.zeros)], axis=2)
            _put(region, run.params, pairs.reshape(count, layout.rows, run.count, 2).transpose(0, 2, 1, 3))
        shape = (count, layout.rows, run.count, run.blocks)
        if run.index.used:
            index = bitmaps[:, :, run.block_span].reshape(shape).transpose(0, 2, 3, 1)
            _put(region, run.index, _index_section(index, layout))
        ordered = transposed(cells[:, :, run.block_span].reshape(*shape, n), (0, 2, 3, 1))
        _put(region, run.codes, pack_codes(ordered.reshape(count, run.count, -1), layout.bits))


def _index_section(bitmaps: NDArray[np.uint16], layout: BlockLayout) -> NDArray[np.generic]:
    """Index payload of ``bitmaps`` [count, groups, blocks, rows] -> [count, groups, bytes]."""
    if index_kind(layout.kept) is IndexKind.BITMAP:
        return bitmaps
    bits = np.unpackbits(np.ascontiguousarray(bitmaps)[..., None].view(np.uint8), axis=-1, bitorder="little")
    positions = np.nonzero(bits)[-1].astype(np.uint8)  # row-major, so ascending inside every block
    return pack_codes(positions.reshape(*bitmaps.shape[:2], -1), 4)


def packed_bytes(tensor: QuantTensor, has_bias: bool, config: AcceleratorConfig) -> int:
    """Bytes of ``tensor`` as a stream: headers, tables, scales, zeros, bias, outliers, indices, codes, padding."""
    return sum(count * layout.stored_bytes for _, count, layout in tensor_layouts(tensor, has_bias, config))


def tensor_layouts(
    tensor: QuantTensor, has_bias: bool, config: AcceleratorConfig
) -> Iterator[tuple[int, int, BlockLayout]]:
    """The row blocks of ``tensor`` as :func:`pack` writes them; yields what :func:`stream_layouts` does.

    Raises:
        ProgramError: an outlier in a lane that its field cannot hold.
    """
    has_table = tensor.table is not None
    runs = stream_layouts(tensor.kept, tensor.columns, tensor.bits, tensor.group, has_bias, config, has_table)
    if tensor.outliers is None:
        yield from runs
        return
    for first, total, layout in runs:
        for row in range(first, first + total * layout.rows, layout.rows):
            words = outlier_words(tensor.outliers.rows_of(slice(row, row + layout.rows)), layout.kept)
            yield row, 1, replace(layout, outlier_words=len(words))


def pack(tensor: QuantTensor, bias: NDArray[np.float32] | None, config: AcceleratorConfig) -> NDArray[np.uint8]:
    """Write a weight stream.

    Args:
        tensor: a tensor that passes :meth:`QuantTensor.check`.
        bias: float32 [rows], or ``None``.
        config: the accelerator that will read it.

    Returns:
        uint8 [bytes], a multiple of ``config.stream_atom``; the caller pads it to a line.

    Raises:
        GraphError: a row that keeps another number of weights than it says, or a bias of another length.
        ProgramError: a size that the header cannot hold.
    """
    if bias is not None and bias.shape != (tensor.rows,):
        raise GraphError(f"Bias of a stream must have shape ({tensor.rows},), not {bias.shape}")
    out = np.zeros(packed_bytes(tensor, bias is not None, config), np.uint8)
    offset = 0
    for first, total, layout in tensor_layouts(tensor, bias is not None, config):
        step = layout.at_once
        for start in range(0, total, step):
            count = min(step, total - start)
            size = count * layout.stored_bytes
            region = out[offset : offset + size].reshape(count, layout.stored_bytes)
            encode_blocks(region, tensor, bias, first + start * layout.rows, layout)
            offset += size
    return out
