# SPDX-License-Identifier: Apache-2.0
"""Tensors of the graph: floats as the checkpoint stores them, and quantised N:M-sparse weights.

The two-level weight format follows QServe (arXiv 2405.04532): codes, then one byte of scale and one byte of zero per
group, then one FP32 scale per output channel, so that the multipliers only ever see INT8 weights
``w = (q - z) * s`` with ``|w| <= 127``. A table may stand between a code and its integer, ``w = (T[q] - z) * s``, and
single weights that are too large for their group may have the rest added as outliers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catenary.isa.bitpack import count_bits
from catenary.isa.errors import GraphError
from catenary.isa.outliers import Outliers

BLOCK = 16
"""M of N:M sparsity: weights along K are kept or dropped inside blocks of 16."""

KEPT_CHOICES = (1, 2, 4, 8, 16)
"""Legal N of N:16."""

WEIGHT_LIMIT = 127
"""Largest magnitude of an expanded weight in a program file."""

TABLE_ENTRIES = 16
"""Entries of a table of weights: one for each 4-bit code."""

_CHECKED_AT_ONCE = 1 << 19
"""Weights that are expanded at a time while a tensor is checked."""


class FloatFormat(Enum):
    """Storage formats of floats; all widen to FP32 exactly."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"

    @property
    def bytes(self) -> int:
        """Bytes per element."""
        return 4 if self is FloatFormat.F32 else 2

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """numpy dtype that holds the raw bits (BF16 as uint16)."""
        return np.dtype({"f32": "<f4", "f16": "<f2", "bf16": "<u2"}[self.value])


