# SPDX-License-Identifier: Apache-2.0
"""The hardware design, simulated: cycles of the demo models, and how long simulating and building it take.

Every run must write the tokens of ``iss`` and have its logits, bit for bit, or nothing is recorded. Cycles are those of
the core's own counter. Speed is that of a tuned build, made with a profile of the first model. ``--quick`` decodes few
tokens of one model and records nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import catenary
from benchmarks.record import ROOT
from benchmarks.speed import note
from catenary.boards.loader import load_accelerator
from catenary.isa.program import Program
from catenary.runtime.devices.rtl import RtlDevice, RtlOptions, training_with
from catenary.runtime.engine import Counters
from catenary.runtime.generate import Generation
from catenary.runtime.host import ProgramEngine
from catenary.sim.rtl.memory_model import MemoryModel

COMMAND = "python -m benchmarks.bench_rtl"
PROMPT = "Once upon a time, there was a little girl named Lily. She loved to play with her toys"
PROMPT_TOKENS = 16
NEW_TOKENS = 32
SMALL = "small"
WIDE = "hbm-slice"
"""Of the larger core only speed and the time to build it are recorded: the demo models are far too small for it."""
MODELS = {  # directory, bits of a weight, sparsity
    "sparse_w4": ("demo-sparse", 4, "8:16"),
    "dense_w4": ("demo-dense", 4, "none"),
    "dense_w8": ("demo-dense", 8, "none"),
}
BUILDS = ((SMALL, ("build", "build_cached")), (SMALL, ("build_tuned",)), (WIDE, ("build",)))
"""Cores, and ways to open them that share a cache."""
MEMORIES = {"": MemoryModel.unthrottled(), ".dram": MemoryModel()}
"""What behind the figures' names says which memory: one that never waits, or the default model of DRAM."""


@dataclass(frozen=True)
class Measurement:
    """One text on one core.

    Attributes:
        prefill_cycles: of the prompt.
        decode_cycles: of all decode steps together.
        prefill_s: host seconds of the prompt.
        decode_s: host seconds of all decode steps together.
    """

    prefill_cycles: int
    decode_cycles: int
    prefill_s: float
    decode_s: float


def prompt_of(program: Program) -> list[int]:
    """The first PROMPT_TOKENS ids of the prompt.

    Raises:
        SystemExit: it has fewer.
    """
    tokenizer = catenary.tokenizer(program)
    ids = tokenizer.encode(PROMPT)[:PROMPT_TOKENS] if tokenizer else []
    if len(ids) != PROMPT_TOKENS:
        raise SystemExit(f"Prompt must have {PROMPT_TOKENS} tokens, not {len(ids)}")
    return ids


def compiled(name: str, accelerator: str = SMALL) -> Program:
    """The program of one of :data:`MODELS`."""
    directory, bits, sparsity = MODELS[name]
    return catenary.compile(ROOT / "models" / directory, accel=accelerator, weight_bits=bits, sparsity=sparsity)


def measure(program: Program, model: MemoryModel, steps: int, expected: Generation) -> Measurement:
    """Run ``steps`` decode steps on the simulated core, in a tuned build.

    Raises:
        SystemExit: the result is not ``expected``.
    """
    prefilled: list[Counters] = []
    options = RtlOptions(model, training=training_with(program))
    with ProgramEngine("rtl", "rtl", program, RtlDevice(program.config, options)) as engine:

        def on_token(_: int) -> None:
            if not prefilled:
                prefilled.append(engine.counters())

        # The first new token comes from the prefill, so one more than there are steps.
        made = catenary.generate(engine, prompt_of(program), steps + 1, ignore_eos=True, on_token=on_token)
        total = engine.counters().cycles
    if (made.ids, made.logits_sha256) != (expected.ids, expected.logits_sha256):
        raise SystemExit(f"Device rtl must give {expected.ids} as iss does, with equal logits, not {made.ids}")
    first = prefilled[0].cycles
    if total is None or first is None:
        raise SystemExit("Device rtl must count cycles, but does not")
    return Measurement(first, total - first, made.timings.prefill_s, made.timings.decode_s)


