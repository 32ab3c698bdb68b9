# SPDX-License-Identifier: Apache-2.0
"""FP32 operations: flushing, the one NaN, order of maxima, conversion of integers, canonical sums."""

from fractions import Fraction

import numpy as np
import pytest

from catenary.sim import arith

TINY = np.float32(2.0**-126)
BELOW = np.nextafter(TINY, np.float32(0))
SUBNORMAL = np.float32(2.0**-149)
INF = np.float32(np.inf)
NANS = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF, 0x7FABCDEF], np.uint32).view(np.float32)
SPECIALS = np.concatenate(
    [np.array([0.0, -0.0, 1, -1, TINY, -TINY, BELOW, -BELOW, SUBNORMAL, -SUBNORMAL, INF, -INF], np.float32), NANS]
)


def bits(x):
    return np.asarray(x, np.float32).view(np.uint32)


def same(a, b):
    return np.array_equal(bits(a), bits(b))


def random_floats(seed, n):
    return np.random.default_rng(seed).integers(0, 1 << 32, n, dtype=np.uint32).view(np.float32)


def exact_result(operation, a, b):
    """The definition on Python numbers: operands flushed, exact result rounded to even, flushed; NaN canonical."""

    def value(x):
        return np.float32(np.copysign(0, x)) if abs(x) < TINY else x

    a, b = value(a), value(b)
    with np.errstate(all="ignore"):
        if not (np.isfinite(a) and np.isfinite(b)):
            r = a + b if operation == "add" else a * b
        else:
            # A float64 holds the product exactly, and rounds a sum of two FP32 numbers innocuously (53 >= 2 * 24 + 2).
            wide = float(a) + float(b) if operation == "add" else float(a) * float(b)
            r = np.float32(wide)
    if np.isnan(r):
        return arith.NAN
    return np.float32(np.copysign(0, r)) if abs(r) < TINY else r


@pytest.mark.parametrize("operation", ["add", "mul"])
def test_specials_against_the_scalar_definition(operation):
    for a in SPECIALS:
        for b in SPECIALS:
            got = getattr(arith, operation)(a, b)
            assert same(got, exact_result(operation, a, b)), (operation, a, b)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("operation", ["add", "mul"])
def test_random_bits_against_the_scalar_definition(operation, seed):
    a, b = random_floats(seed, 2000), random_floats(seed + 100, 2000)
    near = (bits(a) ^ np.random.default_rng(seed).integers(0, 1 << 10, 2000, dtype=np.uint32)).view(np.float32)
    b[::2] = -near[::2]  # cancellation
    want = np.array([exact_result(operation, x, y) for x, y in zip(a, b, strict=True)], np.float32)
    assert same(getattr(arith, operation)(a, b), want), seed


def test_a_product_that_rounds_up_to_the_smallest_normal_is_kept():
    # (2**-126 * (1 - 2**-24)) lies half way between the largest subnormal and 2**-126; the even one is 2**-126.
    a = np.float32(2.0**-63 * (1 + 2.0**-12))
    b = np.float32(2.0**-63 * (1 - 2.0**-12))
    assert Fraction(float(a)) * Fraction(float(b)) == Fraction(2) ** -126 * (1 - Fraction(1, 2**24))
    assert same(arith.mul(a, b), TINY)
    assert same(arith.mul(-a, b), -TINY)
    assert same(arith.mul(a, np.nextafter(b, np.float32(0))), 0.0)
    assert same(arith.mul(-a, np.nextafter(b, np.float32(0))), -0.0)


def test_a_difference_below_the_smallest_normal_is_a_signed_zero():
    a = np.float32(2.0**-126 * 1.5)
    assert same(arith.add(a, -TINY), 0.0)
    assert same(arith.sub(TINY, a), -0.0)
    assert same(arith.sub(np.float32(1), np.float32(1)), 0.0)


def test_sub_is_adding_the_negative():
    a, b = random_floats(7, 3000), random_floats(8, 3000)
    assert same(arith.sub(a, b), arith.add(a, -b))


def test_operations_broadcast_and_leave_their_operands_alone():
    a = np.array([[SUBNORMAL], [NANS[1]]], np.float32)
    b = np.array([1, -0.0, 3], np.float32)
    before = bits(a).copy()
    assert arith.add(a, b).shape == (2, 3)
    assert np.array_equal(bits(a), before)
    assert arith.add(np.zeros((0, 4)), np.zeros(4)).shape == (0, 4)


def test_flush():
    want = np.array([0.0, -0.0, 1, -1, TINY, -TINY, 0.0, -0.0, 0.0, -0.0, INF, -INF], np.float32)
    assert same(arith.flush(SPECIALS)[: want.size], want)
    assert set(bits(arith.flush(NANS))) == {0x7FC00000}
    assert same(arith.flush(np.float32(3)), 3)