def widen(data: NDArray[np.generic], fmt: FloatFormat) -> NDArray[np.float32]:
    """``data`` (raw storage dtype of ``fmt``, any shape) as FP32, exactly."""
    if fmt is FloatFormat.BF16:
        return (data.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return data.astype(np.float32)


@dataclass(frozen=True, eq=False)
class FloatTensor:
    """A float tensor in its storage format.

    Attributes:
        format: how ``data`` is to be read.
        data: raw elements with dtype ``format.dtype``; may be a view into a memory-mapped file.
    """

    format: FloatFormat
    data: NDArray[np.generic]

    def __post_init__(self) -> None:
        if self.data.dtype != self.format.dtype:
            raise GraphError(f"Data of a {self.format.value} tensor must be {self.format.dtype}, not {self.data.dtype}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape, as the checkpoint gives it."""
        return self.data.shape

    def to_float32(self) -> NDArray[np.float32]:
        """All elements, widened exactly."""
        return widen(self.data, self.format)


@dataclass(frozen=True, eq=False)
class QuantTensor:
    """A quantised, N:16-sparse weight matrix of ``rows`` output channels and ``columns`` inputs.

    Columns are padded to whole blocks of 16 (``blocks = ceil(columns / 16)``). A row keeps exactly ``kept[row]``
    positions of every block; dropped ones weigh 0 and hold the filler ``q = z``, or code 0 where there is a table.
    Padded positions weigh 0 too, by their codes where they are kept.

    Attributes:
        columns: K, before padding.
        bits: 8 (signed codes, ``s = 1``, ``z = 0``) or 2, 3, 4 (unsigned codes).
        group: columns that share one scale and zero; a multiple of 16. The last group may be short.
        codes: int16 [rows, blocks * 16], signed for 8 bits, else 0 .. 2**bits - 1.
        mask: bool, same shape; True where the position is kept.
        kept: uint8 [rows], N of each row.
        scales: uint8 [rows, groups], ``s``; all ones for 8 bits.
        zeros: uint8 [rows, groups], ``z``; all zeros for 8 bits.
        channel_scales: float32 [rows], ``s_w``.
        table: int8 [2**bits], the integer ``T[q]`` of each code, or ``None`` for ``T[q] = q``; never with 8 bits.
        outliers: integers that are added to single weights, dropped ones too, or ``None``.
    """

    columns: int
    bits: int
    group: int
    codes: NDArray[np.int16]
    mask: NDArray[np.bool_]
    kept: NDArray[np.uint8]
    scales: NDArray[np.uint8]
    zeros: NDArray[np.uint8]
    channel_scales: NDArray[np.float32]
    table: NDArray[np.int8] | None = None
    outliers: Outliers | None = None

    @property
    def rows(self) -> int:
        """Output channels."""
        return len(self.codes)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns), before padding."""
        return self.rows, self.columns

    @property
    def blocks(self) -> int:
        """Blocks of 16 along K."""
        return -(-self.columns // BLOCK)

    @property
    def groups(self) -> int:
        """Groups along K."""
        return -(-self.columns // self.group)

    def rows_of(self, part: slice) -> QuantTensor:
        """The tensor of some rows; its arrays are views."""
        return replace(
            self,
            codes=self.codes[part],
            mask=self.mask[part],
            kept=self.kept[part],
            scales=self.scales[part],
            zeros=self.zeros[part],
            channel_scales=self.channel_scales[part],
            outliers=None if self.outliers is None else self.outliers.rows_of(part),
        )

    def expanded(self) -> NDArray[np.int16]:
        """Integer weights ``w = (T[q] - z) * s``, int16 [rows, columns]; 0 where dropped, outliers not added."""
        return self._expanded()[:, : self.columns].astype(np.int16, copy=False)

    def _expanded(self) -> NDArray[np.signedinteger[Any]]:
        """Integer weights with the columns that pad the last block, [rows, blocks * 16]."""
        width = self.blocks * BLOCK
        # Of unsigned bytes, q - z is at least -255; times s that wraps in int16 only to magnitudes of 511 and more, so
        # check() still sees it. An entry of a table may be negative.
        dtype: type[np.signedinteger[Any]] = np.int16 if self.table is None else np.int32

        def wide(per_group: NDArray[np.uint8]) -> NDArray[np.signedinteger[Any]]:
            return np.repeat(per_group.astype(dtype), min(self.group, width), axis=1)[:, :width]

        values: NDArray[np.signedinteger[Any]] = self.codes
        if self.table is not None:
            values = self.table.astype(dtype)[self.codes]
        weights = values if self.bits == 8 else (values - wide(self.zeros)) * wide(self.scales)
        return np.where(self.mask, weights, dtype(0))

    def check(self, name: str) -> None:
        """Verify every rule of the format.

        Raises:
            GraphError: names ``name``, the rule and the first offending value.
        """
        rows, width = self.rows, self.blocks * BLOCK
        if self.bits not in (2, 3, 4, 8):
            raise GraphError(f"Bits of {name} must be 2, 3, 4 or 8, not {self.bits}")
        if self.group < BLOCK or self.group % BLOCK:
            raise GraphError(f"Group size of {name} must be a positive multiple of {BLOCK}, not {self.group}")
        for label, array, shape in (
            ("codes", self.codes, (rows, width)),
            ("mask", self.mask, (rows, width)),
            ("kept", self.kept, (rows,)),
            ("scales", self.scales, (rows, self.groups)),
            ("zeros", self.zeros, (rows, self.groups)),
            ("channel_scales", self.channel_scales, (rows,)),
        ):
            if array.shape != shape:
                raise GraphError(f"Shape of {label} of {name} must be {shape}, not {array.shape}")
        if not np.isin(self.kept, KEPT_CHOICES).all():
            raise GraphError(f"N of {name} must be one of {KEPT_CHOICES}, not {sorted(set(self.kept.tolist()))}")
        counts = count_bits(np.packbits(self.mask, axis=1, bitorder="little").view("<u2"))
        if (counts != self.kept[:, None]).any():
            row, block = np.argwhere(counts != self.kept[:, None])[0]
            rule = f"must keep {self.kept[row]} of {BLOCK} weights in block {block}"
            raise GraphError(f"Row {row} of {name} {rule}, not {counts[row, block]}")
        low, high = (-128, 127) if self.bits == 8 else (0, (1 << self.bits) - 1)
        if rows and (self.codes.min() < low or self.codes.max() > high):
            raise GraphError(f"Codes of {name} must be in {low}..{high}, not {self.codes.min()}..{self.codes.max()}")
        if self.table is not None:
            wanted = None if self.bits == 8 else (1 << self.bits,)
            if self.table.dtype != np.int8 or self.table.shape != wanted:
                found = f"{self.table.dtype.name} {self.table.shape}"
                rule = "absent for 8-bit codes" if wanted is None else f"int8 {wanted}"
                raise GraphError(f"Table of {name} must be {rule}, not {found}")
        if self.bits == 8 and ((self.scales != 1).any() or self.zeros.any()):
            raise GraphError(f"8-bit codes of {name} must have scale 1 and zero 0, not others")
        step = max(1, _CHECKED_AT_ONCE // width)
        for start in range(0, rows, step):
            part = slice(start, start + step)
            weights = self.rows_of(part)._expanded()
            if weights.max() > WEIGHT_LIMIT or weights.min() < -WEIGHT_LIMIT:
                row, column = np.argwhere((weights > WEIGHT_LIMIT) | (weights < -WEIGHT_LIMIT))[0].tolist()
                row, group = start + row, column // self.group
                code = int(self.codes[row, column])
                entry = code if self.table is None else int(self.table[code])
                value = (entry - int(self.zeros[row, group])) * int(self.scales[row, group])
                rule = f"at row {row}, column {column} must be at most {WEIGHT_LIMIT} in magnitude"
                term = "q" if self.table is None else "T[q]"
                raise GraphError(f"Weight ({term} - z) * s of {name} {rule}, not {abs(value)}")
            if weights[:, self.columns :].any():
                raise GraphError(f"Columns of {name} past {self.columns} must weigh 0, not something else")
        if self.outliers is not None:
            self.outliers.check(name, rows, self.columns, width)
        if not np.isfinite(self.channel_scales).all():
            raise GraphError(f"Channel scales of {name} must be finite, not {self.channel_scales.tolist()[:4]}")
