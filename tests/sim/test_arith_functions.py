# SPDX-License-Identifier: Apache-2.0
"""The function unit: accuracy against float64, every special value, and the tables behind it."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from catenary.isa import functions as isa
from catenary.sim import arith
from tests.sim.function_errors import MAX_ULP, REFERENCES, edges, ulp_errors

INF = np.float32(np.inf)
TINY = np.float32(2.0**-126)
SUBNORMAL = np.float32(2.0**-149)
NANS = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
ONE_BELOW = np.nextafter(np.float32(1), np.float32(0))


def same(a, b):
    return np.array_equal(np.asarray(a, np.float32).view(np.uint32), np.asarray(b, np.float32).view(np.uint32))


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("seed", [1])
def test_random_bit_patterns_are_within_the_stated_error(name, seed):
    x = np.random.default_rng(seed).integers(0, 1 << 32, 400_000, dtype=np.uint32).view(np.float32)
    assert ulp_errors(name, x).max() <= MAX_ULP[name] <= 2, (name, seed)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("seed", [2])
def test_the_working_range_is_within_the_stated_error(name, seed):
    x = np.random.default_rng(seed).uniform(-105, 105, 300_000)
    x = np.concatenate([x, x / 10, x / 100, x / 1000]).astype(np.float32)
    assert ulp_errors(name, x).max() <= MAX_ULP[name], (name, seed)


@pytest.mark.parametrize("name", REFERENCES)
def test_every_exponent_and_every_interval_edge(name):
    x = edges()
    assert ulp_errors(name, np.concatenate([x, -x])).max() <= MAX_ULP[name]


@pytest.mark.parametrize("name", REFERENCES)
def test_nan_in_nan_out(name):
    assert set(getattr(arith, name)(NANS).view(np.uint32)) == {0x7FC00000}


@pytest.mark.parametrize(
    "name, x, want",
    [
        ("exp", [0.0, -0.0, SUBNORMAL, -SUBNORMAL, TINY, -TINY], [1] * 6),
        ("exp", [INF, -INF, 1e30, -1e30, 89, 104, 200, -104, -105, -88], [INF, 0, INF, 0, INF, INF, INF, 0, 0, 0]),
        ("reciprocal", [0.0, -0.0, SUBNORMAL, -SUBNORMAL, INF, -INF], [INF, -INF, INF, -INF, 0.0, -0.0]),
        ("reciprocal", [2.0**126, -(2.0**126), 2.0**127, -3e38, TINY], [TINY, -TINY, 0.0, -0.0, 2.0**126]),
        ("rsqrt", [0.0, -0.0, SUBNORMAL, -SUBNORMAL, INF, TINY], [INF, -INF, INF, -INF, 0.0, 2.0**63]),
        ("rsqrt", [-1, -INF, -TINY, -3e38], [np.nan] * 4),
        ("tanh", [0.0, -0.0, SUBNORMAL, -SUBNORMAL, INF, -INF, 20, -20], [0.0, -0.0, 0.0, -0.0, 1, -1, 1, -1]),
        ("tanh", [TINY, -TINY, 1e-10, -1e-5], [TINY, -TINY, 1e-10, -1e-5]),
        ("tanh", [9.1, -9.1, 15.999, 16, 3e38], [1, -1, 1, 1, 1]),
        ("erf", [0.0, -0.0, SUBNORMAL, -SUBNORMAL, INF, -INF, 5, -5], [0.0, -0.0, 0.0, -0.0, 1, -1, 1, -1]),
        ("erf", [3.95, -3.95, 3.9999998, 4, -3e38], [1, -1, 1, 1, -1]),
        ("sigmoid", [0.0, -0.0, SUBNORMAL, -SUBNORMAL, TINY, -TINY], [0.5] * 6),
        ("sigmoid", [INF, -INF, 18, 104, 1000, -104, -89, -1000], [1, 0.0, 1, 1, 1, 0.0, 0.0, 0.0]),
    ],
)
def test_special_values(name, x, want):
    got = getattr(arith, name)(np.array(x, np.float32))
    assert same(got, arith.flush(np.array(want, np.float32))), (x, got)


@pytest.mark.parametrize("n", [0, 1, 7, 8191, 8192, 8193, 20_000])
@pytest.mark.parametrize("name", REFERENCES)
def test_an_element_does_not_depend_on_its_neighbours(name, n):
    x = np.random.default_rng(n).normal(scale=4, size=n).astype(np.float32)
    function = getattr(arith, name)
    whole = function(x)
    assert whole.shape == x.shape
    picks = range(0, n, 997)
    assert same(whole[::997], [function(x[i]) for i in picks]), n
    assert function(x.reshape(1, n, 1)).shape == (1, n, 1)
    assert same(function(np.repeat(x, 2)[::2]), whole)


def test_powers_of_two_have_exact_reciprocals():
    exponents = np.arange(-126, 127)
    x = np.ldexp(np.float32(1), exponents).astype(np.float32)
    assert same(arith.reciprocal(x), np.ldexp(np.float32(1), -exponents).astype(np.float32))
    assert same(arith.reciprocal(-x), -arith.reciprocal(x))


def test_powers_of_four_have_exact_reciprocal_roots():
    exponents = np.arange(-63, 64)
    x = np.ldexp(np.float32(1), 2 * exponents).astype(np.float32)
    assert same(arith.rsqrt(x), np.ldexp(np.float32(1), -exponents).astype(np.float32))


def test_exp_overflow_and_underflow_lie_where_the_result_leaves_the_range():
    last = np.float32(88.72283)  # ln(2**128 * (1 - 2**-25)) = 88.722839...
    assert np.isfinite(arith.exp(last))
    assert same(arith.exp(np.nextafter(last, INF)), INF)
    first = np.float32(-87.33654)  # ln(2**-126) = -87.336544...
    assert arith.exp(first) >= TINY
    assert same(arith.exp(np.float32(-87.33656)), 0.0)


@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_odd_symmetry_is_exact_and_magnitudes_stay_at_most_one(name):
    x = np.concatenate([edges(), np.random.default_rng(5).uniform(0, 17, 100_000).astype(np.float32)])
    y = getattr(arith, name)(x)
    assert same(getattr(arith, name)(-x), -y)
    assert y.max() <= 1
    assert (y[x < 0.8] <= x[x < 0.8] * np.float32(1.1283792)).all()


def test_ranges():
    x = np.random.default_rng(6).uniform(-104, 104, 200_000).astype(np.float32)
    s = arith.sigmoid(x)
    assert s.min() >= 0
    assert s.max() <= 1
    assert (s[x < 0] <= 0.5).all()
    assert arith.exp(-np.abs(x)).max() <= 1
    assert arith.exp(-(2.0 ** -np.arange(1, 40.0))).max() <= 1


def test_half_of_exp2_that_enters_the_sigmoid_product_fits_26_bits():
    rom_last = tuple(column[-1] for column in (isa.EXP2.c0, isa.EXP2.c1, isa.EXP2.c2))
    x = np.arange(1 << isa.FRACTION_BITS, dtype=np.int64)
    c0, c1, c2 = rom_last
    value = c0 + (((c1 + ((c2 * x) >> isa.SHIFT2)) * x) >> isa.SHIFT1)
    assert ((value + 8) >> 4).max() < 1 << 26


def test_table_widths_and_constants():
    assert [table.entries for table in isa.TABLES.values()] == [256, 256, 256, 128, 512, 128, 256]
    assert round(math.log2(math.e) * 2**isa.LOG2E_BITS) == isa.LOG2E
    assert isa.LOG2E < 1 << 34
    for table in isa.TABLES.values():
        for c0, c1, c2 in zip(table.c0, table.c1, table.c2, strict=True):
            assert 0 <= c0 < 1 << 30
            # The operand of the second product is linear in x, so its ends bound it.
            for x in (0, (1 << isa.FRACTION_BITS) - 1):
                assert -(1 << 26) <= c1 + ((c2 * x) >> isa.SHIFT2) < 1 << 26


def test_a_table_with_a_coefficient_too_wide_is_refused():
    with pytest.raises(ValueError, match=r"c1 of table 't' must fit 27 signed bits, not 67108864"):
        isa.FunctionTable("t", "", "", (0,), (1 << 26,), (0,))
    with pytest.raises(ValueError, match=r"Columns of table 't' must be equally long"):
        isa.FunctionTable("t", "", "", (0,), (1, 2), (0,))
    with pytest.raises(ValueError, match=r"Tables of 'tanh' must have 128 entries and 128 per octave"):
        isa.OddFunction("tanh", isa.TANH.small, isa.TANH.large, octaves=3)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 48, 64, 80, 96, 127, 128, 255, 256, 288, 4096, 11008, 16383])
def test_constants_are_correctly_rounded(n):
    def distance(value, scale):
        return abs(scale(value) - 1)

    for constant, scale in (
        (isa.inverse_constant(n), lambda v: v * n),
        (isa.inverse_sqrt_constant(n), lambda v: v * v * n),
    ):
        here = np.float32(constant)
        assert float(here) == constant
        best = distance(constant, scale)
        assert best <= distance(float(np.nextafter(here, INF)), scale)
        assert best <= distance(float(np.nextafter(here, -INF)), scale)


def test_the_documented_errors_are_the_tested_ones():
    text = (Path(__file__).resolve().parents[2] / "docs" / "numerics.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\w+) \| (\d+\.\d+) \|$", text, re.MULTILINE))
    assert {name: float(value) for name, value in rows.items()} == MAX_ULP


def slow_sigmoid(bits):
    """One sigmoid in Python integers, written from docs/numerics.md: an independent copy of the bit arithmetic."""
    sign, field, mantissa = bits >> 31, bits >> 23 & 0xFF, (bits & 0x7FFFFF) | 0x800000
    if field == 255 and bits & 0x7FFFFF:
        return 0x7FC00000
    if field > 133 or (field == 133 and mantissa > 104 << 17):
        field, mantissa = 133, 104 << 17

    def table(t, index, x):
        return t.c0[index] + (((t.c1[index] + ((t.c2[index] * x) >> 17)) * x) >> 21)

    power = ((-mantissa * isa.LOG2E >> (157 - field)) + 1) >> 1
    whole, fraction = power >> 25, power & 0x1FFFFFF
    m = table(isa.EXP2, fraction >> 17, fraction & 0x1FFFF)
    e = ((m >> (3 - whole)) + 1) >> 1
    r = table(isa.RECIPROCAL, (e & 0x1FFFFFF) >> 17, e & 0x1FFFF) >> (e >> 25)
    value, exponent = (r * ((m + 8) >> 4), whole - 54) if sign else (r, -29)
    drop = value.bit_length() - 24
    kept = value >> drop if drop > 0 else value << -drop
    rest = value - (kept << drop) if drop > 0 else 0
    half = 1 << (drop - 1) if drop > 0 else 1
    kept += rest > half or (rest == half and kept & 1)
    result = ((exponent + drop + 149) << 23) + kept
    return result if result >= 0x800000 else 0


def test_sigmoid_against_python_integers():
    rng = np.random.default_rng(9)
    x = np.concatenate([rng.uniform(-110, 110, 3000), rng.normal(size=3000), [0.0, -0.0, 1e-30, -1e-30, -87.5, 200]])
    x = x.astype(np.float32)
    want = np.array([slow_sigmoid(int(b)) for b in x.view(np.uint32)], np.uint32)
    assert np.array_equal(arith.sigmoid(x).view(np.uint32), want)
