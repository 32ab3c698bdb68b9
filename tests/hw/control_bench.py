# SPDX-License-Identifier: Apache-2.0
"""A host, units, a bus and memory around :class:`catenary.hw.control.control.Control`, in Python."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from catenary.boards.loader import load_accelerator
from catenary.hw.control.control import Control
from catenary.hw.unit import started_limit
from catenary.hw.words import OPCODE_BITS, command_layout, record_layout
from catenary.isa.assembler import assemble
from catenary.isa.config import AcceleratorConfig
from catenary.isa.encoding import decode_all, encode
from catenary.isa.fields import SCALAR_BITS, Operand
from catenary.isa.instructions import INSTRUCTIONS, Instruction
from catenary.isa.opcodes import Buffer, Opcode, Unit
from catenary.isa.registers import ErrorCause, register_map
from catenary.isa.rules import LOAD_FORMATS, RULES, STORE_FORMATS
from tests.hw.compiled import Compiled
from tests.instructions import random_value

SMALL = load_accelerator("small")
ODD = replace(SMALL, port_bytes=(4, 8), instruction_words=50, queue_depth=1, desc_words=7, stream_bytes=240)
FORMATS = {Opcode.LD: LOAD_FORMATS, Opcode.ST: STORE_FORMATS}
CORES = (Unit.LOAD, Unit.STORE, Unit.MATRIX, Unit.VECTOR)


@cache
def compiled(config: AcceleratorConfig) -> Compiled:
    """The control of ``config``; one for all tests, reset before each."""
    return Compiled(Control(config))


def record(insn: Instruction, values: dict[str, int]) -> dict[str, int]:
    """The fields of ``insn`` as a command has them, opcode and record, if its operands have these ``values``."""
    encoded = {part.name: part.encode(insn.opcode.name, getattr(insn, part.name)) for part in insn.body}
    return {"opcode": int(insn.opcode), **encoded, **values}


@dataclass(frozen=True)
class Arrival:
    """A command that a core has taken: when, and its bits."""

    cycle: int
    bits: int

    @property
    def opcode(self) -> int:
        """What its fields mean."""
        return self.bits & (1 << OPCODE_BITS) - 1

    @property
    def record(self) -> dict[str, int]:
        """Its fields."""
        layout = record_layout(INSTRUCTIONS[Opcode(self.opcode)])
        body = self.bits >> OPCODE_BITS
        return {"opcode": self.opcode} | {name: body >> part.offset & (1 << part.width) - 1 for name, part in layout}


@dataclass
class Core:
    """A unit that takes time and does nothing.

    Attributes:
        left: cycles until ``done`` of the first instruction that it has; ``None`` if idle.
        behind: the same of the others, from when the one before is done.
        ready: it takes another one.
        arrivals: all commands that it took.
        finished: cycle of each ``done``.
        pcs: what the trace showed as the pc with each ``done``.
    """

    unit: Unit
    left: int | None = None
    behind: list[int] = field(default_factory=list)
    ready: bool = False
    pcs: list[int] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)


class Bench:
    """Control and its surroundings; everything runs when :meth:`cycle` does.

    Args:
        config: the accelerator.
        seed: of all delays.
        slowness: most cycles that an instruction takes in a core.

    Attributes:
        duration: by unit and command bits, the cycles that it takes, or an error; ``None``: never finishes.
        stall: which wait a core shows while it is busy.
        argmax: what the vector unit writes for the n-th ARGMAX.
        descriptors: contents of D.
        hooks: called in every cycle.
    """

    def __init__(self, config: AcceleratorConfig = SMALL, seed: int = 0, slowness: int = 10) -> None:
        self.config = config
        self.top = compiled(config)
        self.rng = random.Random(seed)
        self.map = register_map(config)
        self.now = 0
        self.cores = {unit: Core(unit) for unit in CORES}
        self.duration: Callable[[Unit, int], int | ErrorCause | None] = lambda unit, bits: self.rng.randint(1, slowness)
        self.stall: dict[Unit, str] = {}
        self.argmax: Callable[[int], int] = lambda index: index
        self.descriptors: list[int] = []
        self.memory: dict[int, list[int]] = {}
        self.fetches: list[tuple[int, int]] = []
        self.resets = 0
        self.hooks: list[Callable[[], None]] = []
        self.stream_empty = True
        self.axi_idle = True
        self.answer_fetch = True
        self._words: list[tuple[int, int]] = []
        self._fetch_left: int | None = None
        self._data = (0, False)
        self._driven: dict[str, Any] = {}
        for name, entry in self.top.fields.items():
            if not entry.output and entry.width <= 64:
                self.poke(name, 0)
        self.poke("bus.bready", 1)
        self.poke("bus.rready", 1)
        self.top.reset()

    def poke(self, name: str, value: Any) -> None:
        """Set an input, if that changes anything."""
        if self._driven.get(name) != value:
            self._driven[name] = value
            self.top.poke(name, value)

    # One cycle of everything around the control.

    def cycle(self) -> None:
        top = self.top
        for hook in self.hooks:
            hook()
        self.poke("stream_empty", self.stream_empty)
        self.poke("axi_idle", self.axi_idle)
        self.poke("result.valid", 0)
        data, outside = self._data
        self.poke("descriptors.data", data)
        self.poke("descriptors.fault", outside)
        for core in self.cores.values():
            self._drive(core)
        self._fetch()
        for core in self.cores.values():
            self._take(core)
        if top.peek("descriptors.enable"):
            address = top.peek("descriptors.address")
            inside = address < len(self.descriptors)
            self._data = (self.descriptors[address] if inside else 0, not inside)
        if top.peek("core_reset"):
            self.resets += 1
            self._words, self._fetch_left = [], None
            for core in self.cores.values():
                core.left, core.behind = None, []
        top.step()
        self.now += 1

    def cycles(self, count: int) -> None:
        for _ in range(count):
            self.cycle()

    def _drive(self, core: Core) -> None:
        name = core.unit.name.lower()
        done = core.left == 0
        core.ready = core.left is None or len(core.behind) + 1 < started_limit(core.unit)
        self.poke(f"{name}.insn.ready", core.ready)
        self.poke(f"{name}.done", done)
        self.poke(f"{name}.fault", 0)
        for stall in ("stream", "memory", "buffer"):
            self.poke(f"{name}.stall.{stall}", core.left is not None and self.stall.get(core.unit) == stall)
        if done:
            core.finished.append(self.now)
            core.pcs.append(self.top.peek(f"trace.{name}.pc"))
            self._result(core)
        elif core.left is not None and core.left < 0:
            self.poke(f"{name}.fault", 1)
            self.poke(f"{name}.cause", -core.left)

    def _result(self, core: Core) -> None:
        last = core.arrivals[-1]
        if last.opcode == Opcode.ARGMAX:
            index = sum(arrival.opcode == Opcode.ARGMAX for arrival in core.arrivals) - 1
            self.poke("result.valid", 1)
            self.poke("result.register", last.record["rd"])
            self.poke("result.value", self.argmax(index))

    def _take(self, core: Core) -> None:
        name = core.unit.name.lower()
        if core.left is not None:
            if core.left > 0:
                core.left -= 1
            elif core.left == 0:
                core.left = core.behind.pop(0) if core.behind else None
        if core.ready and self.top.peek(f"{name}.insn.valid"):
            bits = number(self.top.peek(f"{name}.insn.payload")) & (1 << command_layout(core.unit).size) - 1
            core.arrivals.append(Arrival(self.now, bits))
            time = self.duration(core.unit, bits)
            left = 1 << 60 if time is None else -time if isinstance(time, ErrorCause) else time
            if core.left is None:
                core.left = left
            else:
                core.behind.append(left)

    def _fetch(self) -> None:
        top = self.top
        self.poke("fetch.ready", self.rng.random() < 0.5)
        self.poke("fetch_done", 0)
        self.poke("i_write.request.valid", 0)
        if self._words:
            address, word = self._words.pop(0)
            self.poke("i_write.request.valid", 1)
            self.poke("i_write.request.payload.address", address)
            self.poke("i_write.request.payload.data", [word >> shift & 0xFFFFFFFF for shift in range(0, 256, 32)])
        elif self._fetch_left is not None and self.answer_fetch:
            self.poke("fetch_done", 1)
            self._fetch_left = None
        if top.peek("fetch.valid") and top.peek("fetch.ready"):
            line, count = top.peek("fetch.payload.line"), top.peek("fetch.payload.count")
            self.fetches.append((line, count))
            self._words = list(enumerate(self.memory.get(line, [])[:count]))
            self._fetch_left = 1

    # The host.

    def write_word(self, address: int, value: int, strobe: int = 15, skew: int = 0) -> None:
        """Write a word; the data comes ``skew`` cycles after the address, or before it if negative."""
        top, start = self.top, self.now
        self.poke("bus.awaddr", address)
        self.poke("bus.wdata", value)
        self.poke("bus.wstrb", strobe)
        done = False
        while not done:
            self.poke("bus.awvalid", self.now - start >= max(-skew, 0))
            self.poke("bus.wvalid", self.now - start >= max(skew, 0))
            done = bool(top.peek("bus.awready"))
            assert done == bool(top.peek("bus.wready"))
            self.cycle()
        self.poke("bus.awvalid", 0)
        self.poke("bus.wvalid", 0)
        while not top.peek("bus.bvalid"):
            self.cycle()
        assert top.peek("bus.bresp") == 0
        self.cycle()

    def read_word(self, address: int) -> int:
        top = self.top
        self.poke("bus.araddr", address)
        self.poke("bus.arvalid", 1)
        while not top.peek("bus.arready"):
            self.cycle()
        self.cycle()
        self.poke("bus.arvalid", 0)
        while not top.peek("bus.rvalid"):
            self.cycle()
        assert top.peek("bus.rresp") == 0
        value = top.peek("bus.rdata")
        self.cycle()
        return int(value)

    def write(self, name: str, value: int) -> None:
        register = self.map[name]
        for offset in range(0, register.register.width, 32):
            self.write_word(register.address + offset // 8, value >> offset & 0xFFFFFFFF)

    def read(self, name: str) -> int:
        register = self.map[name]
        return sum(self.read_word(register.address + i // 8) << i for i in range(0, register.register.width, 32))

    def status(self) -> dict[str, int]:
        return self.map["STATUS"].register.unpack(self.read("STATUS"))

    def error(self) -> tuple[ErrorCause, Unit, int]:
        values = self.map["ERROR"].register.unpack(self.read("ERROR"))
        return ErrorCause(values["cause"]), Unit(values["unit"]), values["pc"]

    def load(self, code: str | Sequence[Instruction] | Sequence[int], line: int = 3) -> None:
        """Put a program into memory at ``line`` and make it the one to run."""
        items = decode_all(assemble(code)) if isinstance(code, str) else code
        self.memory[line] = [item if isinstance(item, int) else word(item) for item in items]
        self.write("CODE_LINE", line)
        self.write("CODE_LENGTH", len(self.memory[line]))

    def start(self, entry: int = 0, arguments: Sequence[int] = ()) -> None:
        for index, value in enumerate(arguments):
            self.write(f"ARGUMENT{index}", value)
        self.write("ENTRY", entry)
        self.write("CONTROL", self.map["CONTROL"].register.pack(start=1))

    def soft_reset(self) -> None:
        self.write("CONTROL", self.map["CONTROL"].register.pack(soft_reset=1))

    def wait(self, limit: int = 20000) -> dict[str, int]:
        """Poll until the run is over; its status."""
        end = self.now + limit
        status = self.status()
        while status["running"]:
            assert self.now < end, f"still running at {self.top.peek('trace.control.pc')}"
            self.cycles(20)
            status = self.status()
        return status

    def run(self, code: Any, arguments: Sequence[int] = (), entry: int = 0) -> int:
        """Run a program that must end well; its result."""
        self.load(code)
        self.start(entry, arguments)
        status = self.wait()
        assert status == {"running": 0, "done": 1, "error": 0, "numeric": 0}, (status, self.error())
        return self.read("RESULT")

    def fail(self, code: Any, arguments: Sequence[int] = (), entry: int = 0) -> tuple[ErrorCause, Unit, int]:
        """Run a program that must end in an error; that error."""
        self.load(code)
        self.start(entry, arguments)
        status = self.wait()
        assert status == {"running": 0, "done": 0, "error": 1, "numeric": 0}, status
        return self.error()


def word(insn: Instruction) -> int:
    return int.from_bytes(encode(insn), "little")


def number(value: Any) -> int:
    """A value of any width as an int."""
    return value if isinstance(value, int) else int.from_bytes(np.ascontiguousarray(value, "<u4").tobytes(), "little")


def operand_values(insn: Instruction, registers: Sequence[int]) -> dict[str, int]:
    """Values of the operands of ``insn`` with these scalar registers."""
    mask = (1 << SCALAR_BITS) - 1
    pairs = {part.name: getattr(insn, part.name) for part in insn.body if part.type is Operand}
    return {name: registers[operand.reg] + operand.imm & mask for name, operand in pairs.items()}


def lawful(rng: random.Random, cls: type[Instruction]) -> Instruction:
    """A random instruction of ``cls`` that breaks no rule."""
    values: dict[str, Any] = {}
    for part in (*cls.prefix[1:], *cls.body):
        values[part.name] = random_value(rng, part)
    while True:
        broken = [rule.field for rule in RULES if cls.opcode in rule.opcodes and not rule.holds(cls(**values))]
        if not broken:
            return cls(**values)
        if broken[0] == "tokens":
            values["tokens"] = Operand(0, 1)
        elif broken[0] == "format" and not FORMATS[cls.opcode][values["buffer"]]:
            values["buffer"] = Buffer.A
        else:
            [part] = [part for part in (*cls.prefix, *cls.body) if part.name == broken[0]]
            values[part.name] = random_value(rng, part)
