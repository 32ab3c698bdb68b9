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
from collections.abc import Sequence
from dataclasses import dataclass

from catenary.isa.assembler import format_instruction
from catenary.isa.code_check import broken_rules
from catenary.isa.config import AcceleratorConfig
from catenary.isa.encoding import decode_all
from catenary.isa.errors import ExecutionError
from catenary.isa.instructions import (
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
)
from catenary.isa.opcodes import LOOP_DEPTH, TOKEN_LIMIT, WORD_BYTES, Unit, Units
from catenary.isa.registers import ErrorCause
from catenary.sim import arith
from catenary.sim.iss import units, vector
from catenary.sim.iss.hazards import Clock
from catenary.sim.iss.memory import Memory
from catenary.sim.iss.units import ContextAccumulators, Executor, Storage

_CLOCK_STEPS = 256
"""Instructions, or runs of them, between two looks at the clock."""


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


_Token = tuple[int, Clock | None]
"""A token: which load gave it (a count of loads, or 0), and what its giver knew."""


@dataclass
class _Loop:
    first: int
    last: int
    left: int


@dataclass(slots=True)
class _Decoded:
    """An instruction prepared for execution.

    Attributes:
        insn: the instruction.
        unit: whose queue it enters.
        waits, releases: numbers of the token queues (:func:`_queue`) that it takes one from, or gives one to.
        execute: what it does beside; ``None`` if nothing.
        plain: it neither waits nor releases nor loads, and nobody looks at its accesses; not LOOP, NOP or END.
        run: plain instructions from this one on that are always executed one after the other.
        loop: the instruction, if it is a LOOP.
        end: the instruction, if it is END.
    """

    insn: Instruction
    unit: Unit
    waits: tuple[int, ...]
    releases: tuple[int, ...]
    execute: Executor | None
    plain: bool
    run: tuple[Executor, ...]
    loop: Loop | None
    end: End | None


