# SPDX-License-Identifier: Apache-2.0
"""One decoder layer on the simulated hardware: what share of the memory's bytes and of the multipliers it uses.

Weights are random, in 4 bits with groups of 128, dense and 8:16; keys and values have 8 bits. Four measurements:

* ``rtl.decode.share_of_offered.<shape>.<form>``: useful bytes (of each tensor its codes, indices and scales, once; no
  headers, padding, descriptors or instructions) of a decode step with 512 tokens before it, over the bytes that the
  memory model's ports offered from the doorbell to the end, 92.4 % of what their pins could carry.
* ``rtl.prefill.mac_use.<form>``: products that a prompt of 128 tokens needs, at two of them per DSP and cycle.
* ``rtl.prefill.speedup.8of16``: cycles of that prompt, dense over 8:16.
* ``rtl.on_chip_bytes.hbm-slice``: all memories of the core.
* ``rtl.prefill.mac_use.long``: the same for 128 tokens behind 3,968 others, with the products of attention. A key that
  a query does not see is not counted.

Where the rest goes is recorded, too: ``rtl.decode.loss.*`` and ``rtl.prefill.loss.*`` (see docs/performance.md). What
each unit did is printed and drawn, as docs/stalls.svg.

The multiplications of the vocabulary are part of every run; it is as small as can be. The simulated core has its
program in its instruction buffer, as in all steps but the first, begins with the KV cache that ``iss`` made, and must
write its logits bit for bit, or nothing is recorded.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

import catenary
from benchmarks import stall_picture
from benchmarks.on_chip import on_chip_bytes
from benchmarks.record import ROOT
from benchmarks.speed import note
from catenary.boards.loader import load_accelerator
from catenary.hw.matrix.signatures import lanes_of, tokens_of
from catenary.isa.program import Program
from catenary.runtime.devices.rtl import RtlDevice, RtlOptions
from catenary.runtime.engine import CoreCounters
from catenary.runtime.host import ProgramEngine
from catenary.sim.rtl.memory_model import MemoryModel

COMMAND = "python -m benchmarks.bench_layer_rtl"
ACCELERATOR = "hbm-slice"
SEED = 7
TIMEOUT_S = 7200.0
PROMPT = 128
CONTEXT = 512
PARTS = ("decode-short", "decode-7b", "prefill", "long")
PICTURE = ROOT / "docs" / "stalls.svg"
RUNS: dict[str, CoreCounters] = {}
"""What was measured so far."""
FORMS = {"dense": "none", "8of16": "8:16"}


@dataclass(frozen=True)
class Shape:
    """A decoder layer, as of LLaMA-2: every query head has a key of its own."""

    hidden: int
    ffn: int
    heads: int
    context: int = 1024

    def config(self) -> dict[str, object]:
        """A ``config.json``."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": 1,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "vocab_size": 32,
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }

    @property
    def weights(self) -> int:
        """Of the layer, without the vocabulary."""
        return self.hidden * (4 * self.hidden + 3 * self.ffn)

    def attention_macs(self, first: int, tokens: int) -> int:
        """Products with keys and with values of ``tokens`` queries from position ``first`` on.

        Probabilities have two parts, so values are multiplied twice.
        """
        seen = sum(range(first + 1, first + tokens + 1))
        return 3 * seen * self.hidden


SHAPES = {
    "7b": Shape(4096, 11008, 32),
    "short": Shape(1536, 4096, 12),
    "long": Shape(1536, 4096, 24, 4096),
}


@dataclass(frozen=True)
class Run:
    """Some tokens of a sequence, and how many are before them."""

    first: int
    tokens: int


DECODE, PREFILL, LONG = Run(CONTEXT, 1), Run(0, PROMPT), Run(3968, PROMPT)


