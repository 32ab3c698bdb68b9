# SPDX-License-Identifier: Apache-2.0
"""A program to break, ways to break it, and what the simulator then does."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from catenary.compiler.builder import LoopOp, Op, flatten
from catenary.compiler.pipeline import build_program
from catenary.compiler.state import Compilation
from catenary.isa.encoding import decode_all, encode_all
from catenary.isa.errors import CatenaryError
from catenary.isa.instructions import Instruction
from catenary.isa.opcodes import Units
from catenary.isa.program import ENTRIES, Program
from tests.graphs import quantised_form, random_llama_graph
from tests.programs.support import SMALL, iss, lowered, prompt
from tests.programs.token_checker import Bit, Trace, bits, edges

SEED = 3


@dataclass(frozen=True)
class Subject:
    """A sound program whose short runs reach every instruction, every loop more than once.

    Two layers, two KV heads, tiles of logits in several pairs, passes of four tokens.
    """

    state: Compilation
    program: Program

    @classmethod
    def make(cls) -> Subject:
        graph = random_llama_graph(SEED, layers=2, heads=4, kv_heads=2, vocab=700)
        state = lowered(quantised_form(graph, SEED), replace(SMALL, name="faults", vector_words=3072, mm_tokens=4))
        return cls(state, build_program(state, None, {}, {}))

    @cached_property
    def code(self) -> list[Instruction]:
        """The instructions of both entries."""
        return decode_all(self.program.code)

    @cached_property
    def expected(self) -> NDArray[np.float32]:
        """Logits of a sound run."""
        return self.run(self.code)

    def run(self, code: Sequence[Instruction], tables: bytes | None = None) -> NDArray[np.float32]:
        """All logits of two prefills, one of them of every row, and two decode steps."""
        program = replace(self.program, code=encode_all(code), tables=tables or self.program.tables)
        with iss(program, check_hazards=True) as engine:
            ids = prompt(self.program, 16, SEED)
            rows = [engine.run(ids[:9], 0), engine.run(ids[9:14], 9, all_logits=True)]
            return np.concatenate([*rows, engine.run([1], 14), engine.run([2], 15)])

    def error(self, code: Sequence[Instruction]) -> str | None:
        """Why ``code`` is refused; None if it runs."""
        try:
            self.run(code)
        except CatenaryError as error:
            return str(error)
        return None

    def edges(self) -> list[tuple[str, frozenset[Bit], bool]]:
        """Every edge of the program: its entry, its bits, and whether the judge finds that it does nothing."""
        found = []
        rng = random.Random(SEED)
        turns = (lambda: 2, lambda: 1, lambda: rng.randrange(3), lambda: rng.randrange(1, 3))
        for entry in ENTRIES:
            traces = [Trace.of(self.state.code[entry], turn) for turn in turns]
            found += [(entry, e, not any(trace.problems(e) for trace in traces)) for e in edges(traces)]
        return found

    def without(self, gone: Collection[Bit]) -> list[Instruction]:
        """The code without some wait and release bits."""
        return [insn for entry in ENTRIES for insn in flatten(_without(self.state.code[entry], gone))]

    def bits(self) -> list[Bit]:
        """Every wait and release bit of both entries."""
        found: list[Bit] = []

        def walk(code: Sequence[Op | LoopOp]) -> None:
            for item in code:
                if isinstance(item, Op):
                    found.extend([*bits(item, wait=True), *bits(item, wait=False)])
                else:
                    walk(item.body)

        for entry in ENTRIES:
            walk(self.state.code[entry])
        return found


def _without(code: Sequence[Op | LoopOp], gone: Collection[Bit]) -> list[Op | LoopOp]:
    result: list[Op | LoopOp] = []
    for item in code:
        if isinstance(item, LoopOp):
            result.append(LoopOp(item.count, _without(item.body, gone), item.once))
            continue
        insn = item.insn
        for bit in gone:
            if bit.op == id(item) and bit.wait:
                insn = replace(insn, wait=insn.wait & ~Units(1 << bit.pair[0]))
            elif bit.op == id(item):
                insn = replace(insn, release=insn.release & ~Units(1 << bit.pair[1]))
        result.append(Op(insn, item.reads, item.writes))
    return result
