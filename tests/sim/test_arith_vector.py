# SPDX-License-Identifier: Apache-2.0
"""Vector operations against a scalar evaluation of their formulas, and against float64 for sense."""

import math

import numpy as np
import pytest

from catenary.sim import arith

F = np.float32
INF = F(np.inf)


def same(a, b):
    return np.array_equal(np.asarray(a, F).view(np.uint32), np.asarray(b, F).view(np.uint32))


def rows(seed, *shape, scale=3.0):
    return np.random.default_rng(seed).normal(scale=scale, size=shape).astype(F)


def scalar_sum(values):
    partials = [F(-0.0)] * 128
    for i, value in enumerate(values):
        partials[i % 128] = F(partials[i % 128] + value)
    while len(partials) > 1:
        half = len(partials) // 2
        partials = [F(a + b) for a, b in zip(partials[:half], partials[half:], strict=True)]
    return partials[0]


@pytest.mark.parametrize("n", [1, 5, 64, 130, 288])
def test_rms_norm_is_its_formula(n):
    x, weight, eps = rows(n, 3, n), rows(n + 1, n), 1e-5
    got = arith.rms_norm(x, weight, eps)
    for row, out in zip(x, got, strict=True):
        mean = F(scalar_sum([F(v * v) for v in row]) * F(1 / n))
        scale = arith.rsqrt(F(mean + F(eps)))
        assert same(out, [F(F(v * scale) * w) for v, w in zip(row, weight, strict=True)]), n
    wide = x.astype(np.float64)
    wide *= weight / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + eps)
    assert np.abs(got - wide).max() <= 1e-6 * np.abs(wide).max()


@pytest.mark.parametrize("n", [1, 5, 64, 130])
@pytest.mark.parametrize("with_bias", [False, True])
def test_layer_norm_is_its_formula(n, with_bias):
    x, weight, eps = rows(n, 3, n) + F(1), rows(n + 1, n), 1e-5
    bias = rows(n + 2, n) if with_bias else None
    got = arith.layer_norm(x, weight, bias, eps)
    for row, out in zip(x, got, strict=True):
        mean = F(scalar_sum(row) * F(1 / n))
        d = [F(v - mean) for v in row]
        variance = F(scalar_sum([F(v * v) for v in d]) * F(1 / n))
        scale = arith.rsqrt(F(variance + F(eps)))
        want = [F(F(v * scale) * w) for v, w in zip(d, weight, strict=True)]
        if bias is not None:
            want = [F(v + b) for v, b in zip(want, bias, strict=True)]
        assert same(out, want), n
    if n > 1:
        wide = x.astype(np.float64)
        wide = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + eps) * weight
        assert np.abs(got - wide - (0 if bias is None else bias)).max() <= 1e-5


def test_norms_of_zeros_are_zero():
    zero, one = np.zeros((2, 48), F), np.ones(48, F)
    assert same(arith.rms_norm(zero, one, 1e-6), zero)
    assert same(arith.layer_norm(zero, one, None, 1e-6), zero)


X = np.concatenate([np.linspace(-30, 30, 2001, dtype=F), np.array([0.0, -0.0, 1e-38, 1e-45, 1e38, -1e38], F)])


def test_activations_are_their_formulas():
    cube = arith.mul(arith.mul(X, X), X)
    inner = arith.mul(arith.add(X, arith.mul(F(0.044715), cube)), F(math.sqrt(2 / math.pi)))
    half = arith.mul(X, F(0.5))
    one = F(1)
    assert same(arith.silu(X), arith.mul(X, arith.sigmoid(X)))
    assert same(arith.gelu_erf(X), arith.mul(half, arith.add(one, arith.erf(arith.mul(X, F(math.sqrt(0.5)))))))
    assert same(arith.gelu_tanh(X), arith.mul(half, arith.add(one, arith.tanh(inner))))
    cap = F(50)
    assert same(arith.soft_cap(X, 50.0), arith.mul(cap, arith.tanh(arith.mul(X, arith.reciprocal(cap)))))


