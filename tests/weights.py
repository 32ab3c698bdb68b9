# SPDX-License-Identifier: Apache-2.0
"""Quantised weight tensors for tests: plainly rounded ones, and random ones that reach every corner of the format."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from catenary.isa.outliers import Outliers
from catenary.isa.stream_layout import SPARSE_GROUP_BLOCKS
from catenary.isa.tensors import BLOCK, KEPT_CHOICES, QuantTensor


def rounded_weights(weights: NDArray[np.float32]) -> QuantTensor:
    """Dense 8-bit rounding of ``weights`` [rows, columns], one scale per row; the simplest legal quantisation."""
    rows, columns = weights.shape
    width = -(-columns // BLOCK) * BLOCK
    absmax = np.abs(weights).max(axis=1)
    scales = np.where(absmax > 0, absmax / np.float32(127), np.float32(1)).astype(np.float32)
    codes = np.zeros((rows, width), np.int16)
    codes[:, :columns] = np.clip(np.rint(weights / scales[:, None]), -127, 127)
    ones = np.ones((rows, 1), np.uint8)
    return QuantTensor(
        columns=columns,
        bits=8,
        group=width,
        codes=codes,
        mask=np.ones_like(codes, bool),
        kept=ones[:, 0] * np.uint8(BLOCK),
        scales=ones,
        zeros=ones * np.uint8(0),
        channel_scales=scales,
    )


def random_weights(
    rng: np.random.Generator,
    rows: int,
    columns: int,
    bits: int = 8,
    group: int = 128,
    kept: int | None = None,
    row_block: int = 16,
    table: bool = False,
    outliers: int = 0,
) -> QuantTensor:
    """A random tensor that obeys :meth:`QuantTensor.check`, with extreme codes, zero groups and zero rows.

    ``kept`` is N of N:16 for every row; ``None`` draws it anew for each ``row_block`` rows. 8-bit tensors
    have the longest groups that sparse rows may have, so ``group`` only counts for fewer bits. ``table`` makes codes
    stand for the entries of a random table, and ``outliers`` is about how many there are.
    """
    blocks = -(-columns // BLOCK)
    width = blocks * BLOCK
    group = min(width, SPARSE_GROUP_BLOCKS * BLOCK) if bits == 8 else group
    groups = -(-columns // group)
    span = np.minimum(np.arange(width) // group, groups - 1)
    drawn = rng.choice(KEPT_CHOICES, -(-rows // row_block)) if kept is None else np.full(-(-rows // row_block), kept)
    row_kept = np.repeat(drawn, row_block)[:rows].astype(np.uint8)
    order = rng.permuted(np.tile(np.arange(BLOCK), (rows, blocks, 1)), axis=2)
    mask = (order < row_kept[:, None, None]).reshape(rows, width)
    if bits == 8:
        scales, zeros = np.ones((rows, groups), np.uint8), np.zeros((rows, groups), np.uint8)
        codes = rng.integers(-127, 128, (rows, width), dtype=np.int16)
        codes[rng.random(rows) < 0.05] = 0
    else:
        top = (1 << bits) - 1
        zeros = rng.integers(0, top + 1, (rows, groups)).astype(np.uint8)
        limit = 127 // np.maximum(zeros, top - zeros)
        scales = rng.integers(0, limit + 1).astype(np.uint8)
        codes = rng.integers(0, top + 1, (rows, width)).astype(np.int16)
        constant = rng.random((rows, groups)) < 0.05
        codes = np.where(constant[:, span], zeros[:, span], codes).astype(np.int16)
    real = mask & (np.arange(width) < columns)
    codes = np.where(real, codes, zeros[:, span]).astype(np.int16)
    squares = np.square(np.where(real, (codes - zeros[:, span].astype(np.int16)) * scales[:, span], 0.0)).sum(axis=1)
    channel_scales = (rng.uniform(0.5, 1.5, rows) / np.sqrt(squares + 1)).astype(np.float32)
    tensor = QuantTensor(columns, bits, group, codes, mask, row_kept, scales, zeros, channel_scales)
    if table:
        tensor = with_table(rng, tensor)
    if outliers:
        tensor = replace(tensor, outliers=random_outliers(rng, rows, columns, outliers))
    tensor.check("random weights")
    return tensor


def with_table(rng: np.random.Generator, tensor: QuantTensor) -> QuantTensor:
    """``tensor`` with a random table in front of its codes, and zeros and scales that suit it.

    Zeros are entries of the table or, where no column is padding, any number; scales are up to what the farthest entry
    allows.
    """
    size = 1 << tensor.bits
    reach = int(rng.choice([4, 24, 63, 127]))
    table = rng.integers(-reach, reach + 1, size).astype(np.int8)
    table[rng.integers(size)] = rng.integers(0, reach + 1)
    possible = table[table >= 0].astype(np.int64)
    zeros = rng.choice(possible, tensor.zeros.shape)
    free = rng.random(zeros.shape) < 0.25
    free[:, -1] = False
    zeros = np.where(free, rng.integers(0, reach + 1, zeros.shape), zeros)
    farthest = np.maximum(np.abs(table.min() - zeros), np.abs(table.max() - zeros))
    scales = rng.integers(0, 127 // np.maximum(farthest, 1) + 1)
    weightless = (table == zeros[:, -1:]).argmax(axis=1)  # a code that weighs 0 in the last group
    width = tensor.codes.shape[1]
    padded = np.arange(width) >= tensor.columns
    codes = np.where(padded, weightless[:, None], tensor.codes)
    codes = np.where(tensor.mask, codes, 0).astype(np.int16)
    return replace(tensor, codes=codes, zeros=zeros.astype(np.uint8), scales=scales.astype(np.uint8), table=table)


def random_outliers(rng: np.random.Generator, rows: int, columns: int, count: int) -> Outliers:
    """At least one outlier and about ``count``, in clusters: several in one block of a row, and values of any size."""
    where = rng.integers(0, rows, count), rng.integers(0, columns, count)
    near = rng.random(count) < 0.3  # in the same row as the one before, a few columns on
    picked_rows = np.where(near, np.roll(where[0], 1), where[0])
    picked_columns = np.where(near, np.minimum(np.roll(where[1], 1) + rng.integers(0, 3, count), columns - 1), where[1])
    sizes = rng.choice([1, 127, 128, 254, 255, 1000], count)
    values = np.where(rng.random(count) < 0.5, sizes, rng.integers(1, 128, count)) * rng.choice([-1, 1], count)
    found = Outliers.of_entries(picked_rows, picked_columns, values)
    return found if len(found) else Outliers.of_entries(*(np.array([value]) for value in (0, 0, 1)))
