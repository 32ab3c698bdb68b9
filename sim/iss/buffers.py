# SPDX-License-Identifier: Apache-2.0
"""On-chip buffers that know which words have been written, and complain about reads of the others."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from catenary.isa.errors import ExecutionError

Scalar = TypeVar("Scalar", bound=np.generic)


class RowBuffer(Generic[Scalar]):
    """A buffer of words, accessed as rows: ``rows`` rows of ``words`` words, ``stride`` words from row to row.

    Attributes:
        name: for messages.
        size: words.
        data: [size, ...] the words; a word may itself be a vector.
    """

    def __init__(self, name: str, data: NDArray[Scalar]) -> None:
        self.name = name
        self.size = data.shape[0]
        self.data = data
        self._written = np.zeros(self.size, np.bool_)

    def clear(self) -> None:
        """Forget what was written: a program must not count on what an earlier run left."""
        self._written[:] = False

    def check(self, start: int, stride: int, rows: int, words: int) -> None:
        """Check that an access stays inside.

        Raises:
            ExecutionError: it does not; the message names the buffer, its size and the first word behind it.
        """
        end = start + (rows - 1) * stride + words
        if end > self.size:
            raise ExecutionError(f"Access to buffer {self.name} must end at word {self.size} at most, not {end}")

    def read(self, start: int, stride: int, rows: int, words: int) -> NDArray[Scalar]:
        """View [rows, words, ...]; do not write to it.

        Raises:
            ExecutionError: outside the buffer, or a word that was never written.
        """
        self.check(start, stride, rows, words)
        written = _rows(self._written, start, stride, rows, words)
        if not written.all():
            row, word = np.argwhere(~written)[0]
            where = start + int(row) * stride + int(word)
            raise ExecutionError(f"Word {where} of buffer {self.name} must be written before it is read")
        return _rows(self.data, start, stride, rows, words)

    def write(self, start: int, stride: int, rows: int, words: int) -> NDArray[Scalar]:
        """View [rows, words, ...] to assign to; the words count as written.

        Raises:
            ExecutionError: outside the buffer.
        """
        self.check(start, stride, rows, words)
        _rows(self._written, start, stride, rows, words)[...] = True
        return _rows(self.data, start, stride, rows, words)


def _rows(data: NDArray[Scalar], start: int, stride: int, rows: int, words: int) -> NDArray[Scalar]:
    if rows == 1:
        return data[start : start + words][None]
    if stride == words:
        return data[start : start + rows * words].reshape(rows, words, *data.shape[1:])
    if stride > words and start + rows * stride <= data.shape[0]:
        return data[start : start + rows * stride].reshape(rows, stride, *data.shape[1:])[:, :words]
    # Rows that overlap (stride 0), or whose last stride would leave the buffer.
    step = data.strides[0]
    return as_strided(data[start:], (rows, words, *data.shape[1:]), (stride * step, *data.strides))
