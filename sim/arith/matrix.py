# SPDX-License-Identifier: Apache-2.0
"""Exact integer matrix products at the speed of a float BLAS.

Float32 holds every integer up to 2**24, so a BLAS product of integers is exact, in any order and with or without fused
multiply-adds, as long as no partial sum can exceed that. K is cut into blocks that keep this promise, and the blocks
are added as int32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from catenary.isa.errors import CatenaryError
from catenary.isa.numbers import MAX_REDUCTION
from catenary.isa.outliers import Outliers
from catenary.sim.arith.fp32 import F32

EXACT_LIMIT: Final = 1 << 24
"""Float32 holds every integer up to this magnitude."""

INT8_LIMIT: Final = 128
"""Largest magnitude of any INT8 operand."""

SAFE_BLOCK: Final = EXACT_LIMIT // (INT8_LIMIT * INT8_LIMIT)
"""Columns whose sum of products is exact for any INT8 operands: 1024."""

_UNIT: Final = 64
_ROWS: Final = 1024


class ReductionTooLongError(CatenaryError):
    """A matrix product sums over so many elements that INT32 could overflow."""

    code = "reduction-too-long"
    exit_status = 2


@dataclass(frozen=True, eq=False)
class PreparedWeights:
    """INT8 weights as float32, ready for repeated :func:`integer_matmul`.

    Attributes:
        values: float32 [..., R, K] holding integers in [-128, 127].
        blocks: (first, end) column ranges that cover K; inside each, no partial sum of products with INT8 activations
            exceeds 2**24.
        outliers: integers that are added to single weights, which may be of any size; ``None`` if there are none.
    """

    values: F32
    blocks: tuple[tuple[int, int], ...]
    outliers: Outliers | None = None

    @classmethod
    def from_codes(cls, codes: NDArray[np.int8], outliers: Outliers | None = None) -> PreparedWeights:
        """Convert int8 [R, K] and choose the longest blocks that the weights themselves allow.

        A row whose magnitudes sum to less than 2**17 over all of K (an average of 31 for K = 4096) needs one block.

        Raises:
            ReductionTooLongError: K, or with its outliers the products of a row, exceed 132,104.
        """
        _check(codes.dtype, codes.shape[-1])
        if outliers is not None:
            _check(codes.dtype, codes.shape[-1] + int(np.bincount(outliers.rows, weights=outliers.products).max()))
        rows, columns = codes.shape
        units = -(-columns // _UNIT)
        sums = np.zeros((rows, units), np.int32)
        for first in range(0, rows, _ROWS):
            part = np.abs(codes[first : first + _ROWS].astype(np.int32))
            sums[first : first + _ROWS] = np.add.reduceat(part, np.arange(0, columns, _UNIT), axis=1)  # exact: int32
        blocks: list[tuple[int, int]] = []
        start, running = 0, np.zeros(rows, np.int64)
        for unit in range(units):
            grown = running + sums[:, unit]
            if grown.size and int(grown.max()) * INT8_LIMIT > EXACT_LIMIT:
                blocks.append((start, unit * _UNIT))
                start, grown = unit * _UNIT, sums[:, unit].astype(np.int64)
            running = grown
        return cls(np.ascontiguousarray(codes, np.float32), (*blocks, (start, columns)), outliers)

    @classmethod
    def from_exact(cls, values: F32) -> PreparedWeights:
        """Wrap float32 [..., R, K] that already holds INT8 integers; any strides, nothing is copied or looked at.

        For caches that grow by a row per token and are kept as float32 all along.

        Raises:
            ReductionTooLongError: K exceeds 132,104.
        """
        if values.dtype != np.float32:
            raise TypeError(f"Prepared weights must be float32, not {values.dtype}")
        return cls(values, _safe_blocks(values.shape[-1]))


def _check(dtype: np.dtype[np.generic], columns: int) -> None:
    if dtype != np.int8:
        raise TypeError(f"Matrix operand must be int8, not {dtype}")
    if columns > MAX_REDUCTION:
        raise ReductionTooLongError(f"Matrix product must sum over at most {MAX_REDUCTION} elements, not {columns}")


@cache
def _safe_blocks(columns: int) -> tuple[tuple[int, int], ...]:
    if columns > MAX_REDUCTION:
        raise ReductionTooLongError(f"Matrix product must sum over at most {MAX_REDUCTION} elements, not {columns}")
    return tuple((first, min(first + SAFE_BLOCK, columns)) for first in range(0, max(columns, 1), SAFE_BLOCK))


def integer_matmul(a: NDArray[np.int8], w: NDArray[np.int8] | PreparedWeights) -> NDArray[np.int32]:
    """``out[..., t, r] = sum over k of a[..., t, k] * w[..., r, k]``, exactly.

    Args:
        a: int8 [..., T, K].
        w: int8 [..., R, K], or prepared; leading axes broadcast with those of ``a``.

    Returns:
        int32 [..., T, R], with the outliers of prepared weights. Sums of 132,104 products of [-127, 127] with
        [-128, 127] fit.

    Raises:
        ReductionTooLongError: K exceeds 132,104.
        TypeError: an operand that is neither int8 nor prepared.
        ValueError: operands that disagree about K.
    """
    _check(a.dtype, a.shape[-1])
    outliers: Outliers | None = None
    if isinstance(w, PreparedWeights):
        values, blocks, outliers = w.values, w.blocks, w.outliers
    else:
        _check(w.dtype, w.shape[-1])
        values, blocks = w.astype(np.float32), _safe_blocks(w.shape[-1])
    if a.shape[-1] != values.shape[-1]:
        raise ValueError(f"Rows of a must be as long as those of w, {values.shape[-1]}, not {a.shape[-1]}")
    # Weights on the left: with few tokens on the right OpenBLAS is several times faster than the other way round.
    right = a.astype(np.float32).swapaxes(-1, -2)

    def product(first: int, end: int) -> NDArray[np.int32]:
        result: NDArray[np.int32] = np.matmul(values[..., first:end], right[..., first:end, :]).astype(np.int32)
        return result

    total = product(*blocks[0])
    for block in blocks[1:]:
        total += product(*block)
    total = np.ascontiguousarray(total.swapaxes(-1, -2))
    if outliers is not None:
        _add_outliers(total, a, outliers)
    return total


def _add_outliers(total: NDArray[np.int32], a: NDArray[np.int8], outliers: Outliers) -> None:
    """Add ``v * a[..., column]`` to ``total[..., row]`` for every outlier; they are sorted by row."""
    rows, starts = np.unique(outliers.rows, return_index=True)
    products = a[..., outliers.columns].astype(np.int32) * outliers.values
    total[..., rows] += np.add.reduceat(products, starts, axis=-1)  # exact: int32
