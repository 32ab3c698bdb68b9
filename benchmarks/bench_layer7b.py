# SPDX-License-Identifier: Apache-2.0
"""One decoder layer of the size of LLaMA-2-7B on the simulator, beside torch in FP32 on the same machine.

Dimensions are those of Touvron et al., arXiv 2307.09288; weights are random, W4 with groups of 128. The vocabulary is
small, so that embedding and head, which both sides compute, weigh next to nothing. Both take turns, with all cores
each. First the simulator must agree with the reference bit for bit; its first run expands the weights, which is a
figure of its own and no part of the others.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch

import catenary
from benchmarks.speed import note, record_program
from benchmarks.torch_layer import TorchDecoder
from catenary.compiler import importers
from catenary.compiler.importers import ImportedModel
from catenary.runtime.engine import Engine

COMMAND = "python -m benchmarks.bench_layer7b"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 1,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 512,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SEED = 7
THREADS = 2
PROMPT = 128
DECODE_FROM = 256
"""Decode is measured with so many tokens before it, and more with every step."""
STEPS = 8
REPEATS = 5

Run = Callable[[Sequence[int], int], object]
"""Processes ids from a position on."""


def main() -> None:
    """Compile, compare bits, then measure."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "config.json"
        path.write_text(json.dumps(CONFIG))
        model = importers.load(path, dummy_seed=SEED)
        started = time.perf_counter()
        program = catenary.compile(path, accel="hbm-slice", weight_bits=4, group_size=128, dummy_weights=SEED)
        record_program(program, time.perf_counter() - started, "w4_g128", "layer7b", COMMAND)
    ids = np.random.default_rng(SEED).integers(0, 512, DECODE_FROM + STEPS).tolist()
    with catenary.open_device("iss", program) as engine:
        expansion = _seconds(lambda: engine.run(ids[:PROMPT], 0))
        expansion -= _seconds(lambda: engine.run(ids[:PROMPT], 0))
        note("iss.layer7b.expand_weights_s", expansion, "s", "wall", COMMAND)
        with catenary.open_device("reference", program) as reference:
            _check_bits(engine, reference, ids)
        torch.set_num_threads(THREADS)
        decoder = TorchDecoder(model.graph)
        _check_layer(model, decoder, ids)
        _measure(engine.run, decoder.run, ids)


def _check_bits(engine: Engine, reference: Engine, ids: list[int]) -> None:
    for first, end in ((0, PROMPT), (PROMPT, PROMPT + 1), (PROMPT + 1, PROMPT + 20)):
        got, want = (device.run(ids[first:end], first, all_logits=True) for device in (engine, reference))
        if got.tobytes() != want.tobytes():
            raise SystemExit(f"Logits of positions {first} to {end - 1} must be those of the reference, bit for bit")
    print("  bits are those of the reference")


def _check_layer(model: ImportedModel, decoder: TorchDecoder, ids: list[int]) -> None:
    """Torch must compute the model that was compiled: its FP32 graph says what that is."""
    with catenary.open_device("graph-fp32", model) as yardstick:
        want = yardstick.run(ids[:PROMPT], 0)
    error = np.abs(decoder.run(ids[:PROMPT], 0).numpy() - want).max() / np.abs(want).max()
    if not error < 1e-3:
        raise SystemExit(f"Logits of torch must be within 0.1 % of those of the FP32 graph, not {error:.2%}")
    print(f"  torch is within {error:.1e} of the FP32 graph")


def _measure(iss: Run, other: Run, ids: list[int]) -> None:
    runs = {"iss": iss, "torch": other}
    prefill: dict[str, list[float]] = {name: [] for name in runs}
    decode: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS):
        for name, run in runs.items():
            prefill[name].append(_seconds(lambda run=run: run(ids[:PROMPT], 0)))
        for run in runs.values():
            run(ids[PROMPT:DECODE_FROM], PROMPT)
        for at in range(DECODE_FROM, DECODE_FROM + STEPS):
            for name, run in runs.items():
                decode[name].append(_seconds(lambda run=run, at=at: run(ids[at : at + 1], at)))
    for what, times in ((f"prefill{PROMPT}", prefill), ("decode", decode)):
        ours, theirs = median(times["iss"]), median(times["torch"])
        note(f"iss.layer7b.{what}_s", ours, "s", "wall", COMMAND)
        note(f"iss.layer7b.torch_{what}_s", theirs, "s", "wall", COMMAND)
        note(f"iss.layer7b.{what}_slowdown_vs_torch", ours / theirs, "ratio", "wall", COMMAND)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
