# SPDX-License-Identifier: Apache-2.0
"""A random program under construction: buffers and memory to work in, and operands in registers or out of them.

Blocks of a program know nothing of each other. That their programs are legal all the same follows from this:

* V, A and D have an *arena* each, filled at the start, so that every word of it may be read from then on;
* every access declares its regions, of which :mod:`catenary.compiler.tokens` makes tokens;
* the value of every register that an operand uses is known here. Loops advance a register in known steps.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from catenary.compiler.builder import CodeBuilder, Region
from catenary.isa.config import AcceleratorConfig
from catenary.isa.fields import SCALAR_BITS, Operand
from catenary.isa.instructions import Alu, Instruction, Load, LoadImmediate, LoadScalar, Store
from catenary.isa.memory import RowLayout
from catenary.isa.opcodes import AluFunction, Buffer, MemoryFormat
from catenary.isa.registers import ARGUMENT_REGISTERS
from catenary.isa.tensors import BLOCK
from catenary.sim.iss.scalars import MASK, Scalars

ADDRESS_BITS = {"V": 20, "A": 16, "D": 20, "M": 32}
"""Bits of an immediate address: in V, A, D and memory."""

_SCRATCH = 5
"""Registers for the operands of one instruction."""


class NoRoomError(Exception):
    """A block does not fit where it was tried; another may."""


@dataclass(frozen=True)
class Turns:
    """A loop that is open: register ``reg`` holds ``start``, then ``step`` more in each of its ``count`` turns."""

    reg: int
    start: int
    step: int
    count: int


@dataclass(frozen=True)
class Place:
    """Where an operand points: ``start`` at first, up to ``reach`` further on in later turns of a loop."""

    space: str
    operand: Operand
    start: int
    reach: int = 0

    def rows(self, stride: int, rows: int, words: int) -> tuple[Region, ...]:
        """Regions of ``rows`` rows of ``words`` words: one by one if they are few and apart, else all in one."""
        if not rows or not words:
            return ()
        if self.reach == 0 and rows <= 4 and stride > words:
            return tuple(Region(self.space, self.start + row * stride, words) for row in range(rows))
        return (Region(self.space, self.start, (rows - 1) * stride + words + self.reach),)


def code_words(codes: int) -> int:
    """Words of A that a row of ``codes`` codes takes."""
    return -(-codes // BLOCK)


class Draft:
    """One random program.

    Args:
        config: the accelerator.
        seed: of everything.
        words: of the arena of V; the arena of A is an eighth of it and 32 words.

    Attributes:
        rng, numbers: random choices, and random contents.
        special: how often a float is a special one.
        aligned: how often a place in V begins at the first lane.
        b: the code so far.
        arenas: what blocks use of each space; ``M`` is a pool of memory that is written too.
        arguments: values of the argument registers.
        total: the register that END returns; blocks mix their scalars into it.
        streaming: a stream load waits for its last use, so no other load may be emitted.
        lines: lines of memory with contents so far.
        fixed: contents of the first half of the arena of D, which stay.
        ranked: an ARGMAX with ``first`` has certainly run.
    """

    def __init__(self, config: AcceleratorConfig, seed: int, words: int = 2048) -> None:
        self.config = config
        self.rng = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.special = self.rng.choice([0.0, 0.0, 0.002, 0.05])
        self.aligned = self.rng.choice([0.0, 0.0, 0.2, 0.9])
        self.b = CodeBuilder()
        self.arguments = tuple(self.rng.choice([0, self.rng.randrange(60), self.rng.getrandbits(40)]) for _ in range(8))
        self.arenas = {
            "V": self._arena("V", config.vector_words, min(words, config.vector_words)),
            "A": self._arena("A", config.act_bytes // BLOCK, min(words // 8 + 32, config.act_bytes // BLOCK)),
            "D": self._arena("D", config.desc_words, min(48, config.desc_words)),
        }
        self.streaming = False
        self.ranked = False
        self._memory: list[NDArray[np.uint8]] = []
        self.lines = 0
        self._turns: list[Turns] = []
        self.fixed = self.numbers.integers(0, 200, self.arenas["D"].size // 2)
        pool = self.floats(config.line_bytes // 4 * max(64, 1600 // config.line_bytes)).view(np.uint8)
        self.arenas["M"] = Region("M", self.keep(pool), config.lines(pool.size))
        self._stack = ExitStack()  # never left: these registers belong to the whole program
        self.total, *self._registers = self._stack.enter_context(self.b.scope(_SCRATCH + 1))
        self._scratch = list(self._registers)

    def _arena(self, space: str, words: int, size: int) -> Region:
        """An arena at the start of a buffer, at its end, or somewhere between."""
        return Region(space, self.rng.choice([0, words - size, self.rng.randint(0, words - size)]), size)

    # Contents of memory

    def keep(self, data: NDArray[np.uint8]) -> int:
        """Put bytes, padded with zeros, into lines of memory of their own; returns the first line."""
        lines = np.zeros((self.config.lines(data.size), self.config.line_bytes), np.uint8)
        lines.reshape(-1)[: data.size] = data.reshape(-1)
        first = self.lines
        self._memory.append(lines)
        self.lines += len(lines)
        return first

    def align(self, lines: int, rest: int) -> None:
        """Keep random bytes until the next line is ``rest`` lines behind a multiple of ``lines``."""
        self.keep(self.numbers.integers(0, 256, (rest - self.lines) % lines * self.config.line_bytes, dtype=np.uint8))

    def keep_rows(self, layout: RowLayout, rows: NDArray[np.uint8], first: int = 0) -> int:
        """Put rows ``first ..`` of a layout into memory, with random bytes around them; returns the line of row 0."""
        size = self.config.line_bytes
        count = layout.lines(first + len(rows))
        lines = self.numbers.integers(0, 256, count * size, dtype=np.uint8)
        piece = layout.piece_bytes
        for index, row in enumerate(rows):
            line, offset = layout.locate(first + index)
            for start in range(0, layout.row_bytes, piece):
                lines[(line + start // piece) * size + offset :][:piece] = row[start : start + piece]
        return self.keep(lines)

    def image(self) -> NDArray[np.uint8]:
        """Everything that was kept."""
        return np.concatenate(self._memory)

    def floats(self, *shape: int) -> NDArray[np.float32]:
        """Random numbers, :attr:`special` of them special."""
        values = (self.numbers.normal(size=shape) * self.rng.choice([0.01, 1, 1, 1, 30])).astype(np.float32)
        odd = np.array([0, -0.0, np.nan, np.inf, -np.inf, 1e-40, -1e-45, 2e-38, 3.4e38, -3e38, 1, -1], np.float32)
        return np.where(self.numbers.random(shape) < self.special, self.numbers.choice(odd, shape), values)

    # Sizes

    def size(self, most: int = 150) -> int:
        """A number of elements, mostly small, often beside a multiple of 16."""
        edges = [1, 2, 15, 16, 17, 31, 32, 33, 127, 128, 129, most]
        choices = [self.rng.randint(1, 20), self.rng.randint(1, most), self.rng.choice(edges)]
        return min(most, self.rng.choice(choices))

    def packed_size(self) -> int:
        """As :meth:`size`, often so small that several rows may share a line."""
        return self.rng.randint(1, max(1, self.config.line_bytes // 8)) if self.often(0.4) else self.size()

    def often(self, probability: float) -> bool:
        """Whether something happens that does with this probability."""
        return self.rng.random() < probability

    def rows_at_all(self, most: int) -> int:
        """A number of rows, now and then 0."""
        return 0 if self.often(0.05) else self.rng.randint(1, most)

    def stride(self, width: int, disjoint: bool = False, bits: int = 12) -> int:
        """Distance of rows ``width`` wide; without ``disjoint`` they may overlap, or all be the same."""
        choices = [width, width + self.rng.randint(0, 9)]
        if not disjoint:
            choices += [0, self.rng.randint(0, width)]
        return min(self.rng.choice(choices), (1 << bits) - 1)

    # Code

    def emit(
        self,
        insn: Instruction,
        reads: Sequence[Region] = (),
        writes: Sequence[Region] = (),
        keep_operands: bool = False,
        fence: float = 0.1,
    ) -> None:
        """Append an instruction; now and then it is ordered with others that it has nothing to do with.

        Args:
            insn: without tokens.
            reads, writes: what it touches.
            keep_operands: the next instruction uses some of its operands again.
            fence: how often it is ordered so.
        """
        if not self.streaming and self.often(fence):
            writes = [*writes, Region("fence", self.rng.randrange(3), 1)]
        self.b.emit(insn, list(reads), list(writes))
        if not keep_operands:
            self._scratch = list(self._registers)

    def fill(self, buffer: Buffer, fmt: MemoryFormat, address: int, data: NDArray[np.uint8]) -> None:
        """LD of new contents, one row, into V, A or D."""
        elements = data.size // fmt.bytes
        words = code_words(elements) if buffer is Buffer.A else elements
        insn = Load(
            buffer=buffer, format=fmt, address=Operand(0, address), memory=Operand(0, self.keep(data)),
            rows=Operand(0, 1), elements=Operand(0, elements), row_lines=self.config.lines(data.size),
        )  # fmt: skip
        self.b.emit(insn, [], [Region(buffer.name, address, words)])

    def dump(self, buffer: Buffer, address: int, words: int) -> None:
        """ST of words of V or A into memory of their own."""
        fmt, cells = (MemoryFormat.F32, 1) if buffer is Buffer.V else (MemoryFormat.I8, BLOCK)
        nbytes = words * cells * fmt.bytes
        line = self.keep(np.zeros(nbytes, np.uint8))
        insn = Store(
            buffer=buffer, format=fmt, address=Operand(0, address), memory=Operand(0, line), rows=Operand(0, 1),
            elements=Operand(0, words * cells), row_lines=self.config.lines(nbytes),
        )  # fmt: skip
        region = Region("M", line, self.config.lines(nbytes))
        self.b.emit(insn, [Region(buffer.name, address, words)], [region])

    def mix(self, reg: int) -> None:
        """Make the result of the program depend on a register."""
        self.b.alu(AluFunction.MUL, self.total, self.total, 0x9E3779B1)
        self.b.alu(AluFunction.ADD, self.total, self.total, Operand(reg))

    def operand(self, value: int, bits: int) -> Operand:
        """An operand that is ``value``: in the word, or with a register that gets what is missing."""
        source = self.rng.choice(["word", "word", "word", "argument", "set", "whole", "wrap", "computed", "table"])
        if source == "argument":
            index = self.rng.randrange(8)
            if self.arguments[index] <= value:
                return Operand(ARGUMENT_REGISTERS[index], value - self.arguments[index])
        if source == "word" or not self._scratch:
            return Operand(0, value)
        reg = self._scratch.pop()
        held = value if source == "whole" else self.rng.randint(0, value)
        if source == "wrap" and value + 50 < 1 << bits:
            held = (1 << SCALAR_BITS) - self.rng.randint(1, 50)
        if source == "computed":
            held = self._compute(reg, value)
        elif source == "table" and (at := np.flatnonzero(self.fixed <= value)).size:
            index = int(self.rng.choice(at))
            held = int(self.fixed[index])
            address = self.arenas["D"].start + index
            self.b.emit(LoadScalar(rd=reg, address=Operand(0, address)), [Region("D", address, 1)])
        else:
            self.b.emit(LoadImmediate(rd=reg, imm=held))
        return Operand(reg, value - held & MASK)

    def _compute(self, reg: int, limit: int) -> int:
        """Set ``reg`` to some value of at most ``limit`` by an ALU instruction; returns it."""
        function = self.rng.choice(list(AluFunction))
        a = self.rng.randint(0, limit)
        b = self.rng.choice([0, 1, 3, self.rng.randint(0, limit), self.rng.getrandbits(40)])
        scalars = Scalars()
        scalars.reset([a])
        insn = Alu(function=function, rd=2, ra=1, b=Operand(0, b))
        scalars.alu(insn)()
        held = scalars.get(2)
        self.b.emit(LoadImmediate(rd=reg, imm=a))
        if held > limit:
            return a
        self.b.alu(function, reg, reg, b)
        return held

    def place(self, space: str, words: int, avoid: Sequence[Region] = ()) -> Place:
        """A place for ``words`` words of an arena that overlaps nothing of ``avoid``.

        There is room for one word even where none is used: to the static check, a size in a register is at least 1.

        Raises:
            NoRoomError: none was found.
        """
        arena, words = self.arenas[space], max(1, words)
        turns = self.rng.choice(self._turns) if self._turns and self.often(0.6) else None
        reach = turns.step * max(0, turns.count - 1) if turns is not None else 0
        if turns is not None and (arena.start < turns.start or words + reach > arena.size):
            turns, reach = None, 0
        if words + reach <= arena.size:
            for _ in range(40):
                start = arena.start + self.rng.randint(0, arena.size - words - reach)
                if space == "V" and self.often(self.aligned):
                    start = max(arena.start, start // self.config.vector_lanes * self.config.vector_lanes)
                hull = Region(space, start, words + reach)
                if any(hull.overlaps(other) for other in avoid):
                    continue
                if turns is not None:
                    return Place(space, Operand(turns.reg, start - turns.start), start, reach)
                return Place(space, self.operand(start, ADDRESS_BITS[space]), start)
        raise NoRoomError

    def rows_place(self, space: str, stride: int, rows: int, words: int, avoid: Sequence[Region] = ()) -> Place:
        """A place for rows; as :meth:`place`. Rows that overlap must fit apart too, which the simulator asks for."""
        if rows * words > self.arenas[space].size:
            raise NoRoomError
        reserved = rows or 3  # 3 is as many as parts or hi and lo make of one
        return self.place(space, (reserved - 1) * stride + words, avoid)

    @contextmanager
    def loop(self, count: int) -> Iterator[None]:
        """A hardware loop of ``count`` turns with a register that its operands may use."""
        with self.b.scope(1) as (reg,):
            turns = Turns(reg, self.rng.choice([0, 0, self.rng.randint(1, 9)]), self.rng.randint(1, 24), count)
            self.b.set(reg, turns.start)
            operand = self.operand(count, 24)
            self._scratch = list(self._registers)
            with self.b.loop(operand):
                self._turns.append(turns)
                yield
                self._turns.pop()
                self.b.alu(AluFunction.ADD, reg, reg, turns.step)

    @contextmanager
    def nest(self, counts: Sequence[int]) -> Iterator[None]:
        """Loops with nothing between them: their LOOPs follow one another, and they end together.

        All of them share one register, which advances in every turn of the innermost.
        """
        with self.b.scope(1 + len(counts)) as (reg, *held), ExitStack() as stack:
            step = self.rng.randint(1, 1 + 48 // max(1, prod(counts)))
            turns = Turns(reg, self.rng.choice([0, self.rng.randint(1, 9)]), step, prod(counts))
            self.b.set(reg, turns.start)
            operands = []
            for count, other in zip(counts, held, strict=True):  # registers that nobody else writes, for inner loops
                part = self.rng.randint(0, count)
                operands.append(Operand(other, count - part) if self.often(0.4) else Operand(0, count))
                if operands[-1].reg:
                    self.b.set(other, part)
            for operand in operands:
                stack.enter_context(self.b.loop(operand))
                self._turns.append(turns)
            self._scratch = list(self._registers)
            yield
            self.b.alu(AluFunction.ADD, reg, reg, turns.step)
            del self._turns[-len(counts) :]

    @property
    def depth(self) -> int:
        """Loops that are open."""
        return len(self._turns)
