# SPDX-License-Identifier: Apache-2.0
"""Paths that only save time: few numbers, many, or numbers that leave the fast path, give the same bits."""

import warnings

import numpy as np
import pytest

from catenary.sim import arith
from catenary.sim.arith.functions import FEW

SIGNALLING = np.array([0x7F800001, 0xFF800001], np.uint32).view(np.float32)
AWKWARD = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 2.0**-149, 2.0**-126, 2.0**126, 2.0**127, -3e38], np.float32)


def same(a, b):
    return np.asarray(a).dtype == np.asarray(b).dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("name", ["reciprocal", "rsqrt"])
@pytest.mark.parametrize("seed", [0])
def test_few_numbers_are_as_many(name, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 1 << 31, 2000, dtype=np.uint32).view(np.float32)
    mantissas = np.array([0, 1, 0x7FFF, 0x8000, 0x7FFFFF], np.uint32)
    edges = (np.arange(1, 254, dtype=np.uint32)[:, None] << 23 | mantissas).view(np.float32)
    x = np.concatenate([x, edges.reshape(-1), AWKWARD])
    function = getattr(arith, name)
    whole = function(x)
    for size in (1, FEW - 1):
        parts = [function(x[first : first + size]) for first in range(0, len(x), size)]
        assert same(np.concatenate(parts), whole), (name, seed, size)


@pytest.mark.parametrize("seed", [1])
def test_few_rows_are_quantised_as_many(seed):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(600, 24)) * 10.0 ** rng.uniform(-44, 38, (600, 1))).astype(np.float32)
    x[::7, 3] = rng.choice(AWKWARD, 86)
    x[5], x[6] = 0, -0.0
    plain = np.flatnonzero(np.abs(x).max(axis=1) < 2.0**126)  # so that many rows take the fast path, too
    many, every = arith.quantize(x[plain]), arith.quantize(x)
    assert all(same(part[plain], alone) for part, alone in zip(every, many, strict=True)), seed
    for index in range(len(x)):
        row = arith.quantize(x[index])
        assert all(same(part[index], alone) for part, alone in zip(every, row, strict=True)), (seed, index)


@pytest.mark.parametrize("seed", [2])
def test_what_lies_behind_the_visible_positions_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    rows, limit = 40, 3000  # more than one step
    scores = (rng.normal(size=(rows, limit)) * 9).astype(np.float32)
    scales = rng.uniform(0.01, 2, limit).astype(np.float32)
    lengths = rng.integers(1, limit - 10, rows)
    lengths[:2] = 1, limit - 11
    hidden = np.arange(limit) >= lengths[:, None]
    want = arith.softmax_weights(np.where(hidden, 0, scores), scales, lengths)
    scores[hidden] = rng.choice(np.concatenate([AWKWARD, SIGNALLING]), np.count_nonzero(hidden))
    scales[-10:] = [np.nan, np.inf, -np.inf, 2.0**-140, 3e38, -1, 0, -0.0, 1, np.nan]
    got = arith.softmax_weights(scores, scales, lengths)
    assert all(same(a, b) for a, b in zip(got, want, strict=True)), seed
    for row in range(rows):
        n = int(lengths[row])
        alone = arith.softmax_weights(scores[row, :n], scales[:n], n)
        assert same(alone.hi, got.hi[row, :n]), (seed, row)
        assert same(alone.lo, got.lo[row, :n]), (seed, row)
        assert same(alone.c1, got.c1[row]), (seed, row)
        assert same(alone.c2, got.c2[row]), (seed, row)
        assert not got.hi[row, n:].any(), (seed, row)
        assert not got.lo[row, n:].any(), (seed, row)


@pytest.mark.parametrize("bits", range(len(SIGNALLING)))
def test_a_signalling_nan_is_ignored_like_any_other(bits):
    x = np.array([1, -3, 2, 0.5, 0], np.float32)
    noisy, quiet = x.copy(), x.copy()
    noisy[2], quiet[2] = SIGNALLING[bits], np.nan
    for got, want in zip(arith.quantize(noisy), arith.quantize(quiet), strict=True):
        assert same(got, want)
    scales = np.ones(5, np.float32)
    got, want = arith.softmax_weights(noisy, scales, 5), arith.softmax_weights(quiet, scales, 5)
    assert all(same(a, b) for a, b in zip(got, want, strict=True))


def test_quiet_switches_warnings_off_and_on_again():
    huge = np.float32(3e38)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with arith.quiet():
            assert np.isinf(arith.mul(huge, huge))
            assert np.isinf(np.multiply(huge, huge))
        assert np.isinf(arith.mul(huge, huge))
        with pytest.raises(RuntimeWarning):
            np.multiply(huge, huge)
        with pytest.raises(ZeroDivisionError), arith.quiet():
            raise ZeroDivisionError
        with pytest.raises(RuntimeWarning):
            np.multiply(huge, huge)
