# SPDX-License-Identifier: Apache-2.0
"""The store unit against the instruction-set simulator."""

from __future__ import annotations

import numpy as np
import pytest

from catenary.hw.memory.line_writer import WRITE_BURST
from catenary.isa.errors import ExecutionError
from catenary.isa.fields import Operand
from catenary.isa.instructions import Store
from catenary.isa.opcodes import Buffer, MemoryFormat
from catenary.isa.registers import ErrorCause
from catenary.sim.iss import units
from tests.hw.axi_memory import Timing
from tests.hw.memory_bench import CONFIGS, PATIENCE, StoreBench, configuration, random_transfer, seeds


def row_store(buffer: Buffer, **values: int) -> Store:
    fmt = MemoryFormat.F32 if buffer is Buffer.V else MemoryFormat.I8
    operands = {"address", "memory", "row", "rows", "elements"}
    return Store(buffer=buffer, format=fmt, **{k: Operand(imm=v) if k in operands else v for k, v in values.items()})


@pytest.mark.parametrize("seed", seeds(1, 4))
@pytest.mark.parametrize("name", CONFIGS)
def test_rows(name: str, seed: int) -> None:
    config = configuration(name)
    bench = StoreBench(config, seed, pause=0.2 * seed)

    async def script(ctx) -> None:
        for number in range(10):
            insn = random_transfer(bench.rng, config, Store, (Buffer.V, Buffer.A)[number % 2])
            assert await bench.execute(ctx, insn) == 0, f"seed {seed}, {number}: {insn}"
            units.store(bench.expected, insn)()
            np.testing.assert_array_equal(bench.joined(), bench.expected.memory.data, f"seed {seed}, {number}: {insn}")
            assert not any(port.open for port in bench.ports), "done before memory has acknowledged"

    bench.simulate(script)
    written = sum(bench.expected.memory.traffic.written.values())
    assert bench.written.sum() == written
    assert bench.written.tolist() == [port.written for port in bench.ports]
    assert [port.writes for port in bench.ports] == [bench.moved] * len(bench.ports)


