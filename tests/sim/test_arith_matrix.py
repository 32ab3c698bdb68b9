# SPDX-License-Identifier: Apache-2.0
"""Integer matrix products are exact: every K, every extreme, every way of giving the weights."""

import numpy as np
import pytest

from catenary.isa.errors import CatenaryError
from catenary.isa.outliers import Outliers
from catenary.sim import arith
from catenary.sim.arith.matrix import EXACT_LIMIT, INT8_LIMIT, SAFE_BLOCK

LENGTHS = [0, 1, 15, 16, 1023, 1024, 1025, 1040, 1041, 4096, 20_000]


def exact(a, w):
    return np.einsum("...tk,...rk->...tr", a.astype(np.int64), w.astype(np.int64))


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("k", LENGTHS)
def test_random_operands(k, tokens, prepared):
    rng = np.random.default_rng(k * 10 + tokens)
    a = rng.integers(-127, 128, (tokens, k)).astype(np.int8)
    w = rng.integers(-128, 128, (5, k)).astype(np.int8)
    got = arith.integer_matmul(a, arith.PreparedWeights.from_codes(w) if prepared and k else w)
    assert got.dtype == np.int32
    assert np.array_equal(got, exact(a, w)), (k, tokens)


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("k", [*LENGTHS[1:], 132_104])
def test_extremes(k, prepared):
    signs = np.random.default_rng(k).choice([-1, 1], k)
    a = np.stack([np.full(k, 127), np.full(k, -127), 127 * signs, np.arange(k) % 2]).astype(np.int8)
    w = np.stack([np.full(k, -128), np.full(k, 127), -127 * signs, np.full(k, 1)]).astype(np.int8)
    got = arith.integer_matmul(a, arith.PreparedWeights.from_codes(w) if prepared else w)
    assert np.array_equal(got, exact(a, w)), k
    assert got[0, 0] == -127 * 128 * k


def test_the_longest_reduction_fits_int32_and_one_more_is_refused():
    assert 127 * 128 * arith.MAX_REDUCTION < 2**31 <= 127 * 128 * (arith.MAX_REDUCTION + 1)
    a, w = np.zeros((1, 132_105), np.int8), np.zeros((1, 132_105), np.int8)
    message = r"^Matrix product must sum over at most 132104 elements, not 132105$"
    for call in (
        lambda: arith.integer_matmul(a, w),
        lambda: arith.PreparedWeights.from_codes(w),
        lambda: arith.PreparedWeights.from_exact(w.astype(np.float32)),
    ):
        with pytest.raises(arith.ReductionTooLongError, match=message):
            call()
    assert issubclass(arith.ReductionTooLongError, CatenaryError)


def test_batches_broadcast_and_views_are_taken_as_they_are():
    rng = np.random.default_rng(4)
    a = rng.integers(-127, 128, (2, 6, 3, 70)).astype(np.int8)
    w = rng.integers(-127, 128, (6, 9, 70)).astype(np.int8)
    assert np.array_equal(arith.integer_matmul(a, w), exact(a, w[None]))
    cache = rng.integers(-127, 128, (100, 6, 16)).astype(np.float32)  # [position][head][channel]
    values = cache[:70].transpose(1, 2, 0)  # [head, channel, position]
    wrapped = arith.PreparedWeights.from_exact(values)
    assert wrapped.values is values
    assert np.array_equal(arith.integer_matmul(a, wrapped), exact(a, values[None]))


@pytest.mark.parametrize("k", [64, 1000, 4096, 11008])
@pytest.mark.parametrize("limit", [1, 7, 40, 127])
def test_blocks_cover_all_columns_and_keep_their_promise(k, limit):
    w = np.random.default_rng(k + limit).integers(-limit, limit + 1, (33, k)).astype(np.int8)
    prepared = arith.PreparedWeights.from_codes(w)
    ends = [0, *(end for _, end in prepared.blocks)]
    assert [first for first, _ in prepared.blocks] == ends[:-1]
    assert ends[-1] == k
    for first, end in prepared.blocks:
        assert np.abs(w[:, first:end].astype(int)).sum(axis=1).max() * INT8_LIMIT <= EXACT_LIMIT
    assert len(prepared.blocks) <= -(-k // SAFE_BLOCK)
    assert prepared.values.flags.c_contiguous


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("k", [1, 16, 1000, 5000])
def test_outliers_are_added(k, tokens):
    rng = np.random.default_rng(k * 10 + tokens)
    a = rng.integers(-127, 128, (tokens, k)).astype(np.int8)
    w = rng.integers(-127, 128, (9, k)).astype(np.int8)
    count = int(rng.choice([1, 40]))
    places = rng.integers(0, 9, count), rng.integers(0, k, count)
    outliers = Outliers.of_entries(*places, rng.choice([-1, 1, 300, -(10**6)], count))
    got = arith.integer_matmul(a, arith.PreparedWeights.from_codes(w, outliers))
    dense = w.astype(np.int64)
    np.add.at(dense, (outliers.rows, outliers.columns), outliers.values)
    assert got.dtype == np.int32
    assert np.array_equal(got, exact(a, dense))


def test_outliers_count_as_products():
    w = np.full((2, 132_100), 127, np.int8)
    a = np.full((1, 132_100), 127, np.int8)
    most = Outliers.of_entries(np.array([1]), np.array([7]), np.array([4 * 127]))
    assert arith.integer_matmul(a, arith.PreparedWeights.from_codes(w, most))[0, 1] == 127 * 127 * 132_104
    more = Outliers.of_entries(np.array([1]), np.array([7]), np.array([4 * 127 + 1]))
    with pytest.raises(arith.ReductionTooLongError, match=r"at most 132104 elements, not 132105$"):
        arith.PreparedWeights.from_codes(w, more)


def test_wrong_operands_are_refused():
    a = np.zeros((1, 4), np.int8)
    with pytest.raises(TypeError, match=r"^Matrix operand must be int8, not int32$"):
        arith.integer_matmul(a.astype(np.int32), a)
    with pytest.raises(TypeError, match=r"^Matrix operand must be int8, not float32$"):
        arith.integer_matmul(a, a.astype(np.float32))
    with pytest.raises(TypeError, match=r"^Prepared weights must be float32, not int8$"):
        arith.PreparedWeights.from_exact(a)
    with pytest.raises(ValueError, match=r"^Rows of a must be as long as those of w, 5, not 4$"):
        arith.integer_matmul(a, np.zeros((2, 5), np.int8))
