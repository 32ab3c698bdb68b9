# SPDX-License-Identifier: Apache-2.0
"""An independent judge of token assignment: it runs structured code and sees whether every conflict is ordered.

It knows nothing of how tokens are assigned. Code is unrolled with some number of turns for each loop and executed in
program order with vector clocks; each operation's regions are compared with those of all earlier ones of other units.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from catenary.compiler.builder import LoopOp, Op, Region
from catenary.isa.opcodes import Unit, Units

Pair = tuple[Unit, Unit]
Code = Sequence[Op | LoopOp]


@dataclass(frozen=True)
class Bit:
    """A wait or release bit: that of operation ``op`` (an id) for the tokens of ``pair``."""

    op: int
    pair: Pair
    wait: bool


@dataclass
class Trace:
    """One execution of code: its operations, and for each the latest conflicting one of every other unit."""

    ops: list[Op]
    conflicts: list[dict[Unit, int]]

    @classmethod
    def of(cls, code: Code, turns: Callable[[], int]) -> Trace:
        """Unroll ``code``; ``turns`` says how often a loop runs whenever one is reached."""
        ops = list(unroll(code, turns))
        return cls(ops, [_latest_conflicts(ops, index) for index in range(len(ops))])

    def problems(self, without: frozenset[Bit] = frozenset()) -> list[str]:
        """What goes wrong: waits for tokens that are not there, tokens left over, conflicts that nothing orders."""
        return self._run(without)[0]

    def matches(self) -> list[tuple[Bit, Bit]]:
        """Which release each wait took its token from."""
        return self._run(frozenset())[1]

    def _run(self, without: frozenset[Bit]) -> tuple[list[str], list[tuple[Bit, Bit]]]:
        problems: list[str] = []
        matches: list[tuple[Bit, Bit]] = []
        tokens: dict[Pair, deque[tuple[Bit, list[int]]]] = defaultdict(deque)
        known = {unit: [-1] * len(Unit) for unit in Unit}
        for index, op in enumerate(self.ops):
            unit = op.insn.executing_unit
            for bit in bits(op, wait=True):
                if bit in without:
                    continue
                if not tokens[bit.pair]:
                    problems.append(f"operation {index} waits for a token {bit.pair} that nobody has released")
                    continue
                giver, clock = tokens[bit.pair].popleft()
                matches.append((giver, bit))
                known[unit] = [max(a, b) for a, b in zip(known[unit], clock, strict=True)]
            problems += [
                f"operation {index} of {unit.name} must wait for {earlier} of {other.name}"
                for other, earlier in self.conflicts[index].items()
                if known[unit][other] < earlier
            ]
            known[unit][unit] = index
            for bit in bits(op, wait=False):
                if bit not in without:
                    tokens[bit.pair].append((bit, list(known[unit])))
        problems += [f"{len(queue)} tokens {pair} are left" for pair, queue in tokens.items() if queue]
        return problems, matches


def unroll(code: Code, turns: Callable[[], int]) -> Iterable[Op]:
    """The operations in the order in which they are dispatched."""
    for item in code:
        if isinstance(item, Op):
            yield item
        else:
            for _ in range(min(turns(), 1) if item.once else turns()):
                yield from unroll(item.body, turns)


def bits(op: Op, wait: bool) -> list[Bit]:
    """The wait or the release bits of an operation."""
    mask, unit = op.insn.wait if wait else op.insn.release, op.insn.executing_unit
    others = [other for other in Unit if mask & Units(1 << other)]
    return [Bit(id(op), (other, unit) if wait else (unit, other), wait) for other in others]


def edges(traces: Sequence[Trace]) -> list[frozenset[Bit]]:
    """Bits that belong together: a release and the wait that takes its token, over all ``traces``.

    An edge between iterations of a loop is four bits: those in the body, the credit before it and the wait behind it.
    Without all bits of an edge, code is as balanced as with them.
    """
    group: dict[Bit, set[Bit]] = {}
    for trace in traces:
        for giver, taker in trace.matches():
            merged = group.setdefault(giver, {giver}) | group.setdefault(taker, {taker})
            for bit in merged:
                group[bit] = merged
    return list({id(members): frozenset(members) for members in group.values()}.values())


def _latest_conflicts(ops: Sequence[Op], index: int) -> dict[Unit, int]:
    op = ops[index]
    found: dict[Unit, int] = {}
    for earlier in range(index - 1, -1, -1):
        other = ops[earlier].insn.executing_unit
        if other is not op.insn.executing_unit and other not in found and _conflict(ops[earlier], op):
            found[other] = earlier
    return found


def _conflict(a: Op, b: Op) -> bool:
    return _meet(a.writes, b.writes) or _meet(a.writes, b.reads) or _meet(a.reads, b.writes)


def _meet(some: Sequence[Region], others: Sequence[Region]) -> bool:
    return any(
        a.space == b.space and max(a.start, b.start) < min(a.start + a.size, b.start + b.size)
        for a in some
        for b in others
    )
