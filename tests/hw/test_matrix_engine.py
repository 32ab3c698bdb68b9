# SPDX-License-Identifier: Apache-2.0
"""Array and emitter, fed by a front in Python, against the numpy definition, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from catenary.hw.dsp.segment import Primitive
from catenary.isa.fields import Operand
from catenary.isa.instructions import Context, MatrixMatrix, MatrixVector, Score
from catenary.isa.opcodes import Source
from catenary.sim import arith
from tests.hw.dsp_models import use_models
from tests.hw.matrix_bench import EngineBench, RowBlock, Step
from tests.hw.matrix_ports import command, floats

pytestmark = pytest.mark.timeout(600)  # whichever test is first compiles the unit

SLOW = [pytest.mark.slow]
NAMES = ["tiny", "packed", *(pytest.param(name, marks=SLOW) for name in ("odd", "wide", "small"))]
"""Configurations; those that take long to build only in slow runs."""


def rows_of(bench: EngineBench, kept: int, rows: int, blocks: int) -> tuple[RowBlock, NDArray[np.int8]]:
    """A random row block of N = 1 << kept, and its weights [rows, 16 * blocks]."""
    rng, n = bench.rng, 1 << kept
    weights = np.zeros((rows, blocks, 16), np.int8)
    steps = []
    for block in range(blocks):
        lane_weights = np.zeros(bench.lanes, np.int8)
        index = rng.integers(0, 16, bench.lanes).astype(np.uint8)
        for row in range(rows):
            columns = np.sort(rng.permutation(16)[:n])
            values = rng.integers(-128, 128, n).astype(np.int8)
            weights[row, block, columns] = values
            lane_weights[row * n : row * n + n] = values
            index[row * n : row * n + n] = columns
        steps.append(Step(lane_weights, index, act_word=block, groups=-(-rows * n // 16)))
    scales = floats(rng, rows).tolist()
    biases = floats(rng, rows).tolist() if rng.random() < 0.5 else None
    return RowBlock(steps, kept, rows, scales, biases), weights.reshape(rows, -1)


def check(bench: EngineBench, expected: NDArray[np.uint32], what: str) -> None:
    """V is as expected, in all words."""
    wrong = np.flatnonzero(bench.v.words != expected)
    assert not len(wrong), (
        f"{what}: word {wrong[0]} of V (of {len(wrong)} wrong ones) must be {expected[wrong[0]]:#x}, "
        f"not {bench.v.words[wrong[0]]:#x}"
    )
    assert bench.front.idle()


def linear(bench: EngineBench, kepts: list[int], tokens: int, blocks: int, partial: bool = True) -> int:
    """Run MM or MV over row blocks of different N; returns its cycles."""
    rng, config = bench.rng, bench.config
    parts = []
    for kept in kepts:
        most = bench.lanes >> kept
        parts.append(rows_of(bench, kept, int(rng.integers(1, most + 1)) if partial else most, blocks))
    rows = sum(block.rows for block, _ in parts)
    stride, out_stride = blocks + int(rng.integers(0, 3)), rows + int(rng.integers(0, 4))
    act = int(rng.integers(0, len(bench.a) - tokens * stride))
    bench.v.words[:] = floats(rng, len(bench.v.words))
    scales = int(rng.integers(0, 100))
    out = int(rng.integers(scales + tokens, config.vector_words - tokens * out_stride))
    fields: dict[str, Any] = {
        "act": Operand(0, act),
        "act_stride": stride,
        "tokens": Operand(0, tokens),
        "depth": blocks * 16,
        "rows": Operand(0, rows),
        "out": Operand(0, out),
        "out_stride": out_stride,
        "scales": Operand(0, scales),
    }
    expected = bench.v.words.copy()
    token_scales = expected[scales : scales + tokens].view(np.float32)
    codes = np.stack([bench.a[act + t * stride : act + t * stride + blocks].reshape(-1) for t in range(tokens)])
    done = 0
    for block, weights in parts:
        acc = arith.integer_matmul(codes, weights)
        bias = None if block.biases is None else np.array(block.biases, np.uint32).view(np.float32)
        row_scales = np.array(block.scales, np.uint32).view(np.float32)
        result = arith.linear_epilogue(acc, row_scales, token_scales, bias)
        for t in range(tokens):
            at = out + t * out_stride + done
            expected[at : at + block.rows] = result[t].view(np.uint32)
        done += block.rows
    insn = MatrixVector(**fields) if tokens == 1 else MatrixMatrix(**fields)
    cycles = bench.run(command(insn), [block for block, _ in parts])
    check(bench, expected, f"{insn}")
    return cycles


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", NAMES)
def test_linear(name: str, seed: int) -> None:
    bench = EngineBench(name, seed)
    most = bench.config.mm_tokens
    for tokens in (1, most, 2, int(bench.rng.integers(1, most + 1)), 1):
        kepts = bench.rng.permutation(5)[: 3 if name == "small" else 5].tolist()
        linear(bench, kepts, tokens, int(bench.rng.integers(1, 6)))


@pytest.mark.parametrize(
    ("name", "tokens"), [*(("tiny", t) for t in range(1, 9)), *(("packed", t) for t in range(1, 10))]
)
def test_every_number_of_tokens(name: str, tokens: int) -> None:
    bench = EngineBench(name, tokens)
    linear(bench, [4, 4, 3, 0, 2, 2, 1], tokens, 3)


@pytest.mark.slow
def test_long_rows_and_full_speed() -> None:
    """Without stalls, MM spends one cycle per token and step, and a few more per instruction."""
    bench = EngineBench("small", 0, pace=1.0)
    steps, tokens = 24, 16
    cycles = linear(bench, [4, 4, 4], tokens, steps, partial=False)
    assert bench.computing <= 3 * steps * tokens + 60
    assert cycles <= 3 * steps * tokens + 8 * tokens + 100


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [6, 7, 8, 9])
def test_packed_tokens_go_in_pairs(tokens: int) -> None:
    """Without stalls, two tokens share a cycle: a step takes half as many cycles as it has tokens, rounded up."""
    bench = EngineBench("packed", tokens, pace=1.0)
    steps, pairs = 40, -(-tokens // 2)
    assert pairs >= bench.lanes // 16, "else filling tiles takes longer"
    linear(bench, [4, 4, 4], tokens, steps, partial=False)
    assert bench.computing <= 3 * steps * pairs + 60


@pytest.mark.slow
@pytest.mark.parametrize(("name", "primitive"), [("packed", Primitive.DSP48E2), ("tiny", Primitive.ECP5)])
def test_primitives(name: str, primitive: Primitive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The array of instances, for which models stand in."""
    use_models(monkeypatch)
    bench = EngineBench(name, 0, primitive=primitive)
    bench.a[:] = np.maximum(bench.a, -127)  # what activations are; a pair has no room for more
    for tokens in (1, 2, 7):
        linear(bench, [4, 3, 2, 1, 0], tokens, 4)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", NAMES)
