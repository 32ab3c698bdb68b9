# SPDX-License-Identifier: Apache-2.0
"""Programs for corners of the control unit: scalar arithmetic, token counters up to their limit, code far from 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import permutations

import numpy as np

from catenary.compiler.builder import Region
from catenary.isa.config import AcceleratorConfig
from catenary.isa.encoding import encode_all
from catenary.isa.fields import SCALAR_BITS, Operand
from catenary.isa.instructions import Alu, End, Instruction, LoadImmediate, LoadScalar, Loop, Nop
from catenary.isa.opcodes import TOKEN_LIMIT, AluFunction, Buffer, MemoryFormat, Unit, Units
from tests.programs.cases import Case
from tests.programs.directed_cases import Bench
from tests.programs.random_programs import random_case

PAIRS = 24
"""Pairs of scalars that every function of ALU is applied to."""


def alu_edges(config: AcceleratorConfig) -> Case:
    """Every function of ALU on zero, ones, single bits, shifts about the width, and on random numbers."""
    b = Bench(config, "edges of ALU")
    numbers = np.random.default_rng(4)
    top, ones = 1 << (SCALAR_BITS - 1), (1 << SCALAR_BITS) - 1
    pairs = [
        (0, 0),
        (ones, ones),
        (ones, 1),
        (top, 1),
        (1, SCALAR_BITS - 1),
        (ones, SCALAR_BITS),
        (ones, 64),
        (0, ones),
    ]
    pairs += [(1 << place, int(numbers.integers(0, SCALAR_BITS))) for place in range(0, SCALAR_BITS, 5)]
    pairs += [(int(numbers.integers(0, ones)), 1 << int(numbers.integers(0, SCALAR_BITS))) for _ in range(PAIRS)]
    words = [value | int(numbers.integers(0, 1 << 24)) << SCALAR_BITS for pair in pairs[:PAIRS] for value in pair]
    b.d.fill(Buffer.D, MemoryFormat.U64, 0, np.array(words, "<u8").view(np.uint8))
    code, table = b.d.b, [Region("D", 0, len(words))]
    with code.scope(4) as (at, left, right, result):
        code.set(at, 0)
        with code.loop(Operand(0, PAIRS)):
            code.emit(LoadScalar(rd=left, address=Operand(at)), table)
            code.emit(LoadScalar(rd=right, address=Operand(at, 1)), table)
            for function in AluFunction:
                code.alu(function, result, left, Operand(right))
                b.d.mix(result)
                code.alu(function, result, left, 3)
                b.d.mix(result)
            code.alu(AluFunction.ADD, at, at, 2)
    return b.done()


def far_code(config: AcceleratorConfig, seed: int) -> Case:
    """A random program with loops at the end of the instruction buffer, behind code that it jumps over."""
    case = random_case(config, 8, seed, 256)
    return moved(case, config.instruction_words - case.count)


def moved(case: Case, by: int) -> Case:
    """``case`` with ``by`` instructions before it that never run."""
    code = encode_all([Nop(target=Unit.VECTOR, wait=Units.STORE)] * by) + case.code
    size = case.config.line_bytes
    line = -(-len(case.image) // size)
    image = case.image.ljust((line + case.config.lines(len(code))) * size, b"\0")
    fault = None if case.fault is None else case.fault + by
    return replace(
        case, name=f"{case.name}, {by} further", code=code, code_line=line, image=image, entry=case.entry + by,
        fault=fault, blocks=(),
    )  # fmt: skip


def full_tokens(config: AcceleratorConfig) -> Case:
    """As many tokens as a counter holds, for every pair of units, and then all of them taken."""
    pairs = list(permutations(Unit, 2))
    code: list[Instruction] = [LoadImmediate(rd=9, imm=0)]
    for count in (TOKEN_LIMIT, TOKEN_LIMIT // 3):
        for giver, taker in pairs:
            given, taken = Units(1 << taker), Units(1 << giver)
            for unit, tokens in ((giver, {"release": given}), (taker, {"wait": taken})):
                code.append(Loop(count=Operand(0, count), length=1))
                if unit is Unit.CONTROL:
                    code.append(Alu(function=AluFunction.ADD, rd=9, ra=9, b=Operand(0, 1), **tokens))
                else:
                    code.append(Nop(target=unit, **tokens))
    return plain_case(config, "full token counters", [*code, End(result=9)])


def plain_case(config: AcceleratorConfig, name: str, code: list[Instruction]) -> Case:
    """A program that touches no memory but its own."""
    words = encode_all(code)
    lines = config.lines(len(words))
    return Case(name, config, words, 0, words.ljust(lines * config.line_bytes, b"\0"))


CONTROL: Mapping[str, Callable[[AcceleratorConfig], Case]] = {
    "alu": alu_edges,
    "far": lambda config: far_code(config, 5),
    "far-loops": lambda config: far_code(config, 11),
}
"""Makers of cases by name; all run to END."""

UNBALANCED: Mapping[str, Callable[[AcceleratorConfig], Case]] = {"tokens": full_tokens}
"""Makers of cases that the static check refuses, for it takes one turn of a loop for all, and that yet run to END."""
