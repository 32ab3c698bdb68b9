# SPDX-License-Identifier: Apache-2.0
"""Speed of the simulator on a Llama of one million random weights: needs no data, so it runs everywhere."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import catenary
from benchmarks.speed import record_program, record_speed
from catenary.compiler.random_models import llama_config, write_model

COMMAND = "python -m benchmarks.bench_random1m"
CONFIG = llama_config(
    hidden_size=128,
    intermediate_size=352,
    num_hidden_layers=5,
    num_attention_heads=8,
    num_key_value_heads=4,
    vocab_size=1024,
    max_position_embeddings=512,
    tie_word_embeddings=True,
)


def main() -> None:
    """Compile with 8-bit weights and measure."""
    with tempfile.TemporaryDirectory() as scratch:
        model = write_model(Path(scratch) / "random1m", CONFIG, seed=1)
        started = time.perf_counter()
        program = catenary.compile(model)
        record_program(program, time.perf_counter() - started, "w8", "random1m", COMMAND)
    record_speed(program, "random1m", COMMAND)


if __name__ == "__main__":
    main()
