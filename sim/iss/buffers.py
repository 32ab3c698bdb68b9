# SPDX-License-Identifier: Apache-2.0
"""On-chip buffers that know which words have been written, and complain about reads of the others."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from catenary.isa.errors import ExecutionError

Scalar = TypeVar("Scalar", bound=np.generic)


Access = tuple[int, int, int, int]
"""Start, stride, rows and words, all in words but ``rows``."""

_MOST_VIEWS = 1 << 14
"""Accesses that a buffer remembers."""


class RowBuffer(Generic[Scalar]):
    """A buffer of words, accessed as rows: ``rows`` rows of ``words`` words, ``stride`` words from row to row.

    A word, once written, stays written until :meth:`clear`. So an access that was in order once needs no second look,
    and is answered with the view that it got then.

    Args:
        name: for messages.
        data: [words * cells].
        cells: elements of a word.

    Attributes:
        size: words.
    """

    def __init__(self, name: str, data: NDArray[Scalar], cells: int = 1) -> None:
        self.name = name
        self.size = data.shape[0] // cells
        self.data = data
        self._cells = cells
        self._written = np.zeros(self.size, np.bool_)
        self._views: dict[Access, NDArray[Scalar]] = {}
        self._readable: dict[Access, NDArray[Scalar]] = {}
        self._writable: dict[Access, NDArray[Scalar]] = {}

    def clear(self) -> None:
        """Forget what was written: a program must not count on what an earlier run left."""
        self._written[:] = False
        self._readable.clear()
        self._writable.clear()

    def check(self, start: int, stride: int, rows: int, words: int) -> None:
        """Check that an access stays inside, and that rows which overlap are no more than the buffer could hold apart.

        Raises:
            ExecutionError: it does not; the message names the buffer, its size and the first word behind it.
        """
        if rows * words > self.size:
            where = f"buffer {self.name}"
            raise ExecutionError(f"Access to {where} must be to {self.size} words at most, not {rows * words}")
        end = start + (rows - 1) * stride + words
        if end > self.size:
            raise ExecutionError(f"Access to buffer {self.name} must end at word {self.size} at most, not {end}")

    def read(self, start: int, stride: int, rows: int, words: int) -> NDArray[Scalar]:
        """View [rows, words * cells]; do not write to it.

        Raises:
            ExecutionError: outside the buffer, or a word that was never written.
        """
        access = (start, stride, rows, words)
        view = self._readable.get(access)
        if view is None:
            view = self._view(access)
            written = _rows(self._written, start, stride, rows, words)
            if np.count_nonzero(written) != written.size:
                row, word = np.argwhere(~written)[0]
                where = start + int(row) * stride + int(word)
                raise ExecutionError(f"Word {where} of buffer {self.name} must be written before it is read")
            _remember(self._readable, access, view)
        return view

    def peek(self, start: int, stride: int, rows: int, words: int) -> NDArray[Scalar]:
        """As :meth:`read`, for words of which some may never have been written; whoever asks must not use those.

        Raises:
            ExecutionError: outside the buffer.
        """
        return self._view((start, stride, rows, words))

    def read_word(self, index: int) -> int:
        """One word of a buffer of integers.

        Raises:
            ExecutionError: as :meth:`read`.
        """
        if not (index < self.size and self._written[index]):
            self.read(index, 1, 1, 1)  # says what is wrong
        return int(self.data[index])

    def write(self, start: int, stride: int, rows: int, words: int) -> NDArray[Scalar]:
        """View [rows, words * cells] to assign to; the words count as written.

        Raises:
            ExecutionError: outside the buffer.
        """
        access = (start, stride, rows, words)
        view = self._writable.get(access)
        if view is None:
            view = self._view(access)
            _rows(self._written, start, stride, rows, words)[...] = True
            _remember(self._writable, access, view)
            _remember(self._readable, access, view)
        return view

    def _view(self, access: Access) -> NDArray[Scalar]:
        view = self._views.get(access)
        if view is None:
            start, stride, rows, words = access
            self.check(start, stride, rows, words)
            view = _rows(self.data, start * self._cells, stride * self._cells, rows, words * self._cells)
            _remember(self._views, access, view)
        return view


def _remember(views: dict[Access, NDArray[Scalar]], access: Access, view: NDArray[Scalar]) -> None:
    if len(views) >= _MOST_VIEWS:
        views.clear()
    views[access] = view


def _rows(data: NDArray[Scalar], start: int, stride: int, rows: int, words: int) -> NDArray[Scalar]:
    if rows == 1:
        return data[start : start + words][None]
    if stride == words:
        return data[start : start + rows * words].reshape(rows, words)
    if stride > words and start + rows * stride <= data.shape[0]:
        return data[start : start + rows * stride].reshape(rows, stride)[:, :words]
    # Rows that overlap (stride 0), or whose last stride would leave the buffer.
    step = data.strides[0]
    return as_strided(data[start:], (rows, words), (stride * step, step))
