# SPDX-License-Identifier: Apache-2.0
"""Parts of the vector unit: reciprocals of whole numbers, and the microprograms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator

from catenary.boards.loader import load_accelerator
from catenary.hw.vector.inverse import Inverse
from catenary.hw.vector.layouts import PC_BITS, C, Flow, MicroLayout, P, Q, Scalar, Shape
from catenary.hw.vector.microcode import CONSTANTS, ENTRIES, PROGRAMS, ROUND, WORDS, R, Same, Step, V
from catenary.hw.vector.packer import Packer
from catenary.hw.vector.scalars import word
from catenary.isa.functions import inverse_constant
from catenary.isa.numbers import CODE_LIMIT, PROBABILITY_LIMIT
from catenary.isa.opcodes import ApplyFunction, CombineFunction, NormFunction
from catenary.sim.arith.attention import INVERSE_PROBABILITY_LIMIT
from catenary.sim.arith.quantize import INVERSE_CODE_LIMIT
from catenary.sim.arith.vector import GELU_CUBIC, HALF, SQRT_2_OVER_PI, SQRT_HALF


@pytest.mark.parametrize("seed", [0])
def test_inverse(seed: int) -> None:
    dut = Inverse(20)
    rng = np.random.default_rng(seed)
    numbers = [
        *range(1, 34),
        120,
        127,
        128,
        129,
        4095,
        (1 << 19) + 1,
        (1 << 20) - 1,
        *rng.integers(1, 1 << 20, 40).tolist(),
    ]

    async def bench(ctx) -> None:
        for n in numbers:
            ctx.set(dut.n, n)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            ctx.set(dut.n, 0)
            cycles = 1
            while ctx.get(dut.busy):
                await ctx.tick()
                cycles += 1
            assert ctx.get(dut.o) == word(inverse_constant(n)), n
            assert cycles <= 20 + 25 + 1

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()


def test_constants_are_those_of_the_definition() -> None:
    expected = {
        Scalar.SQRT_HALF: SQRT_HALF,
        Scalar.SQRT_2_OVER_PI: SQRT_2_OVER_PI,
        Scalar.GELU_CUBIC: GELU_CUBIC,
        Scalar.HALF: HALF,
        Scalar.CODE_LIMIT: CODE_LIMIT,
        Scalar.PROBABILITY_LIMIT: PROBABILITY_LIMIT,
        Scalar.INVERSE_CODE_LIMIT: INVERSE_CODE_LIMIT,
        Scalar.INVERSE_PROBABILITY_LIMIT: INVERSE_PROBABILITY_LIMIT,
    }
    assert {scalar: np.float32(CONSTANTS[scalar]) for scalar in expected} == {
        scalar: np.float32(value) for scalar, value in expected.items()
    }


def test_every_function_has_a_microprogram() -> None:
    wanted = {
        *ApplyFunction,
        *CombineFunction,
        *((function, bias) for function in NormFunction for bias in (False, True)),
    }
    assert wanted <= set(ENTRIES)
    assert len(WORDS) == sum(map(len, PROGRAMS.values())) <= 1 << PC_BITS


def test_step_to_word() -> None:
    step = Step([V(1)], V(2), R(3), R(1), subtract=True, flow=Flow.EACH, goto="there")
    micro = MicroLayout.const(step.fields({"there": 9}))
    assert micro.compute.p == P.V
    assert micro.compute.q == Q.REGISTER
    assert micro.compute.c == C.REGISTER
    assert (micro.compute.a, micro.compute.b, micro.compute.subtract) == (3, 1, 1)
    assert (micro.plan.read, micro.plan.write, micro.plan.target) == (2, 1, 9)
    assert micro.sink.to_v == 1
    assert micro.plan.beats == Shape.STRIP


@pytest.mark.parametrize(
    "step",
    [
        Step([], V(0), c=V(1)),  # two places in V
        Step([], R(0), R(1), R(2)),  # three registers
        Step([R(0), Scalar.S1], V(0)),  # two targets by number
        Step([], Scalar.S0, c=Scalar.S1),
        Step([], Same),
    ],
)
def test_what_the_lanes_cannot_do(step: Step) -> None:
    with pytest.raises(ValueError, match="must"):
        step.fields({})


@pytest.mark.parametrize("seed", [1])
@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("lanes", [1, 4, 16, 32])
def test_packer(lanes: int, two: bool, seed: int) -> None:
    rng = np.random.default_rng([lanes, two, seed])
    dut = Packer(replace(load_accelerator("small"), vector_lanes=lanes))
    start, stride, n = 40, 9, int(rng.integers(1, 100))
    total = n + int(rng.choice([0, 40])) if two else n
    rows = rng.integers(0, 16384, (3, n)) if two else rng.integers(-127, 128, (3, n))
    memory = np.full((100, 16), 0xAA, np.uint8)
    expected = memory.copy()
    for row, codes in enumerate(rows):
        for part, values in enumerate((codes >> 7, codes & 127) if two else (codes,)):
            at, blocks = start + (row * (1 + two) + part) * stride, -(-total // 16)
            expected[at : at + blocks] = np.pad(values.astype(np.uint8), (0, 16 * blocks - n)).reshape(blocks, 16)

    async def writer(ctx) -> None:
        while True:
            ctx.set(dut.write.request.ready, int(rng.random() < 0.5))
            request = dut.write.request
            _, _, accepted, payload = await ctx.tick().sample(request.valid & request.ready, request.payload)
            if accepted:
                memory[payload.address] = np.frombuffer(payload.data.to_bytes(16, "little"), np.uint8)

    async def bench(ctx) -> None:
        ctx.set(dut.codes, {"address": start, "stride": stride, "total": total, "two": two})
        ctx.set(dut.load, 1)
        await ctx.tick()
        ctx.set(dut.load, 0)
        for codes in rows:
            for first in range(0, n, lanes):
                beat = [word(ROUND + float(value)) for value in codes[first : first + lanes]]
                ctx.set(dut.elements, beat + [word(np.nan)] * (lanes - len(beat)))
                ctx.set(dut.count, len(beat))
                ctx.set(dut.final, int(first + lanes >= n))
                ctx.set(dut.valid, 1)
                await ctx.tick().until(dut.ready)
                ctx.set(dut.valid, 0)
                for _ in range(rng.integers(0, 2)):
                    await ctx.tick()
        while ctx.get(dut.busy):
            await ctx.tick()
        assert (memory == expected).all()

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.add_testbench(writer, background=True)
    sim.run()
