# SPDX-License-Identifier: Apache-2.0
"""IntToFloat against its definition, bit for bit."""

import numpy as np
import pytest

from catenary.hw.fp.convert import IntToFloat
from catenary.sim.arith import fp32
from tests.hw.fp_support import (
    Bench,
    disagreement,
    refusal,
    words,
)

pytestmark = pytest.mark.slow  # vector and matrix tests use the same blocks in quick runs

WIDTHS = [2, 8, 25, 32, 64]
BENCH = Bench(lambda: {f"float_{width}": IntToFloat(width) for width in WIDTHS})


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
