# SPDX-License-Identifier: Apache-2.0
"""A core with cocotbext-axi's memories at its ports and its registers in the hands of a test."""

from __future__ import annotations

import itertools
import logging
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRamRead, AxiRamWrite

from catenary.isa.config import AcceleratorConfig
from catenary.isa.registers import WATCHDOG_RESET, ErrorCause, register_map
from catenary.sim.rtl.core import TOP
from tests.cocotb.axi_rules import AxiRules
from tests.programs.cases import Case, Outcome, iss_device, run_case
from tests.programs.random_programs import CONFIGS

_CORES: tuple[AcceleratorConfig, ...] = (
    # As small as a core with two ports gets, so that it is built quickly.
    replace(
        CONFIGS["least"], name="two-ports", port_bytes=(8, 4), memory_bytes=12 << 14, stream_atom=4, stream_bytes=36,
    ),
    # Three unequal ports, two tokens in a DSP, as many lanes as a line fills in a cycle.
    replace(
        CONFIGS["least"], name="packed", port_bytes=(16, 4, 8), memory_bytes=28 << 14, chains=3, mm_tokens=6,
        packed=True, stream_bytes=112, vector_lanes=4,
    ),
)  # fmt: skip
CORES: Mapping[str, AcceleratorConfig] = {config.name: config for config in _CORES}
"""The cores under test, by name."""

CHOICE = "CATENARY_COCOTB_CORE"
"""Environment variable that tells the simulation which of them it is."""

CONFIG = CORES[os.environ.get(CHOICE, _CORES[0].name)]

_POLL = 100
"""Cycles between two looks at STATUS."""

logging.getLogger(f"cocotb.{TOP}").setLevel(logging.WARNING)  # the models would tell of every beat


class FaultyRead(AxiRamRead):
    """A memory that answers reads at some addresses with SLVERR."""

    bad: range = range(0)

    async def _read(self, address: int, length: int) -> bytes:
        if address in self.bad:
            raise ValueError("unreadable")
        return await super()._read(address, length)


class FaultyWrite(AxiRamWrite):
    """A memory that answers writes at some addresses with SLVERR."""

    bad: range = range(0)

    async def _write(self, address: int, data: bytes) -> None:
        if address in self.bad:
            raise ValueError("unwritable")
        await super()._write(address, data)