def test_score(name: str, seed: int) -> None:
    bench = EngineBench(name, seed)
    rng, config, groups = bench.rng, bench.config, bench.lanes // 16
    for _ in range(3):
        tokens, depth = int(rng.integers(1, config.mm_tokens + 1)), int(rng.integers(1, 70))
        rows, words = int(rng.integers(1, 4 * groups)), -(-depth // 16)
        keys = np.zeros((rows, 16 * words), np.int8)
        keys[:, :depth] = rng.integers(-128, 128, (rows, depth))
        bench.v.words[:] = floats(rng, len(bench.v.words))
        scales, row_scales, out, out_stride = 7, 40, 200, rows + 3
        act, stride = 5, words + 1
        blocks = []
        for first in range(0, rows, groups):
            tile = keys[first : first + groups]
            steps = []
            for word in range(words):
                weights = np.zeros(bench.lanes, np.int8)
                part = tile[:, 16 * word : 16 * word + 16].reshape(-1)
                weights[: len(part)] = part
                index = (np.arange(bench.lanes) % 16).astype(np.uint8)
                steps.append(Step(weights, index, act_word=word, groups=len(tile)))
            blocks.append(RowBlock(steps, 4, len(tile)))
        insn = Score(
            source=Source.STREAM,
            act=Operand(0, act),
            act_stride=stride,
            tokens=Operand(0, tokens),
            depth=depth,
            rows=Operand(0, rows),
            out=Operand(0, out),
            out_stride=out_stride,
            scales=Operand(0, scales),
            row_scales=Operand(0, row_scales),
        )
        expected = bench.v.words.copy()
        codes = np.stack([bench.a[act + t * stride : act + t * stride + words].reshape(-1) for t in range(tokens)])
        result = arith.linear_epilogue(
            arith.integer_matmul(codes, keys),
            expected[row_scales : row_scales + rows].view(np.float32),
            expected[scales : scales + tokens].view(np.float32),
        )
        for t in range(tokens):
            expected[out + t * out_stride :][:rows] = result[t].view(np.uint32)
        bench.run(command(insn), blocks)
        check(bench, expected, f"{insn}")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NAMES)
