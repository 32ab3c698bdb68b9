# SPDX-License-Identifier: Apache-2.0
"""Token assignment by itself, on random structured code, against a judge that does not know how it works."""

from __future__ import annotations

import random

import pytest

from catenary.compiler.builder import LoopOp, Op, Region, flatten
from catenary.compiler.tokens import assign_tokens
from catenary.isa.code_check import find_problems
from catenary.isa.fields import Operand
from catenary.isa.instructions import End, Nop
from catenary.isa.opcodes import Unit
from tests.programs.token_checker import Trace, edges


def random_code(rng: random.Random, depth: int = 0, deepest: int = 3) -> list[Op | LoopOp]:
    """Operations of random units on random regions of two spaces, in loops that nest."""
    code: list[Op | LoopOp] = []
    for _ in range(rng.randrange(1, 9 if depth == 0 else 6)):
        if depth < deepest and rng.random() < 0.25:
            code.append(LoopOp(Operand(0, 2), random_code(rng, depth + 1, deepest), once=rng.random() < 0.2))
        else:
            unit = rng.choice(list(Unit))
            code.append(Op(Nop(target=unit), random_regions(rng), random_regions(rng)))
    return code


def random_regions(rng: random.Random) -> tuple[Region, ...]:
    count = rng.choices((0, 1, 2), (3, 5, 1))[0]
    return tuple(Region(rng.choice("VA"), rng.randrange(6), rng.randrange(4)) for _ in range(count))


def traces_of(code: list[Op | LoopOp], rng: random.Random) -> list[Trace]:
    """Executions with every loop running twice, thrice, once and not at all, and with mixed numbers of turns."""
    fixed = [Trace.of(code, lambda turns=turns: turns) for turns in (2, 3, 1, 0)]
    return fixed + [Trace.of(code, lambda: rng.randrange(4)) for _ in range(3)]


@pytest.mark.parametrize("block", range(4))
def test_every_conflict_is_ordered(block):
    """No conflict without an order, counters balanced and never negative, for any number of turns of each loop."""
    for number in range(block * 75, block * 75 + 75):
        rng = random.Random(f"conflicts {number}")
        code = random_code(rng)
        assigned = assign_tokens(code)
        assert not find_problems([*flatten(assigned), End()]), f"code {number}"
        for trace in traces_of(assigned, rng):
            assert not trace.problems(), f"code {number}: {trace.problems()[0]}"


def test_a_release_behind_a_loop_comes_after_all_waits_there():
    """Two tokens of one pair are left when this loop ends; the store behind it relies on what the second one tells."""
    body = [
        Op(Nop(target=Unit.MATRIX), (Region("V", 5, 1),), (Region("V", 0, 1),)),
        Op(Nop(target=Unit.VECTOR), (Region("V", 0, 2),)),
        Op(Nop(target=Unit.MATRIX), (Region("V", 0, 2),), (Region("V", 4, 1),)),
        Op(Nop(target=Unit.VECTOR), (Region("V", 5, 2),), (Region("V", 3, 2),)),
    ]
    code = [LoopOp(Operand(0, 2), body), Op(Nop(target=Unit.STORE), (Region("V", 0, 8),))]
    for trace in traces_of(assign_tokens(code), random.Random(0)):
        assert not trace.problems()


def test_assignment_changes_nothing_but_tokens():
    """Without the NOPs that carry tokens, the same operations stand in the same order and loops."""

    def bare(code):
        result = []
        for item in code:
            if isinstance(item, LoopOp):
                result.append((item.count, bare(item.body)))
            elif item.reads or item.writes:
                result.append((item.insn.executing_unit, item.reads, item.writes))
        return result

    for number in range(100):
        code = random_code(random.Random(f"same {number}"))
        before = bare(code)
        assert bare(assign_tokens(code)) == before == bare(code), f"code {number}"


@pytest.mark.parametrize("depth, share", [(0, 0.0), (1, 0.1), (3, 0.25)])
def test_few_edges_are_redundant(depth, share):
    """Leave out one edge at a time. Each is needed in straight code; loops keep some that others imply.

    What a unit learns inside a loop, it knows behind it only if the loop has run; the pass does not follow such
    knowledge from unit to unit.
    """
    total = idle = 0
    for number in range(60):
        rng = random.Random(f"redundant {number}")
        traces = traces_of(assign_tokens(random_code(rng, deepest=depth)), rng)
        for edge in edges(traces):
            total += 1
            idle += not any(trace.problems(edge) for trace in traces)
    print(f"{idle} of {total} edges are redundant in code with loops {depth} deep")
    assert total >= 40
    assert idle <= share * total
