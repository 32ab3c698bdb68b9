# SPDX-License-Identifier: Apache-2.0
"""Text generation: prefill the prompt, then decode token by token until there is a reason to stop."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from catenary.isa.errors import UsageError
from catenary.runtime.engine import Engine
from catenary.runtime.sampling import Greedy, Sampler

StopReason = Literal["eos", "length", "context"]
"""An end-of-sequence token, as many tokens as were asked for, or no position left in the context."""


@dataclass(frozen=True)
class Timings:
    """Host seconds.

    Attributes:
        prefill_s: from the start until the logits of the prompt's last token.
        decode_s: from then to the end, sampling included.
    """

    prefill_s: float
    decode_s: float


@dataclass(frozen=True)
class Generation:
    """What :func:`generate` made.

    Attributes:
        ids: the generated tokens only, including a stopping end-of-sequence token.
        stop_reason: why there are no more.
        logits_sha256: over little-endian FP32 rows, one a generated token: the row that it was chosen from.
        timings: host seconds.
    """

    ids: tuple[int, ...]
    stop_reason: StopReason
    logits_sha256: str
    timings: Timings


def check_prompt(ids: Sequence[int], vocab: int, max_context: int) -> None:
    """Check that a prompt can be run.

    Raises:
        UsageError: it is empty, longer than the context, or holds an id outside the vocabulary.
    """
    if not ids:
        raise UsageError("Prompt must have at least 1 token, not 0")
    if len(ids) > max_context:
        raise UsageError(f"Prompt must have at most {max_context} tokens (the context), not {len(ids)}")
    for index, token in enumerate(ids):
        if not 0 <= token < vocab:
            raise UsageError(f"Prompt token {index} must be in 0..{vocab - 1} (the vocabulary), not {token}")


def stream(
    engine: Engine,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    sampler: Sampler | None = None,
    eos_ids: Collection[int] = (),
    ignore_eos: bool = False,
    prefill_chunk: int | None = None,
    on_prefill: Callable[[int], None] | None = None,
) -> Generator[int, None, Generation]:
    """Generate token by token.

    The arguments are those of :func:`generate`, and are checked at the call, not at the first token.

    Yields:
        Each token as soon as it is chosen.

    Returns:
        The whole generation, as the value of the generator's ``StopIteration``.
    """
    prompt = list(prompt_ids)
    check_prompt(prompt, engine.vocab, engine.max_context)
    if max_new_tokens < 1:
        raise UsageError(f"Number of new tokens must be at least 1, not {max_new_tokens}")
    if prefill_chunk is not None and prefill_chunk < 1:
        raise UsageError(f"Prefill chunk must be at least 1 token, not {prefill_chunk}")
    stops = frozenset() if ignore_eos else frozenset(eos_ids)
    return _stream(engine, prompt, max_new_tokens, sampler or Greedy(), stops, prefill_chunk, on_prefill)


def _stream(
    engine: Engine,
    prompt: list[int],
    max_new_tokens: int,
    sampler: Sampler,
    stops: frozenset[int],
    prefill_chunk: int | None,
    on_prefill: Callable[[int], None] | None,
) -> Generator[int, None, Generation]:
    digest = hashlib.sha256()
    ids: list[int] = []
    start = time.perf_counter()
    engine.reset()
    row = _prefill(engine, prompt, prefill_chunk or len(prompt), on_prefill)
    prefilled = time.perf_counter()
    while True:
        token = sampler(row)
        digest.update(row.astype("<f4").tobytes())
        ids.append(token)
        yield token
        reason = _stop_reason(token, stops, len(ids), max_new_tokens, len(prompt), engine.max_context)
        if reason is not None:
            timings = Timings(prefilled - start, time.perf_counter() - prefilled)
            return Generation(tuple(ids), reason, digest.hexdigest(), timings)
        row = engine.run([token], len(prompt) + len(ids) - 1)[-1]


def _prefill(
    engine: Engine, prompt: list[int], chunk: int, on_prefill: Callable[[int], None] | None
) -> NDArray[np.float32]:
    rows = np.empty((0, engine.vocab), np.float32)
    for position in range(0, len(prompt), chunk):
        part = prompt[position : position + chunk]
        rows = engine.run(part, position)
        if on_prefill is not None:
            on_prefill(position + len(part))
    last: NDArray[np.float32] = rows[-1]
    return last


def _stop_reason(
    token: int, stops: frozenset[int], generated: int, wanted: int, prompt: int, max_context: int
) -> StopReason | None:
    if token in stops:
        return "eos"
    if generated == wanted:
        return "length"
    # The newest token has no position yet: it would take prompt + generated - 1.
    if prompt + generated > max_context:
        return "context"
    return None


def generate(
    engine: Engine,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    sampler: Sampler | None = None,
    eos_ids: Collection[int] = (),
    ignore_eos: bool = False,
    prefill_chunk: int | None = None,
    on_token: Callable[[int], None] | None = None,
    on_prefill: Callable[[int], None] | None = None,
) -> Generation:
    """Continue a prompt.

    The engine is reset first. A context of C positions holds a prompt of P tokens and C - P generated ones; one more
    token can be chosen from the last position's logits, and then generation stops with reason ``context``.

    Args:
        engine: the device with its model.
        prompt_ids: at least one token id.
        max_new_tokens: at least 1.
        sampler: how a token is chosen; greedy by default.
        eos_ids: tokens that end the sequence.
        ignore_eos: go on after them.
        prefill_chunk: the prompt is run in pieces of so many tokens; in one by default.
        on_token: called with every token as soon as it is chosen.
        on_prefill: called with the number of prompt tokens done, after each piece.

    Raises:
        UsageError: a bad prompt (see :func:`check_prompt`) or count.
        ExecutionError: the logits hold a NaN, or the program broke a rule.
    """
    steps = stream(engine, prompt_ids, max_new_tokens, sampler, eos_ids, ignore_eos, prefill_chunk, on_prefill)
    while True:
        try:
            token = next(steps)
        except StopIteration as end:
            result: Generation = end.value
            return result
        if on_token is not None:
            on_token(token)
