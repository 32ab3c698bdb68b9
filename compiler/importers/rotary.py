# SPDX-License-Identifier: Apache-2.0
"""Rotary position tables (RoFormer, arXiv 2104.09864), and the two scalings that depend on the frequency alone.

Frequencies and angles are FP32, as in the models' training code; powers, sines and cosines are taken in FP64 and
rounded once, so that a table does not depend on which vector library a machine's numpy uses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catenary.isa.tensors import FloatFormat, FloatTensor


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by ``factor``."""

    factor: float


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's scaling: long wavelengths divided by ``factor``, short ones kept, a linear blend between.

    A wavelength is short below ``original_context / high`` and long above ``original_context / low`` positions.
    """

    factor: float
    low: float
    high: float
    original_context: int


@dataclass(frozen=True)
class Rotary:
    """Rotation of the first ``dim`` channels of every head, with base ``theta``; ``dim`` 0 means none."""

    dim: int
    theta: float
    scaling: LinearScaling | Llama3Scaling | None


def inverse_frequencies(rotary: Rotary) -> NDArray[np.float32]:
    """Angle per position of each pair of channels, float32 [dim / 2]."""
    exponents = np.arange(0, rotary.dim, 2, dtype=np.float32) / np.float32(rotary.dim)
    powers = np.power(rotary.theta, exponents.astype(np.float64)).astype(np.float32)
    frequencies: NDArray[np.float32] = np.float32(1) / powers
    match rotary.scaling:
        case None:
            return frequencies
        case LinearScaling(factor):
            return frequencies / np.float32(factor)
        case Llama3Scaling(factor, low, high, original):
            wavelengths = np.float32(2 * math.pi) / frequencies
            scaled = frequencies / np.float32(factor)
            blend = (np.float32(original) / wavelengths - np.float32(low)) / np.float32(high - low)
            between = (np.float32(1) - blend) * scaled + blend * frequencies
            long, short = wavelengths > original / low, wavelengths < original / high
            return np.where(long, scaled, np.where(short, frequencies, between)).astype(np.float32)


def table(rotary: Rotary, positions: int) -> FloatTensor:
    """F32 tensor [positions, dim]: row ``p`` holds ``dim / 2`` cosines, then as many sines."""
    places = np.arange(positions, dtype=np.float32)
    angles = (places[:, None] * inverse_frequencies(rotary)[None, :]).astype(np.float64)
    rows = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    return FloatTensor(FloatFormat.F32, rows.astype(FloatFormat.F32.dtype))
