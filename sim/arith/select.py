# SPDX-License-Identifier: Apache-2.0
"""Argmax and top-k over the last axis: the lowest index wins ties, NaN never wins."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from catenary.sim.arith.fp32 import F32, order_key, read
from catenary.sim.arith.quiet import quietly


def _rank_key(x: F32) -> NDArray[np.int32]:
    """An int32 that compares like the numbers do: -0.0 equals +0.0, and NaN is below -inf."""
    return order_key(x + np.float32(0.0))  # -0.0 + 0.0 is +0.0


@quietly
def argmax(x: ArrayLike) -> NDArray[np.int64]:
    """Index of the largest element of each row of ``x`` [..., n], as [...].

    Elements compare as numbers (-0.0 equals +0.0). Of equal ones the lowest index wins; NaN never wins, and a row of
    NaN alone gives 0.
    """
    values = read(x)
    winner = np.asarray(values.argmax(axis=-1))
    if np.isnan(np.take_along_axis(values, winner[..., None], axis=-1)).any():  # numpy lets the first NaN win
        winner = np.asarray(_rank_key(values).argmax(axis=-1))
    return winner.astype(np.int64)


@quietly
def top_k(x: ArrayLike, k: int) -> tuple[F32, NDArray[np.int64]]:
    """The ``k`` largest elements of each row of ``x`` [..., n] in descending order: values and indices, [..., k].

    Order and ties are those of repeated :func:`argmax`: equal elements come in ascending index, NaN last.

    Raises:
        ValueError: k outside 1..n.
    """
    values = read(x)
    n = values.shape[-1]
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1..{n}, not {k}")
    # One unique integer per element, the value above and the reversed index below, makes every order a plain sort.
    low_bits = np.int64(0xFFFFFFFF)
    keys = (_rank_key(values).astype(np.int64) << 32) | (n - 1 - np.arange(n, dtype=np.int64))
    best = np.sort(np.partition(keys, n - k, axis=-1)[..., n - k :], axis=-1)[..., ::-1]
    indices = n - 1 - (best & low_bits)
    return np.take_along_axis(values, indices, axis=-1), indices
