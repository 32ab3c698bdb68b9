# SPDX-License-Identifier: Apache-2.0
"""On-chip buffers: rows of any stride, words that were never written, and views that are remembered."""

import numpy as np
import pytest

from catenary.isa.errors import ExecutionError
from catenary.sim.iss.buffers import RowBuffer


def buffer(words=40, cells=1):
    return RowBuffer("V", np.arange(words * cells, dtype=np.float32), cells)


def fill(b):
    b.write(0, b.size, 1, b.size)
    return b


@pytest.mark.parametrize("cells", [1, 4])
@pytest.mark.parametrize(
    "access", [(0, 1, 1, 40), (3, 5, 4, 5), (3, 9, 4, 2), (7, 0, 3, 6), (3, 12, 4, 1), (10, 30, 1, 30), (36, 4, 1, 4)]
)
def test_a_view_has_the_words_of_its_rows(access, cells):
    start, stride, rows, words = access
    b = fill(buffer(cells=cells))
    want = [[(start + r * stride) * cells + c for c in range(words * cells)] for r in range(rows)]
    for _ in range(2):  # the second time it is remembered
        assert b.read(*access).tolist() == want


def test_what_is_assigned_is_read():
    b = buffer()
    b.write(4, 10, 2, 3)[...] = [[1, 2, 3], [4, 5, 6]]
    assert b.read(4, 10, 2, 3).tolist() == [[1, 2, 3], [4, 5, 6]]
    b.write(4, 3, 1, 3)[...] = 9
    assert b.read(4, 10, 2, 3).tolist() == [[9, 9, 9], [4, 5, 6]]


def test_a_word_that_was_never_written_is_named():
    b = buffer()
    b.write(4, 10, 2, 3)
    for _ in range(2):
        with pytest.raises(ExecutionError, match=r"Word 7 of buffer V must be written before it is read"):
            b.read(4, 10, 2, 4)
    b.write(7, 10, 2, 1)
    b.read(4, 10, 2, 4)


def test_clear_forgets_every_access():
    b = fill(buffer())
    b.read(0, 4, 2, 4)
    b.clear()
    with pytest.raises(ExecutionError, match=r"Word 0 of buffer V"):
        b.read(0, 4, 2, 4)
    b.write(0, 4, 2, 4)
    b.clear()
    with pytest.raises(ExecutionError, match=r"Word 0 of buffer V"):
        b.read(0, 4, 2, 4)


@pytest.mark.parametrize("access", [(0, 1, 1, 41), (38, 1, 1, 3), (0, 20, 2, 21), (40, 1, 1, 1)])
def test_nothing_lies_outside(access):
    b = fill(buffer())
    for method in (b.read, b.write):
        with pytest.raises(ExecutionError, match=r"must (end at word 40|be to 40 words) at most"):
            method(*access)


def test_single_words():
    b = RowBuffer("D", np.arange(8, dtype=np.uint64))
    b.write(3, 1, 1, 1)[...] = 77
    assert b.read_word(3) == 77
    with pytest.raises(ExecutionError, match=r"Word 4 of buffer D must be written"):
        b.read_word(4)
    with pytest.raises(ExecutionError, match=r"Access to buffer D must end at word 8"):
        b.read_word(8)


def test_more_accesses_than_are_remembered():
    b = fill(RowBuffer("V", np.zeros(20_000, np.float32)))
    for start in range(17_000):
        b.read(start, 1, 1, 1)
    b.write(5, 1, 1, 1)[...] = 3
    assert b.read(5, 1, 1, 1).tolist() == [[3]]