class Memory:
    """Memory behind one port."""

    def __init__(self, dut: Any, index: int, width: int) -> None:
        prefix = f"memory_{index}__"
        size = CONFIG.memory_lines * width
        bus = AxiBus.from_prefix(dut, prefix[:-1])
        self.writes = FaultyWrite(bus.write, dut.clk, dut.rst, size=-(-size // 4096) * 4096)
        self.reads = FaultyRead(bus.read, dut.clk, dut.rst, mem=self.writes.mem)
        self.rules = AxiRules(dut, prefix, size)
        self.width = width

    @property
    def channels(self) -> tuple[Any, ...]:
        """Every channel that a test may hold up."""
        w, r = self.writes, self.reads
        return w.aw_channel, w.w_channel, w.b_channel, r.ar_channel, r.r_channel


class Bench:
    """The core, out of reset, with random stalls on every channel.

    Args:
        dut: the design.
        seed: of stalls; ``None`` for memory that never stalls.
    """

    def __init__(self, dut: Any, seed: int | None) -> None:
        self.dut = dut
        self.config = CONFIG
        self._map = register_map(CONFIG)
        self._host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "control_"), dut.clk, dut.rst)
        self.memories = [Memory(dut, index, width) for index, width in enumerate(CONFIG.port_bytes)]
        self.stall(seed)

    @classmethod
    async def start(cls, dut: Any, seed: int | None = 1) -> Bench:
        """Clock and reset the core."""
        Clock(dut.clk, 10, unit="ns").start()
        dut.rst.value = 1
        bench = cls(dut, seed)
        await bench.reset()
        return bench

    async def reset(self) -> None:
        """Assert reset for a few cycles."""
        self.dut.rst.value = 1
        await ClockCycles(self.dut.clk, 4)
        self.dut.rst.value = 0
        await ClockCycles(self.dut.clk, 2)

    def stall(self, seed: int | None) -> None:
        """Pauses on every channel of every memory, or none."""
        for number, channel in enumerate(channel for memory in self.memories for channel in memory.channels):
            if seed is None:
                channel.clear_pause_generator()
            else:
                channel.set_pause_generator(_pauses(random.Random(f"{seed} {number}")))

    async def read(self, name: str) -> int:
        """A register's value."""
        place = self._map[name]
        data = (await self._host.read(place.address, place.register.width // 8)).data
        return int.from_bytes(data, "little")

    async def write(self, name: str, value: int) -> None:
        """Set a register."""
        place = self._map[name]
        await self._host.write(place.address, value.to_bytes(place.register.width // 8, "little"))

    async def press(self, button: str) -> None:
        """Write one bit of CONTROL."""
        await self.write("CONTROL", self._map["CONTROL"].register.pack(**{button: 1}))

    async def flags(self) -> dict[str, Any]:
        """Fields of STATUS."""
        return self._map["STATUS"].register.unpack(await self.read("STATUS"))

    async def begin(self, case: Case) -> None:
        """Put a case into memory and start it."""
        self._store(0, case.image)
        self._store(case.code_line, case.code)
        await self.write("CODE_LINE", case.code_line)
        await self.write("CODE_LENGTH", case.count)
        await self.write("ENTRY", case.entry)
        await self.write("WATCHDOG", WATCHDOG_RESET if case.watchdog is None else case.watchdog)
        for index in range(8):
            await self.write(f"ARGUMENT{index}", case.arguments[index] if index < len(case.arguments) else 0)
        await self.press("start")

    async def finish(self, case: Case, cycles: int = 60_000) -> Outcome:
        """Wait until the run ends, in so many cycles at most; after an error, reset the core."""
        for _ in range(cycles // _POLL):
            flags = await self.flags()
            if flags["done"]:
                self.settled()
                memory = self._load(len(case.image))
                return Outcome(ErrorCause.NONE, 0, await self.read("RESULT"), bool(flags["numeric"]), memory)
            if flags["error"]:
                error = self._map["ERROR"].register.unpack(await self.read("ERROR"))
                await self.soft_reset()
                return Outcome(ErrorCause(int(error["cause"])), error["pc"])
            await ClockCycles(self.dut.clk, _POLL)
        raise AssertionError(f"{case.name} must end within {cycles} cycles")

    async def run(self, case: Case) -> Outcome:
        """Begin and finish."""
        await self.begin(case)
        return await self.finish(case)

    async def agree(self, case: Case) -> None:
        """Run a case that the simulator runs too, and compare."""
        expected = run_case(iss_device(case.config, len(case.image)), case)
        found = await self.run(case)
        difference = expected.difference(found, case.config.line_bytes)
        assert not difference, f"{difference}\n{case.describe()}"

    async def soft_reset(self) -> None:
        """Stop whatever goes on, and wait until the bursts that are open have ended."""
        await self.press("soft_reset")
        for _ in range(100):
            if not (await self.read("STATUS") or any(memory.rules.open for memory in self.memories)):
                return
            await ClockCycles(self.dut.clk, 20)
        self.settled()
        raise AssertionError("A soft reset must end within 2000 cycles")

    def settled(self) -> None:
        """Check that no burst is open at any port."""
        for index, memory in enumerate(self.memories):
            assert not memory.rules.open, f"{memory.rules.open} bursts of port {index} must have ended"

    def _store(self, line: int, data: bytes) -> None:
        size = self.config.line_bytes
        padded = np.frombuffer(data.ljust(-(-len(data) // size) * size, b"\0"), np.uint8).reshape(-1, size)
        at = 0
        for memory in self.memories:
            memory.writes.write(line * memory.width, padded[:, at : at + memory.width].tobytes())
            at += memory.width

    def _load(self, nbytes: int) -> bytes:
        lines = self.config.lines(nbytes)
        parts = [
            np.frombuffer(memory.writes.read(0, lines * memory.width), np.uint8).reshape(lines, -1)
            for memory in self.memories
        ]
        return np.concatenate(parts, axis=1).tobytes()[:nbytes]


def _pauses(rng: random.Random) -> Iterator[bool]:
    """Runs of cycles with and without a pause."""
    while True:
        yield from itertools.repeat(False, rng.choice([1, 2, 5, 30]))
        yield from itertools.repeat(True, rng.choice([1, 1, 3, 15]))
