# SPDX-License-Identifier: Apache-2.0
"""The two borders between FP32 and integers: dynamic quantisation, and what follows an integer matrix product."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catenary.isa.functions import inverse_constant
from catenary.isa.numbers import ABSMAX_FLOOR, CODE_LIMIT
from catenary.sim.arith.fp32 import F32, add_settled, finish, from_int, multiply_settled, read
from catenary.sim.arith.functions import FEW, reciprocal, reciprocal_normal, reciprocal_number
from catenary.sim.arith.quiet import quietly

INVERSE_CODE_LIMIT: Final = np.float32(inverse_constant(CODE_LIMIT))

_INVERSE: Final = float(INVERSE_CODE_LIMIT)
_ABSMAX_FLOOR: Final = np.float32(ABSMAX_FLOOR)
_CODE_LIMIT: Final = np.array(CODE_LIMIT, np.float32)
_FLUSHED: Final = 2.0**126
"""Reciprocals of larger numbers are subnormal."""


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


@quietly
def quantize(x: ArrayLike) -> Quantized:
    """Dynamic symmetric quantisation of every row of ``x`` [..., n], n >= 1.

    ``absmax`` is the largest magnitude that is not NaN, at least 2**-64. ``scale = absmax * FP32(1/127)``;
    ``codes = rint(x * (127 * reciprocal(absmax)))``, ties to even, clamped to [-127, 127], NaN products 0. A row whose
    absmax exceeds 2**126 (its reciprocal is flushed) gets codes of 0.
    """
    values = np.asarray(x, dtype=np.float32)
    absmax = np.asarray(np.maximum.reduce(np.abs(values), axis=-1))
    if absmax.size <= FEW:
        tops = [max(top, ABSMAX_FLOOR) for top in absmax.ravel().tolist()]
        if not sum(tops) < _FLUSHED:  # a NaN, too
            return _quantize_any(values)
        # Products of two FP32 numbers are exact as Python numbers, so these, too, are rounded once.
        scale = np.array([top * _INVERSE for top in tops], np.float32).reshape(absmax.shape)
        inverse = np.array([reciprocal_number(top) for top in tops], np.float32).reshape(absmax.shape)
    else:
        if not np.maximum.reduce(absmax, axis=None) < _FLUSHED:
            return _quantize_any(values)
        np.maximum(absmax, _ABSMAX_FLOOR, out=absmax)
        scale, inverse = absmax * INVERSE_CODE_LIMIT, reciprocal_normal(absmax)
    inverse *= _CODE_LIMIT
    # So far no operand and no product is subnormal, infinite or NaN: numpy's results are those of the vector unit.
    # Elements and their products with the inverse may be subnormal, but what is below one half gets code 0 anyway. And
    # |product| <= 127 * (1 + 2**-22) before rounding: nothing to clamp.
    product = np.asarray(values * inverse[..., None])
    np.rint(product, out=product)
    return Quantized(product.astype(np.int8), scale, np.zeros(absmax.shape, np.bool_))


def _quantize_any(values: F32) -> Quantized:
    """:func:`quantize` where an absmax may be huge, infinite or NaN."""
    values = values + np.float32(0.0)  # without signalling NaN, which fmax would not ignore
    absmax = np.asarray(np.fmax(np.fmax.reduce(np.abs(values), axis=-1), _ABSMAX_FLOOR))
    scale = multiply_settled(absmax, INVERSE_CODE_LIMIT)
    inverse = multiply_settled(reciprocal(absmax), np.float32(CODE_LIMIT))
    product = np.asarray(values * inverse[..., None])
    np.rint(product, out=product)
    lost = np.isnan(product)
    product[lost] = 0
    np.clip(product, -CODE_LIMIT, CODE_LIMIT, out=product)
    return Quantized(product.astype(np.int8), scale, np.asarray(lost.any(axis=-1)))


@quietly
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
    result = scale_sums(acc, channel_scales, row_scales)
    return result if bias is None else add_settled(result, read(bias))


def scale_sums(acc: NDArray[np.integer], first: ArrayLike, second: ArrayLike) -> F32:
    """``(float(acc) * first) * second[..., None]`` for integers ``acc``."""
    # The first product is 0 or at least as large as a number that was read, so nothing is to be flushed; and a NaN is
    # made canonical at the end.
    scaled = from_int(acc)
    scaled = np.multiply(scaled, read(first))
    return finish(np.multiply(scaled, read(second)[..., None], dtype=np.float32))
