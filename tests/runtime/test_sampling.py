# SPDX-License-Identifier: Apache-2.0
"""Choice of tokens: ties, determinism, distribution, and what is refused."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from catenary.isa.errors import ExecutionError, UsageError
from catenary.runtime.sampling import Greedy, TopP, make_sampler

INF = np.float32(np.inf)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_greedy_takes_the_lowest_of_equals() -> None:
    assert Greedy()(f32(1, 3, 3, 2)) == 1
    assert Greedy()(f32(0.0, -0.0)) == 0
    assert Greedy()(f32(-0.0, 0.0)) == 0
    assert Greedy()(f32(-INF, -INF)) == 0
    assert Greedy()(f32(1)) == 0


def test_temperature_0_is_greedy() -> None:
    assert isinstance(make_sampler(), Greedy)
    assert isinstance(make_sampler(0.0, 0.5, 9), Greedy)
    assert isinstance(make_sampler(0.5), TopP)


@pytest.mark.parametrize("sampler", [Greedy(), TopP(1.0)], ids=["greedy", "top-p"])
def test_nan_is_an_error(sampler: Greedy | TopP) -> None:
    with pytest.raises(ExecutionError, match=r"as that of token 1, and 1 others"):
        sampler(f32(0, np.nan, np.nan))


def test_infinite_logits_cannot_be_sampled() -> None:
    with pytest.raises(ExecutionError, match=r"^Largest logit must be finite for sampling, not inf$"):
        TopP(1.0)(f32(0, INF))
    with pytest.raises(ExecutionError, match=r"not -inf$"):
        TopP(1.0)(f32(-INF, -INF))


def test_impossible_tokens_are_never_drawn() -> None:
    sampler = TopP(5.0, seed=3)
    assert {sampler(f32(-INF, 0, -INF, 0.1)) for _ in range(200)} == {1, 3}


@pytest.mark.parametrize("seed", range(3))
def test_equal_seeds_give_equal_tokens(seed: int) -> None:
    logits = np.random.default_rng(seed).standard_normal((50, 100)).astype(np.float32)
    runs = [[sampler(row) for row in logits] for sampler in (TopP(0.8, 0.9, seed), TopP(0.8, 0.9, seed))]
    assert runs[0] == runs[1], f"seed {seed}"
    assert runs[0] != [TopP(0.8, 0.9, seed + 1)(row) for row in logits], f"seed {seed}"


def test_known_draws_stay_as_they_are() -> None:
    """Programs are compared across machines and releases by what a seed gives."""
    logits = np.linspace(-1, 1, 20, dtype=np.float32)
    sampler = TopP(1.0, 0.95, 7)
    generator = np.random.Generator(np.random.PCG64(7))
    weights = np.exp(np.sort(logits.astype(np.float64))[::-1] - 1)
    kept = int(np.searchsorted(np.cumsum(weights) / weights.sum(), 0.95)) + 1
    running = np.cumsum(weights[:kept])
    for _ in range(50):
        wanted = 19 - int(np.searchsorted(running, generator.random() * running[-1], side="right"))
        assert sampler(logits) == wanted


def test_frequencies_follow_the_probabilities() -> None:
    logits = f32(0, math.log(2), math.log(5))
    sampler, count = TopP(1.0, seed=1), 20_000
    found = np.bincount([sampler(logits) for _ in range(count)], minlength=3) / count
    assert np.abs(found - np.array([1, 2, 5]) / 8).max() < 0.015, "seed 1"


def test_temperature_sharpens() -> None:
    sampler = TopP(0.01, seed=2)
    assert {sampler(f32(0, 0.5, 1)) for _ in range(100)} == {2}


def test_top_p_keeps_the_shortest_sufficient_ranking() -> None:
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3])).astype(np.float32)
    for top_p, wanted in ((1e-9, {1}), (0.35, {1}), (0.6, {1, 3}), (0.85, {1, 2, 3}), (1.0, {0, 1, 2, 3})):
        sampler = TopP(1.0, top_p, seed=4)
        assert {sampler(logits) for _ in range(300)} == wanted, top_p


def test_top_p_prefers_the_lowest_id_among_equals() -> None:
    assert {TopP(1.0, 0.4, seed)(f32(1, 1, 1)) for seed in range(60)} == {0, 1}


BAD = {
    "temperature": ((-1.0, 1.0, 0), "Temperature must be above 0 and finite, not -1.0"),
    "nan": ((math.nan, 1.0, 0), "Temperature must be above 0 and finite, not nan"),
    "infinite": ((math.inf, 1.0, 0), "Temperature must be above 0 and finite, not inf"),
    "top-p-0": ((1.0, 0.0, 0), "Top-p must be above 0 and at most 1, not 0.0"),
    "top-p-nan": ((0.0, math.nan, 0), "Top-p must be above 0 and at most 1, not nan"),
    "top-p-large": ((0.0, 1.5, 0), "Top-p must be above 0 and at most 1, not 1.5"),
    "seed": ((1.0, 1.0, -1), "Seed must be at least 0, not -1"),
}


@pytest.mark.parametrize("arguments, message", BAD.values(), ids=BAD.keys())
def test_bad_arguments_are_refused(arguments: tuple[float, float, int], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        make_sampler(*arguments)
