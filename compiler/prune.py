# SPDX-License-Identifier: Apache-2.0
"""N:16 pruning by magnitude: which weights of each block of 16 a row keeps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from catenary.isa.tensors import BLOCK


def prune_mask(weights: NDArray[np.float32], kept: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Keep the ``kept[row]`` largest magnitudes of every block of 16 columns; of equal ones the lowest column.

    A matrix that is N:16 sparse already keeps all its nonzeros, and zeros with the lowest columns beside them. Columns
    that pad the last block are kept only where it has fewer than N real ones.

    Args:
        weights: finite float32 [rows, columns].
        kept: uint8 [rows], N of each row.

    Returns:
        bool [rows, ceil(columns / 16) * 16] with exactly ``kept[row]`` set in every block.
    """
    rows, columns = weights.shape
    blocks = -(-columns // BLOCK)
    magnitude = np.full((rows, blocks * BLOCK), -1, np.float32)
    np.abs(weights, out=magnitude[:, :columns])
    # Rank by counting: every pair of columns of a block is compared once, for all blocks at a time. Position i beats
    # j > i unless j is larger, so ties go to the lower column; no sort of 16 elements is as fast in numpy.
    lanes = np.ascontiguousarray(magnitude.reshape(rows * blocks, BLOCK).T)
    rank = np.repeat(np.arange(BLOCK - 1, -1, -1, dtype=np.uint8)[:, None], rows * blocks, axis=1)
    wins = np.empty(rows * blocks, np.bool_)
    for i in range(BLOCK):
        for j in range(i + 1, BLOCK):
            np.greater_equal(lanes[i], lanes[j], out=wins)
            rank[i] -= wins.view(np.uint8)
            rank[j] += wins.view(np.uint8)
    keep = rank < np.repeat(kept, blocks)
    return np.ascontiguousarray(keep.T).reshape(rows, blocks * BLOCK)
