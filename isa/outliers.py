# SPDX-License-Identifier: Apache-2.0
"""Outliers: single large weights that are added to a quantised matrix instead of widening the codes of all others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catenary.isa.errors import GraphError
from catenary.isa.numbers import CODE_LIMIT, MAX_REDUCTION


@dataclass(frozen=True, eq=False)
class Outliers:
    """Integers that are added to single weights of a matrix, in the units of their row's channel scale.

    Unlike the weights they may be of any size: what the multipliers cannot take in one product is streamed as several.

    Attributes:
        rows: int32 [count].
        columns: int32 [count]; (row, column) ascend strictly.
        values: int32 [count], none of them 0.
    """

    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    values: NDArray[np.int32]

    @classmethod
    def of_entries(cls, rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.int64]) -> Outliers:
        """Canonical form of int64 entries in any order: those of one place are added up, and zeros left out."""
        places = np.stack([rows, columns], axis=1)
        unique, where = np.unique(places, axis=0, return_inverse=True)
        sums = np.zeros(len(unique), np.int64)
        np.add.at(sums, where.reshape(-1), values)  # exact: integers
        found = sums != 0
        kept = unique[found].astype(np.int32)
        return cls(kept[:, 0].copy(), kept[:, 1].copy(), sums[found].astype(np.int32))

    def __len__(self) -> int:
        return len(self.rows)

    def rows_of(self, part: slice) -> Outliers | None:
        """Those of some rows, which are counted from the first of these on; ``None`` if there are none."""
        first, end = np.searchsorted(self.rows, [part.start, part.stop])
        if first == end:
            return None
        here = slice(first, end)
        return Outliers(self.rows[here] - np.int32(part.start), self.columns[here], self.values[here])

    @property
    def products(self) -> NDArray[np.int64]:
        """Products that each needs, int64 [count]: those of INT8 values that add up to it."""
        return -(-np.abs(self.values.astype(np.int64)) // CODE_LIMIT)

    def check(self, name: str, rows: int, columns: int, width: int) -> None:
        """Verify every rule.

        Args:
            name: of the tensor, for messages.
            rows, columns: its shape.
            width: its columns with those that pad the last block.

        Raises:
            GraphError: names ``name``, the rule and the first offending value.
        """
        for label in ("rows", "columns", "values"):
            array = getattr(self, label)
            if array.dtype != np.int32 or array.shape != (len(self.values),) or not len(array):
                found, wanted = f"{array.dtype.name} {array.shape}", f"int32 ({max(1, len(self.values))},)"
                raise GraphError(f"Outlier {label} of {name} must be {wanted}, not {found}")
        for label, array, limit in (("Row", self.rows, rows), ("Column", self.columns, columns)):
            outside = array[(array < 0) | (array >= limit)]
            if outside.size:
                raise GraphError(f"{label} of an outlier of {name} must be in 0..{limit - 1}, not {outside[0]}")
        places = self.rows.astype(np.int64) * columns + self.columns
        falls = np.flatnonzero(places[1:] <= places[:-1])
        if falls.size:
            before, behind = ((int(self.rows[i]), int(self.columns[i])) for i in (falls[0], falls[0] + 1))
            raise GraphError(f"Outliers of {name} must ascend by row and column, not go from {before} to {behind}")
        if not self.values.all():
            at = int(np.flatnonzero(self.values == 0)[0])
            raise GraphError(f"Outlier of {name} at {(int(self.rows[at]), int(self.columns[at]))} must not be 0")
        products = width + np.bincount(self.rows, weights=self.products, minlength=rows)
        if products.max() > MAX_REDUCTION:
            row = int(products.argmax())
            rule = f"must have at most {MAX_REDUCTION} products, outliers included"
            raise GraphError(f"Row {row} of {name} {rule}, not {int(products[row])}")