def test_activations_make_sense():
    x = np.linspace(-8, 8, 4001, dtype=F)
    w = x.astype(np.float64)
    erf = np.array([math.erf(v / math.sqrt(2)) for v in w])
    assert np.abs(arith.silu(x) - w / (1 + np.exp(-w))).max() < 1e-6
    assert np.abs(arith.gelu_erf(x) - w * (1 + erf) / 2).max() < 1e-6
    gate = 1 + np.tanh(math.sqrt(2 / math.pi) * (w + 0.044715 * w**3))
    assert np.abs(arith.gelu_tanh(x) - w * gate / 2).max() < 1e-6
    assert np.abs(arith.soft_cap(x, 3.0) - 3 * np.tanh(w / 3)).max() < 1e-6


def test_relu():
    x = np.array([1, -1, 0.0, -0.0, 1e-45, -1e-45, np.inf, -np.inf, np.nan], F)
    assert same(arith.relu(x), [1, 0.0, 0.0, 0.0, 0.0, 0.0, np.inf, 0.0, np.nan])


@pytest.mark.parametrize("head_dim, rotary", [(2, 2), (64, 64), (80, 32), (48, 24), (16, 0)])
def test_rope_is_its_formula_and_leaves_the_rest_alone(head_dim, rotary):
    half = rotary // 2
    x = rows(head_dim, 5, 3, head_dim)
    angle = np.random.default_rng(3).uniform(0, 6, (5, 1, half))
    cos, sin = np.cos(angle).astype(F), np.sin(angle).astype(F)
    got = arith.rope(x, cos, sin)
    assert got.shape == x.shape
    for t in range(5):
        for h in range(3):
            for i in range(half):
                a, b, c, s = x[t, h, i], x[t, h, half + i], cos[t, 0, i], sin[t, 0, i]
                assert same(got[t, h, i], F(F(a * c) - F(b * s)))
                assert same(got[t, h, half + i], F(F(b * c) + F(a * s)))
    assert same(got[..., rotary:], x[..., rotary:])


def test_rope_refuses_a_rotation_longer_than_the_head():
    with pytest.raises(ValueError, match=r"^Rotated part must be at most head_dim 6, not 8$"):
        arith.rope(np.zeros(6, F), np.ones(4, F), np.zeros(4, F))


@pytest.mark.parametrize("seed", [1, 2])
def test_argmax_and_top_k_against_python(seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-4, 5, (200, 37)).astype(F)  # many ties
    x[rng.random(x.shape) < 0.1] = np.nan
    x[rng.random(x.shape) < 0.1] = -0.0
    x[rng.random(x.shape) < 0.05] = -np.inf
    for row in x:
        order = sorted(range(37), key=lambda i: (math.isnan(row[i]), 0 if math.isnan(row[i]) else -row[i], i))
        assert arith.argmax(row) == order[0], seed
        for k in (1, 5, 37):
            values, indices = arith.top_k(row, k)
            assert indices.tolist() == order[:k], seed
            assert np.array_equal(values, row[order[:k]], equal_nan=True)
    assert np.array_equal(arith.argmax(x), arith.top_k(x, 1)[1][:, 0])


def test_argmax_corner_cases():
    nan = np.nan
    cases = np.array([[nan, -np.inf, nan], [nan, nan, nan], [-0.0, 0.0, -1], [1, 2, 2], [np.inf, nan, np.inf]], F)
    assert arith.argmax(cases).tolist() == [1, 0, 0, 1, 0]
    assert arith.argmax(cases).dtype == np.int64
    assert arith.argmax(cases[0]).shape == ()
    with pytest.raises(ValueError, match=r"^k must be in 1\.\.3, not 4$"):
        arith.top_k(cases, 4)
    with pytest.raises(ValueError, match=r"^k must be in 1\.\.3, not 0$"):
        arith.top_k(cases, 0)
