# SPDX-License-Identifier: Apache-2.0
"""Dynamic quantisation against exact rational arithmetic, and the epilogue of linear layers."""

from fractions import Fraction

import numpy as np
import pytest

from catenary.sim import arith

F = np.float32
INF = F(np.inf)


def same(a, b):
    return np.array_equal(np.asarray(a, F).view(np.uint32), np.asarray(b, F).view(np.uint32))


def round_to_fp32(value):
    """A nonzero Fraction with a normal result, rounded to FP32 with ties to even; the Fraction it stands for."""
    exponent = 0
    while abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (exponent - 23)
    return round(value / unit) * unit  # Python rounds a Fraction half to even


def exact_codes(row):
    """The definition in rationals, except the reciprocal, which is the table's."""
    absmax = max(max(abs(Fraction(float(v))) for v in row), Fraction(1, 2**64))
    inverse = round_to_fp32(127 * Fraction(float(arith.reciprocal(F(absmax)))))
    codes = []
    for v in row:
        product = Fraction(float(v)) * inverse
        product = round_to_fp32(product) if abs(product) >= Fraction(1, 4) else product
        codes.append(max(-127, min(127, round(product))))
    scale = round_to_fp32(absmax * Fraction(float(F(1) / F(127))))
    return codes, scale


@pytest.mark.parametrize("n", [1, 2, 17, 300])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_codes_and_scales_against_rationals(n, seed):
    rng = np.random.default_rng(seed * 1000 + n)
    x = np.ldexp(rng.normal(size=(6, n)), rng.integers(-60, 60, (6, 1))).astype(F)
    codes, scale, nan = arith.quantize(x)
    assert codes.dtype == np.int8
    assert not nan.any()
    for row, got, s in zip(x, codes, scale, strict=True):
        want, want_scale = exact_codes(row)
        assert got.tolist() == want, (seed, n)
        assert Fraction(float(s)) == want_scale


@pytest.mark.parametrize("exponent", [-60, -1, 0, 1, 50])
def test_ties_go_to_even(exponent):
    # absmax is a power of two, so its reciprocal is exact and x = absmax * (k + 1/2) / 128 is not a tie in general;
    # but absmax = 127 * 2**e has products that are: look for true ties among x = (k + 1/2) * 2**j.
    absmax = np.ldexp(F(1), exponent)
    inverse = Fraction(127) / Fraction(float(absmax))
    halves = [Fraction(2 * k + 1, 2) for k in range(-127, 127)]
    ties = [float(h / inverse) for h in halves if Fraction(float(F(float(h / inverse)))) == h / inverse]
    row = np.array([float(absmax), *ties], F)
    codes, _, _ = arith.quantize(row)
    assert codes.tolist() == exact_codes(row)[0]
    assert any(abs(t) == float(absmax) / 2 for t in ties)  # 63.5
    assert codes[1 + ties.index(float(absmax) / 2)] == 64
    assert codes[1 + ties.index(-float(absmax) / 2)] == -64


def test_every_half_rounds_to_even_when_the_factor_is_one():
    # reciprocal(127) * 127 is 1 or next to it; where it is exactly 1 the halves are ties as they stand.
    assert arith.mul(arith.reciprocal(F(127)), F(127)) == 1
    row = np.concatenate([[127], np.arange(-126.5, 127, 1)]).astype(F)
    codes, scale, _ = arith.quantize(row)
    assert codes[1:].tolist() == [round(v) for v in np.arange(-126.5, 127, 1).tolist()]
    assert scale == arith.mul(F(127), F(1) / F(127))


def test_zero_rows_and_tiny_rows():
    for row in (np.zeros(5, F), np.full(5, -0.0, F), np.full(5, 1e-45, F), np.full(3, 2.0**-126, F)):
        codes, scale, nan = arith.quantize(row)
        assert codes.tolist() == [0] * row.size
        assert scale == arith.mul(F(2.0**-64), F(1) / F(127))
        assert not nan
    codes, _, _ = arith.quantize(np.array([2.0**-64, -(2.0**-65), 0], F))
    assert codes.tolist() == [127, -64, 0]


def test_nan_and_infinity_are_reported_and_become_zero():
    x = np.array([[1, np.nan, -2, 4], [1, 2, 3, 4], [np.inf, 1, -1, 0], [np.nan] * 4, [-np.inf, np.nan, 1, 2]], F)
    codes, scale, nan = arith.quantize(x)
    assert nan.tolist() == [True, False, True, True, True]
    assert codes.tolist() == [[32, 0, -64, 127], [32, 64, 95, 127], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert same(scale, [*(arith.mul(F(4), F(1) / F(127)),) * 2, INF, arith.mul(F(2.0**-64), F(1) / F(127)), INF])


def test_a_row_beyond_the_reciprocal_range_has_zero_codes():
    codes, scale, nan = arith.quantize(np.array([3e38, 1e38], F))
    assert codes.tolist() == [0, 0]
    assert np.isfinite(scale)
    assert not nan


def test_rows_do_not_depend_on_their_batch():
    x = np.random.default_rng(4).normal(size=(2, 5, 33)).astype(F)
    x[1, 2, 7] = np.nan
    codes, scale, nan = arith.quantize(x)
    for index in np.ndindex(2, 5):
        row_codes, row_scale, row_nan = arith.quantize(x[index])
        assert np.array_equal(codes[index], row_codes)
        assert same(scale[index], row_scale)
        assert nan[index] == row_nan == (index == (1, 2))


def test_magnitudes_never_exceed_127():
    x = np.random.default_rng(5).integers(0x20000000, 0x7E000000, 300_000, dtype=np.uint32).view(F)[:, None]
    codes, _, _ = arith.quantize(x)
    assert set(np.unique(codes)) == {127}


@pytest.mark.parametrize("with_bias", [False, True])
def test_linear_epilogue_is_its_formula(with_bias):
    rng = np.random.default_rng(6)
    acc = rng.integers(-(2**31), 2**31, (4, 7), dtype=np.int64).astype(np.int32)
    acc[0, :3] = [2**24 + 1, -(2**24) - 3, 0]
    s_w, s_a = rng.random(7).astype(F), rng.random(4).astype(F)
    bias = rng.normal(size=7).astype(F) if with_bias else None
    got = arith.linear_epilogue(acc, s_w, s_a, bias)
    for t, r in np.ndindex(4, 7):
        want = F(F(F(acc[t, r]) * s_w[r]) * s_a[t])
        assert same(got[t, r], want if bias is None else F(want + bias[r])), (t, r)
