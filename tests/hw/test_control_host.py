# SPDX-License-Identifier: Apache-2.0
"""The host interface: registers, counters, soft reset."""

from __future__ import annotations

import random

import numpy as np
import pytest

from catenary.hw.control.counters import Counters
from catenary.isa.csr import Access
from catenary.isa.opcodes import Unit
from catenary.isa.registers import ErrorCause, Stall, register_map
from tests.hw.compiled import Compiled
from tests.hw.control_bench import CORES, ODD, SMALL, Bench

LD = "ld buffer=v format=f32 memory=0 rows=1 elements=4"
APPLY = "apply function=relu dst=0 dst_stride=0 x=0 x_stride=0 rows=1 elements=4"
CONFIGS = pytest.mark.parametrize("config", [SMALL, ODD], ids=["small", "odd"])


def writable(register) -> int:
    """The bits of ``register`` that the host may set."""
    parts = [part for part in register.register.layout if part.field.access is Access.READ_WRITE]
    return sum((1 << part.width) - 1 << part.offset for part in parts)


@CONFIGS
def test_reset_values(config):
    bench = Bench(config)
    for register in register_map(config):
        assert bench.read(register.name) == register.register.reset, register.name


@CONFIGS
@pytest.mark.parametrize("seed", range(2))
def test_access(config, seed):
    """Settings keep what is written, one by one and byte by byte; nothing else can be written."""
    bench, rng = Bench(config), random.Random(seed)
    values = {register.name: register.register.reset for register in bench.map}
    settings = [register for register in bench.map if writable(register)]
    assert [r.name for r in settings][:4] == ["ENTRY", "CODE_LENGTH", "CODE_LINE", "WATCHDOG"]
    for register in bench.map:
        if register.name == "CONTROL":
            continue
        for offset in range(0, register.register.width, 32):
            value, strobe = rng.getrandbits(32), rng.choice([15, 15, rng.getrandbits(4)])
            bench.write_word(register.address + offset // 8, value, strobe, skew=rng.randint(-3, 3))
            bits = sum(0xFF << 8 * byte for byte in range(4) if strobe >> byte & 1)
            mask = bits << offset & writable(register)
            values[register.name] = values[register.name] & ~mask | value << offset & mask
    for register in rng.sample(list(bench.map), len(list(bench.map))):
        assert bench.read(register.name) == values[register.name], (seed, register.name)
    for register in settings:  # the high word by itself
        if register.register.width == 64:
            assert bench.read_word(register.address + 4) == values[register.name] >> 32


def test_unused_addresses():
    bench = Bench()
    used = {register.address + offset for register in bench.map for offset in (0, register.register.width // 8 - 4)}
    unused = [address for address in range(0, 1 << bench.map.address_bits, 4) if address not in used]
    assert unused
    for address in unused:
        bench.write_word(address, 0xFFFFFFFF)
        assert bench.read_word(address) == 0
    assert all(bench.read(register.name) == register.register.reset for register in bench.map)


def test_response_channels_wait_for_the_host():
    bench = Bench()
    bench.read("STATUS")  # after reset, the port may take nothing for a while
    bench.poke("bus.bready", 0)
    bench.poke("bus.rready", 0)
    address = bench.map["ENTRY"].address
    for name, value in (("awaddr", address), ("wdata", 77), ("wstrb", 15), ("awvalid", 1), ("wvalid", 1)):
        bench.poke(f"bus.{name}", value)
    bench.cycle()
    bench.poke("bus.wdata", 78)
    bench.poke("bus.araddr", address)
    bench.poke("bus.arvalid", 1)
    for _ in range(10):  # the second write has to wait for the first one's response
        bench.cycle()
        assert (bench.top.peek("bus.bvalid"), bench.top.peek("bus.awready"), bench.top.peek("bus.wready")) == (1, 0, 0)
    assert (bench.top.peek("bus.rvalid"), bench.top.peek("bus.rdata"), bench.top.peek("bus.arready")) == (1, 77, 0)
    bench.poke("bus.bready", 1)
    bench.cycle()
    bench.poke("bus.awvalid", 0)
    bench.poke("bus.wvalid", 0)
    bench.poke("bus.arvalid", 0)
    bench.poke("bus.rready", 1)
    bench.cycles(2)
    assert bench.read("ENTRY") == 78


@pytest.mark.parametrize("seed", range(3))
def test_counters(seed):
    """The memory of counters against sums."""
    limits = {"a": 1, "b": 7, "c": 64, "d": 1, "e": 12}
    cycles, rng = 3000, np.random.default_rng(seed)
    steps = {name: rng.integers(0, limit + 1, cycles) for name, limit in limits.items()}
    clear = rng.random(cycles) < 0.002
    number = rng.integers(0, len(limits), cycles)
    counters = Compiled(Counters(limits))
    inputs = {f"steps.{name}": values for name, values in steps.items()}
    out = counters.run({**inputs, "clear": clear, "number": number}, ["valid", "value"])
    totals, seen = dict.fromkeys(limits, 0), 0
    for cycle in range(cycles):
        if out["valid"][cycle]:
            assert out["value"][cycle] == totals[list(limits)[number[cycle]]], (seed, cycle)
            seen += 1
        for name in limits:
            totals[name] = 0 if clear[cycle] else totals[name] + int(steps[name][cycle])
    assert seen > cycles / 10


def test_high_words_are_captured():
    """A counter that carries between the reads of its two words is read whole."""
    bench = Bench(ODD)
    address = bench.map["PORT_READ1"].address
    bench.poke("port_read.1", 1)
    last = 0
    for _ in range(20):
        low = bench.read_word(address)
        bench.cycles(random.Random(last).randint(0, 9))
        high = bench.read_word(address + 4)
        assert high == 0
        assert low > last
        last = low


@CONFIGS
def test_port_counters(config):
    bench, rng = Bench(config), random.Random(5)
    totals = {f"{kind}{port}": 0 for kind in ("PORT_READ", "PORT_WRITTEN") for port in range(len(config.port_bytes))}
    for _ in range(300):
        for port, width in enumerate(config.port_bytes):
            beat, written = rng.getrandbits(1), rng.randint(0, width)
            bench.poke(f"port_read.{port}", beat)
            bench.poke(f"port_written.{port}", written)
            totals[f"PORT_READ{port}"] += beat * width
            totals[f"PORT_WRITTEN{port}"] += written
        bench.cycle()
    for port in range(len(config.port_bytes)):
        bench.poke(f"port_read.{port}", 0)
        bench.poke(f"port_written.{port}", 0)
    assert {name: bench.read(name) for name in totals} == totals
    bench.soft_reset()
    bench.cycles(5)
    assert not any(bench.read(name) for name in totals)


@pytest.mark.parametrize("stall", ["stream", "memory", "buffer"])
def test_stalls(stall):
    bench = Bench()
    bench.duration = lambda unit, bits: 20 + unit
    bench.stall = dict.fromkeys(CORES, stall)
    bench.run(f"{LD}\n{LD} release=vector\n{APPLY} wait=load\n nop target=store\n end")
    running = {
        unit: {n for a, end in zip(core.arrivals, core.finished, strict=True) for n in range(a.cycle + 1, end + 1)}
        for unit, core in bench.cores.items()
    }
    executed = {unit: len(cycles) for unit, cycles in running.items()}
    for unit in CORES:
        stalls = {kind: bench.read(f"STALL_{kind.name}_{unit.name}") for kind in Stall}
        assert stalls.pop(Stall[stall.upper()]) == executed[unit]
        tokens = stalls.pop(Stall.TOKENS)
        assert bool(tokens) == (unit is Unit.VECTOR)
        assert not any(stalls.values())
        busy = bench.read(f"BUSY_{unit.name}")
        # One cycle each at the head of the queue, if nothing runs.
        queued = sum(a.cycle not in running[unit] for a in bench.cores[unit].arrivals) + (unit is Unit.STORE)
        assert busy == executed[unit] + tokens + queued
    cycles = bench.read("CYCLES")
    assert executed[Unit.LOAD] + executed[Unit.VECTOR] < bench.read("BUSY_CONTROL") + 30 < cycles + 30
    bench.cycles(50)
    assert bench.read("CYCLES") == cycles


def test_control_stalls_for_tokens():
    bench = Bench()
    bench.duration = lambda unit, bits: 100
    bench.run(f"{LD} release=control\n li rd=r9 imm=5 wait=load\n end result=r9")
    stalled, busy = bench.read("STALL_TOKENS_CONTROL"), bench.read("BUSY_CONTROL")
    assert 80 < stalled < 101
    assert busy > stalled
    assert not any(bench.read(f"STALL_{kind}_CONTROL") for kind in ("STREAM", "MEMORY", "BUFFER"))


def test_counters_add_up_over_runs():
    bench = Bench()
    bench.duration = lambda unit, bits: 17
    bench.run(f"{LD}\n end\n" + "nop target=load\n" * 50)
    first = bench.read("CYCLES")
    lengths = []
    for _ in range(3):
        before = bench.read("CYCLES")
        bench.start()
        bench.wait()
        lengths.append(bench.read("CYCLES") - before)
    assert len(set(lengths)) == 1
    assert lengths[0] < first  # which fetched the code
    assert bench.read("BUSY_LOAD") == 4 * (1 + 18)  # one cycle at the head of the queue, then until done


def test_numeric():
    bench = Bench()
    bench.duration = lambda unit, bits: 40
    bench.load(f"{APPLY}\n end")
    bench.start()
    while not bench.cores[Unit.VECTOR].arrivals:
        bench.cycle()
    bench.poke("numeric", 1)
    bench.cycle()
    bench.poke("numeric", 0)
    assert bench.wait() == {"running": 0, "done": 1, "error": 0, "numeric": 1}
    bench.start()
    assert bench.wait() == {"running": 0, "done": 1, "error": 0, "numeric": 0}


def test_start_is_ignored_while_running_or_after_an_error():
    bench = Bench()
    bench.duration = lambda unit, bits: 300
    bench.load(f"{LD}\n end result=r1")
    bench.start(0, [5])
    bench.start(0, [6])
    bench.write("ENTRY", 1)
    bench.wait()
    assert bench.read("RESULT") == 5
    assert len(bench.cores[Unit.LOAD].arrivals) == 1
    assert bench.fail([0]) == (ErrorCause.ILLEGAL_INSTRUCTION, Unit.CONTROL, 0)
    bench.start()
    assert bench.wait() == {"running": 0, "done": 0, "error": 1, "numeric": 0}


@CONFIGS
@pytest.mark.parametrize("moment", [0, 3, 10, 17, 30, 45, 60, 77, 90, 120])
def test_soft_reset_at_any_time(config, moment):
    """Also while the bus masters are busy; a start that comes early runs afterwards."""
    bench = Bench(config, moment, slowness=40)
    code = f"{LD} release=vector\n{APPLY} wait=load release=control\n li rd=r9 imm=3 wait=vector\n{LD}\n end result=r9"
    bench.run(code)
    bench.start(0, [1])
    bench.cycles(moment)
    bench.axi_idle = False
    bench.soft_reset()
    resets = bench.resets
    assert bench.top.peek("abort")
    assert bench.status() == {"running": 1, "done": 0, "error": 0, "numeric": 0}  # until the masters are idle
    bench.cycles(20)
    assert (bench.resets, bench.top.peek("abort")) == (resets, 1)
    bench.start()
    assert bench.status()["running"]
    bench.axi_idle = True
    assert bench.wait() == {"running": 0, "done": 1, "error": 0, "numeric": 0}
    assert (bench.resets, bench.top.peek("abort")) == (resets + 1, 0)
    assert (bench.read("RESULT"), bench.read("ARGUMENT0")) == (3, 1)
    busy = [bench.read(f"BUSY_{unit.name}") for unit in CORES]
    assert 0 < max(busy) < 200  # of the last run alone
    bench.soft_reset()
    bench.cycles(5)
    assert bench.read("RESULT") == bench.read("CYCLES") == 0
    assert bench.read("CODE_LENGTH") == 5


def test_soft_reset_waits_for_the_abort_to_be_seen():
    """A bus master that was idle may have begun something in the last cycle."""
    bench = Bench()
    bench.load("end")
    seen = []
    bench.hooks.append(lambda: seen.append((bench.top.peek("abort"), bench.top.peek("core_reset"))))
    bench.soft_reset()
    bench.cycles(6)
    first = [abort for abort, _ in seen].index(1)
    assert [reset for _, reset in seen].index(1) >= first + 2
    assert sum(reset for _, reset in seen) == 1
