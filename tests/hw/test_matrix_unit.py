# SPDX-License-Identifier: Apache-2.0
"""The whole matrix unit against the instruction-set simulator: random instructions, real streams, random stalls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from catenary.isa import stream
from catenary.isa.fields import Operand
from catenary.isa.instructions import Context, MatrixMatrix, MatrixVector, Score
from catenary.isa.opcodes import KEY_LIMIT, Source
from catenary.isa.registers import ErrorCause
from tests.hw.matrix_bench import UnitBench
from tests.hw.matrix_ports import command, floats
from tests.weights import random_weights

pytestmark = pytest.mark.timeout(600)  # whichever test is first compiles the unit

SLOW = [pytest.mark.slow]
CASES = [
    pytest.param(name, seed, id=f"{name}-{seed}", marks=[] if name == "tiny" else SLOW)
    for name, seeds in (("tiny", 6), ("odd", 4), ("small", 4), ("packed", 4))
    for seed in range(seeds)
]


def at(value: int) -> Operand:
    """An operand that is ``value``."""
    return Operand(0, int(value))


def refill(bench: UnitBench) -> None:
    """New words in V: scales as they occur, and special ones."""
    bench.fill_v(floats(bench.rng, bench.config.vector_words))


def linear(bench: UnitBench) -> None:
    """One load that one to three MM or MV consume."""
    rng, config = bench.rng, bench.config
    columns = int(rng.integers(1, 260))
    bits, group = int(rng.choice([2, 3, 4, 8])), 16 * int(rng.integers(1, 6))
    sizes = rng.integers(1, 50, int(rng.integers(1, 4))).tolist()
    parts = []
    for rows in sizes:
        tensor = random_weights(rng, rows, columns, bits, group, row_block=int(rng.integers(1, 2 * rows + 1)))
        bias = rng.standard_normal(rows).astype(np.float32) if rng.random() < 0.5 else None
        parts.append(stream.pack(tensor, bias, config))
    bench.load(np.concatenate(parts))
    for rows in sizes:
        refill(bench)
        tokens = int(rng.choice([1, rng.integers(1, config.mm_tokens + 1)]))
        stride = -(-columns // 16) + int(rng.integers(0, 3))
        fields: dict[str, Any] = {
            "act": at(rng.integers(0, config.act_bytes // 16 - tokens * stride)),
            "act_stride": stride,
            "tokens": at(tokens),
            "depth": columns,
            "rows": at(rows),
            "out": at(rng.integers(100, 5000)),
            "out_stride": rows + int(rng.integers(0, 3)),
            "scales": at(rng.integers(0, 50)),
        }
        bench.run(MatrixVector(**fields) if tokens == 1 else MatrixMatrix(**fields))


def rows_source(bench: UnitBench, depth: int, rows: int) -> dict[str, Any]:
    """Random keys or values, and the fields that say where they are."""
    rng, width = bench.rng, bench.config.line_bytes
    if rng.random() < 0.4:
        stride = -(-depth // 16) + int(rng.integers(0, 2))
        first = rng.integers(0, bench.config.act_bytes // 16 - rows * stride - 1)
        return {"source": Source.BUFFER, "rows_at": at(first), "rows_stride": stride}
    packs = [pack for pack in range(1, 4) if depth << pack <= width]
    pack = int(rng.choice(packs)) if packs and rng.random() < 0.7 else 0
    row_lines = 1 if pack else -(-depth // width)
    lines = -(-rows >> pack) if pack else rows * row_lines
    if lines:
        bench.load(rng.integers(0, 256, lines * width).astype(np.uint8))
    return {"source": Source.STREAM, "pack": pack, "row_lines": row_lines}


def score(bench: UnitBench) -> None:
    """SCORE over rows of the stream or of A."""
    rng, config = bench.rng, bench.config
    refill(bench)
    depth = int(rng.choice([rng.integers(1, 9), rng.integers(1, 80), rng.integers(1, KEY_LIMIT + 1)]))
    rows, tokens = int(rng.integers(0, 40)), int(rng.integers(0, config.mm_tokens + 1))
    fields = rows_source(bench, depth, rows)
    bench.run(
        Score(
            act=at(rng.integers(0, 100)),
            act_stride=-(-depth // 16),
            tokens=at(tokens),
            depth=depth,
            rows=at(rows),
            out=at(1000 + rng.integers(0, 100)),
            out_stride=rows + 1,
            scales=at(3),
            row_scales=at(100),
            **fields,
        )
    )


def context(bench: UnitBench) -> None:
    """CONTEXT in one to three instructions."""
    rng, config = bench.rng, bench.config
    lanes = config.chains * config.chain_length
    depth = int(rng.integers(1, min(2 * lanes + lanes // 2, 300)))
    tokens = int(rng.integers(0, config.context_rows(depth) + 1))
    count, first, group = int(rng.integers(1, 4)), int(rng.integers(0, 40)), int(rng.integers(1, tokens + 2))
    for number in range(count):
        refill(bench)
        rows = int(rng.integers(0, 25))
        fields = rows_source(bench, depth, rows)
        bench.run(
            Context(
                clear=number == 0,
                emit=number + 1 == count,
                act=at(7),
                act_stride=12,
                tokens=at(tokens),
                depth=depth,
                rows=at(rows),
                first=at(first),
                out=at(1000),
                out_stride=depth * group + 3,
                group=group,
                scales=at(40),
                **fields,
            )
        )
        first += rows


@pytest.mark.parametrize(("name", "seed"), CASES)
def test_random_instructions(name: str, seed: int) -> None:
    bench = UnitBench(name, seed, pace=(0.6, 0.9, 1.0)[seed % 3])
    for kind in bench.rng.choice(3, 10).tolist():
        (linear, score, context)[kind](bench)
    for _ in range(50):
        bench.cycle()
    assert bench.empty()


def test_back_to_back() -> None:
    """Without stalls, one instruction after the other; no state is left from the one before."""
    bench = UnitBench("tiny", 100, pace=1.0)
    for kind in (0, 0, 1, 2, 2, 1, 0, 2, 0, 1):
        (linear, score, context)[kind](bench)


def test_fault_and_reset() -> None:
    """A damaged row block stops the unit by name; after a reset it works again."""
    bench = UnitBench("tiny", 5)
    bench.load(np.full(64, 0x11, np.uint8))
    insn = MatrixVector(
        act=at(0), act_stride=1, tokens=at(1), depth=16, rows=at(4), out=at(0), out_stride=4, scales=at(100)
    )
    bench.ports.set("insn.payload", command(insn))
    bench.ports.set("insn.valid", 1)
    bench.cycle()
    bench.ports.set("insn.valid", 0)
    for _ in range(200):
        bench.cycle()
    assert bench.fault
    assert bench.ports.get("cause") == ErrorCause.STREAM_FORMAT
    assert not bench.ports.get("insn.ready")
    bench = UnitBench("tiny", 6)
    linear(bench)
    context(bench)
