# SPDX-License-Identifier: Apache-2.0
"""IntToFloat and FpToInt against their definition, bit for bit."""

import numpy as np
import pytest

from catenary.hw.fp.convert import FpToInt, IntToFloat
from catenary.sim.arith import fp32
from tests.hw.fp_support import (
    Bench,
    disagreement,
    every_exponent,
    floats,
    random_words,
    refusal,
    special_words,
    words,
)

pytestmark = pytest.mark.slow  # vector and matrix tests use the same blocks in quick runs

WIDTHS = [2, 8, 25, 32, 64]
LIMITS = [(127, -127), (16383, 0), (1, 0), (5, -3), (2**24 - 1, 1 - 2**24)]
BENCH = Bench(
    lambda: (
        {f"float_{width}": IntToFloat(width) for width in WIDTHS}
        | {f"int_{limit}_{-low}": FpToInt(limit, low) for limit, low in LIMITS}
    )
)
limits = pytest.mark.parametrize("limit, low", LIMITS)


def check_float(width, numbers, seed=None):
    (got,) = BENCH.results(f"float_{width}", {"i": numbers}, seed=seed)
    wrong = disagreement(got, words(fp32.from_int(numbers)), i=numbers)
    assert wrong is None, (width, seed, wrong)


def integers(width):
    """The edges of the range, powers of two and what is near them and near ties."""
    edges = [0, (1 << (width - 1)) - 1, -(1 << (width - 1))]
    for power in range(width - 1):
        near = range(-3, 4) if power < 26 else [*range(-3, 4), *(k << power - 25 for k in range(-9, 10))]
        edges += [sign * ((1 << power) + step) for sign in (1, -1) for step in near]
    for power in range(25, width - 1):  # ties above the first mantissas, and what is beside them
        ties = [(1 << power) + (k << power - 24) for k in range(5)]
        edges += [sign * (tie + step) for sign in (1, -1) for tie in ties for step in (-1, 0, 1)]
    low, high = -(1 << (width - 1)), (1 << (width - 1)) - 1
    return np.array([edge for edge in edges if low <= edge <= high], np.int64)


@pytest.mark.parametrize("width", WIDTHS)
def test_edges_of_integers(width):
    check_float(width, integers(width))


@pytest.mark.parametrize("seed", [1])
@pytest.mark.parametrize("width", [25, 32, 64])
def test_random_integers_of_all_sizes(width, seed):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(-(1 << (width - 1)), 1 << (width - 1), 1_000_000, dtype=np.int64)
    check_float(width, numbers)
    check_float(width, numbers >> rng.integers(0, width, numbers.size))


@pytest.mark.parametrize("seed", [2])
@pytest.mark.parametrize("width", [8, 32])
def test_integers_hold_while_disabled(width, seed):
    check_float(width, np.random.default_rng(seed).integers(-128, 128, 3000), seed)


@pytest.mark.parametrize("width", [1, 65])
def test_width_must_be_of_an_integer(width):
    assert refusal(IntToFloat, width) == f"width must be in 2..64, not {width}"


def check_integer(limit, low, x, seed=None):
    got, nan = BENCH.results(f"int_{limit}_{-low}", {"i": x}, ("o", "nan"), seed)
    number = fp32.flush(floats(x)).astype(np.float64)
    want = np.nan_to_num(np.clip(np.rint(number), low, limit), nan=0).astype(np.int64)
    wrong = disagreement(got, want, i=x)
    assert wrong is None, (limit, low, seed, wrong)
    assert not disagreement(nan, np.isnan(number), i=x)


@limits
def test_special_numbers(limit, low):
    check_integer(limit, low, special_words())
    check_integer(limit, low, every_exponent())


@limits
def test_ties_and_their_neighbours(limit, low):
    halves = np.concatenate([np.arange(0, 2 * min(limit, 20_000) + 8), 2 * limit + np.arange(-8, 8)]) / 2
    ties = words(halves)
    magnitudes = np.concatenate([ties - np.uint32(1), ties, ties + np.uint32(1)])
    check_integer(limit, low, np.concatenate([magnitudes, magnitudes ^ np.uint32(1 << 31)]))


@limits
@pytest.mark.parametrize("seed", [3])
def test_random_numbers(limit, low, seed):
    rng = np.random.default_rng(seed)
    check_integer(limit, low, words(rng.uniform(-1.1 * limit, 1.1 * limit, 1_000_000)))
    check_integer(limit, low, random_words(seed, 300_000))
    check_integer(limit, low, random_words(seed + 1, 3000), seed)


@pytest.mark.parametrize(
    "limit, low, message",
    [
        (0, None, "limit must be in 1..16777215, not 0"),
        (1 << 24, None, "limit must be in 1..16777215, not 16777216"),
        (127, -128, "low must be in -127..0, not -128"),
        (127, 1, "low must be in -127..0, not 1"),
    ],
)
def test_limits_must_make_sense(limit, low, message):
    assert refusal(FpToInt, limit, low) == message
