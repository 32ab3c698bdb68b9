# SPDX-License-Identifier: Apache-2.0
"""The matrix unit's surroundings in tests: configurations, instructions, numbers, and buffers that answer."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from amaranth.hdl import Const
from numpy.typing import NDArray

from catenary.boards.loader import load_accelerator
from catenary.hw.buffers.signatures import A_LATENCY, V_LATENCY
from catenary.hw.words import command_layout, record_layout
from catenary.isa.config import AcceleratorConfig
from catenary.isa.instructions import Instruction
from catenary.isa.opcodes import Unit
from tests.hw.compiled import Compiled

SMALL = load_accelerator("small")


def variant(**changes: Any) -> AcceleratorConfig:
    """The accelerator ``small`` with other parameters."""
    return AcceleratorConfig.from_dict({**SMALL.to_dict(), **changes})


TINY = variant(name="tiny", chains=1, mm_tokens=8, vector_lanes=1, vector_words=8192, act_bytes=16384)
ODD = variant(
    name="odd",
    port_bytes=[4, 8],
    chains=3,
    chain_length=32,
    mm_tokens=6,
    stream_atom=4,
    vector_lanes=2,
    vector_words=8192,
    act_bytes=16384,
)
WIDE = variant(name="wide", chains=3, mm_tokens=8, vector_lanes=32, vector_words=8192, act_bytes=16384)
PACKED = variant(name="packed", chains=2, mm_tokens=9, packed=True, vector_lanes=1, vector_words=8192, act_bytes=16384)
CONFIGS = {config.name: config for config in (SMALL, TINY, ODD, WIDE, PACKED)}


class Ports:
    """Sets and reads ports, and skips what has not changed."""

    def __init__(self, dut: Compiled) -> None:
        self.dut = dut
        self._last: dict[str, int] = {}

    def set(self, name: str, value: int) -> None:
        """Set an input, of any width."""
        if self._last.get(name) == value:
            return
        self._last[name] = value
        width = self.dut.fields[name].width
        if width > 64:
            words = [value >> 32 * index & 0xFFFFFFFF for index in range(-(-width // 32))]
            self.dut.poke(name, np.array(words, np.uint32))
        else:
            self.dut.poke(name, value)

    def get(self, name: str) -> int:
        """An output of any width; 0 if it has no bits."""
        if name not in self.dut.fields:
            return 0
        value = self.dut.peek(name)
        return value if isinstance(value, int) else sum(int(word) << 32 * index for index, word in enumerate(value))


class CodePort:
    """A reader's view of A; ``beside`` is the port of a second word, if there is one."""

    def __init__(self, ports: Ports, name: str, words: NDArray[np.uint8], beside: str | None = None) -> None:
        self._ports, self._name, self._words, self._beside = ports, name, words, beside
        self._answers: deque[list[int]] = deque([[]] * A_LATENCY)

    def drive(self, ready: bool) -> None:
        """Before the cycle's outputs are looked at."""
        self._ports.set(f"{self._name}.request.ready", ready)
        answer = self._answers.popleft()
        self._ports.set(f"{self._name}.valid", bool(answer))
        if answer:
            inside = max(answer) < len(self._words)
            self._ports.set(f"{self._name}.fault", not inside)
            if inside:
                for port, address in zip((self._name, self._beside), answer, strict=False):
                    self._ports.set(f"{port}.data", int.from_bytes(self._words[address].tobytes(), "little"))

    def observe(self, ready: bool) -> None:
        """At the end of the cycle."""
        asked: list[int] = []
        if ready and self._ports.get(f"{self._name}.request.valid"):
            asked.append(self._ports.get(f"{self._name}.request.payload"))
            if self._beside and self._ports.get(f"{self._beside}.both"):
                asked.append(self._ports.get(f"{self._beside}.address"))
        self._answers.append(asked)


def beside_of(config: AcceleratorConfig) -> str | None:
    """The port of the second word of A, if a configuration has one."""
    return "a_beside" if config.packed else None


class VectorPorts:
    """A reader's and a writer's view of V."""

    def __init__(self, ports: Ports, config: AcceleratorConfig) -> None:
        self._ports, self._lanes = ports, config.vector_lanes
        self.words = np.zeros(config.vector_words, np.uint32)
        self.written: list[tuple[int, int]] = []
        self._answers: deque[tuple[int, int] | None] = deque([None] * V_LATENCY)
        self._refused = False

    def drive(self, ready: tuple[bool, bool]) -> None:
        """Before the cycle's outputs are looked at."""
        ports = self._ports
        ports.set("v_read.request.ready", ready[0])
        ports.set("v_write.request.ready", ready[1])
        ports.set("v_write.fault", self._refused)
        answer = self._answers.popleft()
        ports.set("v_read.valid", answer is not None)
        if answer is not None:
            address, count = answer
            inside = address + count <= len(self.words)
            ports.set("v_read.fault", not inside)
            values = self.words[address : address + count].tolist() if inside else []
            values += [0xDEADBEEF] * (self._lanes - len(values))
            ports.set("v_read.data", sum(value << 32 * lane for lane, value in enumerate(values)))

    def observe(self, ready: tuple[bool, bool]) -> None:
        """At the end of the cycle."""
        ports = self._ports
        self._answers.append(None)
        self._refused = False
        if ready[0] and ports.get("v_read.request.valid"):
            request = "v_read.request.payload"
            count = ports.get(f"{request}.count")
            assert 1 <= count <= self._lanes
            self._answers[-1] = (ports.get(f"{request}.address"), count)
        if ready[1] and ports.get("v_write.request.valid"):
            request = "v_write.request.payload"
            address, count, data = (ports.get(f"{request}.{part}") for part in ("address", "count", "data"))
            assert 1 <= count <= self._lanes
            self._refused = address + count > len(self.words)
            if not self._refused:
                self.words[address : address + count] = [data >> 32 * lane & 0xFFFFFFFF for lane in range(count)]
                self.written.append((address, count))


def command(insn: Instruction, **operands: int) -> int:
    """What the unit's queue delivers: ``insn`` with operands resolved to their immediates or ``operands``."""
    cls = type(insn)
    values = {}
    for entry in cls.body:
        value = operands.get(entry.name, getattr(insn, entry.name))
        values[entry.name] = int(getattr(value, "imm", getattr(value, "value", value)))
    record = Const.cast(record_layout(cls).const(values)).value
    layout = command_layout(Unit.MATRIX)
    body = layout["body"].offset
    return int(cls.opcode) | record << body


def pack(layout: Any, values: dict[str, int]) -> int:
    """The bits of a structure whose members are given as plain integers."""
    word = 0
    for name, part in layout:
        word |= (values[name] & ((1 << part.width) - 1)) << part.offset
    return word


NAN = 0x7FC00001
SPECIAL = [0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x7F800000, 0xFF800000, NAN, 0x00800000, 0x7F7FFFFF]
"""Zeros, subnormal numbers, infinities, NaN, the smallest and the largest number."""


def floats(rng: np.random.Generator, count: int) -> NDArray[np.uint32]:
    """FP32 words: mostly scales as they occur, some special ones."""
    words = (rng.standard_normal(count) * 2.0 ** rng.integers(-40, 20, count)).astype(np.float32).view(np.uint32)
    chosen = rng.random(count) < 0.1
    words[chosen] = rng.choice(np.array(SPECIAL, np.uint32), chosen.sum())
    return words
