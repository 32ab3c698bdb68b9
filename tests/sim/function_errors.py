# SPDX-License-Identifier: Apache-2.0
"""Errors of the function unit in units of the last place, measured against float64."""

import math

import numpy as np

from catenary.sim import arith

TINY = 2.0**-126
LARGEST = float(np.finfo(np.float32).max)


def _sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


REFERENCES = {
    "exp": np.exp,
    "reciprocal": lambda x: 1.0 / x,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "erf": lambda x: np.fromiter(map(math.erf, x.ravel()), np.float64, x.size).reshape(x.shape),
}

# Largest errors over every FP32 argument, rounded up; test_arith_exhaustive.py measures them.
MAX_ULP = {"exp": 0.73, "reciprocal": 0.57, "rsqrt": 0.63, "tanh": 0.69, "sigmoid": 1.12, "erf": 0.70}


def ulp_errors(name, x):
    """Errors of ``arith.name`` at those of ``x`` that are normal numbers with a normal true result.

    One unit is the spacing of FP32 numbers in the binade of the true result.
    """
    x = x[np.isfinite(x) & (np.abs(x) >= TINY)]
    if name == "rsqrt":
        x = np.abs(x)
    with np.errstate(all="ignore"):
        true = np.abs(REFERENCES[name](x.astype(np.float64)))
        got = np.abs(getattr(arith, name)(x).astype(np.float64))
        inside = (true >= TINY) & (true <= LARGEST)
        # The exponent field of a float64 is a cheap and exact floor(log2).
        unit = ((true.view(np.int64) >> 52) - 23 << 52).view(np.float64)
        return (np.abs(got - true) / unit)[inside]


def edges():
    """Positive numbers at, just below and just above every table interval, in every binade, and some in between."""
    fields = np.arange(1, 255, dtype=np.int64)[:, None] << 23
    starts = (fields + (np.arange(512, dtype=np.int64) << 14)).reshape(-1)
    bits = np.concatenate([starts, starts - 1, starts + 1, starts + 0x1555])
    uniform = np.arange(1, 128 * 256, dtype=np.float32) / np.float32(256)  # edges of the tables in fixed point
    octave = np.arange(1, 40000, dtype=np.float64) / 256 / math.log2(math.e)  # edges of the exp2 table
    extra = np.concatenate([uniform, octave.astype(np.float32)]).view(np.int32).astype(np.int64)
    bits = np.concatenate([bits, extra - 1, extra, extra + 1])
    return bits[(bits >= 0x00800000) & (bits < 0x7F800000)].astype(np.uint32).view(np.float32)