def compiled(shape: Shape, form: str) -> Program:
    """The program of a layer with random weights."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "config.json"
        path.write_text(json.dumps(shape.config()))
        return catenary.compile(
            path, accel=ACCELERATOR, weight_bits=4, group_size=128, sparsity=FORMS[form], dummy_weights=SEED
        )


def useful_bytes(program: Program, context: int) -> int:
    """Bytes of weights and of KV cache that a decode step must read."""
    sizes = program.stream_sizes()
    return sum(sizes.values()) - sizes["header"] - sizes["padding"] + program.counts.kv_bytes_per_token * context


@dataclass(frozen=True)
class Measured:
    """What the core counted in a run.

    Attributes:
        counters: of its units.
        array: cycles in which the multipliers took on tokens.
    """

    counters: CoreCounters
    array: int

    @property
    def cycles(self) -> int:
        """Of the run."""
        assert self.counters.cycles is not None
        return self.counters.cycles


def measure(program: Program, run: Run) -> Measured:
    """Carry out ``run`` on the simulated core.

    Raises:
        SystemExit: the logits are not those of ``iss``.
    """
    ids = [(7919 * index + 1) % program.graph.vocab for index in range(run.first + run.tokens)]
    with catenary.open_device("iss", program) as simulator:
        for start in range(0, run.first, PROMPT):
            simulator.run(ids[start : min(start + PROMPT, run.first)], start)
        state = simulator.state()
        expected = simulator.run(ids[run.first :], run.first)
    device = RtlDevice(program.config, RtlOptions(MemoryModel()))
    with ProgramEngine("rtl", "rtl", program, device, TIMEOUT_S) as core:
        core.run(ids[:1], 0)
        core.reset()
        core.resume(state)
        before = device.driver.read("ARRAY")
        found = core.run(ids[run.first :], run.first)
        counters, array = core.counters(), device.driver.read("ARRAY") - before
    if (found != expected).any():
        raise SystemExit("Device rtl must give the logits of iss, bit for bit")
    assert isinstance(counters, CoreCounters)
    return Measured(counters, array)


def show(name: str, counters: CoreCounters) -> None:
    """Print what each unit did, and remember it for the picture."""
    RUNS[name] = counters
    title = f"{name}: {counters.cycles:,} cycles"
    table = Table("unit", "busy", "idle", "waited for", title=title, title_justify="left")
    for name, unit in counters.units.items():
        waits = ", ".join(f"{reason} {count:,}" for reason, count in unit.stalled.items() if count)
        table.add_row(name, f"{unit.busy:,}", f"{unit.idle:,}", waits)
    Console(width=120).print(table)


def decode(name: str, form: str) -> None:
    """Measure a decode step: share of the bytes that were offered, and of cycles that were lost."""
    program = compiled(SHAPES[name], form)
    measured = measure(program, DECODE)
    counters, cycles = measured.counters, measured.cycles
    show(f"decode {name} {form}", counters)
    useful, model = useful_bytes(program, CONTEXT), MemoryModel()
    offered = cycles * program.config.line_bytes * (1 - model.blocked / model.period)
    note(f"rtl.decode.share_of_offered.{name}.{form}", useful / offered, "fraction", "rtl", COMMAND)
    assert counters.bytes_read is not None
    assert counters.bytes_written is not None
    load = counters.units["load"]
    losses = {
        "other_bytes": (counters.bytes_read + counters.bytes_written - useful) / offered,
        **{f"load_waits_{stall}": load.stalled[stall] / cycles for stall in ("tokens", "stream", "buffer")},
        "load_idle": load.idle / cycles,
    }
    losses["rest"] = 1 - useful / offered - sum(losses.values())
    for part, share in losses.items():
        note(f"rtl.decode.loss.{name}.{form}.{part}", share, "fraction", "rtl", COMMAND)


def prefill(name: str, form: str, run: Run, suffix: str) -> int:
    """Measure a prompt: share of the products that the multipliers could have made, and lost cycles; returns all."""
    program = compiled(SHAPES[name], form)
    measured = measure(program, run)
    counters, cycles, config = measured.counters, measured.cycles, program.config
    show(f"prefill {name} {form}", counters)
    shape, kept = SHAPES[name], 0.5 if form == "8of16" else 1.0
    macs = shape.weights * kept * run.tokens + shape.attention_macs(run.first, run.tokens)
    use = macs / (cycles * lanes_of(config) * tokens_of(config))
    note(f"rtl.prefill.mac_use.{suffix}", use, "fraction", "rtl", COMMAND)
    matrix = counters.units["matrix"]
    stalled = sum(matrix.stalled.values())
    losses = {
        "lanes_without_work": measured.array / cycles - use,
        "between_row_blocks": (matrix.busy - stalled - measured.array) / cycles,
        **{f"matrix_waits_{stall}": count / cycles for stall, count in matrix.stalled.items()},
        "matrix_idle": matrix.idle / cycles,
    }
    for part, share in losses.items():
        note(f"rtl.prefill.loss.{suffix}.{part}", share, "fraction", "rtl", COMMAND)
    return cycles


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=PARTS, help=f"by default: {' '.join(PARTS)}")
    wanted: Sequence[str] = parser.parse_args().parts
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"Part must be one of {', '.join(PARTS)}, not {', '.join(sorted(unknown))}")
    for name in ("short", "7b"):
        if f"decode-{name}" in wanted:
            for form in FORMS:
                decode(name, form)
    if "prefill" in wanted:
        cycles = {}
        for form in FORMS:
            cycles[form] = prefill("7b", form, PREFILL, form)
        note("rtl.prefill.speedup.8of16", cycles["dense"] / cycles["8of16"], "ratio", "rtl", COMMAND)
    if "long" in wanted:
        prefill("long", "dense", LONG, "long")
    on_chip = on_chip_bytes(load_accelerator(ACCELERATOR))
    note(f"rtl.on_chip_bytes.{ACCELERATOR}", on_chip, "bytes", "rtl", COMMAND)
    if set(wanted) == set(PARTS):
        stall_picture.write(PICTURE, RUNS)


if __name__ == "__main__":
    main()
