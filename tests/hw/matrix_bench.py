# SPDX-License-Identifier: Apache-2.0
"""Drives the matrix unit, compiled, cycle by cycle: buffers that stall at random, and a front in Python."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from catenary.hw.dsp.segment import Primitive
from catenary.hw.matrix.engine import MatrixEngine
from catenary.hw.matrix.signatures import (
    BANKS,
    ConstantLayout,
    StepLayout,
    TileWriteLayout,
    fill_groups,
    groups_of,
    lanes_of,
    tile_slots,
)
from catenary.hw.matrix.unit import MatrixUnit
from catenary.isa.config import AcceleratorConfig
from catenary.isa.instructions import Context, Instruction, MatrixMatrix, MatrixVector, Score
from catenary.sim.iss.memory import Memory
from catenary.sim.iss.units import ContextAccumulators, Storage, linear, score
from tests.hw.compiled import Compiled
from tests.hw.matrix_ports import CONFIGS, CodePort, Ports, VectorPorts, beside_of, command, pack


@cache
def engine(name: str, primitive: Primitive = Primitive.BEHAVIOURAL) -> Compiled:
    """The engine of a configuration, compiled."""
    return Compiled(MatrixEngine(CONFIGS[name], primitive=primitive))


@cache
def unit(name: str) -> Compiled:
    """The matrix unit of a configuration, compiled."""
    return Compiled(MatrixUnit(CONFIGS[name]))


@dataclass
class Step:
    """One slot and its use: weights and index of all lanes, groups that are not None are written."""

    weights: NDArray[np.int8]
    index: NDArray[np.uint8]
    act_word: int = 0
    part_base: int = 0
    groups: int = 0


@dataclass
class RowBlock:
    """Steps of one row block, tile of SCORE or instruction of CONTEXT."""

    steps: list[Step]
    kept: int
    rows: int = 0
    scales: list[int] = field(default_factory=list)
    biases: list[int] | None = None


class FakeFront:
    """Feeds row blocks as :class:`StreamFront` would, at random speed."""

    def __init__(self, ports: Ports, config: AcceleratorConfig, rng: np.random.Generator, pace: float) -> None:
        self._ports, self._config, self._rng, self._pace = ports, config, rng, pace
        self._tile, self._step, self._constant = TileWriteLayout(config), StepLayout(config), ConstantLayout(config)
        self._free, self._slot, self.bank = tile_slots(config), 0, 1
        self._in_array = 0  # steps taken, slots not given back
        self.claimed = [False] * BANKS
        self._steps: deque[int] = deque()
        self._script: Iterator[None] = iter(())
        self._active = False
        self.fresh = False
        self._writes: dict[str, int] = {}

    def begin(self, blocks: list[RowBlock], clear: bool = True, context: bool = False) -> None:
        """What the next ``feed_start`` starts."""
        self._next = (blocks, clear, context)

    def drive(self) -> None:
        """Before the cycle's outputs are looked at."""
        self._writes = {}
        if self._active and self._rng.random() < self._pace:
            next(self._script, None)
        finished = self._active and self._done and not self._steps
        self._active = self._active and not finished
        self._offering = bool(self._steps) and (self._offering or self._rng.random() < self._pace)
        ports = self._ports
        ports.set("feed_finished", finished)
        for name in ("tile", "constants"):
            ports.set(f"feed.{name}.valid", name in self._writes)
            if name in self._writes:
                ports.set(f"feed.{name}.payload", self._writes[name])
        ports.set("feed.steps.valid", self._offering)
        if self._offering:
            ports.set("feed.steps.payload", self._steps[0])
        ports.set("feed.bank", self.bank)
        ports.set("feed.fresh", self.fresh)

    _offering = False
    _done = True

    def observe(self) -> None:
        """At the end of the cycle."""
        ports = self._ports
        if self._offering and ports.get("feed.steps.ready"):
            self._steps.popleft()
            self._offering = False
            self._in_array += 1
        if ports.get("feed.freed"):
            assert self._in_array, "a slot was given back before its step was taken"
            self._in_array -= 1
            self._free += 1
        for bank in range(BANKS):
            if ports.get("feed.bank_free") >> bank & 1:
                assert self.claimed[bank], "a bank was given back twice"
                self.claimed[bank] = False
        if ports.get("feed_start"):
            assert not self._active
            self._active, self._done = True, False
            self._script = self._run(*self._next)

    def idle(self) -> bool:
        """Everything has been given back."""
        return self._free == tile_slots(self._config) and not self._steps

    def _claim(self) -> Iterator[None]:
        self.bank = (self.bank + 1) % BANKS
        while self.claimed[self.bank]:
            yield
        self.claimed[self.bank] = True

    def _run(self, blocks: list[RowBlock], clear: bool, context: bool) -> Iterator[None]:
        opened: set[int] = set()
        if context and clear:
            yield from self._claim()
            self.fresh = True
        for block in blocks:
            if not context:
                yield from self._claim()
                for row, scale in enumerate(block.scales):
                    self._put_constant(row, 0, scale)
                    yield
                for row, bias in enumerate(block.biases or []):
                    self._put_constant(row, 1, bias)
                    yield
            for number, step in enumerate(block.steps):
                while not self._free:
                    yield
                self._free -= 1
                slot, self._slot = self._slot, (self._slot + 1) % tile_slots(self._config)
                groups = step.groups or groups_of(self._config)
                for group in range(groups):
                    self._put_group(slot, group, step)
                    yield
                if context:
                    first = self.fresh and step.part_base not in opened
                    opened.add(step.part_base)
                    last = number + 1 == len(block.steps)
                else:
                    first, last = number == 0, number + 1 == len(block.steps)
                values = {
                    "slot": slot,
                    "kept": block.kept,
                    "act_word": step.act_word,
                    "first": first,
                    "last": last,
                    "part_base": step.part_base,
                    "rows": block.rows,
                    "has_bias": block.biases is not None,
                    "bank": self.bank,
                }
                self._steps.append(pack(self._step, values))
        if context and opened:
            self.fresh = False
        self._done = True
        yield

    def _put_group(self, slot: int, group: int, step: Step) -> None:
        span = slice(16 * group, 16 * group + 16)
        row, position = divmod(group, fill_groups(self._config))
        weights = int.from_bytes(step.weights[span].tobytes(), "little") << 128 * position
        index = sum(int(value) << 4 * lane for lane, value in enumerate(step.index[span])) << 64 * position
        values = {"slot": slot, "row": row, "mask": 1 << position, "weights": weights, "index": index}
        self._writes["tile"] = pack(self._tile, values)

    def _put_constant(self, row: int, bias: int, value: int) -> None:
        values = {"bank": self.bank, "row": row, "bias": bias, "data": value}
        self._writes["constants"] = pack(self._constant, values)