def test_maximum_and_minimum():
    for a in SPECIALS:
        for b in SPECIALS:
            x, y = arith.flush(a), arith.flush(b)
            if np.isnan(x) or np.isnan(y):
                largest = smallest = arith.NAN if np.isnan(x) and np.isnan(y) else (y if np.isnan(x) else x)
            elif x == y == 0:
                largest, smallest = (x if not np.signbit(x) else y), (x if np.signbit(x) else y)
            else:
                largest, smallest = max(x, y), min(x, y)
            assert same(arith.maximum(a, b), largest), (a, b)
            assert same(arith.minimum(a, b), smallest), (a, b)


def test_from_int_rounds_ties_to_even():
    acc = np.array([0, 1, -1, 2**24 + 1, 2**24 + 3, -(2**24) - 1, 2**31 - 1, -(2**31), 2**25 + 2, 2**25 + 6], np.int32)
    want = np.array([0, 1, -1, 2**24, 2**24 + 4, -(2**24), 2**31, -(2**31), 2**25, 2**25 + 8], np.float32)
    assert same(arith.from_int(acc), want)
    assert same(arith.from_int(acc.astype(np.int64)), want)


def slow_sum(row, start=0, length=None):
    """The definition of the canonical sum, one addition at a time."""
    partials = [np.float32(-0.0)] * 128
    for i in range(len(row) if length is None else length):
        lane = (start + i) % 128
        partials[lane] = exact_result("add", partials[lane], row[i])
    while len(partials) > 1:
        half = len(partials) // 2
        partials = [exact_result("add", x, y) for x, y in zip(partials[:half], partials[half:], strict=True)]
    return partials[0]


def spread(seed, shape, low=-20, high=20):
    rng = np.random.default_rng(seed)
    return np.ldexp(rng.normal(size=shape), rng.integers(low, high, shape)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 3, 63, 64, 65, 127, 128, 129, 255, 256, 257, 384, 700, 1041])
@pytest.mark.parametrize("start", [0, 1, 100, 128, 1000])
def test_canonical_sum_against_the_loop(n, start):
    rows = spread(n * 1009 + start, (3, n))
    assert same(arith.canonical_sum(rows, start=start), [slow_sum(row, start) for row in rows]), (n, start)


@pytest.mark.parametrize("n", [5, 300])
def test_canonical_sum_flushes_every_partial_result(n):
    rows = spread(n, (40, n), low=-130, high=-120)  # cancellation near 2**-126
    got = arith.canonical_sum(rows)
    assert same(got, [slow_sum(row) for row in rows])
    tiny = np.array([TINY * np.float32(1.5), *[0.0] * 127, -TINY, *[0.0] * 127, TINY], np.float32)
    assert same(arith.canonical_sum(tiny), TINY)  # without the flush in between it would be 1.5 * 2**-126


def test_canonical_sum_of_subnormals_and_specials():
    assert same(arith.canonical_sum(np.full(200, SUBNORMAL, np.float32)), 0.0)
    assert same(arith.canonical_sum(np.array([INF, 1, -INF], np.float32)), arith.NAN)
    assert same(arith.canonical_sum(np.array([1, NANS[1]], np.float32)), arith.NAN)
    assert same(arith.canonical_sum(np.array([INF, 1], np.float32)), INF)


def test_empty_sums_and_signed_zeros():
    assert same(arith.canonical_sum(np.zeros((2, 0), np.float32)), [-0.0, -0.0])
    assert same(arith.canonical_sum(np.full(300, -0.0, np.float32)), -0.0)
    assert same(arith.canonical_sum(np.zeros(3, np.float32)), 0.0)
    assert arith.canonical_sum(np.zeros((0, 5), np.float32)).shape == (0,)


@pytest.mark.parametrize("start", [0, 37])
def test_lengths_make_elements_missing(start):
    rows = spread(11, (200, 500))
    lengths = np.random.default_rng(11).integers(0, 501, 200)
    garbage = rows.copy()
    garbage[np.arange(500) >= lengths[:, None]] = np.nan
    want = [slow_sum(row, start, length) for row, length in zip(rows, lengths, strict=True)]
    assert same(arith.canonical_sum(rows, start, lengths), want)
    assert same(arith.canonical_sum(garbage, start, lengths), want)


def test_a_missing_element_is_not_an_added_zero():
    row = np.array([-0.0, 0.0], np.float32)
    assert same(arith.canonical_sum(row, lengths=1), -0.0)
    assert same(arith.canonical_sum(row), 0.0)


def test_rows_do_not_depend_on_their_batch():
    rows = spread(12, (5, 7, 300))
    lengths = np.random.default_rng(12).integers(1, 301, (5, 7))
    whole = arith.canonical_sum(rows, lengths=lengths)
    for i, j in np.ndindex(5, 7):
        assert same(whole[i, j], arith.canonical_sum(rows[i, j, : lengths[i, j]])), (i, j)
    assert same(arith.canonical_sum(rows[:, ::2, ::3]), arith.canonical_sum(rows[:, ::2, ::3].copy()))
