# SPDX-License-Identifier: Apache-2.0
"""What the core does at its AXI ports; cocotb runs these tests inside the simulator, :mod:`tests.cocotb.test_core`
starts it.
"""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.triggers import ClockCycles

from catenary.isa.opcodes import ISA_VERSION
from catenary.isa.registers import MAGIC, ErrorCause
from tests.cocotb.bench import CONFIG, Bench
from tests.programs.cases import Case
from tests.programs.error_cases import ERRORS
from tests.programs.random_programs import random_case

_ERRORS = (
    *("zero word", "no END", "load over the end", "store behind memory", "stream over the end", "keys behind A"),
    *("header: rows", "other columns", "stream left", "token left", "too many tokens", "wait for ever"),
    "stream that is empty",
)
"""Those that leave much under way."""


def short_case(seed: int, size: int = 3) -> Case:
    """A random program of a few thousand cycles."""
    return random_case(CONFIG, size, seed, words=384)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def it_says_who_it_is(dut: Any) -> None:
    bench = await Bench.start(dut)
    assert await bench.read("IDENTITY") == MAGIC
    assert await bench.read("ISA_VERSION") == ISA_VERSION
    assert await bench.read("CONFIG_HASH") == int(CONFIG.hash, 16)
    assert await bench.read("PORTS") == len(CONFIG.port_bytes)


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(seed=[1, 2])
async def random_programs_agree_with_the_simulator(dut: Any, seed: int) -> None:
    """Two programs, each twice without a reset, on memory that stalls; ports move what the counters say."""
    bench = await Bench.start(dut, seed)
    for case in (short_case(10 * seed), short_case(10 * seed + 1)):
        for _ in range(2):
            await bench.agree(case)
    assert all(memory.rules.bursts for memory in bench.memories)
    lines = {await bench.read(f"PORT_READ{port}") / width for port, width in enumerate(CONFIG.port_bytes)}
    assert len(lines) == 1, "every port moves as many beats"
    assert lines.pop() > 0


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def it_agrees_on_memory_that_never_stalls(dut: Any) -> None:
    bench = await Bench.start(dut, None)
    await bench.agree(short_case(5))


@cocotb.test(timeout_time=20, timeout_unit="ms")
@cocotb.parametrize(hard=[False, True])
async def a_reset_in_the_middle_leaves_nothing_behind(dut: Any, hard: bool) -> None:
    """By register or by wire, at several moments; the next program runs as if there had been none."""
    bench = await Bench.start(dut)
    case = short_case(6)
    for cycles in (1, 150, 700, 2001):
        await bench.begin(case)
        await ClockCycles(dut.clk, cycles)
        await (bench.reset() if hard else bench.soft_reset())
        await bench.agree(short_case(7, 1))


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(channel=["reads", "writes"])
async def a_bus_error_stops_the_run(dut: Any, channel: str) -> None:
    """One bad address behind either port, read or written by the program."""
    bench = await Bench.start(dut)
    case = short_case(8)
    for memory in bench.memories:
        half = getattr(memory, channel)
        # Words of V: the first constants that are loaded, and the last results that are stored.
        line = len(case.image) // CONFIG.line_bytes - CONFIG.lines(len(case.code)) - 4 if channel == "writes" else 300
        half.bad = range(line * memory.width, (line + 1) * memory.width)
        assert (await bench.run(case)).cause is ErrorCause.BUS_ERROR
        half.bad = range(0)
        await bench.agree(case)


@cocotb.test(timeout_time=60, timeout_unit="ms")
async def every_error_is_reported_in_time(dut: Any) -> None:
    """Some error of each cause has that cause and its instruction, in bounded time; the core is sound after it."""
    bench = await Bench.start(dut)
    assert {ERRORS[name](CONFIG).cause for name in _ERRORS} == set(ErrorCause) - {ErrorCause.NONE, ErrorCause.BUS_ERROR}
    wrong = []
    for number, name in enumerate(_ERRORS):
        case = ERRORS[name](CONFIG)
        await bench.begin(case)
        found = await bench.finish(case, 10_000)
        if found.cause is not case.cause or case.fault not in (None, found.pc):
            wrong.append((name, found.cause.name, found.pc))
        if number % 3 == 0:
            await bench.agree(short_case(7, 1))
    await bench.agree(short_case(9, 2))
    assert not wrong, wrong
