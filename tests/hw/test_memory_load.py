# SPDX-License-Identifier: Apache-2.0
"""The load unit against the instruction-set simulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator

from catenary.hw.memory.widen import WidenHalf
from catenary.isa.errors import ExecutionError
from catenary.isa.fields import Operand
from catenary.isa.instructions import Load
from catenary.isa.opcodes import Buffer, MemoryFormat
from catenary.isa.registers import ErrorCause
from catenary.isa.tensors import FloatFormat, widen
from catenary.sim.iss import units
from tests.hw.axi_memory import Timing, refresh
from tests.hw.memory_bench import CONFIGS, LoadBench, configuration, random_transfer, seeds


def lines_load(memory: int, rows: int) -> Load:
    return Load(buffer=Buffer.W, format=MemoryFormat.LINES, memory=Operand(imm=memory), rows=Operand(imm=rows))


def row_load(buffer: Buffer, fmt: MemoryFormat, **values: int) -> Load:
    operands = {"address", "memory", "row", "rows", "elements"}
    return Load(buffer=buffer, format=fmt, **{k: Operand(imm=v) if k in operands else v for k, v in values.items()})


@pytest.mark.parametrize("seed", seeds(1, 4))
@pytest.mark.parametrize("name", CONFIGS)
def test_rows(name: str, seed: int) -> None:
    config = configuration(name)
    bench = LoadBench(config, seed, pause=0.2 * seed)

    async def script(ctx) -> None:
        for number in range(12):
            buffer = (Buffer.V, Buffer.A, Buffer.V, Buffer.D)[number % 4]
            insn = random_transfer(bench.rng, config, Load, buffer)
            assert await bench.execute(ctx, insn) == 0, f"seed {seed}, {number}: {insn}"
            units.load(bench.expected, insn)()
            bench.check(f"seed {seed}, {number}: {insn}")

    bench.simulate(script)
    read = sum(bench.expected.memory.traffic.read.values())
    assert bench.moved * config.line_bytes == read
    assert (bench.beats == bench.moved).all()
    assert [port.reads for port in bench.ports] == bench.beats.tolist()


@pytest.mark.parametrize("seed", seeds(1, 2))
@pytest.mark.parametrize("name", ["small", "ports_4_8_16"])
def test_lines(name: str, seed: int) -> None:
    config = configuration(name)
    bench = LoadBench(config, seed)
    expected = []

    async def script(ctx) -> None:
        for rows in (1, 2, 65, int(bench.rng.integers(1, 200))):
            first = int(bench.rng.integers(0, config.memory_lines - rows + 1))
            assert await bench.execute(ctx, lines_load(first, rows)) == 0
            data = bench.expected.memory.data[first : first + rows]
            expected.extend((line.tobytes(), index == rows - 1) for index, line in enumerate(data))
            assert bench.lines == expected, f"seed {seed}"

    bench.simulate(script)


@pytest.mark.parametrize(
    "name", ["small", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ports_4_8", "ports_4x64"))]
)
def test_fetch(name: str) -> None:
    config = configuration(name, 600)
    bench = LoadBench(config, 5)
    memory = bench.expected.memory.data

    async def fetch(ctx, line: int, count: int) -> int:
        ctx.set(bench.dut.fetch.payload, {"line": line, "count": count})
        ctx.set(bench.dut.fetch.valid, 1)
        await ctx.tick().until(bench.dut.fetch.ready)
        ctx.set(bench.dut.fetch.valid, 0)
        return await bench.finish(ctx, bench.dut.fetch_done)

    async def script(ctx) -> None:
        for count in (1, 3, 7, 0, config.instruction_words):
            lines = config.lines(32 * count)
            line = int(bench.rng.integers(0, config.memory_lines - lines + 1))
            bench.code.clear()
            assert await fetch(ctx, line, count) == 0
            words = memory[line : line + lines].reshape(-1)[: 32 * count].reshape(count, 32)
            assert bench.code == {index: word.tobytes() for index, word in enumerate(words)}
            insn = random_transfer(bench.rng, config, Load, Buffer.V, 20)
            assert await bench.execute(ctx, insn) == 0
            units.load(bench.expected, insn)()
            bench.check(f"after a fetch of {count}")
        assert await fetch(ctx, config.memory_lines - 1, 2 * config.line_bytes) == ErrorCause.ADDRESS_RANGE
        await bench.abort(ctx)
        assert await fetch(ctx, 0, config.instruction_words + 1) == ErrorCause.ADDRESS_RANGE
        await bench.abort(ctx)

    bench.simulate(script)


def faults(config) -> list[Load]:
    """Loads that lie behind the end of something."""
    lines, line, words = config.memory_lines, config.line_bytes, config.vector_words
    v = {"buffer": Buffer.V, "fmt": MemoryFormat.F32, "stride": 1}
    return [
        lines_load(lines, 1),
        lines_load(lines - 3, 4),
        lines_load((1 << 32) - 1, (1 << 24) - 1),
        row_load(**v, memory=lines - 1, rows=2, elements=1),
        row_load(**v, memory=lines - 3, row=1, rows=1, elements=1, row_lines=3),
        row_load(**v, row=(1 << 20) - 1, rows=(1 << 24) - 1, elements=1, row_lines=(1 << 16) - 1),
        row_load(**v, row=1 << 16, rows=1, elements=1, row_lines=1 << 15),
        row_load(**v, memory=lines - 1, row=1, rows=2, elements=1, pack=1),
        row_load(**v, rows=1, elements=line // 4 + 1),
        row_load(**v, rows=1, elements=line // 4, pack=1),
        row_load(**v, rows=1, elements=1, pack=31),
        row_load(**v, rows=1, elements=1, row_lines=0),
        row_load(**v, rows=1, elements=(1 << 20) - 1, row_lines=2),
        row_load(**v, address=words, rows=1, elements=1),
        row_load(**v, address=words - 1, rows=1, elements=2),
        row_load(**{**v, "stride": (1 << 20) - 1}, address=(1 << 20) - 1, rows=2, elements=1),
        row_load(**{**v, "stride": words}, rows=2, elements=1),
        row_load(Buffer.A, MemoryFormat.I8, address=config.act_bytes // 16, rows=1, elements=1),
        row_load(Buffer.A, MemoryFormat.I8, address=1 << 16, rows=1, elements=1),
        row_load(Buffer.D, MemoryFormat.U64, address=config.desc_words - 1, stride=1, rows=2, elements=1),
        row_load(Buffer.D, MemoryFormat.U64, address=config.desc_words - 1, rows=1, elements=2, row_lines=2),
    ]


@pytest.mark.parametrize("name", ["small", pytest.param("ports_4_8", marks=pytest.mark.slow)])
def test_ranges(name: str) -> None:
    config = configuration(name)
    bench = LoadBench(config, 6)

    async def script(ctx) -> None:
        for number, insn in enumerate(faults(config)):
            with pytest.raises(ExecutionError):
                units.load(bench.expected, insn)()
            before = sum(port.reads for port in bench.ports)
            assert await bench.execute(ctx, insn) == ErrorCause.ADDRESS_RANGE, f"{number}: {insn}"
            if number <= 12:
                await ctx.tick().repeat(30)
                assert sum(port.reads for port in bench.ports) == before, f"memory was read: {insn}"
            await bench.abort(ctx)
            assert await bench.execute(ctx, lines_load(5, 2)) == 0

    bench.simulate(script)


@pytest.mark.parametrize("name", ["ports_4_8"])
def test_bus_error(name: str) -> None:
    config = configuration(name)
    bench = LoadBench(config, 7)

    async def script(ctx) -> None:
        for port, width in enumerate(config.port_bytes):
            bench.ports[port].bad = {100 * width}
            for insn in (
                lines_load(60, 100),
                lines_load(100, 1),
                row_load(Buffer.V, MemoryFormat.BF16, memory=98, rows=3, stride=4, elements=2),
            ):
                assert await bench.execute(ctx, insn) == ErrorCause.BUS_ERROR
                await bench.abort(ctx, 3)
                assert await bench.execute(ctx, lines_load(101, 20)) == 0
            bench.ports[port].bad = set()

    bench.simulate(script)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("seed", seeds(1, 4))
def test_abort(seed: int, held: bool) -> None:
    config = configuration("ports_4_8")
    bench = LoadBench(config, seed, timing=lambda port: Timing((5, 60), 0.5, 0.2))
    dut = bench.dut

    async def script(ctx) -> None:
        for number in range(7):
            insn = lines_load(100, 300) if number % 2 else random_transfer(bench.rng, config, Load, Buffer.V)
            bench.full = number % 3 == 0
            await bench.start(ctx, insn)
            await ctx.tick().repeat(int(bench.rng.integers(1, 120)))
            if held:
                ctx.set(dut.abort, 1)
                await ctx.tick()
                await ctx.tick().until(dut.idle)
                ctx.set(dut.abort, 0)
            else:
                await bench.abort(ctx)
            assert not any(port.open for port in bench.ports)
            bench.full = False
            bench.lines.clear()
            assert await bench.execute(ctx, lines_load(7, 20)) == 0
            lines = bench.expected.memory.data[7:27]
            assert bench.lines == [(line.tobytes(), index == 19) for index, line in enumerate(lines)]

    bench.simulate(script)


def test_nothing_to_do() -> None:
    config = configuration("small")
    bench = LoadBench(config, 9)

    async def script(ctx) -> None:
        v = {"buffer": Buffer.V, "fmt": MemoryFormat.F32, "address": (1 << 20) - 1, "memory": (1 << 32) - 1}
        for insn in (
            lines_load((1 << 32) - 1, 0),
            row_load(**v, rows=0, elements=5),
            row_load(**v, rows=5, elements=0),
            row_load(**v, rows=0, elements=0, row_lines=0),
        ):
            assert await bench.execute(ctx, insn) == 0
        bench.check("nothing")

    bench.simulate(script)
    assert not any(port.bursts for port in bench.ports)


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_halves(step: int) -> None:
    """Binary16, NaNs with payload included; all subnormals."""
    dut = WidenHalf()
    halves = np.arange(1 << 16, dtype=np.uint16)
    halves = halves[(halves % step == 0) | (halves & 0x7C00 == 0)]
    expected = widen(halves.view(np.float16), FloatFormat.F16).view(np.uint32)

    async def script(ctx) -> None:
        for half, single in zip(halves.tolist(), expected.tolist(), strict=True):
            ctx.set(dut.half, half)
            assert ctx.get(dut.single) == single, hex(half)

    sim = Simulator(dut)
    sim.add_testbench(script)
    sim.run()


def test_rates() -> None:
    """What ``small`` promises: a line a cycle into W, V and A, and at least a row of one packed element a cycle."""
    config = configuration("small")
    bench = LoadBench(config, 11, timing=lambda port: Timing((1, 1), 0, 0), pause=0)
    v, f32, f16 = Buffer.V, MemoryFormat.F32, MemoryFormat.F16
    cases = {
        "lines": (lines_load(0, 200), 200),
        "f32": (row_load(v, f32, rows=1, elements=400, row_lines=200), 200),
        "f16": (row_load(v, f16, rows=1, elements=400, row_lines=100), 100),
        "codes": (row_load(Buffer.A, MemoryFormat.I8, rows=1, elements=1600, row_lines=200), 200),
        "scales": (row_load(v, f32, rows=399, stride=1, elements=1, pack=1, row=1), 200),
        "spread": (row_load(v, f32, rows=200, stride=2, elements=1, pack=1), 200),
    }

    async def script(ctx) -> None:
        for name, (insn, cycles) in cases.items():
            before = bench.cycles
            assert await bench.execute(ctx, insn) == 0
            assert bench.cycles - before <= cycles + 25, f"{name}: {bench.cycles - before} cycles"
            if insn.buffer is not Buffer.W:
                units.load(bench.expected, insn)()
                bench.check(name)

    bench.simulate(script)


@pytest.mark.parametrize("name, ports, share", [("small", 1, 0.995), ("small", 4, 0.97)])
@pytest.mark.slow
def test_share_of_offered(name: str, ports: int, share: float) -> None:
    """Ports that refresh blocks at different times, 60 of 790 cycles each, with a latency of 120."""
    config = replace(configuration(name, 8000), port_bytes=(8,) * ports, memory_bytes=8 * ports * 8000)
    phases = [0, 197, 395, 592]
    bench = LoadBench(config, 12, timing=lambda port: refresh(phases[port]), pause=0)
    lines = 2400

    async def script(ctx) -> None:
        before = bench.cycles
        assert await bench.execute(ctx, lines_load(0, lines), 2 * lines) == 0
        cycles = bench.cycles - before
        assert lines >= share * 730 / 790 * (cycles - 130), f"{lines} lines in {cycles} cycles"

    bench.simulate(script)
