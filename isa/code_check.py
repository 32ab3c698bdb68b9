# SPDX-License-Identifier: Apache-2.0
"""Static checks of whole programs: what makes one free of deadlock, and mistakes that a reader overlooks.

**Why a checked program cannot deadlock, at any queue depth of at least 1.** Instructions are dispatched in program
order into the queues of their units, which run in order. Tokens of a pair of units carry no name, so the n-th wait
takes the n-th release; the checker walks the program in order and sees that each wait finds a token, hence its release
stands *before* it. Now take the first instruction, in program order, that has not finished. All its tokens have been
released, for whatever releases them has finished. If it has been dispatched, it is at the head of its queue and runs.
If not, dispatch is held up by a full queue, which would have to hold earlier instructions, or by a register that an
earlier instruction writes; but there are none. So there is always one that runs.

Tokens alone do not give that for the stream FIFO, through which a load may depend on a *later* instruction: an LD into
W longer than the FIFO finishes only after a matrix instruction has begun to consume it. Two rules restore the argument:
between such a load and the last instruction that consumes it stands no other instruction of the load unit (it might
fill the queue, or hold back what the matrix instruction waits for), and up to that last one nothing takes a token that
the load releases when it finishes.

Every loop body leaves all token counters as it found them, so one iteration speaks for all, and a loop that runs no
times changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from catenary.isa.assembler import format_field
from catenary.isa.config import AcceleratorConfig
from catenary.isa.encoding import decode_all
from catenary.isa.errors import ProgramError
from catenary.isa.fields import Operand
from catenary.isa.instructions import End, Instruction, Load, Loop
from catenary.isa.opcodes import LOOP_DEPTH, TOKEN_LIMIT, Buffer, Unit, Units
from catenary.isa.registers import ARGUMENT_REGISTERS
from catenary.isa.rules import RULES, consumes_stream, misfits, register_fields

Code = bytes | Sequence[Instruction]
Pair = tuple[Unit, Unit]


@dataclass(frozen=True, order=True)
class Problem:
    """A broken rule.

    Attributes:
        index: the instruction that breaks it.
        message: instruction or field, rule and value.
    """

    index: int
    message: str

    def __str__(self) -> str:
        """As an error message."""
        return f"Instruction {self.index}: {self.message}"


def check_code(code: Code, entries: Iterable[int] | None = None) -> None:
    """Check the rules that hold for every accelerator.

    Args:
        code: instruction words or instructions.
        entries: index of each entry point; by default the first instruction and each one behind an END.

    Raises:
        ProgramError: the first problem, and how many more there are.
        EncodingError: a word that is not legal.
    """
    _refuse(find_problems(code, entries))


def check_fits(code: Code, config: AcceleratorConfig) -> None:
    """Check immediate sizes and addresses against the sizes of one accelerator. Values in registers are not known.

    Raises:
        ProgramError: the first problem, and how many more there are.
        EncodingError: a word that is not legal.
    """
    _refuse(find_misfits(code, config))


def find_problems(code: Code, entries: Iterable[int] | None = None) -> list[Problem]:
    """Every problem that :func:`check_code` would raise for, in program order."""
    instructions = _decoded(code)
    if not instructions:
        return [Problem(0, "Program must have at least one instruction, not none")]
    found = [Problem(i, message) for i, insn in enumerate(instructions) for message in broken_rules(insn)]
    if entries is None:
        ends = [i for i, insn in enumerate(instructions) if isinstance(insn, End)]
        entries = (0, *(i + 1 for i in ends if i + 1 < len(instructions)))
    for entry in entries:
        if 0 <= entry < len(instructions):
            walk = _Walk(instructions)
            walk.program(entry)
            found += walk.problems
        else:
            found.append(Problem(entry, f"Entry must be in 0..{len(instructions) - 1}, not {entry}"))
    return sorted(set(found))


def find_misfits(code: Code, config: AcceleratorConfig) -> list[Problem]:
    """Every problem that :func:`check_fits` would raise for, in program order."""
    instructions = _decoded(code)
    found = [Problem(i, message) for i, insn in enumerate(instructions) for message in misfits(insn, config)]
    most = config.instruction_words
    if len(instructions) > most:
        found.append(Problem(most, f"Program must have at most {most} instructions, not {len(instructions)}"))
    return sorted(found)


def _decoded(code: Code) -> Sequence[Instruction]:
    return decode_all(code) if isinstance(code, bytes) else code


def _refuse(problems: Sequence[Problem]) -> None:
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise ProgramError(f"{problems[0]}{more}")


def broken_rules(insn: Instruction) -> Iterable[str]:
    """A message for each rule of :data:`~catenary.isa.rules.RULES` that one instruction breaks."""
    owner = insn.opcode.name
    for rule in RULES:
        if insn.opcode in rule.opcodes and not rule.holds(insn):
            yield f"{owner}.{rule.field} must be {rule.text}, not {format_field(insn, rule.field)}"


def _pair(pair: Pair) -> str:
    return f"from {pair[0].name.lower()} to {pair[1].name.lower()}"


def _others(units: Units, own: Unit) -> list[Unit]:
    """Members of ``units`` but ``own``; by bits, because sets of flags are slow and every load walks all code."""
    bits = int(units) & ~(1 << own)
    return [unit for unit in Unit if bits >> unit & 1] if bits else []


class _Walk:
    """One walk through a program in program order, each loop body twice: the second time starts as the first ended."""

    def __init__(self, instructions: Sequence[Instruction]) -> None:
        self.problems: list[Problem] = []
        self._code = instructions
        self._tokens: Counter[Pair] = Counter()
        self._written = {0, *ARGUMENT_REGISTERS}
        # The latest load-unit instruction, if it is an LD into W; whether something has consumed from it; and the
        # problems there would be if something consumed from it later.
        self._stream: int | None = None
        self._consumed = True
        self._if_consumed: list[Problem] = []

    def program(self, entry: int) -> None:
        """Walk from ``entry`` to END."""
        if not self._run(entry, len(self._code), 0):
            self._report(entry, f"Code from here must reach END, not run to its end at {len(self._code)}")

    def _report(self, index: int, message: str) -> None:
        self.problems.append(Problem(index, message))

    def _run(self, start: int, end: int, depth: int) -> bool:
        """Walk ``start`` .. ``end - 1`` at loop depth ``depth``; whether END was reached."""
        index = start
        while index < end:
            insn = self._code[index]
            self._step(index, insn)
            index += 1
            if isinstance(insn, Loop):
                index = self._loop(index - 1, insn, end, depth + 1)
            elif isinstance(insn, End):
                if not depth:
                    self._finish(index - 1)
                    return True
                self._report(index - 1, "END must stand outside loops, not inside one")
        return False

    def _loop(self, index: int, loop: Loop, end: int, depth: int) -> int:
        """Walk the body of the loop at ``index``; the index behind it."""
        last = index + loop.length
        if last >= end:
            where = "the enclosing loop" if depth > 1 else "the code"
            self._report(index, f"LOOP must end within {where}, at {end - 1} or before, not at {last}")
            last = end - 1
        if depth > LOOP_DEPTH:
            self._report(index, f"LOOP must nest at most {LOOP_DEPTH} deep, not {depth}")
            return last + 1  # each level doubles the walk, so a hostile program must not choose the depth
        tokens, written = self._tokens.copy(), set(self._written)
        self._run(index + 1, last + 1, depth)
        for pair in sorted({*tokens, *self._tokens}):
            if self._tokens[pair] != tokens[pair]:
                change = self._tokens[pair] - tokens[pair]
                message = (
                    f"LOOP body must leave the tokens {_pair(pair)} as it found them, not change them by {change:+d}"
                )
                self._report(index, message)
        self._tokens = tokens.copy()
        self._run(index + 1, last + 1, depth)
        self._tokens = tokens
        if loop.count.reg or not loop.count.imm:
            self._written = written  # the loop may run no times
        return last + 1

    def _step(self, index: int, insn: Instruction) -> None:
        """What one instruction does to registers, tokens and the stream."""
        owner, unit = insn.opcode.name, insn.executing_unit
        operands = {getattr(insn, f.name).reg for f in insn.body if f.type is Operand}
        read = operands | {getattr(insn, f.name) for f in register_fields(type(insn), written=False)}
        for reg in sorted(read - self._written):
            self._report(index, f"{owner} must read registers that are written before it, not r{reg}")
        for source in _others(insn.wait, unit):
            self._take(index, owner, (source, unit))
        self._flow(index, insn)
        for target in _others(insn.release, unit):
            self._tokens[unit, target] += 1
            if self._tokens[unit, target] > TOKEN_LIMIT:
                self._report(index, f"Tokens {_pair((unit, target))} must be at most {TOKEN_LIMIT}, not more")
        self._written |= {getattr(insn, f.name) for f in register_fields(type(insn), written=True)}

    def _take(self, index: int, owner: str, pair: Pair) -> None:
        """Take a token of ``pair`` for the instruction at ``index``."""
        if not self._tokens[pair]:
            self._report(index, f"{owner}.wait must take a token {_pair(pair)} that is released before it, not later")
            return
        self._tokens[pair] -= 1
        if self._stream is None or pair[0] is not Unit.LOAD or self._tokens[pair]:
            return
        # That was the load unit's last token for this unit: if the stream's load gives one, it is this one.
        if self._code[self._stream].release & Units(1 << pair[1]):
            load = f"the LD into W at {self._stream}"
            message = f"{owner}.wait must not take the token of {load} before its last use"
            self._if_consumed.append(Problem(index, message))

    def _flow(self, index: int, insn: Instruction) -> None:
        """Follow the stream FIFO."""
        owner = insn.opcode.name
        if insn.executing_unit is Unit.LOAD:
            self._close(f"the load unit's next instruction at {index}")
            is_stream = isinstance(insn, Load) and insn.buffer is Buffer.W
            self._stream = index if is_stream else None
            self._consumed = not is_stream
        elif consumes_stream(insn):
            if self._stream is None:
                self._report(
                    index, f"{owner} must follow an LD into W, not another instruction of the load unit or none"
                )
            self._consumed = True
            self.problems += self._if_consumed
            self._if_consumed = []

    def _close(self, before: str) -> None:
        """No more instructions may consume the open stream."""
        if self._stream is not None and not self._consumed:
            self._report(self._stream, f"LD into W must be consumed before {before}, not later or never")
        self._if_consumed = []

    def _finish(self, index: int) -> None:
        """END: nothing may be left."""
        self._close(f"END at {index}")
        for pair, count in sorted(self._tokens.items()):
            if count:
                self._report(index, f"END must find no token {_pair(pair)}, not {count}")