def test_context(name: str, seed: int) -> None:
    """Sums that grow over several instructions, with all depths: less than the lanes, and several turns of them."""
    bench = EngineBench(name, seed)
    rng, config, lanes = bench.rng, bench.config, bench.lanes
    for depth in (int(rng.integers(1, lanes)), lanes, int(rng.integers(lanes + 1, 3 * lanes + 1))):
        most = config.context_rows(depth)
        if not most:
            continue
        tokens = int(rng.integers(1, most + 1))
        turns = -(-depth // lanes)
        act, stride = 11, 9
        sums = np.zeros((2 * tokens, depth), np.int32)
        parts = np.stack([bench.a[act + p * stride : act + (p + 1) * stride].reshape(-1) for p in range(2 * tokens)])
        first, cuts = 0, rng.integers(0, 20, 3).tolist()
        for number, rows in enumerate(cuts):
            values = rng.integers(-128, 128, (rows, depth)).astype(np.int8)
            sums += arith.integer_matmul(parts[:, first : first + rows], values.T.copy()) if rows else 0
            steps = []
            for r, turn in np.ndindex(rows, turns):
                part = values[r, turn * lanes : (turn + 1) * lanes]
                weights = np.zeros(lanes, np.int8)
                weights[: len(part)] = part
                index = np.full(lanes, (first + r) % 16, np.uint8)
                base = turn * 2 * tokens
                steps.append(Step(weights, index, (first + r) // 16, base, -(-len(part) // 16)))
            emit = number + 1 == len(cuts)
            group = int(rng.integers(1, tokens + 2))
            insn = Context(
                source=Source.STREAM,
                clear=number == 0,
                emit=emit,
                act=Operand(0, act),
                act_stride=stride,
                tokens=Operand(0, tokens),
                depth=depth,
                rows=Operand(0, rows),
                first=Operand(0, first),
                out=Operand(0, 300),
                out_stride=group * depth + 1,
                group=group,
                scales=Operand(0, 20),
            )
            bench.v.words[:] = floats(rng, len(bench.v.words))
            expected = bench.v.words.copy()
            if emit:
                constants = expected[20 : 20 + 2 * tokens].view(np.float32).reshape(tokens, 2)
                merged = arith.merge_parts(sums[0::2], sums[1::2], constants[:, 0], constants[:, 1])
                for t in range(tokens):
                    at = 300 + t // group * insn.out_stride + t % group * depth
                    expected[at : at + depth] = merged[t].view(np.uint32)
            bench.run(command(insn), [RowBlock(steps, 0)], clear=number == 0, context=True)
            if emit:
                assert bench.front.idle()
                assert not any(bench.front.claimed)
            check(bench, expected, f"{insn}")
            first += rows


def test_extreme_sums() -> None:
    """The largest products in every lane, for every width of the reduction; and no more than INT8 on either side."""
    bench = EngineBench("tiny", 0, pace=1.0)
    for weight, code in ((-128, -128), (-128, 127), (127, -127), (127, 127), (-128, -127)):
        bench.a[:] = code
        for kept in range(5):
            rows, n, blocks = 16 >> kept, 1 << kept, 40
            index = (np.arange(16) % 16).astype(np.uint8)
            steps = [Step(np.full(16, weight, np.int8), index) for _ in range(blocks)]
            insn = MatrixVector(
                act=Operand(),
                act_stride=0,
                tokens=Operand(0, 1),
                depth=16 * blocks,
                rows=Operand(0, rows),
                out=Operand(0, 8),
                out_stride=0,
                scales=Operand(),
            )
            bench.v.words[:] = np.float32(1).view(np.uint32)
            bench.run(command(insn), [RowBlock(steps, kept, rows, [0x3F800000] * rows)])
            expected = np.float32(weight * code * n * blocks)
            assert (bench.v.words[8 : 8 + rows].view(np.float32) == expected).all(), (weight, code, kept)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [40, 8256])
def test_packed_extreme_sums(blocks: int) -> None:
    """The largest products there are, of either sign in each token of a pair, and as many as a sum may have."""
    bench = EngineBench("packed", 0, pace=1.0)
    tokens = 5
    for kept in range(5) if blocks < 100 else (4,):
        codes = np.array([127, -127, -127, -127, 127])
        bench.a[:tokens] = codes[:, None]
        n, rows = 1 << kept, bench.lanes >> kept
        step = Step(np.full(bench.lanes, -128, np.int8), (np.arange(bench.lanes) % 16).astype(np.uint8))
        insn = MatrixMatrix(
            act=Operand(),
            act_stride=1,
            tokens=Operand(0, tokens),
            depth=16,
            rows=Operand(0, rows),
            out=Operand(0, 8),
            out_stride=rows,
            scales=Operand(),
        )
        bench.v.words[:] = np.float32(1).view(np.uint32)
        bench.run(command(insn), [RowBlock([step] * blocks, kept, rows, [0x3F800000] * rows)])
        found = bench.v.words[8 : 8 + tokens * rows].view(np.float32).reshape(tokens, rows)
        assert (found == (codes * -128 * n * blocks).astype(np.float32)[:, None]).all(), kept


def test_nothing_to_do() -> None:
    """Instructions without rows or tokens end at once and touch nothing."""
    bench = EngineBench("tiny", 0)
    for tokens, rows in ((0, 5), (3, 0), (0, 0)):
        fields: dict[str, Any] = {
            "act": Operand(0, 60000),
            "act_stride": 4000,
            "tokens": Operand(0, tokens),
            "rows": Operand(0, rows),
            "depth": 16,
            "out": Operand(0, 1000000),
            "out_stride": 0,
            "scales": Operand(0, 1000000),
        }
        before = bench.v.words.copy()
        assert bench.run(command(MatrixMatrix(**fields)), []) < 10
        check(bench, before, "MM")
        bench.run(command(Score(source=Source.STREAM, row_scales=Operand(0, 1000000), **fields)), [])
        check(bench, before, "SCORE")


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"tokens": 9}, "too_many_tokens"),
        ({"act": 16383 // 16}, "address_fault"),
        ({"act": 65535}, "address_fault"),
        ({"act_stride": 4095}, "address_fault"),
        ({"out": 8190}, "address_fault"),
        ({"out": 1048575}, "address_fault"),
        ({"out_stride": 1048575}, "address_fault"),
        ({"scales": 8190}, "address_fault"),
        ({"scales": 1048575}, "address_fault"),
    ],
    ids=str,
)
def test_faults(changes: dict[str, int], cause: str) -> None:
    bench = EngineBench("tiny", 1)
    values = {"act": 0, "act_stride": 1, "tokens": 8, "rows": 1, "out": 100, "out_stride": 1, "scales": 0, **changes}
    plain = ("act_stride", "out_stride")
    fields: dict[str, Any] = {name: value if name in plain else Operand(0, value) for name, value in values.items()}
    fields["depth"] = 48
    block, _ = rows_of(bench, 4, 1, 3)
    bench.front.begin([block])
    bench.ports.set("command", command(MatrixMatrix(**fields)))
    bench.ports.set("accept", 1)
    bench.cycle()
    bench.ports.set("accept", 0)
    for _ in range(500):
        bench.cycle()
        if bench.fault:
            break
    assert bench.ports.get(cause) or bench.fault
    bench.ports.dut.reset()
    assert bench.ports.get("idle")
