# SPDX-License-Identifier: Apache-2.0
"""Quantised weight tensors for tests: plainly rounded ones, and random ones that reach every corner of the format."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
) -> QuantTensor:
    """A random tensor that obeys :meth:`QuantTensor.check`, with extreme codes, zero groups and zero rows.

    ``kept`` is N of N:16 for every row; ``None`` draws it anew for each ``row_block`` rows. 8-bit tensors
    have the longest groups that sparse rows may have, so ``group`` only counts for fewer bits.
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
    tensor.check("random weights")
    return tensor