def faults(config) -> list[Store]:
    """Stores that lie behind the end of something."""
    lines, line, words = config.memory_lines, config.line_bytes, config.vector_words
    return [
        row_store(Buffer.V, memory=lines, rows=1, elements=1),
        row_store(Buffer.V, memory=(1 << 32) - 1, rows=(1 << 24) - 1, elements=1),
        row_store(Buffer.A, memory=lines - 3, row=1, rows=1, elements=1, row_lines=3),
        row_store(Buffer.A, memory=lines - 1, row=1, rows=2, elements=1, pack=1),
        row_store(Buffer.V, rows=1, elements=line // 4 + 1),
        row_store(Buffer.A, rows=1, elements=line, pack=1),
        row_store(Buffer.A, rows=1, elements=32, pack=1, row_lines=2),  # no line has 16 bytes of two rows
        row_store(Buffer.V, rows=1, elements=1, row_lines=0),
        row_store(Buffer.V, address=words, rows=1, elements=1),
        row_store(Buffer.V, address=words - 1, rows=1, elements=2),
        row_store(Buffer.V, address=(1 << 20) - 1, stride=(1 << 20) - 1, rows=2, elements=1),
        row_store(Buffer.A, address=config.act_bytes // 16, rows=1, elements=1),
        row_store(Buffer.A, address=1 << 16, rows=1, elements=1),
    ]


def interleaved_faults(config) -> list[Store]:
    """Interleaved rows of the wrong size, or that lie behind the end of something."""
    rows = {"rows": 3, "elements": 48, "pack": 1, "row_lines": 3}
    return [
        row_store(Buffer.A, **rows | {"elements": 47}),
        row_store(Buffer.A, **rows | {"row_lines": 4}),
        row_store(Buffer.A, **rows | {"pack": 31}),
        row_store(Buffer.A, **rows, memory=config.memory_lines - 5),
        row_store(Buffer.A, **rows, memory=config.memory_lines - 8, row=2),
        row_store(Buffer.A, **rows, address=config.act_bytes // 16 - 4, stride=1),
        row_store(Buffer.A, **rows, address=(1 << 16) - 3, stride=(1 << 20) - 1),
    ]


@pytest.mark.parametrize("name", ["small", "ports_4x64", pytest.param("ports_4_8", marks=pytest.mark.slow)])
def test_ranges(name: str) -> None:
    config = configuration(name)
    bench = StoreBench(config, 6)
    cases = interleaved_faults(config) if name == "ports_4x64" else faults(config)

    async def script(ctx) -> None:
        for number, insn in enumerate(cases):
            with pytest.raises(ExecutionError):
                units.store(bench.expected, insn)()
            assert await bench.execute(ctx, insn) == ErrorCause.ADDRESS_RANGE, f"{number}: {insn}"
            await bench.abort(ctx)
            np.testing.assert_array_equal(bench.joined(), bench.expected.memory.data, f"{number}: {insn}")
            good = row_store(Buffer.V, memory=100 + number, address=number, rows=2, stride=3, elements=2)
            assert await bench.execute(ctx, good) == 0
            units.store(bench.expected, good)()

    bench.simulate(script)


def test_bus_error() -> None:
    config = configuration("ports_4_8")
    bench = StoreBench(config, 7)

    async def script(ctx) -> None:
        for port, width in enumerate(config.port_bytes):
            bench.ports[port].bad = {100 * width}
            for rows, memory in ((100, 60), (1, 100), (1, 99)):
                insn = row_store(Buffer.A, memory=memory, rows=rows, elements=2, row_lines=2 if memory == 99 else 1)
                assert await bench.execute(ctx, insn) == ErrorCause.BUS_ERROR
                await bench.abort(ctx, 3)
                assert await bench.execute(ctx, row_store(Buffer.A, memory=101, rows=20, elements=7)) == 0
            bench.ports[port].bad = set()

    bench.simulate(script)


@pytest.mark.parametrize("pack", [1, 3, 4])
def test_interleaved_rows(pack: int) -> None:
    """From any row to any other, in wide lines; pieces of other rows stay."""
    config = configuration("ports_4x64")
    bench = StoreBench(config, pack)
    rng = bench.rng

    async def script(ctx) -> None:
        for _ in range(4):
            words, row = int(rng.integers(2, 9)), int(rng.integers(0, 40))
            rows = int(rng.choice([1, 2, rng.integers(3, 50)]))
            place = {"address": int(rng.integers(0, 9)), "stride": words + int(rng.integers(0, 2)), "row": row}
            insn = row_store(Buffer.A, rows=rows, elements=16 * words, pack=pack, row_lines=words, memory=3, **place)
            assert await bench.execute(ctx, insn) == 0
            units.store(bench.expected, insn)()
            np.testing.assert_array_equal(bench.joined(), bench.expected.memory.data, f"{insn}")

    bench.simulate(script)
    assert bench.written.sum() == sum(bench.expected.memory.traffic.written.values())


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("seed", seeds(1, 4))
def test_abort(seed: int, held: bool) -> None:
    """Whatever was under way, nothing but bytes of that instruction is written, and the next one is whole."""
    config = configuration("ports_4_8")
    bench = StoreBench(config, seed, timing=lambda port: Timing((5, 60), 0.5, 0.2))
    dut = bench.dut

    async def script(ctx) -> None:
        for _ in range(10):
            insn = random_transfer(bench.rng, config, Store, Buffer.V, 400)
            before = bench.joined()
            await bench.start(ctx, insn)
            await ctx.tick().repeat(int(bench.rng.integers(1, 150)))
            if held:
                ctx.set(dut.abort, 1)
                await ctx.tick()
                await ctx.tick().until(dut.idle)
                ctx.set(dut.abort, 0)
            else:
                await bench.abort(ctx)
            assert not any(port.open for port in bench.ports)
            bench.expected.memory.data[...] = before
            units.store(bench.expected, insn)()
            after = bench.joined()
            assert ((after == before) | (after == bench.expected.memory.data)).all(), f"seed {seed}: {insn}"
            bench.expected.memory.data[...] = after
            good = random_transfer(bench.rng, config, Store, Buffer.A, 60)
            assert await bench.execute(ctx, good) == 0
            units.store(bench.expected, good)()
            np.testing.assert_array_equal(bench.joined(), bench.expected.memory.data, f"seed {seed}: {good}")

    bench.simulate(script)


def test_nothing_to_do() -> None:
    bench = StoreBench(configuration("small"), 9)

    async def script(ctx) -> None:
        place = {"address": (1 << 20) - 1, "memory": (1 << 32) - 1}
        for insn in (
            row_store(Buffer.V, **place, rows=0, elements=5),
            row_store(Buffer.A, **place, rows=5, elements=0),
            row_store(Buffer.A, **place, rows=0, elements=0, row_lines=0),
        ):
            assert await bench.execute(ctx, insn) == 0

    bench.simulate(script)
    assert not any(port.bursts for port in bench.ports)


def test_rates() -> None:
    """``small`` stores a line a cycle out of V and A."""
    config = configuration("small")
    bench = StoreBench(config, 11, timing=lambda port: Timing((1, 1), 0, 0), pause=0)

    async def script(ctx) -> None:
        for insn in (
            row_store(Buffer.V, rows=1, elements=400, row_lines=200),
            row_store(Buffer.A, rows=1, elements=1600, row_lines=200),
        ):
            before = bench.cycles
            assert await bench.execute(ctx, insn) == 0
            assert bench.cycles - before <= 200 + 30 + WRITE_BURST
            units.store(bench.expected, insn)()
            np.testing.assert_array_equal(bench.joined(), bench.expected.memory.data)

    bench.simulate(script)


@pytest.mark.parametrize("name", ["small", "ports_4x64"])
def test_a_burst_has_its_data(name: str) -> None:
    """However slow the buffer is: a beat crosses in every cycle from the address of a burst to its end."""
    config = configuration(name)
    bench = StoreBench(config, 21, timing=lambda port: Timing((1, 1), 0, 0), pause=0.8)
    axi = bench.axi[0]
    bursts: list[int] = []

    async def watch(ctx) -> None:
        owed = gap = 0
        async for _, _, awvalid, awready, awlen, wvalid, wready in ctx.tick().sample(
            axi.awvalid, axi.awready, axi.awlen, axi.wvalid, axi.wready
        ):
            if wvalid and wready:
                owed -= 1
            if awvalid and awready:
                owed += awlen + 1
                bursts.append(awlen + 1)
            gap = gap + 1 if owed > 0 and not (wvalid and wready) else 0
            assert gap <= 2

    async def script(ctx) -> None:
        elements = 150 * config.line_bytes // 4 % config.vector_words
        lines = -(-elements * 4 // config.line_bytes)
        insn = row_store(Buffer.V, memory=3, rows=1, elements=elements, row_lines=lines)
        assert await bench.execute(ctx, insn, 4 * PATIENCE) == 0
        units.store(bench.expected, insn)()
        np.testing.assert_array_equal(bench.joined(), bench.expected.memory.data)

    bench.run(script, watch, bench.count_written, *bench.store_services())
    assert len(bursts) > 1
