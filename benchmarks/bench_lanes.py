# SPDX-License-Identifier: Apache-2.0
"""How busy linear layers keep the multipliers, for every N of N:16, on the simulated hardware.

One long layer of 4-bit weights in groups of 128 is multiplied by one token (MV) and by as many as fit (MM). Of the MAC
that the array could have made, ``chain.lane_use`` counts those whose weight is stored, padding excluded:

* in MM of all that the lanes can make in cycles in which the unit waited neither for other units nor for the stream;
* in MV of those that they can make of the bytes that the ports bring, in all cycles in which the unit did not wait for
  other units. ``chain.port_bound.mv`` is their share of the lanes. Where the memory is the limit, use is 1: lines
  that came before the instruction did are no merit.

What the programs leave behind must be what ``iss`` leaves, or nothing is recorded.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.speed import note
from catenary.boards.loader import load_accelerator
from catenary.hw.matrix.signatures import lanes_of
from catenary.isa.config import AcceleratorConfig
from catenary.isa.fields import Operand
from catenary.isa.instructions import MatrixMatrix, MatrixVector
from catenary.isa.stream import pack
from catenary.isa.tensors import BLOCK, KEPT_CHOICES, QuantTensor
from catenary.runtime.devices.rtl import RtlDevice, RtlOptions
from catenary.sim.rtl.memory_model import MemoryModel
from tests.programs.cases import Case, iss_device, run_case, run_cases
from tests.programs.directed_cases import Bench
from tests.weights import random_weights

COMMAND = "python -m benchmarks.bench_lanes"
ACCELERATORS = ("hbm-slice", "small", "uneven")
COLUMNS = 4096
BITS, GROUP = 4, 128
COUNTED = ("BUSY_MATRIX", "STALL_TOKENS_MATRIX", "STALL_STREAM_MATRIX")
"""Registers of the core, which count on from run to run."""
BLOCKS = 4
"""Row blocks of the layer, all full."""


def pattern(kept: int) -> str:
    """The name of N:16 in figures."""
    return "dense" if kept == BLOCK else f"{kept}of{BLOCK}"


def layer(config: AcceleratorConfig, kept: int) -> QuantTensor:
    """Random weights, whole row blocks."""
    rows = BLOCKS * config.block_rows(kept)
    return random_weights(np.random.default_rng(kept), rows, COLUMNS, BITS, GROUP, kept)


def case(config: AcceleratorConfig, tensor: QuantTensor, tokens: int) -> Case:
    """A program that multiplies ``tensor`` by random codes of ``tokens`` tokens."""
    bench = Bench(config, f"{tensor.kept[0]} of {BLOCK}, {tokens} tokens")
    rng = np.random.default_rng(tokens)
    scales = bench.numbers(rng.uniform(0.5, 1.5, tokens).astype(np.float32))
    out = bench.space(tokens * tensor.rows)
    words = COLUMNS // BLOCK
    bench.codes(0, rng.integers(-127, 128, (tokens, COLUMNS), dtype=np.int8))
    bench.stream(pack(tensor, None, config))
    bench.run(
        (MatrixVector if tokens == 1 else MatrixMatrix)(
            act=Operand(), act_stride=words, tokens=Operand(0, tokens), depth=COLUMNS, rows=Operand(0, tensor.rows),
            out=Operand(0, out), out_stride=tensor.rows, scales=Operand(0, scales),
        )
    )  # fmt: skip
    return bench.done()


def tokens_of(config: AcceleratorConfig) -> int:
    """The most tokens of an MM whose codes fit A."""
    return min(config.mm_tokens, config.act_bytes // COLUMNS)


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("accelerators", nargs="*", default=ACCELERATORS, help="by default: %(default)s")
    for name in parser.parse_args().accelerators:
        config = load_accelerator(name)
        suffix = "" if name == ACCELERATORS[0] else f".{name}"
        cases = []
        for kept in KEPT_CHOICES:
            tensor = layer(config, kept)
            cases += [(mode, kept, tokens, case(config, tensor, tokens)) for mode, tokens in modes(config)]
        device = RtlDevice(config, RtlOptions(model=MemoryModel.unthrottled()))
        before = dict.fromkeys(COUNTED, 0)
        runs = run_cases(device, [program for *_, program in cases], timeout_s=600)
        for mode, kept, tokens, program in cases:
            found = next(runs)
            expected = run_case(iss_device(config, len(program.image)), program)
            if difference := expected.difference(found, config.line_bytes):
                raise SystemExit(f"{program.name} on {name}: {difference}")
            counts = {name: device.driver.read(name) for name in COUNTED}
            busy, waited, starved = (counts[name] - before[name] for name in COUNTED)
            before = counts
            macs = BLOCKS * config.block_rows(kept) * kept * (COLUMNS // BLOCK) * tokens
            peak = lanes_of(config) * (2 if config.packed and tokens > 1 else 1)
            if mode == "mv":
                stream = pack(layer(config, kept), None, config).nbytes / config.line_bytes
                bound = min(1.0, macs / (stream * peak))
                note(f"chain.port_bound.mv.{pattern(kept)}{suffix}", bound, "fraction", "rtl", COMMAND)
                use = min(1.0, macs / (peak * bound * (busy - waited)))
            else:
                use = macs / (peak * (busy - waited - starved))
            note(f"chain.lane_use.{mode}.{pattern(kept)}{suffix}", use, "fraction", "rtl", COMMAND)


def modes(config: AcceleratorConfig) -> tuple[tuple[str, int], ...]:
    """Each mode and the tokens that it is measured with."""
    return ("mv", 1), ("mm", tokens_of(config))


if __name__ == "__main__":
    main()
