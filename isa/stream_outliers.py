# SPDX-License-Identifier: Apache-2.0
"""The outlier section of row blocks; :data:`~catenary.isa.stream_layout.OUTLIER_FIELDS` describes an entry."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from catenary.isa.errors import ProgramError
from catenary.isa.numbers import CODE_LIMIT, MAX_REDUCTION
from catenary.isa.outliers import Outliers
from catenary.isa.stream_layout import OUTLIER_FIELDS, BlockLayout
from catenary.isa.tensors import BLOCK

_LIMITS = {field.name: 1 << field.width for field in OUTLIER_FIELDS}


def outlier_words(outliers: Outliers | None, kept: int) -> NDArray[np.uint32]:
    """The outlier section of one row block.

    Entries are put in as few slots as the lanes of their rows allow: in a block of columns, the first N entries of
    every row share a slot, then the next N.

    Args:
        outliers: those of the row block, with rows counted from its first one, or ``None``.
        kept: N of the row block.

    Returns:
        uint32 [words]; empty exactly if there are no outliers.

    Raises:
        ProgramError: a lane that its field cannot hold.
    """
    if outliers is None:
        return np.zeros(0, np.uint32)
    copies = outliers.products
    which = np.repeat(np.arange(len(outliers)), copies)
    values, rows, columns = (
        array.astype(np.int64)[which] for array in (outliers.values, outliers.rows, outliers.columns)
    )
    rest = np.abs(values) - CODE_LIMIT * _ordinals(which)  # an outlier's last entry holds what the full ones leave
    values = np.sign(values) * np.minimum(rest, CODE_LIMIT)
    blocks = columns // BLOCK
    turns = _ordinals(rows * (blocks.max() + 1) + blocks)  # entries are sorted by row, then by column
    lanes = rows * kept + turns % kept
    if lanes.max() >= _LIMITS["lane"]:
        raise ProgramError(f"Lane of an outlier must be below {_LIMITS['lane']}, not {lanes.max()}")
    order = np.lexsort((lanes, turns // kept, blocks))
    advance = np.diff(blocks[order], prepend=0)
    longest = _LIMITS["advance"] - 1
    fillers = np.maximum(advance - 1, 0) // longest  # a gap that the field cannot hold takes entries of value 0
    words = _encode(values[order], columns[order] % BLOCK, advance - fillers * longest, lanes[order])
    filler = _encode(np.int64(0), np.int64(0), np.int64(longest), np.int64(0))
    result: NDArray[np.uint32] = np.insert(words, np.repeat(np.arange(len(words)), fillers), filler)
    return result


def read_outliers(words: NDArray[np.uint32], layout: BlockLayout, columns: int) -> Outliers | None:
    """Inverse of :func:`outlier_words` for row blocks of one layout.

    Args:
        words: uint32 [row blocks, layout.outlier_words].
        layout: of every row block.
        columns: K of the layer, before padding.

    Returns:
        The outliers, with rows of all row blocks counted through; ``None`` if nothing is added to any weight.

    Raises:
        ProgramError: a value of -128, a lane or a block that the row block does not have, a value in a column that is
            only padding, or a row of more products than its sum can take.
    """
    fields = {
        field.name: (words >> np.uint32(field.offset) & np.uint32((1 << field.width) - 1)).astype(np.int64)
        for field in OUTLIER_FIELDS
    }
    values = fields["value"].astype(np.uint8).view(np.int8).astype(np.int64)
    blocks = np.cumsum(fields["advance"], axis=1)
    lanes = layout.rows * layout.kept
    for label, found, limit in (("Lane", fields["lane"], lanes), ("Block", blocks, layout.blocks)):
        if (found >= limit).any():
            raise ProgramError(f"{label} of an outlier must be below {limit}, not {found[found >= limit][0]}")
    if (values < -CODE_LIMIT).any():
        raise ProgramError(f"Value of an outlier must be at most {CODE_LIMIT} in magnitude, not {-values.min()}")
    places = blocks * BLOCK + fields["column"]
    counts = values != 0
    behind = places[counts & (places >= columns)]
    if behind.size:
        raise ProgramError(f"Column of an outlier must be below {columns}, not {behind[0]}")
    rows = fields["lane"] // layout.kept + layout.rows * np.arange(len(words))[:, None]
    products = layout.blocks * BLOCK + np.bincount(rows[counts], minlength=1)
    if products.max() > MAX_REDUCTION:
        raise ProgramError(
            f"Products of a row must be at most {MAX_REDUCTION}, outliers included, not {products.max()}"
        )
    outliers = Outliers.of_entries(rows[counts], places[counts], values[counts])
    return outliers if len(outliers) else None


def joined(parts: list[tuple[int, Outliers | None]]) -> Outliers | None:
    """Outliers of parts of a matrix that follow one another, each with the number of its rows."""
    starts = np.cumsum([0, *(rows for rows, _ in parts)])
    found = [(start, part) for (start, _), (_, part) in zip(pairwise(starts), parts, strict=True) if part is not None]
    if not found:
        return None
    return Outliers(
        np.concatenate([part.rows + np.int32(start) for start, part in found]),
        np.concatenate([part.columns for _, part in found]),
        np.concatenate([part.values for _, part in found]),
    )


def _ordinals(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of each element in its run of equal ``keys``, int64 [count >= 1]."""
    index = np.arange(len(keys))
    starts = np.where(np.diff(keys, prepend=keys[0] - 1) != 0, index, 0)
    return index - np.maximum.accumulate(starts)


def _encode(
    value: NDArray[np.int64] | np.int64,
    column: NDArray[np.int64] | np.int64,
    advance: NDArray[np.int64] | np.int64,
    lane: NDArray[np.int64] | np.int64,
) -> NDArray[np.uint32]:
    parts = {"value": value & 0xFF, "column": column, "advance": advance, "lane": lane}
    word = sum(parts[field.name] << field.offset for field in OUTLIER_FIELDS)
    return np.asarray(word).astype(np.uint32)
