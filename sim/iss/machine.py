# SPDX-License-Identifier: Apache-2.0
"""The machine: fetch, hardware loops, dispatch in program order, tokens and queues.

Executing in program order is one legal interleaving of the units, so results are those of the hardware if tokens order
everything that must be ordered; the race detector checks that. What program order would hide is checked as well: a wait
whose token only a load could give that is still stuck behind a full stream FIFO, and queues that fill up behind it.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from catenary.isa.assembler import format_instruction
from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import ExecutionError
from catenary.isa.instructions import (
    LOOP_DEPTH,
    WORD_BYTES,
    Alu,
    Apply,
    Argmax,
    Combine,
    Context,
    End,
    Instruction,
    Load,
    LoadImmediate,
    LoadScalar,
    Loop,
    MatrixMatrix,
    MatrixVector,
    Nop,
    Norm,
    Quant,
    Rope,
    Score,
    Softmax,
    Store,
    Unit,
    Units,
    decode_all,
)
from catenary.isa.registers import ErrorCause
from catenary.sim.iss import units, vector
from catenary.sim.iss.hazards import Clock
from catenary.sim.iss.memory import Memory
from catenary.sim.iss.units import ContextAccumulators, Storage

_CLOCK_STEPS = 256
"""Instructions between two looks at the clock."""


@dataclass(frozen=True)
class RunReport:
    """What a run left behind.

    Attributes:
        result: the scalar that END returned.
        instructions: instructions executed.
        nan_seen: a NaN was quantised to 0.
    """

    result: int
    instructions: int
    nan_seen: bool


@dataclass
class _Token:
    """A token: which load gave it (a count of loads, or 0), and what its giver knew."""

    load: int
    clock: Clock | None


@dataclass
class _Loop:
    first: int
    last: int
    left: int


@dataclass
class _Decoded:
    """An instruction prepared for execution."""

    insn: Instruction
    unit: Unit
    wait: tuple[Unit, ...]
    release: tuple[Unit, ...]
    execute: Callable[[], None] | None = field(default=None)


class Machine:
    """One accelerator core with its memory.

    Args:
        config: the accelerator.
        memory_lines: lines of memory behind the ports.
        check_hazards: whether to run the race detector, which costs time.
    """

    def __init__(self, config: AcceleratorConfig, memory_lines: int, check_hazards: bool = False) -> None:
        self.config = config
        self.memory = Memory(config, memory_lines)
        self.storage = Storage.of(config, self.memory, check_hazards)
        self.memory.on_write = self.storage.fifo.forget
        self.storage.fifo.on_last_line = self.storage.hazards.use_last_line
        self._context = ContextAccumulators()
        self._argmax = vector.RunningArgmax()
        self._nan_seen = False
        self._code: list[_Decoded] = []
        self._fifo_lines = config.stream_bytes // config.line_bytes

    def load_code(self, line: int, count: int) -> None:
        """Fetch and decode ``count`` instructions from memory line ``line``.

        Raises:
            EncodingError: a word is illegal; the message has its index.
            ExecutionError: more instructions than the instruction buffer holds.
        """
        if count > self.config.instruction_words:
            raise ExecutionError(f"Code must have at most {self.config.instruction_words} instructions, not {count}")
        lines = self.config.lines(count * WORD_BYTES)
        words = self.memory.fetch(line, lines, stream=False).reshape(-1)[: count * WORD_BYTES].tobytes()
        self._code = [self._prepare(insn) for insn in decode_all(words)]

    def run(self, entry: int, arguments: Sequence[int], timeout_s: float = math.inf) -> RunReport:
        """Run from instruction ``entry`` to END.

        Raises:
            ExecutionError: a rule is broken, or ``timeout_s`` seconds have passed; the message names the instruction.
        """
        deadline = time.monotonic() + timeout_s
        self._reset(arguments)
        pc, executed = entry, 0
        loops: list[_Loop] = []
        while True:
            if not 0 <= pc < len(self._code):
                raise _error(ErrorCause.CODE_RANGE, f"Program counter must stay in the code of {len(self._code)}", pc)
            item = self._code[pc]
            executed += 1
            if executed % _CLOCK_STEPS == 0 and time.monotonic() > deadline:
                raise _error(ErrorCause.WATCHDOG, f"Run must end within {timeout_s} seconds, at instruction", pc)
            try:
                if isinstance(item.insn, Loop):
                    pc = self._enter(item.insn, pc, loops)
                    continue
                self._step(item)
                if isinstance(item.insn, End):
                    self._finish(item.insn)
                    return RunReport(self.storage.scalars.get(item.insn.result), executed, self._nan_seen)
            except ExecutionError as error:
                raise ExecutionError(f"Instruction {pc} ({format_instruction(item.insn)}): {error}") from None
            while loops and pc == loops[-1].last:
                loops[-1].left -= 1
                if loops[-1].left:
                    pc = loops[-1].first - 1
                    break
                loops.pop()
            pc += 1

    def _reset(self, arguments: Sequence[int]) -> None:
        s = self.storage
        s.scalars.reset(arguments)
        for buffer in (s.v, s.a, s.d):
            buffer.clear()
        s.fifo.reset()
        s.hazards.reset()
        self._context.reset()
        self._nan_seen = False
        self._tokens: dict[tuple[Unit, Unit], deque[_Token]] = {(a, b): deque() for a in Unit for b in Unit if a != b}
        self._loads = 0
        self._stuck: deque[int] = deque()

    def _enter(self, loop: Loop, pc: int, loops: list[_Loop]) -> int:
        if len(loops) == LOOP_DEPTH:
            raise ExecutionError(f"Loops must nest at most {LOOP_DEPTH} deep")
        count = self.storage.scalars.value(loop.count)
        last = pc + loop.length
        if loops and last > loops[-1].last:
            raise ExecutionError(f"Loop must end at instruction {loops[-1].last} at most, not {last}")
        if not count:
            return last + 1
        loops.append(_Loop(pc + 1, last, count))
        return pc + 1

    def _step(self, item: _Decoded) -> None:
        for source in item.wait:
            self._take(source, item.unit)
        if item.unit is Unit.LOAD:
            self._queue_load(item.insn)
        self.storage.hazards.begin(item.unit)
        if item.execute is not None:
            item.execute()
        if item.release:
            giver = self._loads if item.unit is Unit.LOAD else 0
            clock = self.storage.hazards.give(item.unit)
            for target in item.release:
                self._tokens[item.unit, target].append(_Token(giver, clock))

    def _take(self, source: Unit, unit: Unit) -> None:
        queue = self._tokens[source, unit]
        if not queue:
            raise ExecutionError(f"Wait for {source.name} must follow a release by it: the program would deadlock")
        token = queue.popleft()
        self._unstick()
        if self._stuck and token.load > self._stuck[0]:
            raise ExecutionError(
                f"Wait for {source.name} must not need a load behind one that a full stream FIFO holds back: deadlock"
            )
        self.storage.hazards.take(unit, token.clock)

    def _queue_load(self, insn: Instruction) -> None:
        """Keep track of loads that cannot start before the stream FIFO drains.

        A stream load that is longer than the FIFO goes on while its lines are consumed; loads behind it wait in the
        queue, and when the queue is full dispatch waits too, so that no consumer is ever dispatched.
        """
        self._loads += 1
        self._unstick()
        if self._stuck:
            self._stuck.append(self._loads)
        elif self.storage.fifo.held_lines > self._fifo_lines:
            self._stuck.extend((self._loads - 1, self._loads))
        if len(self._stuck) > self.config.queue_depth + 1:
            raise ExecutionError(
                f"At most {self.config.queue_depth} loads must queue behind one that fills the stream FIFO, not "
                f"{len(self._stuck) - 1}: the program would deadlock"
            )

    def _unstick(self) -> None:
        if self._stuck and self.storage.fifo.held_lines <= self._fifo_lines:
            self._stuck.clear()

    def _finish(self, insn: End) -> None:
        self.storage.fifo.finish()
        left = [f"{a.name} to {b.name}: {len(q)}" for (a, b), q in self._tokens.items() if q]
        if left:
            raise ExecutionError(f"Tokens must all be taken at the end, not left ({', '.join(left)})")

    def _prepare(self, insn: Instruction) -> _Decoded:
        wait = tuple(unit for unit in Unit if insn.wait & Units(1 << unit))
        release = tuple(unit for unit in Unit if insn.release & Units(1 << unit))
        return _Decoded(insn, insn.executing_unit, wait, release, self._executor(insn))

    def _executor(self, insn: Instruction) -> Callable[[], None] | None:
        s = self.storage
        match insn:
            case Load():
                return lambda: units.load(s, insn)
            case Store():
                return lambda: units.store(s, insn)
            case MatrixMatrix() | MatrixVector():
                return lambda: units.linear(s, insn)
            case Score():
                return lambda: units.score(s, insn)
            case Context():
                return lambda: self._context.run(s, insn)
            case Norm():
                return lambda: vector.norm(s, insn)
            case Apply():
                return lambda: vector.apply(s, insn)
            case Combine():
                return lambda: vector.combine(s, insn)
            case Rope():
                return lambda: vector.rope(s, insn)
            case Quant():
                return lambda: self._quant(insn)
            case Softmax():
                return lambda: vector.softmax(s, insn)
            case Argmax():
                return lambda: self._argmax.run(s, insn)
            case LoadImmediate():
                return lambda: s.scalars.set(insn.rd, insn.imm)
            case Alu():
                return lambda: s.scalars.alu(insn.function, insn.rd, insn.ra, insn.b)
            case LoadScalar():
                return lambda: self._load_scalar(insn)
            case Nop() | End() | Loop():
                return None
        raise ExecutionError(f"Instruction {insn.opcode.name} must be one that the simulator executes")

    def _quant(self, insn: Quant) -> None:
        self._nan_seen |= vector.quant(self.storage, insn)

    def _load_scalar(self, insn: LoadScalar) -> None:
        address = self.storage.scalars.value(insn.address)
        self.storage.hazards.read("D", address, 1, 1, 1)
        self.storage.scalars.set(insn.rd, int(self.storage.d.read(address, 1, 1, 1)[0, 0]))


def _error(cause: ErrorCause, rule: str, value: int) -> ExecutionError:
    return ExecutionError(f"{rule}, not {value} ({cause.name})")
