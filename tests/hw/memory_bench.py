# SPDX-License-Identifier: Apache-2.0
"""Load and store units in the Amaranth simulator, between a behavioural memory and behavioural buffers.

The instruction-set simulator says what must be in memory and buffers after each instruction.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from amaranth.sim import Simulator

from catenary.boards.loader import load_accelerator
from catenary.hw.buffers.signatures import A_LATENCY, V_LATENCY
from catenary.hw.memory.load import LoadUnit
from catenary.hw.memory.store import StoreUnit
from catenary.isa.config import AcceleratorConfig
from catenary.isa.fields import Operand, Reg
from catenary.isa.instructions import Load, Store
from catenary.isa.opcodes import Buffer, MemoryFormat
from catenary.sim.iss.memory import Memory
from catenary.sim.iss.units import Storage
from tests.hw.axi_memory import Port, Timing

PATIENCE = 4_000
"""Cycles that one instruction may take."""

CONFIGS = {
    "small": {},
    "ports_4_8": {"port_bytes": (4, 8), "vector_lanes": 2, "stream_atom": 4},
    "ports_4x64": {"port_bytes": (64,) * 4, "vector_lanes": 16},
    "one_lane": {"vector_lanes": 1},
    "ports_4_8_16": {"port_bytes": (4, 8, 16), "vector_lanes": 8},
}


def configuration(name: str, lines: int = 500) -> AcceleratorConfig:
    """One of ``CONFIGS`` with small buffers and a memory of ``lines`` lines."""
    small = replace(
        load_accelerator("small"), vector_words=2048, act_bytes=256 * 16, desc_words=64, instruction_words=128
    )
    changed = replace(small, **CONFIGS[name])
    return replace(changed, memory_bytes=lines * changed.line_bytes)


class Bench:
    """What both units need.

    Attributes:
        expected: storage of the instruction-set simulator.
        ports: memory behind each port; the same bytes as ``expected.memory`` at first.
        pause: chance that a buffer or the stream is not ready in a cycle.
        moved: pulses of ``moved``.
        stalls: cycles by reason.
        cycles: so far.
    """

    def __init__(self, unit, config: AcceleratorConfig, seed: int, timing=None, pause: float = 0.3):
        self.config = config
        self.dut = unit(config)
        self.rng = np.random.default_rng(seed)
        self.pause = pause
        memory = Memory(config, config.memory_lines)
        memory.data[...] = self.rng.integers(0, 256, memory.data.shape, np.uint8)
        self.expected = Storage.of(config, memory, False)
        self.expected.scalars.reset(())
        self.v, self.a = self.expected.v.data.view(np.uint32).copy(), self.expected.a.data.view(np.uint8).copy()
        self.ports = []
        for index, part in enumerate(self.split(memory.data)):
            when = timing(index) if timing else Timing()
            self.ports.append(Port(part.reshape(-1).copy(), when, np.random.default_rng([seed, index])))
        self.axi = [getattr(self.dut, f"memory_{index}") for index in range(len(self.ports))]
        self.moved = 0
        self.stalls = {"stream": 0, "memory": 0, "buffer": 0}
        self.cycles = 0

    def split(self, lines: np.ndarray) -> list[np.ndarray]:
        """What each port has of ``lines`` [n, line_bytes]."""
        return np.split(lines, np.cumsum(self.config.port_bytes)[:-1], axis=1)

    def joined(self) -> np.ndarray:
        """Memory as the ports have it now, uint8 [lines, line_bytes]."""
        parts = zip(self.ports, self.config.port_bytes, strict=True)
        return np.concatenate([port.data.reshape(-1, width) for port, width in parts], axis=1)

    async def count(self, ctx) -> None:
        dut = self.dut
        async for _, _, moved, stall in ctx.tick().sample(dut.moved, dut.stall.as_value()):
            self.cycles += 1
            self.moved += moved
            assert stall in (0, 1, 2, 4), "more than one reason to stall"
            for index, reason in enumerate(self.stalls):
                self.stalls[reason] += stall >> index & 1

    def run(self, script, *services) -> None:
        """Run ``script(ctx)`` to its end."""
        sim = Simulator(self.dut)
        sim.add_clock(1e-8)
        for service in (self.count, *services):
            sim.add_testbench(service, background=True)
        sim.add_testbench(script)
        sim.run()

    def put(self, ctx, insn: Load | Store) -> None:
        """Show an instruction to the unit."""
        values = {}
        for part in type(insn).body:
            value = getattr(insn, part.name)
            values[part.name] = value.imm if isinstance(part.kind, Reg) else int(getattr(value, "value", value))
        name = type(insn).opcode.name.lower()
        ctx.set(self.dut.insn.payload, {"opcode": int(insn.opcode), "body": {name: values}})

    async def start(self, ctx, insn: Load | Store) -> None:
        """Hand over an instruction."""
        self.put(ctx, insn)
        ctx.set(self.dut.insn.valid, 1)
        await ctx.tick().until(self.dut.insn.ready)
        ctx.set(self.dut.insn.valid, 0)

    async def finish(self, ctx, pulse=None, patience: int = PATIENCE) -> int:
        """Wait for the end of an instruction: 0, or the cause of its fault."""
        dut = self.dut
        pulse = dut.done if pulse is None else pulse
        for _ in range(patience):
            done, fault, cause = ctx.get(pulse), ctx.get(dut.fault), ctx.get(dut.cause)
            assert not (done and fault)
            await ctx.tick()
            if fault:
                return cause
            if done:
                return 0
        raise AssertionError(f"Not done after {patience} cycles")

    async def execute(self, ctx, insn: Load | Store, patience: int = PATIENCE) -> int:
        """Hand over an instruction and wait for its end."""
        await self.start(ctx, insn)
        return await self.finish(ctx, patience=patience)

    async def abort(self, ctx, cycles: int = 1) -> None:
        """Stop the unit, and wait until its ports are quiet."""
        ctx.set(self.dut.abort, 1)
        await ctx.tick().repeat(cycles)
        ctx.set(self.dut.abort, 0)
        for _ in range(PATIENCE):
            if ctx.get(self.dut.idle):
                break
            await ctx.tick()
        else:
            raise AssertionError("Never idle after an abort")
        assert not any(port.open for port in self.ports)

    def wait(self) -> bool:
        """Whether a service pauses in this cycle."""
        return self.pause > 0 and self.rng.random() < self.pause

    async def sink(self, ctx, port, put, faults: bool) -> None:
        """Take requests of a write client; ``put(raw)`` writes one and tells whether it was inside."""
        ready = False
        before = None
        async for _, _, abort, valid, raw in ctx.tick().sample(
            self.dut.abort, port.request.valid, port.request.payload
        ):
            raw = getattr(raw, "as_bits", lambda raw=raw: raw)()
            assert abort or before is None or (valid and raw == before), "a request changed while it waited"
            before = raw if valid and not ready and not abort else None
            inside = put(raw) if valid and ready else True
            if faults:
                ctx.set(port.fault, not inside)
            ready = not self.wait()
            ctx.set(port.request.ready, ready)

    def put_v(self, raw: int) -> bool:
        lanes = self.config.vector_lanes
        bits = lanes.bit_length()
        address, count, values = raw & 0xFFFFF, raw >> 20 & ((1 << bits) - 1), raw >> (20 + bits)
        assert 1 <= count <= lanes
        if address + count > self.v.size:
            return False
        for lane in range(count):
            self.v[address + lane] = values >> (32 * lane) & 0xFFFFFFFF
        return True

    def put_a(self, raw: int) -> bool:
        address, mask, values = raw & 0xFFFF, raw >> 16 & 0xFFFF, raw >> 32
        if address >= self.a.size // 16:
            return False
        for byte in range(16):
            if mask >> byte & 1:
                self.a[16 * address + byte] = values >> (8 * byte) & 0xFF
        return True

    async def answer(self, ctx, port, get, latency: int) -> None:
        """Answer requests of a read client ``latency`` cycles later; ``get(raw)`` gives data or ``None`` if outside."""
        ready = False
        pipe: list[tuple[bool, int | None]] = [(False, 0)] * (latency - 1)
        async for _, _, valid, raw in ctx.tick().sample(port.request.valid, port.request.payload):
            raw = getattr(raw, "as_bits", lambda raw=raw: raw)()
            pipe.append((True, get(raw)) if valid and ready else (False, 0))
            answered, value = pipe.pop(0)
            ctx.set(port.valid, answered)
            ctx.set(port.fault, value is None)
            garbage = int(self.rng.integers(0, 1 << 62))
            data = port.data.as_value() if hasattr(port.data, "as_value") else port.data
            ctx.set(data, value if answered and value is not None else garbage)
            ready = not self.wait()
            ctx.set(port.request.ready, ready)

    def get_v(self, raw: int) -> int | None:
        address, count = raw & 0xFFFFF, raw >> 20
        assert 1 <= count <= self.config.vector_lanes
        if address + count > self.v.size:
            return None
        return int.from_bytes(self.v[address : address + count].tobytes(), "little")

    def get_a(self, raw: int) -> int | None:
        if raw >= self.a.size // 16:
            return None
        return int.from_bytes(self.a[16 * raw : 16 * raw + 16].tobytes(), "little")

    def store_services(self):
        """Everything around a store unit."""
        services = [partial(port.serve_writes, axi=axi) for port, axi in zip(self.ports, self.axi, strict=True)]
        services.append(partial(self.answer, port=self.dut.v_read, get=self.get_v, latency=V_LATENCY))
        services.append(partial(self.answer, port=self.dut.a_read, get=self.get_a, latency=A_LATENCY))
        return services


class LoadBench(Bench):
    """A load unit with all around it.

    Attributes:
        d: uint64, as the unit wrote it.
        code: instruction words that it wrote, by address.
        lines: (line, last) that it pushed into W.
        full: W takes nothing.
        beats: by port, pulses of the unit's ``beats``.
    """

    def __init__(self, config: AcceleratorConfig, seed: int, timing=None, pause: float = 0.3):
        super().__init__(LoadUnit, config, seed, timing, pause)
        self.d = self.expected.d.data.copy()
        self.code: dict[int, bytes] = {}
        self.lines: list[tuple[bytes, bool]] = []
        self.full = False
        self.beats = np.zeros(len(self.ports), np.int64)

    async def count_beats(self, ctx) -> None:
        async for _, _, beats in ctx.tick().sample(self.dut.beats):
            if beats:
                self.beats += [beats >> port & 1 for port in range(len(self.ports))]

    def put_d(self, raw: int) -> bool:
        address = raw & 0xFFFFF
        if address >= self.d.size:
            return False
        self.d[address] = raw >> 20
        return True

    def put_i(self, raw: int) -> bool:
        bits = (self.config.instruction_words - 1).bit_length()
        self.code[raw & ((1 << bits) - 1)] = (raw >> bits).to_bytes(32, "little")
        return True

    async def take_lines(self, ctx) -> None:
        ready = False
        before = None
        size = 8 * self.config.line_bytes
        source = self.dut.stream
        async for _, _, abort, valid, raw in ctx.tick().sample(self.dut.abort, source.valid, source.payload.as_value()):
            assert abort or before is None or (valid and raw == before), "a line changed while it waited"
            before = raw if valid and not ready and not abort else None
            if valid and ready:
                self.lines.append(((raw & ((1 << size) - 1)).to_bytes(size // 8, "little"), bool(raw >> size)))
            ready = not self.full and not self.wait()
            ctx.set(source.ready, ready)

    def simulate(self, script) -> None:
        """Run ``script(ctx)`` with memory and buffers."""
        dut = self.dut
        services = [partial(port.serve_reads, axi=axi) for port, axi in zip(self.ports, self.axi, strict=True)]
        sinks = (
            (dut.v_write, self.put_v, True),
            (dut.a_write, self.put_a, True),
            (dut.d_write, self.put_d, True),
            (dut.i_write, self.put_i, False),
        )
        services += [partial(self.sink, port=port, put=put, faults=faults) for port, put, faults in sinks]
        self.run(script, *services, self.take_lines, self.count_beats)

    def check(self, message: str) -> None:
        """Compare buffers with what the instruction-set simulator has in them."""
        expected = self.expected
        np.testing.assert_array_equal(self.v, expected.v.data.view(np.uint32), message)
        np.testing.assert_array_equal(self.a, expected.a.data.view(np.uint8), message)
        np.testing.assert_array_equal(self.d, expected.d.data, message)


class StoreBench(Bench):
    """A store unit with all around it; V and A hold random bytes."""

    def __init__(self, config: AcceleratorConfig, seed: int, timing=None, pause: float = 0.3):
        super().__init__(StoreUnit, config, seed, timing, pause)
        self.v[:] = self.rng.integers(0, 1 << 32, self.v.size, np.uint64)
        self.a[:] = self.rng.integers(0, 256, self.a.size)
        self.expected.v.write(0, 0, 1, self.v.size).view(np.uint32)[...] = self.v
        self.expected.a.write(0, 0, 1, self.a.size // 16).view(np.uint8)[...] = self.a
        self.written = np.zeros(len(self.ports), np.int64)

    async def count_written(self, ctx) -> None:
        counts = [self.dut.written[port] for port in range(len(self.ports))]
        async for _, _, *written in ctx.tick().sample(*counts):
            self.written += written

    def simulate(self, script) -> None:
        """Run ``script(ctx)`` with memory and buffers."""
        self.run(script, self.count_written, *self.store_services())


def random_transfer(rng: np.random.Generator, config: AcceleratorConfig, cls, buffer: Buffer, most: int = 200):
    """A legal LD or ST of about ``most`` elements at most, into or out of ``buffer``."""
    formats = {
        Buffer.V: [MemoryFormat.F32] + [MemoryFormat.F16, MemoryFormat.BF16] * (cls is Load),
        Buffer.A: [MemoryFormat.I8],
        Buffer.D: [MemoryFormat.U64],
    }
    size = {Buffer.V: config.vector_words, Buffer.A: config.act_bytes // 16, Buffer.D: config.desc_words}[buffer]
    cell = 16 if buffer is Buffer.A else 1
    lines, line = config.memory_lines, config.line_bytes
    while True:
        fmt = formats[buffer][int(rng.integers(len(formats[buffer])))]
        pack = int(rng.integers(1, line.bit_length())) if rng.random() < 0.5 else 0
        interleaved = cls is Store and buffer is Buffer.A and pack > 0 and 16 << pack <= line and rng.random() < 0.7
        fitting = (line >> pack) // fmt.bytes
        if pack and not fitting:
            continue
        top = most if interleaved else fitting if pack else most
        elements = int(rng.choice([1, top, rng.integers(1, top + 1), rng.integers(1, min(top, 20) + 1)]))
        rows = int(rng.choice([1, rng.integers(1, 12), rng.integers(1, max(2, most // elements))]))
        row_lines = -(-elements * fmt.bytes // line) + int(rng.choice([0, 0, 1, 3])) if not pack else 0
        if interleaved:
            row_lines = int(rng.integers(2, 9))
            elements = 16 * row_lines
        row = int(rng.integers(0, 20))
        words = -(-elements // cell)
        stride = words + int(rng.choice([0, 0, 1, 5]))
        room = size - ((rows - 1) * stride + words)
        end = (((row + rows - 1) >> pack) + 1) * max(1, row_lines) if pack else (row + rows) * row_lines
        if room < 0 or end > lines or (rows - 1) * stride + words > size:
            continue
        return cls(
            buffer=buffer,
            format=fmt,
            address=Operand(imm=int(rng.choice([0, room, rng.integers(0, room + 1)]))),
            stride=stride,
            memory=Operand(imm=int(rng.choice([0, lines - end, rng.integers(0, lines - end + 1)]))),
            row=Operand(imm=row),
            rows=Operand(imm=rows),
            elements=Operand(imm=elements),
            pack=pack,
            row_lines=row_lines,
        )


def seeds(fast: int, slow: int) -> list:
    """Parameters: ``fast`` seeds for every run of the tests, and ``slow`` more for long runs."""
    return [*range(fast), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(fast, fast + slow))]
