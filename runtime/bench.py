# SPDX-License-Identifier: Apache-2.0
"""How fast a device runs a program: prefill and decode, measured apart, in host seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass

from catenary.isa.errors import UsageError
from catenary.runtime.engine import Engine, Source


@dataclass(frozen=True)
class BenchResult:
    """Speed of one device.

    Attributes:
        prefill_tokens_per_s: prompt tokens a second.
        decode_tokens_per_s: decode steps a second.
        total_s: seconds of both together.
        source: ``board`` where the host waited for real hardware, else ``wall``: simulating took this long.
    """

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    total_s: float
    source: Source


def bench(engine: Engine, prompt_tokens: int = 32, new_tokens: int = 32) -> BenchResult:
    """Measure ``engine`` on a prompt of arbitrary ids; every decode step is fed an arbitrary id, so no text can end it.

    One short run comes before the measured one, so that nothing is loaded or compiled inside it.

    Args:
        engine: the device with its program.
        prompt_tokens: length of the prompt, at least 1.
        new_tokens: decode steps, at least 1.

    Raises:
        UsageError: a count is below 1, or both together exceed the context.
    """
    for label, count in (("prompt tokens", prompt_tokens), ("new tokens", new_tokens)):
        if count < 1:
            raise UsageError(f"Number of {label} must be at least 1, not {count}")
    if prompt_tokens + new_tokens > engine.max_context:
        raise UsageError(
            f"Prompt and new tokens together must be at most {engine.max_context} (the context), "
            f"not {prompt_tokens + new_tokens}"
        )
    # 7919 is a prime: ids spread over the vocabulary, the same on every device.
    ids = [(7919 * index + 1) % engine.vocab for index in range(prompt_tokens + new_tokens)]
    engine.reset()
    engine.run(ids[:1], 0)
    engine.reset()
    start = time.perf_counter()
    engine.run(ids[:prompt_tokens], 0)
    prefilled = time.perf_counter()
    for position in range(prompt_tokens, prompt_tokens + new_tokens):
        engine.run([ids[position]], position)
    end = time.perf_counter()
    return BenchResult(
        prefill_tokens_per_s=prompt_tokens / (prefilled - start),
        decode_tokens_per_s=new_tokens / (end - prefilled),
        total_s=end - start,
        source="board" if engine.source == "board" else "wall",
    )
