# SPDX-License-Identifier: Apache-2.0
"""Speed, size and quality of the trained model stories260K on the simulator; quality beside that of the FP32 graph."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import catenary
from benchmarks.speed import data_dir, note, record_program, record_speed

COMMAND = "python -m benchmarks.bench_stories"
MODEL = "stories260K"
TEXT = "tinystories_train_2MiB.txt"
SCORED_TOKENS = 20_000
FORMS: dict[str, dict[str, Any]] = {"w8": {"weight_bits": 8}, "w4_g16": {"weight_bits": 4, "group_size": 16}}
"""Options of the compiler by the label of the figures."""


def main() -> None:
    """Measure all forms, or say that there is no data."""
    data = data_dir()
    if data is None:
        print("  no data set (CATENARY_DATA): nothing of stories260K is measured")
        return
    yardstick = _perplexity(data, catenary.load(data / MODEL), "graph_fp32.eval")
    for label, options in FORMS.items():
        started = time.perf_counter()
        program = catenary.compile(data / MODEL, **options)
        record_program(program, time.perf_counter() - started, label, MODEL, COMMAND)
        if label == "w8":
            record_speed(program, MODEL, COMMAND)
        perplexity = _perplexity(data, program, f"iss.eval.{label}")
        note(f"iss.eval.{label}.ppl_ratio.{MODEL}", perplexity / yardstick, "fraction", "wall", COMMAND)


def _perplexity(data: Path, source: Any, name: str) -> float:  # noqa: ANN401 - a program or a model
    """Record perplexity and speed of ``source`` on its default device; return the perplexity."""
    tokenizer = catenary.tokenizer(source)
    if tokenizer is None:
        raise SystemExit(f"Model {MODEL} must have a tokenizer")
    text = (data / "text" / TEXT).read_text(encoding="utf-8")
    with catenary.open_device(None, source) as engine:
        result = catenary.evaluate(engine, tokenizer, text, max_tokens=SCORED_TOKENS)
    note(f"{name}.ppl.{MODEL}", result.perplexity, "perplexity", "wall", COMMAND)
    note(f"{name}.tokens_per_s.{MODEL}", result.tokens / result.seconds, "tokens/s", "wall", COMMAND)
    return result.perplexity


if __name__ == "__main__":
    main()
