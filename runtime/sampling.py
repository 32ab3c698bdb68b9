# SPDX-License-Identifier: Apache-2.0
"""Choosing the next token from a row of logits, on the host.

Greedy choice is exact: the same logits give the same token anywhere. Sampling computes in float64 and draws from
numpy's PCG64 generator, one draw a token, so the same seed and logits give the same tokens. Between machines whose
float64 ``exp`` differs in the last bit, a token could differ if a draw fell within about 1e-16 of a boundary.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from catenary.isa.errors import ExecutionError, UsageError


class Sampler(Protocol):
    """Chooses a token id from a row of logits."""

    def __call__(self, logits: NDArray[np.float32]) -> int:
        """The token id chosen from ``logits``, float32 [vocab].

        Raises:
            ExecutionError: a logit is NaN.
        """
        ...


class Greedy:
    """The token with the largest logit; the lowest id wins among equals."""

    def __call__(self, logits: NDArray[np.float32]) -> int:
        """See :class:`Sampler`."""
        _refuse_nan(logits)
        return int(np.argmax(logits))


class TopP:
    """Temperature and nucleus sampling (Holtzman et al., arXiv 1904.09751).

    Tokens are ranked by logit, the lowest id first among equals. The shortest ranking whose probability reaches
    ``top_p`` is kept; a token is drawn from it in proportion to the probabilities at the given temperature.
    """

    def __init__(self, temperature: float, top_p: float = 1.0, seed: int = 0) -> None:
        """Start the generator.

        Args:
            temperature: divides the logits; above 0.
            top_p: share of the probability that is kept, in (0, 1].
            seed: of the generator; at least 0.

        Raises:
            UsageError: an argument is out of range.
        """
        if not (temperature > 0 and math.isfinite(temperature)):
            raise UsageError(f"Temperature must be above 0 and finite, not {temperature}")
        _check_sampling(top_p, seed)
        self._temperature = temperature
        self._top_p = top_p
        self._generator = np.random.Generator(np.random.PCG64(seed))

    def __call__(self, logits: NDArray[np.float32]) -> int:
        """See :class:`Sampler`; an infinite largest logit raises ExecutionError as well."""
        _refuse_nan(logits)
        wide = logits.astype(np.float64)
        largest = wide.max()
        if not np.isfinite(largest):
            raise ExecutionError(f"Largest logit must be finite for sampling, not {largest}")
        ranking = np.argsort(-wide, kind="stable")
        weights = np.exp((wide[ranking] - largest) / self._temperature)  # host: float64, chooses a token
        running = np.cumsum(weights)  # host: one after the other, as a cumulative sum must
        kept = min(int(np.searchsorted(running, self._top_p * running[-1])) + 1, len(running))
        draw = self._generator.random() * running[kept - 1]
        return int(ranking[np.searchsorted(running[:kept], draw, side="right")])


def make_sampler(temperature: float = 0.0, top_p: float = 1.0, seed: int = 0) -> Sampler:
    """:class:`Greedy` for temperature 0, else :class:`TopP`.

    Raises:
        UsageError: an argument is out of range.
    """
    if temperature == 0:
        _check_sampling(top_p, seed)
        return Greedy()
    return TopP(temperature, top_p, seed)


def _check_sampling(top_p: float, seed: int) -> None:
    if not 0 < top_p <= 1:
        raise UsageError(f"Top-p must be above 0 and at most 1, not {top_p}")
    if seed < 0:
        raise UsageError(f"Seed must be at least 0, not {seed}")


def _refuse_nan(logits: NDArray[np.float32]) -> None:
    bad = np.flatnonzero(np.isnan(logits))
    if bad.size:
        raise ExecutionError(f"Logits must be numbers, not NaN (as that of token {bad[0]}, and {bad.size - 1} others)")
