# SPDX-License-Identifier: Apache-2.0
"""The benchmark runs what it says, and refuses what does not fit."""

from __future__ import annotations

import pytest

from catenary.isa.errors import UsageError
from catenary.runtime.bench import bench
from tests.runtime.fake_engine import FakeEngine


def test_it_runs_the_prompt_at_once_and_then_token_by_token() -> None:
    engine = FakeEngine(vocab=5, max_context=8)
    result = bench(engine, prompt_tokens=5, new_tokens=3)
    assert [(len(ids), position) for ids, position in engine.calls] == [(1, 0), (5, 0), (1, 5), (1, 6), (1, 7)]
    assert all(0 <= token < 5 for ids, _ in engine.calls for token in ids)
    assert result.source == "wall"
    assert result.prefill_tokens_per_s > 0
    assert result.decode_tokens_per_s > 0
    assert result.total_s == pytest.approx(5 / result.prefill_tokens_per_s + 3 / result.decode_tokens_per_s)


def test_only_a_board_gives_board_figures() -> None:
    engine = FakeEngine()
    engine.source = "rtl"
    assert bench(engine, 1, 1).source == "wall"
    engine.source = "board"
    assert bench(engine, 1, 1).source == "board"


@pytest.mark.parametrize("prompt, new", [(0, 1), (1, 0), (-1, 1)])
def test_counts_below_one_are_refused(prompt: int, new: int) -> None:
    with pytest.raises(UsageError, match="must be at least 1, not"):
        bench(FakeEngine(), prompt, new)


def test_more_than_the_context_is_refused() -> None:
    with pytest.raises(UsageError, match=r"must be at most 16 \(the context\), not 17$"):
        bench(FakeEngine(), 16, 1)