def _queue(source: Unit, target: Unit) -> int:
    """Number of the queue of tokens that ``source`` has given to ``target``."""
    return source * len(Unit) + target


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
        self.storage.fifo.on_taken = self.storage.hazards.use_lines
        self._context = ContextAccumulators()
        self._argmax = vector.RunningArgmax()
        self._code: list[_Decoded] = []
        self._fifo_lines = config.stream_bytes // config.line_bytes

    def load_code(self, line: int, count: int) -> None:
        """Fetch and decode ``count`` instructions from memory line ``line``.

        Raises:
            EncodingError: a word is illegal; the message has its index.
            ExecutionError: an instruction breaks a rule by itself, or there are more than the instruction buffer holds.
        """
        if count > self.config.instruction_words:
            raise ExecutionError(f"Code must have at most {self.config.instruction_words} instructions, not {count}")
        lines = self.config.lines(count * WORD_BYTES)
        words = self.memory.fetch(line, lines, stream=False).reshape(-1)[: count * WORD_BYTES].tobytes()
        code = decode_all(words)
        for index, insn in enumerate(code):
            broken = next(iter(broken_rules(insn)), None)
            if broken is not None:
                raise ExecutionError(f"Instruction {index} ({format_instruction(insn)}): {broken}")
        self._code = [self._prepare(insn) for insn in code]
        self._join_runs()

    def run(self, entry: int, arguments: Sequence[int], timeout_s: float = math.inf) -> RunReport:
        """Run from instruction ``entry`` to END.

        Raises:
            ExecutionError: a rule is broken, or ``timeout_s`` seconds have passed; the message names the instruction.
        """
        with arith.quiet():
            return self._run(entry, arguments, timeout_s)

    def _run(self, entry: int, arguments: Sequence[int], timeout_s: float) -> RunReport:
        deadline = time.monotonic() + timeout_s
        self._reset(arguments)
        pc, executed, steps = entry, 0, 0
        code, size = self._code, len(self._code)
        loops: list[_Loop] = []
        while True:
            if not 0 <= pc < size:
                raise _error(ErrorCause.CODE_RANGE, f"Program counter must stay in the code of {size}", pc)
            item = code[pc]
            executed += 1
            steps += 1
            if steps % _CLOCK_STEPS == 0 and time.monotonic() > deadline:
                raise _error(ErrorCause.WATCHDOG, f"Run must end within {timeout_s} seconds, at instruction", pc)
            try:
                if item.run:
                    executed += len(item.run) - 1
                    for execute in item.run:
                        execute()
                        pc += 1
                    pc -= 1
                elif item.loop is not None:
                    if item.waits or item.releases:
                        self._step(item)
                    if self._enter(item.loop, pc, loops):
                        pc += 1
                        continue
                    pc += item.loop.length  # as after its last turn: an enclosing loop may end here too
                else:
                    self._step(item)
                if item.end is not None:
                    self._finish()
                    return RunReport(self.storage.scalars.get(item.end.result), executed, self.storage.nan_seen)
            except ExecutionError as error:
                raise ExecutionError(f"Instruction {pc} ({format_instruction(code[pc].insn)}): {error}") from None
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
        s.nan_seen = False
        s.accumulating = False
        self._tokens: list[deque[_Token]] = [deque() for _ in Unit for _ in Unit]
        self._loads = 0
        self._stuck: deque[int] = deque()

    def _enter(self, loop: Loop, pc: int, loops: list[_Loop]) -> bool:
        """Start a loop; whether it runs at all."""
        if len(loops) == LOOP_DEPTH:
            raise ExecutionError(f"Loops must nest at most {LOOP_DEPTH} deep")
        count = self.storage.scalars.value(loop.count)
        last = pc + loop.length
        if loops and last > loops[-1].last:
            raise ExecutionError(f"Loop must end at instruction {loops[-1].last} at most, not {last}")
        if count:
            loops.append(_Loop(pc + 1, last, count))
        return count > 0

    def _step(self, item: _Decoded) -> None:
        for number in item.waits:
            self._take(number, item.unit)
        if item.unit is Unit.LOAD:
            self._queue_load()
        hazards = self.storage.hazards
        if hazards.enabled:
            hazards.begin(item.unit)
        if item.execute is not None:
            item.execute()
        if item.releases:
            token = self._loads if item.unit is Unit.LOAD else 0, hazards.give(item.unit)
            for number in item.releases:
                self._tokens[number].append(token)
                if len(self._tokens[number]) > TOKEN_LIMIT:
                    raise ExecutionError(f"A token counter must hold at most {TOKEN_LIMIT} tokens, not more")

    def _take(self, number: int, unit: Unit) -> None:
        queue = self._tokens[number]
        if not queue:
            source = Unit(number // len(Unit))
            raise ExecutionError(f"Wait for {source.name} must follow a release by it: the program would deadlock")
        load, clock = queue.popleft()
        if self._stuck:
            self._unstick()
            if self._stuck and load > self._stuck[0]:
                source = Unit(number // len(Unit))
                raise ExecutionError(
                    f"Wait for {source.name} must not need a load behind one that a full stream FIFO holds back: "
                    "deadlock"
                )
        if clock is not None:
            self.storage.hazards.take(unit, clock)

    def _queue_load(self) -> None:
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

    def _finish(self) -> None:
        self.storage.fifo.finish()
        counts = {(a, b): len(self._tokens[_queue(a, b)]) for a in Unit for b in Unit}
        left = [f"{a.name} to {b.name}: {count}" for (a, b), count in counts.items() if count]
        if left:
            raise ExecutionError(f"Tokens must all be taken at the end, not left ({', '.join(left)})")

    def _prepare(self, insn: Instruction) -> _Decoded:
        unit = insn.executing_unit
        waits = tuple(_queue(other, unit) for other in Unit if insn.wait & Units(1 << other))
        releases = tuple(_queue(unit, other) for other in Unit if insn.release & Units(1 << other))
        loop = insn if isinstance(insn, Loop) else None
        end = insn if isinstance(insn, End) else None
        execute = self._executor(insn)
        tracked = waits or releases or unit is Unit.LOAD or self.storage.hazards.enabled
        return _Decoded(insn, unit, waits, releases, execute, execute is not None and not tracked, (), loop, end)

    def _join_runs(self) -> None:
        """Fill in :attr:`_Decoded.run`, which must not go on behind the end of a loop."""
        ends = {pc + item.loop.length for pc, item in enumerate(self._code) if item.loop is not None}
        following: tuple[Executor, ...] = ()
        for pc in reversed(range(len(self._code))):
            item = self._code[pc]
            if pc in ends:
                following = ()
            following = (item.execute, *following) if item.plain and item.execute is not None else ()
            item.run = following

    def _executor(self, insn: Instruction) -> Executor | None:
        s = self.storage
        match insn:
            case Load():
                return units.load(s, insn)
            case Store():
                return units.store(s, insn)
            case MatrixMatrix() | MatrixVector():
                return units.linear(s, insn)
            case Score():
                return units.score(s, insn)
            case Context():
                return self._context.prepare(s, insn)
            case Norm():
                return vector.norm(s, insn)
            case Apply():
                return vector.apply(s, insn)
            case Combine():
                return vector.combine(s, insn)
            case Rope():
                return vector.rope(s, insn)
            case Quant():
                return vector.quant(s, insn)
            case Softmax():
                return vector.softmax(s, insn)
            case Argmax():
                return self._argmax.prepare(s, insn)
            case LoadImmediate():
                return s.scalars.load_immediate(insn.rd, insn.imm)
            case Alu():
                return s.scalars.alu(insn)
            case LoadScalar():
                return self._load_scalar(insn)
            case Nop() | End() | Loop():
                return None
        raise ExecutionError(f"Instruction {insn.opcode.name} must be one that the simulator executes")

    def _load_scalar(self, insn: LoadScalar) -> Executor:
        s, values = self.storage, self.storage.scalars.reader(insn.address)

        def run() -> None:
            (address,) = values()
            s.hazards.read("D", address, 1, 1, 1)
            s.scalars.set(insn.rd, s.d.read_word(address))

        return run


def _error(cause: ErrorCause, rule: str, value: int) -> ExecutionError:
    return ExecutionError(f"{rule}, not {value} ({cause.name})")