def useful_bytes(program: Program, steps: int) -> float:
    """Bytes of weights and KV cache that a decode step must read, the mean over the steps behind the prompt."""
    cached = PROMPT_TOKENS + (steps - 1) / 2
    return program.counts.weight_bytes + program.counts.kv_bytes_per_token * cached


def measure_models(names: list[str], steps: int, keep: bool) -> None:
    """Measure cycles, and the speed of the simulation with the first model; record them if ``keep``."""
    tell = note if keep else show
    for name in names:
        program = compiled(name)
        with catenary.open_device("iss", program) as engine:
            expected = catenary.generate(engine, prompt_of(program), steps + 1, ignore_eos=True)
        useful = useful_bytes(program, steps)
        for memory, model in MEMORIES.items():
            found = measure(program, model, steps, expected)
            cycles = found.decode_cycles / steps
            share = useful / (program.config.line_bytes * cycles)
            tell(f"rtl.demo.decode.cycles_per_token.{name}{memory}", cycles, "cycles", "rtl", COMMAND)
            tell(f"rtl.demo.decode.share_of_offered.{name}{memory}", share, "fraction", "rtl", COMMAND)
            if name == names[0] and not memory:
                tell_speed(found, SMALL, tell)
                tell("rtl.demo.decode.tokens_per_s.wall", steps / found.decode_s, "tokens/s", "wall", COMMAND)


def tell_speed(found: Measurement, accelerator: str, tell: Callable[[str, float, str, str, str], None]) -> None:
    """Tell how fast the simulation was."""
    prefill, decode = found.prefill_cycles / found.prefill_s, found.decode_cycles / found.decode_s
    tell(f"rtl.cycles_per_s.{accelerator}.prefill", prefill, "cycles/s", "wall", COMMAND)
    tell(f"rtl.cycles_per_s.{accelerator}.decode", decode, "cycles/s", "wall", COMMAND)


def measure_speed(accelerator: str) -> None:
    """Record how fast a simulation runs the first model, nothing else."""
    program = compiled(next(iter(MODELS)), accelerator)
    with catenary.open_device("iss", program) as engine:
        expected = catenary.generate(engine, prompt_of(program), NEW_TOKENS + 1, ignore_eos=True)
    tell_speed(measure(program, MemoryModel.unthrottled(), NEW_TOKENS, expected), accelerator, note)


def measure_builds() -> None:
    """Record how long opening the core takes, in a new process: with an empty cache, with a full one, and tuned.

    The tuned build starts from an empty cache too, and includes its training.
    """
    for accelerator, names in BUILDS:
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "CATENARY_RTL_CACHE": cache}
            for name in names:
                command = [sys.executable, "-m", "benchmarks.bench_rtl", "--open", accelerator, name]
                done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
                note(f"rtl.{name}_s.{accelerator}", float(done.stdout), "s", "wall", COMMAND)


def open_core(accelerator: str, tuned: bool) -> float:
    """Seconds that opening the core takes in this process."""
    training = training_with(compiled(next(iter(MODELS)), accelerator)) if tuned else None
    started = time.perf_counter()
    with RtlDevice(load_accelerator(accelerator), RtlOptions(training=training)):
        return time.perf_counter() - started


def show(name: str, value: float, unit: str, source: str, command: str) -> None:
    """Show a figure without recording it."""
    print(f"  {name} = {value:.6g} {unit} ({source})", flush=True)


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few tokens of one model; records nothing")
    parser.add_argument(
        "--open", nargs=2, metavar=("CORE", "BUILD"), help="only open the core, and print the seconds that took"
    )
    options = parser.parse_args()
    if options.open:
        accelerator, build = options.open
        print(open_core(accelerator, tuned=build == "build_tuned"))
    elif options.quick:
        measure_models(["sparse_w4"], 2, keep=False)
    else:
        measure_builds()
        measure_models(list(MODELS), NEW_TOKENS, keep=True)
        measure_speed(WIDE)


if __name__ == "__main__":
    main()
