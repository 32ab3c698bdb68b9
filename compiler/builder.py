# SPDX-License-Identifier: Apache-2.0
"""Structured code under construction: instructions with the storage they touch, inside hardware loops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from catenary.isa.errors import CompileError
from catenary.isa.fields import REGISTERS, SCALAR_BITS, Operand
from catenary.isa.instructions import Alu, Instruction, LoadImmediate, Loop
from catenary.isa.opcodes import AluFunction
from catenary.isa.registers import ARGUMENT_REGISTERS


class Region(NamedTuple):
    """A range of one storage space: a buffer's words, or a named part of memory."""

    space: str
    start: int
    size: int

    def overlaps(self, other: Region) -> bool:
        """Whether the two share a word."""
        first, end = max(self.start, other.start), min(self.start + self.size, other.start + other.size)
        return self.space == other.space and first < end


@dataclass
class Op:
    """One instruction, and the regions that it reads and writes."""

    insn: Instruction
    reads: tuple[Region, ...] = ()
    writes: tuple[Region, ...] = ()


@dataclass
class LoopOp:
    """A hardware loop; ``body`` runs ``count`` times, with ``once`` at most one time: a condition."""

    count: Operand
    body: list[Op | LoopOp] = field(default_factory=list)
    once: bool = False


class CodeBuilder:
    """Collects structured code and hands out scalar registers.

    Registers are taken by name inside :meth:`scope` blocks and returned at their end, so that loops nest without a
    register plan.
    """

    def __init__(self) -> None:
        self.code: list[Op | LoopOp] = []
        self._open: list[list[Op | LoopOp]] = [self.code]
        self._free = [reg for reg in range(REGISTERS - 1, 0, -1) if reg not in ARGUMENT_REGISTERS]

    def emit(self, insn: Instruction, reads: Sequence[Region] = (), writes: Sequence[Region] = ()) -> None:
        """Append ``insn``."""
        self._open[-1].append(Op(insn, tuple(reads), tuple(writes)))

    @contextmanager
    def loop(self, count: Operand, once: bool = False) -> Iterator[None]:
        """Everything emitted inside the block becomes the body of a hardware loop; see :class:`LoopOp`."""
        inner = LoopOp(count, once=once)
        self._open[-1].append(inner)
        self._open.append(inner.body)
        yield
        self._open.pop()

    @contextmanager
    def scope(self, count: int) -> Iterator[list[int]]:
        """``count`` registers for the length of the block.

        Raises:
            CompileError: no register is left.
        """
        if count > len(self._free):
            raise CompileError(
                f"Program must need at most {REGISTERS - 1} scalar registers, not {count - len(self._free)} more"
            )
        taken = [self._free.pop() for _ in range(count)]
        yield taken
        self._free.extend(reversed(taken))

    def set(self, rd: int, value: int | Operand) -> None:
        """``R[rd] = value``."""
        if isinstance(value, int):
            self.emit(LoadImmediate(rd=rd, imm=value))
        elif value.reg == 0:
            self.emit(LoadImmediate(rd=rd, imm=value.imm))
        else:
            self.alu(AluFunction.ADD, rd, value.reg, value.imm)

    def alu(self, function: AluFunction, rd: int, ra: int, b: int | Operand) -> None:
        """``R[rd] = function(R[ra], b)``."""
        operand = Operand(0, b) if isinstance(b, int) else b
        self.emit(Alu(function=function, rd=rd, ra=ra, b=operand))

    def ceil_div(self, rd: int, value: Operand, divisor: int, largest: int) -> None:
        """``R[rd] = ceil(value / divisor)`` for values up to ``largest``: a multiplication by the scaled reciprocal.

        With ``m = ceil(2**s / d)`` and ``e = m * d - 2**s < d``, ``(n * m) >> s`` is ``n // d`` while ``n * e < 2**s``.
        A power of two multiplies by 1, so that every divisor takes the same instructions.
        """
        top = largest + divisor - 1
        power = divisor & (divisor - 1) == 0
        shift = divisor.bit_length() - 1 if power else (top * divisor).bit_length()
        multiplier = -(-(1 << shift) // divisor)
        if (top * multiplier).bit_length() > SCALAR_BITS:
            raise CompileError(f"Length must be at most what 40-bit scalars divide by {divisor}, not {largest}")
        self.alu(AluFunction.ADD, rd, value.reg, value.imm + divisor - 1)
        self.alu(AluFunction.MUL, rd, rd, multiplier)
        self.alu(AluFunction.SHR, rd, rd, shift)


def flatten(code: Sequence[Op | LoopOp]) -> list[Instruction]:
    """The flat instruction list; every loop gets its LOOP instruction."""
    flat: list[Instruction] = []
    for item in code:
        if isinstance(item, Op):
            flat.append(item.insn)
        else:
            body = flatten(item.body)
            flat.append(Loop(count=item.count, length=len(body)))
            flat.extend(body)
    return flat
