# SPDX-License-Identifier: Apache-2.0
"""Normalisations, activations and rotary embedding, each a fixed sequence of rounded FP32 operations.

Arrays are float32; the last axis is the vector and leading axes are batch. A formula in a docstring is the definition:
every operator in it rounds and flushes as :mod:`catenary.sim.arith.fp32` says, in the order that the brackets give.
``FP32(...)`` is a constant, rounded to nearest.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from catenary.isa.functions import inverse_constant
from catenary.sim.arith import functions
from catenary.sim.arith.fp32 import F32, add_settled, finish, multiply_settled, read, read_number, sum_settled
from catenary.sim.arith.quiet import quietly

SQRT_HALF: Final = np.float32(0.7071067811865476)
"""FP32(1/sqrt(2))."""

SQRT_2_OVER_PI: Final = np.float32(0.7978845608028654)
"""FP32(sqrt(2/pi))."""

GELU_CUBIC: Final = np.float32(0.044715)
HALF: Final = np.float32(0.5)
ONE: Final = np.float32(1.0)


def _row_mean(x: F32, nonnegative: bool = False) -> F32:
    """``canonical_sum(x) * FP32(1/n)`` over the last axis [..., n], as [..., 1]."""
    n = x.shape[-1]
    total = sum_settled(x.reshape(-1, n), nonnegative=nonnegative).reshape(*x.shape[:-1], 1)
    return multiply_settled(total, np.float32(inverse_constant(n)))


@quietly
def rms_norm(x: ArrayLike, weight: ArrayLike, eps: float) -> F32:
    """``(x * rsqrt(sum(x * x) * FP32(1/n) + eps)) * weight`` for x [..., n], weight [n] (Zhang, arXiv 1910.07467)."""
    values = read(x)
    mean_square = _row_mean(multiply_settled(values, values), nonnegative=True)
    scale = functions.rsqrt(add_settled(mean_square, read_number(eps)))
    return multiply_settled(multiply_settled(values, scale), read(weight))


@quietly
def layer_norm(x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None, eps: float) -> F32:
    """``(d * rsqrt(sum(d * d) * FP32(1/n) + eps)) * weight + bias`` with ``d = x - sum(x) * FP32(1/n)``.

    x [..., n], weight [n], bias [n] or None (then nothing is added). Ba et al., arXiv 1607.06450.
    """
    values = read(x)
    difference = add_settled(values, -_row_mean(values))
    variance = _row_mean(multiply_settled(difference, difference), nonnegative=True)
    scale = functions.rsqrt(add_settled(variance, read_number(eps)))
    result = multiply_settled(multiply_settled(difference, scale), read(weight))
    return result if bias is None else add_settled(result, read(bias))


@quietly
def silu(x: ArrayLike) -> F32:
    """``x * sigmoid(x)``. silu(-inf) is NaN (-inf * 0)."""
    values = read(x)
    return multiply_settled(values, functions.sigmoid(values))


@quietly
def gelu_erf(x: ArrayLike) -> F32:
    """``(0.5 * x) * (1 + erf(x * FP32(1/sqrt(2))))`` (Hendrycks and Gimpel, arXiv 1606.08415)."""
    values = read(x)
    gate = add_settled(functions.erf(multiply_settled(values, SQRT_HALF)), ONE)
    return multiply_settled(multiply_settled(values, HALF), gate)


@quietly
def gelu_tanh(x: ArrayLike) -> F32:
    """``(0.5 * x) * (1 + tanh(FP32(sqrt(2/pi)) * (x + FP32(0.044715) * ((x * x) * x))))`` (arXiv 1606.08415)."""
    values = read(x)
    cube = multiply_settled(multiply_settled(values, values), values)
    inner = multiply_settled(add_settled(values, multiply_settled(cube, GELU_CUBIC)), SQRT_2_OVER_PI)
    gate = add_settled(functions.tanh(inner), ONE)
    return multiply_settled(multiply_settled(values, HALF), gate)


@quietly
def relu(x: ArrayLike) -> F32:
    """x where x > 0, else +0; NaN stays NaN, so that quantisation can still report it."""
    values = read(x)
    return finish(np.where(values <= 0, np.float32(0.0), values))


@quietly
def soft_cap(x: ArrayLike, cap: float) -> F32:
    """``cap * tanh(x * reciprocal(cap))`` (Gemma 2, arXiv 2408.00118, section 2)."""
    limit = read_number(cap)
    inner = multiply_settled(read(x), functions.reciprocal(limit))
    return multiply_settled(limit, functions.tanh(inner))


@quietly
def rope(x: ArrayLike, cos: ArrayLike, sin: ArrayLike) -> F32:
    """Rotary position embedding in half-split order (Su et al., arXiv 2104.09864; halves as in GPT-NeoX).

    With h = cos.shape[-1], element i < h pairs with element h + i: ``(x1 * c) - (x2 * s)`` and ``(x2 * c) + (x1 * s)``.
    Elements from 2 * h on pass through.

    Args:
        x: [..., head_dim].
        cos, sin: [..., h] with 2 * h <= head_dim; leading axes broadcast with those of ``x``.

    Raises:
        ValueError: the rotated part is longer than the head.
    """
    values, c, s = read(x), read(cos), read(sin)
    half = c.shape[-1]
    if 2 * half > values.shape[-1]:
        raise ValueError(f"Rotated part must be at most head_dim {values.shape[-1]}, not {2 * half}")
    halves = values[..., : 2 * half].reshape(*values.shape[:-1], 2, half)
    by_cos, by_sin = multiply_settled(halves, c[..., None, :]), multiply_settled(halves, s[..., None, :])
    out = np.empty((*by_cos.shape[:-2], values.shape[-1]), np.float32)
    np.subtract(by_cos[..., 0, :], by_sin[..., 1, :], out=out[..., :half])
    np.add(by_cos[..., 1, :], by_sin[..., 0, :], out=out[..., half : 2 * half])
    finish(out[..., : 2 * half])
    out[..., 2 * half :] = np.asarray(x, np.float32)[..., 2 * half :]  # their bits, as in memory
    return out
