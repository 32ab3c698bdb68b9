# SPDX-License-Identifier: Apache-2.0
"""The two borders between FP32 and integers: dynamic quantisation, and what follows an integer matrix product."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catenary.isa.functions import inverse_constant
from catenary.sim.arith.fp32 import F32, add_settled, from_int, multiply_settled, read
from catenary.sim.arith.functions import reciprocal

CODE_LIMIT: Final = 127
"""Largest magnitude of an activation code."""

ABSMAX_FLOOR: Final = np.float32(2.0**-64)
"""Smallest absmax: the reciprocal of a smaller one could meet a zero as 0 * inf."""

INVERSE_CODE_LIMIT: Final = np.float32(inverse_constant(CODE_LIMIT))


class Quantized(NamedTuple):
    """Rows of INT8 codes: ``x`` is about ``codes * scale``.

    Attributes:
        codes: int8 [..., n] in [-127, 127].
        scale: float32 [...].
        nan: bool [...], True where an element of the row had no code (it was NaN, or infinite) and became 0.
    """

    codes: NDArray[np.int8]
    scale: F32
    nan: NDArray[np.bool_]


def quantize(x: ArrayLike) -> Quantized:
    """Dynamic symmetric quantisation of every row of ``x`` [..., n], n >= 1.

    ``absmax`` is the largest magnitude that is not NaN, at least 2**-64. ``scale = absmax * FP32(1/127)``;
    ``codes = rint(x * (127 * reciprocal(absmax)))``, ties to even, clamped to [-127, 127], NaN products 0. A row whose
    absmax exceeds 2**126 (its reciprocal is flushed) gets codes of 0.
    """
    values = np.asarray(x, dtype=np.float32)
    with np.errstate(all="ignore"):
        absmax = np.asarray(np.abs(values).max(axis=-1))
        finite = bool(np.isfinite(absmax).all())
        if not finite:
            absmax = np.asarray(np.fmax.reduce(np.abs(values), axis=-1))
        absmax = np.asarray(np.fmax(absmax, ABSMAX_FLOOR))
        scale = multiply_settled(absmax, INVERSE_CODE_LIMIT)
        inverse = multiply_settled(reciprocal(absmax), np.float32(CODE_LIMIT))
        # Flushing operands or products would change no code: both are far below one half.
        product = np.asarray(values * inverse[..., None])
        np.rint(product, out=product)
        if finite:  # then |product| <= 127 * (1 + 2**-22) before rounding: nothing to clamp
            nan = np.zeros(absmax.shape, np.bool_)
        else:
            lost = np.isnan(product)
            nan = np.asarray(lost.any(axis=-1))
            product[lost] = 0
            np.clip(product, -CODE_LIMIT, CODE_LIMIT, out=product)
        return Quantized(product.astype(np.int8), scale, nan)


def linear_epilogue(
    acc: NDArray[np.int32], channel_scales: ArrayLike, row_scales: ArrayLike, bias: ArrayLike | None = None
) -> F32:
    """``((float(acc) * s_w) * s_a) + bias``.

    Args:
        acc: integer sums [..., R].
        channel_scales: s_w, float32 [R].
        row_scales: s_a, float32 [...], one per row of activations.
        bias: float32 [R], or None (then nothing is added).
    """
    with np.errstate(all="ignore"):
        scaled = multiply_settled(from_int(acc), read(channel_scales))
        result = multiply_settled(scaled, read(row_scales)[..., None])
        return result if bias is None else add_settled(result, read(bias))
