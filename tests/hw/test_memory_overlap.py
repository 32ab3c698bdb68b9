# SPDX-License-Identifier: Apache-2.0
"""Several loads under way at a time: in order, one after the other on the bus, and each with its own errors."""

from __future__ import annotations

import numpy as np
import pytest

from catenary.hw.unit import started_limit
from catenary.isa.fields import Operand
from catenary.isa.instructions import Load
from catenary.isa.opcodes import Buffer, MemoryFormat, Unit
from catenary.isa.registers import ErrorCause
from catenary.sim.iss import units
from tests.hw.axi_memory import Timing
from tests.hw.memory_bench import PATIENCE, LoadBench, configuration, random_transfer, seeds

pytestmark = pytest.mark.slow  # most of its time is compiling

LIMIT = started_limit(Unit.LOAD)
LATENCY = 120


def lines_load(memory: int, rows: int) -> Load:
    return Load(buffer=Buffer.W, format=MemoryFormat.LINES, memory=Operand(imm=memory), rows=Operand(imm=rows))


def floats(address: int, memory: int, lines: int, config) -> Load:
    """One row of FP32 words that fills ``lines`` lines."""
    return Load(
        buffer=Buffer.V,
        format=MemoryFormat.F32,
        address=Operand(imm=address),
        memory=Operand(imm=memory),
        rows=Operand(imm=1),
        elements=Operand(imm=lines * config.line_bytes // 4),
        row_lines=lines,
    )


class Driver:
    """Starts instructions as the shell does, whenever fewer than the limit are under way.

    Attributes:
        finished: how many are done.
        cause: of the fault that ended them, or 0.
    """

    def __init__(self, bench: LoadBench) -> None:
        self.bench = bench
        self.finished = 0
        self.cause = 0

    async def run(self, ctx, code: list[Load], after=lambda index: None) -> None:
        """Run ``code``; call ``after(index)`` when an instruction is done, with nothing later having been seen."""
        dut, bench, started = self.bench.dut, self.bench, 0
        for _ in range(PATIENCE * len(code)):
            can = started < len(code) and started - self.finished < LIMIT
            if can:
                insn = code[started]
                bench.put(ctx, insn)
            ctx.set(dut.insn.valid, can)
            taken, done, fault, cause = can and ctx.get(dut.insn.ready), ctx.get(dut.done), ctx.get(dut.fault), 0
            assert not (done and fault)
            if fault:
                cause = ctx.get(dut.cause)
            await ctx.tick()
            started += taken
            if fault:
                ctx.set(dut.insn.valid, 0)
                self.cause = cause
                return
            if done:
                assert self.finished < started
                after(self.finished)
                self.finished += 1
            if self.finished == len(code):
                ctx.set(dut.insn.valid, 0)
                return
        raise AssertionError(f"Only {self.finished} of {len(code)} loads were done")


@pytest.mark.parametrize("lines", [1, 4, 16])
def test_latency_is_paid_once(lines: int) -> None:
    """Loads of few lines: many of them take little longer than one, and one as long as ever."""
    config = configuration("small")
    bench = LoadBench(config, 1, timing=lambda port: Timing((LATENCY, LATENCY), 0, 0), pause=0)
    cycles: dict[int, int] = {}

    async def script(ctx) -> None:
        for count in (1, 4, 20):
            code = [floats(40 * index, 20 * index, lines, config) for index in range(count)]
            before = bench.cycles
            await Driver(bench).run(ctx, code)
            cycles[count] = bench.cycles - before
            for insn in code:
                units.load(bench.expected, insn)()
            bench.check(f"{count} loads")

    bench.simulate(script)
    assert cycles[1] <= LATENCY + lines + 25
    each = max(lines + 10, (LATENCY + lines + 25) / LIMIT)
    assert cycles[20] <= cycles[1] + 19 * each, cycles


@pytest.mark.parametrize("seed", seeds(2, 6))
@pytest.mark.parametrize("name", ["small", "ports_4_8"])
def test_any_loads_in_any_order(name: str, seed: int) -> None:
    """What follows takes no line of what is before it, and everything is there when it is done."""
    config = configuration(name)
    rng = np.random.default_rng(seed)
    bench = LoadBench(config, seed, timing=lambda port: Timing((2, 60), 0.3, 0.1), pause=0.15 * (seed % 3))
    code: list[Load] = []
    for _ in range(30):
        kind = int(rng.integers(0, 6))
        if kind < 2:
            rows = int(rng.choice([0, 1, 1, 2, 30]))
            code.append(lines_load(int(rng.integers(0, config.memory_lines - rows + 1)), rows))
        else:
            buffer = (Buffer.V, Buffer.V, Buffer.A, Buffer.D)[kind - 2]
            code.append(random_transfer(rng, config, Load, buffer, int(rng.choice([2, 8, 60]))))
    pushed: list[tuple[bytes, bool]] = []

    def after(index: int) -> None:
        insn = code[index]
        if insn.buffer is Buffer.W:
            first, rows = insn.memory.imm, insn.rows.imm
            data = bench.expected.memory.data[first : first + rows]
            pushed.extend((line.tobytes(), row == rows - 1) for row, line in enumerate(data))
        else:
            units.load(bench.expected, insn)()
        # Later loads may have written already, but nothing of this one may be missing.
        assert bench.lines[: len(pushed)] == pushed, f"seed {seed}, {index}"
        done.append(index)

    done: list[int] = []
    driver = Driver(bench)

    async def script(ctx) -> None:
        await driver.run(ctx, code, after)
        bench.check(f"seed {seed}")

    bench.simulate(script)
    assert driver.cause == 0
    assert done == list(range(len(code)))
    assert bench.lines == pushed


@pytest.mark.parametrize("seed", seeds(2, 4))
def test_errors_are_those_of_their_load(seed: int) -> None:
    """Everything before the load at fault is done first; the bus sees no address of a load behind a range error."""
    config = configuration("ports_4_8")
    bench = LoadBench(config, seed, timing=lambda port: Timing((30, 60), 0.2, 0), pause=0.2)
    rng = np.random.default_rng(seed)
    bad_line = 400
    outside = [
        (lines_load(config.memory_lines - 1, 2), ErrorCause.ADDRESS_RANGE),
        (floats(config.vector_words - 3, 10, 2, config), ErrorCause.ADDRESS_RANGE),
        (lines_load(bad_line - 1, 3), ErrorCause.BUS_ERROR),
        (floats(0, bad_line, 2, config), ErrorCause.BUS_ERROR),
    ]

    async def script(ctx) -> None:
        for insn, cause in outside:
            for place in (0, 1, 5):
                bench.ports[1].bad = {bad_line * config.port_bytes[1]}
                good = [floats(40 * index, 20 * index, int(rng.integers(1, 6)), config) for index in range(place)]
                driver = Driver(bench)
                # Behind it, one that must not be asked for if it comes after a range error.
                await driver.run(ctx, [*good, insn, lines_load(200, 1), lines_load(bad_line, 1)])
                assert (driver.cause, driver.finished) == (cause, place), f"seed {seed}: {insn}"
                for before in good:
                    units.load(bench.expected, before)()
                await bench.abort(ctx, int(rng.integers(1, 4)))
                bench.ports[1].bad = set()
                bench.lines.clear()
                after = Driver(bench)
                await after.run(ctx, [lines_load(7, 2), lines_load(9, 1)])
                data = bench.expected.memory.data[7:10]
                assert bench.lines == [(line.tobytes(), index > 0) for index, line in enumerate(data)]

    bench.simulate(script)


def test_range_error_asks_for_nothing_more() -> None:
    config = configuration("small")
    bench = LoadBench(config, 3, pause=0)

    async def script(ctx) -> None:
        code = [floats(0, 0, 2, config), lines_load(config.memory_lines, 1), floats(0, 50, 3, config)]
        driver = Driver(bench)
        await driver.run(ctx, code)
        assert (driver.cause, driver.finished) == (ErrorCause.ADDRESS_RANGE, 1)
        await ctx.tick().repeat(50)
        assert [port.reads for port in bench.ports] == [2]

    bench.simulate(script)


@pytest.mark.parametrize("seed", seeds(1, 4))
def test_abort_with_several_under_way(seed: int) -> None:
    config = configuration("ports_4_8")
    bench = LoadBench(config, seed, timing=lambda port: Timing((5, 60), 0.5, 0.2))
    dut = bench.dut

    async def script(ctx) -> None:
        for number in range(8):
            bench.full = number % 2 == 0
            started = 0
            for _ in range(int(bench.rng.integers(1, 200))):
                wide = number % 2 or started % 3
                bench.put(ctx, floats(40 * started, 20 * started, 9, config) if wide else lines_load(100, 60))
                ctx.set(dut.insn.valid, started < LIMIT)
                started += ctx.get(dut.insn.ready) and started < LIMIT
                await ctx.tick()
            ctx.set(dut.insn.valid, 0)
            await bench.abort(ctx)
            bench.full = False
            bench.lines.clear()
            assert await bench.execute(ctx, lines_load(7, 20)) == 0
            lines = bench.expected.memory.data[7:27]
            assert bench.lines == [(line.tobytes(), index == 19) for index, line in enumerate(lines)]

    bench.simulate(script)