class EngineBench:
    """An engine with buffers and a fake front.

    Args:
        name: of the configuration.
        seed: of stalls.
        pace: probability that a buffer accepts, or that the front has something, in a cycle.
        primitive: what the array multiplies with.
    """

    def __init__(self, name: str, seed: int, pace: float = 0.8, primitive: Primitive = Primitive.BEHAVIOURAL) -> None:
        self.config = CONFIGS[name]
        self.lanes = lanes_of(self.config)
        self.rng = np.random.default_rng(seed)
        self._pace = pace
        dut = engine(name, primitive)
        dut.reset()
        self.ports = Ports(dut)
        self.a = self.rng.integers(-128, 128, (self.config.act_bytes // 16, 16)).astype(np.int8)
        self._codes = CodePort(self.ports, "a_read", self.a.view(np.uint8), beside_of(self.config))
        self.v = VectorPorts(self.ports, self.config)
        self.front = FakeFront(self.ports, self.config, self.rng, pace)
        self.cycles = 0
        self.computing = 0

    def cycle(self) -> None:
        """Let one cycle pass."""
        ready = (self.rng.random(3) < self._pace).tolist()
        self._codes.drive(ready[0])
        self.v.drive((ready[1], ready[2]))
        self.front.drive()
        self._codes.observe(ready[0])
        self.v.observe((ready[1], ready[2]))
        self.front.observe()
        self.done = self.ports.get("done")
        self.fault = self.ports.get("address_fault") or self.ports.get("too_many_tokens")
        self.computing += self.ports.get("computing")
        self.ports.dut.step()
        self.cycles += 1

    def run(self, insn: int, blocks: list[RowBlock], clear: bool = True, context: bool = False) -> int:
        """Run one instruction to its end; returns its cycles."""
        limit = 20000 + 20 * sum(len(block.steps) for block in blocks)
        self.front.begin(blocks, clear, context)
        begun = self.cycles
        self.v.written.clear()
        assert self.ports.get("idle")
        self.ports.set("command", insn)
        self.ports.set("accept", 1)
        self.cycle()
        assert not self.done
        self.ports.set("accept", 0)
        while not self.done:
            self.cycle()
            assert not self.fault, "fault"
            assert self.cycles - begun < limit, f"no end after {limit} cycles"
        return self.cycles - begun


class UnitBench:
    """A matrix unit with buffers and a stream FIFO, beside the instruction-set simulator's storage.

    Args:
        name: of the configuration.
        seed: of stalls.
        pace: probability that a buffer accepts, or that the stream has a line, in a cycle.
    """

    def __init__(self, name: str, seed: int, pace: float = 0.8) -> None:
        self.config = CONFIGS[name]
        self.rng = np.random.default_rng(seed)
        self._pace = pace
        self.dut = unit(name)
        self.dut.reset()
        self.ports = Ports(self.dut)
        self.storage = Storage.of(self.config, Memory(self.config, 1), check_hazards=False)
        self.contexts = ContextAccumulators()
        self.fill_a(self.rng.integers(-128, 128, self.config.act_bytes).astype(np.int8))
        self._readers = [
            CodePort(self.ports, "a_read", self.words_of_a, beside_of(self.config)),
            CodePort(self.ports, "rows_read", self.words_of_a),
        ]
        self.v = VectorPorts(self.ports, self.config)
        self._lines: deque[int] = deque()
        self._offering = False

    def fill_a(self, codes: NDArray[np.int8]) -> None:
        """Give the activation buffer its contents."""
        self.storage.write_a(0, 1, len(codes) // 16, 16)[...] = codes.reshape(-1, 16)
        self.words_of_a = codes.view(np.uint8).reshape(-1, 16)

    def fill_v(self, words: NDArray[np.uint32]) -> None:
        """Give the vector buffer its contents."""
        self.storage.write_v(0, 1, 1, len(words))[0] = words.view(np.float32)
        self.v.words[:] = words

    def load(self, data: NDArray[np.uint8]) -> None:
        """One load into the stream FIFO, padded to whole lines."""
        width = self.config.line_bytes
        lines = np.zeros((-(-len(data) // width), width), np.uint8)
        lines.reshape(-1)[: len(data)] = data
        self.storage.fifo.push(0, lines, None)
        self.storage.fifo.forget(0, 1 << 30)
        for number, line in enumerate(lines):
            last = number + 1 == len(lines)
            self._lines.append(int.from_bytes(line.tobytes(), "little") | last << 8 * width)

    def cycle(self) -> None:
        """Let one cycle pass."""
        ports = self.ports
        ready = (self.rng.random(5) < self._pace).tolist()
        self._readers[0].drive(ready[0])
        self._readers[1].drive(ready[1])
        self.v.drive((ready[2], ready[3]))
        self._offering = bool(self._lines) and (self._offering or ready[4])
        ports.set("lines.valid", self._offering)
        if self._offering:
            ports.set("lines.payload", self._lines[0])
        self._readers[0].observe(ready[0])
        self._readers[1].observe(ready[1])
        self.v.observe((ready[2], ready[3]))
        if self._offering and ports.get("lines.ready"):
            self._lines.popleft()
            self._offering = False
        self.done, self.fault = ports.get("done"), ports.get("fault")
        stall = ports.get("stall")
        assert stall & (stall - 1) == 0, "at most one reason to wait"
        self.dut.step()

    def run(self, insn: Instruction) -> int:
        """Run one instruction on both, compare all of V; returns the unit's cycles."""
        limit = 200_000
        ports = self.ports
        while not ports.get("insn.ready"):
            self.cycle()
        ports.set("insn.payload", command(insn))
        ports.set("insn.valid", 1)
        self.cycle()
        ports.set("insn.valid", 0)
        cycles = 0
        while not self.done:
            self.cycle()
            cycles += 1
            assert not self.fault, f"fault {ports.get('cause')} in {insn}"
            assert cycles < limit, f"no end of {insn}"
        match insn:
            case Score():
                score(self.storage, insn)()
            case Context():
                self.contexts.prepare(self.storage, insn)()
            case MatrixMatrix() | MatrixVector():
                linear(self.storage, insn)()
        wrong = np.flatnonzero(self.v.words != self.storage.v.data.view(np.uint32))
        assert not len(wrong), f"{len(wrong)} words of V differ, the first at {wrong[0]}, after {insn}"
        return cycles

    def empty(self) -> bool:
        """No line is left, here or in the unit."""
        return not self._lines and bool(self.ports.get("stream_empty"))
