# SPDX-License-Identifier: Apache-2.0
"""Generation on an engine whose logits are known: what is run where, when it stops, what it reports."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest

from catenary.isa.errors import ExecutionError, UsageError
from catenary.runtime.generate import generate, stream
from catenary.runtime.sampling import make_sampler
from tests.runtime.fake_engine import FakeEngine

PROMPT = [3, 1, 4]


def test_greedy_tokens_hash_and_positions() -> None:
    engine = FakeEngine(script=[0, 0, 0, 7, 8, 9])
    result = generate(engine, PROMPT, max_new_tokens=3)
    assert result.ids == (7, 8, 9)
    assert result.stop_reason == "length"
    assert engine.calls == [(PROMPT, 0), ([7], 3), ([8], 4)]
    rows = [engine.row(4, 2), engine.row(7, 3), engine.row(8, 4)]
    assert result.logits_sha256 == hashlib.sha256(b"".join(row.astype("<f4").tobytes() for row in rows)).hexdigest()
    assert result.timings.prefill_s > 0
    assert result.timings.decode_s > 0


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
def test_prefill_chunks_change_nothing_but_the_calls(chunk: int) -> None:
    whole, parts, seen = FakeEngine(), FakeEngine(), []
    first = generate(whole, PROMPT, 4)
    second = generate(parts, PROMPT, 4, prefill_chunk=chunk, on_prefill=seen.append)
    assert (first.ids, first.logits_sha256) == (second.ids, second.logits_sha256)
    pieces = [ids for ids, position in parts.calls if position < len(PROMPT)]
    assert [token for piece in pieces for token in piece] == PROMPT
    assert all(len(piece) <= chunk for piece in pieces)
    assert seen[-1] == len(PROMPT)


def test_eos_stops_and_is_among_the_ids() -> None:
    engine = FakeEngine(script=[0, 0, 0, 7, 2, 9])
    result = generate(engine, PROMPT, 5, eos_ids=(2, 31))
    assert (result.ids, result.stop_reason) == ((7, 2), "eos")


def test_eos_can_be_ignored() -> None:
    engine = FakeEngine(script=[0, 0, 0, 7, 2, 9])
    result = generate(engine, PROMPT, 3, eos_ids=(2,), ignore_eos=True)
    assert (result.ids, result.stop_reason) == ((7, 2, 9), "length")


def test_eos_as_the_last_token_wanted_counts_as_eos() -> None:
    engine = FakeEngine(script=[0, 0, 0, 2])
    assert generate(engine, PROMPT, 1, eos_ids=(2,)).stop_reason == "eos"


def test_context_is_filled_and_one_more_token_chosen() -> None:
    engine = FakeEngine(max_context=5)
    result = generate(engine, PROMPT, 100)
    assert (len(result.ids), result.stop_reason) == (3, "context")
    assert engine.position == 5


def test_prompt_as_long_as_the_context_gives_one_token() -> None:
    engine = FakeEngine(max_context=3)
    result = generate(engine, PROMPT, 100)
    assert (len(result.ids), result.stop_reason) == (1, "context")
    assert engine.calls == [(PROMPT, 0)]


def test_length_wins_where_length_and_context_coincide() -> None:
    assert generate(FakeEngine(max_context=5), PROMPT, 3).stop_reason == "length"


def test_stream_yields_what_generate_returns() -> None:
    steps, seen = stream(FakeEngine(), PROMPT, 4), []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            result = end.value
            break
    told: list[int] = []
    whole = generate(FakeEngine(), PROMPT, 4, on_token=told.append)
    assert tuple(seen) == result.ids == whole.ids == tuple(told)
    assert result.logits_sha256 == whole.logits_sha256


def test_nothing_runs_for_a_token_that_nobody_asks_for() -> None:
    engine = FakeEngine()
    steps = stream(engine, PROMPT, 4)
    assert engine.calls == []
    next(steps)
    assert engine.calls == [(PROMPT, 0)]


def test_two_runs_on_one_engine_are_alike() -> None:
    engine = FakeEngine()
    first, second = (generate(engine, PROMPT, 4) for _ in range(2))
    assert (first.ids, first.logits_sha256) == (second.ids, second.logits_sha256)
    assert engine.resets == 2


def test_seed_decides_sampled_text() -> None:
    runs = [generate(FakeEngine(), PROMPT, 10, make_sampler(1.0, 0.9, seed)).ids for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


BAD_PROMPTS = {
    "empty": ([], "Prompt must have at least 1 token, not 0"),
    "long": ([1] * 17, "Prompt must have at most 16 tokens (the context), not 17"),
    "outside": ([1, 32], "Prompt token 1 must be in 0..31 (the vocabulary), not 32"),
    "negative": ([-1], "Prompt token 0 must be in 0..31 (the vocabulary), not -1"),
}


@pytest.mark.parametrize("ids, message", BAD_PROMPTS.values(), ids=BAD_PROMPTS.keys())
def test_bad_prompts_are_refused_before_anything_runs(ids: list[int], message: str) -> None:
    engine = FakeEngine()
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        stream(engine, ids, 1)
    assert engine.calls == []


def test_bad_counts_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^Number of new tokens must be at least 1, not 0$"):
        generate(FakeEngine(), PROMPT, 0)
    with pytest.raises(UsageError, match=r"^Prefill chunk must be at least 1 token, not 0$"):
        generate(FakeEngine(), PROMPT, 1, prefill_chunk=0)


def test_nan_logits_are_an_error() -> None:
    class Broken(FakeEngine):
        def row(self, token: int, position: int) -> np.ndarray:
            row = super().row(token, position)
            row[5] = np.nan if position == 3 else row[5]
            return row

    with pytest.raises(ExecutionError, match="token 5"):
        generate(Broken(), PROMPT, 4)


def test_engine_closes_when_its_context_ends() -> None:
    engine = FakeEngine()
    with pytest.raises(UsageError), engine:
        generate(engine, [], 1)
    assert engine.closed == 1
