# SPDX-License-Identifier: Apache-2.0
"""Attention arithmetic: formulas, masked positions, independence of chunks, and the error that 14-bit weights leave."""

import numpy as np
import pytest

from catenary.sim import arith

F = np.float32


def same(a, b):
    return np.array_equal(np.asarray(a, F).view(np.uint32), np.asarray(b, F).view(np.uint32))


def case(seed, *shape, spread=4.0):
    rng = np.random.default_rng(seed)
    return rng.normal(scale=spread, size=shape).astype(F), rng.uniform(0.001, 0.1, shape).astype(F)


def slow_weights(scores, scales):
    """One row, all positions visible, step by step."""
    top = max(scores)
    u = np.array([arith.exp(arith.sub(s, top)) for s in scores], F)
    e = np.array([arith.mul(a, b) for a, b in zip(u, scales, strict=True)], F)
    mx = max(F(2.0**-64), *e)
    factor = arith.mul(F(16383), arith.reciprocal(mx))
    p = [min(max(round(float(arith.mul(v, factor))), 0), 16383) for v in e]
    return [v >> 7 for v in p], [v & 127 for v in p], F(mx * F(1 / 16383)), arith.reciprocal(arith.canonical_sum(u))


@pytest.mark.parametrize("n", [1, 2, 3, 128, 129, 300])
def test_one_row_against_the_steps(n):
    scores, scales = case(n, n)
    hi, lo, c1, c2 = arith.softmax_weights(scores, scales, n)
    want = slow_weights(scores, scales)
    assert hi.dtype == lo.dtype == np.int8
    assert hi.tolist() == want[0], n
    assert lo.tolist() == want[1], n
    assert same(c1, want[2])
    assert same(c2, want[3])
    assert hi.max() == 127


@pytest.mark.parametrize("shape", [(1, 1, 40), (6, 3, 200), (50, 4, 700), (3, 40_000)])
def test_a_row_does_not_depend_on_the_rows_and_positions_around_it(shape):
    scores, scales = case(shape[-1], *shape)
    lengths = np.random.default_rng(1).integers(1, shape[-1] + 1, shape[:-1])
    garbage = np.arange(shape[-1]) >= lengths[..., None]
    scores[garbage] = np.nan
    scales[garbage] = np.inf
    hi, lo, c1, c2 = arith.softmax_weights(scores, scales, lengths)
    assert not hi[garbage].any()
    assert not lo[garbage].any()
    for index in np.ndindex(*shape[:-1]):
        n = lengths[index]
        alone = arith.softmax_weights(scores[index][:n], scales[index][:n], n)
        assert np.array_equal(hi[index][:n], alone.hi), index
        assert np.array_equal(lo[index][:n], alone.lo), index
        assert same(c1[index], alone.c1)
        assert same(c2[index], alone.c2)


@pytest.mark.parametrize("chunk", [1, 5, 16, 37])
def test_prefill_chunks_equal_decode(chunk):
    tokens, heads = 37, 3
    scores, scales = case(2, tokens, heads, tokens)
    scales = scales[:1]  # V's scale belongs to the position, not to the query
    for first in range(0, tokens, chunk):
        rows = np.arange(first, min(first + chunk, tokens))
        end = rows[-1] + 1
        whole = arith.softmax_weights(scores[rows][..., :end], scales[..., :end], rows[:, None] + 1)
        for i, t in enumerate(rows):
            one = arith.softmax_weights(scores[t : t + 1, :, : t + 1], scales[..., : t + 1], t + 1)
            assert np.array_equal(whole.hi[i, :, : t + 1], one.hi[0])
            assert np.array_equal(whole.lo[i, :, : t + 1], one.lo[0])
            assert same(whole.c1[i], one.c1[0])
            assert same(whole.c2[i], one.c2[0])


def test_equal_scores_and_extreme_scores():
    hi, lo, c1, c2 = arith.softmax_weights(np.zeros(4, F), np.ones(4, F), 4)
    assert (hi.tolist(), lo.tolist()) == ([127] * 4, [127] * 4)
    assert c2 == 0.25
    assert c1 == F(1 / 16383)
    hi, lo, _, c2 = arith.softmax_weights(np.array([-1e30, 3e38, -3e38], F), np.ones(3, F), 3)
    assert (hi.tolist(), lo.tolist(), c2) == ([0, 127, 0], [0, 127, 0], 1)
    hi, lo, c1, _ = arith.softmax_weights(np.zeros(2, F), np.zeros(2, F), 2)  # V is all zero
    assert not hi.any()
    assert not lo.any()
    assert c1 == arith.mul(F(2.0**-64), F(1 / 16383))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_score_shows_in_the_result(bad):
    weights = arith.softmax_weights(np.array([1, bad, 2], F), np.ones(3, F), 3)
    zero = np.zeros(2, np.int32)
    assert np.isnan(weights.c2)
    assert np.isnan(arith.merge_parts(zero, zero, weights.c1, weights.c2)).all()


@pytest.mark.parametrize("lengths, shown", [(0, r"0\.\.0"), (5, r"5\.\.5"), ([[1], [9]], r"1\.\.9")])
def test_lengths_out_of_range_are_refused(lengths, shown):
    with pytest.raises(ValueError, match=rf"^Visible length must be in 1\.\.4, not {shown}$"):
        arith.softmax_weights(np.zeros((2, 1, 4), F), np.ones(4, F), lengths)


def test_attention_scores_and_merge_are_their_formulas():
    rng = np.random.default_rng(3)
    acc = rng.integers(-(2**22), 2**22, (2, 3, 5)).astype(np.int32)
    s_k, s_q, scale = rng.random(5).astype(F), rng.random((2, 3)).astype(F), 0.125
    got = arith.attention_scores(acc, s_k, s_q, scale)
    hi, lo = acc, acc[::-1] >> 3
    c1, c2 = rng.random((2, 3)).astype(F), rng.random((2, 3)).astype(F)
    merged = arith.merge_parts(hi, lo, c1, c2)
    for i, j, t in np.ndindex(2, 3, 5):
        assert same(got[i, j, t], F(F(F(acc[i, j, t]) * s_k[t]) * F(s_q[i, j] * F(scale))))
        total = F(F(F(hi[i, j, t]) * F(128)) + F(lo[i, j, t]))
        assert same(merged[i, j, t], F(F(total * c1[i, j]) * c2[i, j]))


@pytest.mark.parametrize("n", [16, 512, 4096])
def test_the_output_is_close_to_exact_softmax(n):
    rng = np.random.default_rng(n)
    scores, scales = case(n, 8, n, spread=1.5)
    v = rng.integers(-127, 128, (n, 64)).astype(np.int8)
    weights = arith.softmax_weights(scores, scales[:1], n)
    columns = np.ascontiguousarray(v.T)
    out = arith.merge_parts(
        arith.integer_matmul(weights.hi, columns), arith.integer_matmul(weights.lo, columns), weights.c1, weights.c2
    )
    p = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
    want = (p / p.sum(-1, keepdims=True)) @ (v * scales[0].astype(np.float64)[:, None])
    assert np.sqrt(((out - want) ** 2).mean() / (want**2).mean()) < 0.01
