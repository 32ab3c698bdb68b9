# SPDX-License-Identifier: Apache-2.0
"""Token assignment: turn data dependences into wait and release bits.

Units run in order and only tokens order them against each other. The pass finds, for each ordered pair of units, the
fewest edges that cover every dependence (read after write, write after read, write after write), using vector clocks:
a unit that has waited for another knows what that one knew.

Token counters carry no name, so the n-th wait takes the n-th release. That is right as long as the edges of a pair are
strictly increasing at both ends, which keeping only the *latest* source guarantees, and as long as every loop body is
balanced by itself, which three rules give:

* A dependence into a loop is waited for by a NOP before it; one out of a loop is released by a NOP after it.
* A dependence between iterations gets one credit: a releasing NOP before the loop and a waiting NOP after it.
* No edge of a pair spans a loop that uses the pair inside; its release moves behind that loop.

The result satisfies the rule that every release precedes its wait in program order, so no queue depth can deadlock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from catenary.compiler.builder import LoopOp, Op, Region
from catenary.isa.errors import CompileError
from catenary.isa.instructions import Nop, Unit, Units

Pair = tuple[Unit, Unit]
_SETTLED_AFTER = 8
"""Iterations after which the edges of a loop body must repeat; two suffice in practice."""


@dataclass
class _Touch:
    reads: list[Region] = field(default_factory=list)
    writes: list[Region] = field(default_factory=list)

    def conflicts(self, later: _Touch) -> bool:
        """Whether ``later`` must not overtake this access."""
        pairs = ((self.writes, later.reads), (self.writes, later.writes), (self.reads, later.writes))
        return any(a.overlaps(b) for mine, others in pairs for a in mine for b in others)


@dataclass
class _Element:
    """One instruction or one whole loop at the level under analysis."""

    item: Op | LoopOp
    touches: dict[Unit, _Touch]
    inner_pairs: frozenset[Pair] = frozenset()
    before: list[Op] = field(default_factory=list)
    after: list[Op] = field(default_factory=list)


@dataclass(frozen=True, order=True)
class _Edge:
    """``source`` of unit ``pair[0]`` before ``target`` of unit ``pair[1]``; indices count elements over iterations.

    ``after`` marks a source that is a NOP behind the element (a loop) rather than the element itself.
    """

    pair: Pair
    source: int
    target: int


def assign_tokens(code: Sequence[Op | LoopOp]) -> list[Op | LoopOp]:
    """``code`` with wait and release bits set and the NOPs that carry tokens across loops.

    Raises:
        CompileError: the edges of a loop do not settle (an internal error, never a user's).
    """
    level, _, _ = _assign(code, looped=False)
    return level


def _assign(code: Sequence[Op | LoopOp], looped: bool) -> tuple[list[Op | LoopOp], frozenset[Pair], dict[Pair, int]]:
    """Assign one level. Returns the new code, the pairs that it uses, and the credits that its loop needs."""
    elements = [_element(item) for item in code]
    edges = _settled_edges(elements) if looped else _edges(elements, 1)
    count = len(elements)
    credits: dict[Pair, int] = {}
    for edge in edges:
        _set_bits(elements, edge, count)
        if edge.source < count <= edge.target:
            credits[edge.pair] = credits.get(edge.pair, 0) + 1
    result: list[Op | LoopOp] = []
    for element in elements:
        result += [*element.before, element.item, *element.after]
    pairs = frozenset(edge.pair for edge in edges).union(*(element.inner_pairs for element in elements))
    return result, pairs, credits


def _element(item: Op | LoopOp) -> _Element:
    if isinstance(item, Op):
        touch = _Touch(list(item.reads), list(item.writes))
        return _Element(Op(item.insn, item.reads, item.writes), {item.insn.executing_unit: touch})
    body, pairs, credits = _assign(item.body, looped=True)
    element = _Element(LoopOp(item.count, body), _touches(item.body), pairs)
    for (source, target), number in sorted(credits.items()):
        for _ in range(number):
            element.before.append(Op(Nop(target=source, release=Units(1 << target))))
            element.after.append(Op(Nop(target=target, wait=Units(1 << source))))
    return element


def _touches(code: Sequence[Op | LoopOp]) -> dict[Unit, _Touch]:
    merged: dict[Unit, _Touch] = {}
    for item in code:
        if isinstance(item, Op):
            inner = {item.insn.executing_unit: _Touch(list(item.reads), list(item.writes))}
        else:
            inner = _touches(item.body)
        for unit, touch in inner.items():
            into = merged.setdefault(unit, _Touch())
            into.reads += touch.reads
            into.writes += touch.writes
    return merged


def _edges(elements: Sequence[_Element], iterations: int) -> list[_Edge]:
    """The fewest edges that order ``iterations`` runs of ``elements`` one after the other."""
    count = len(elements)
    # clocks[unit][index] after the unit's work on element `index`: the latest element of every unit known finished
    known: dict[Unit, dict[Unit, int]] = {unit: {} for unit in Unit}
    snapshots: dict[tuple[Unit, int], dict[Unit, int]] = {}
    edges: list[_Edge] = []
    for index in range(count * iterations):
        element = elements[index % count]
        for target, touch in sorted(element.touches.items()):
            for source in Unit:
                if source is target:
                    continue
                needed = _latest_conflict(elements, index, source, touch)
                if needed is None or known[target].get(source, -1) >= needed:
                    continue
                at = _behind_loops(elements, needed, index, (source, target))
                edges.append(_Edge((source, target), at, index))
                learned = {**snapshots.get((source, at), {}), source: at}
                for unit, position in learned.items():
                    if unit is not target:
                        known[target][unit] = max(known[target].get(unit, -1), position)
        for unit in Unit:
            snapshots[unit, index] = dict(known[unit])
    return edges


def _latest_conflict(elements: Sequence[_Element], index: int, source: Unit, touch: _Touch) -> int | None:
    """Latest element before ``index`` whose work on ``source`` conflicts with ``touch``, at most one iteration back."""
    count = len(elements)
    for earlier in range(index - 1, max(-1, index - count - 1), -1):
        access = elements[earlier % count].touches.get(source)
        if access is not None and access.conflicts(touch):
            return earlier
    return None


def _behind_loops(elements: Sequence[_Element], source: int, target: int, pair: Pair) -> int:
    """Move a release behind the last loop before ``target`` that uses ``pair`` inside."""
    for between in range(target - 1, source, -1):
        if pair in elements[between % len(elements)].inner_pairs:
            return between
    return source


def _settled_edges(elements: Sequence[_Element]) -> list[_Edge]:
    """Edges into one steady-state iteration, with indices moved so that this iteration is the second."""
    count = len(elements)
    edges = _edges(elements, _SETTLED_AFTER)

    def into(iteration: int) -> list[_Edge]:
        shift = (iteration - 1) * count
        first, last = iteration * count, (iteration + 1) * count
        return [replace(e, source=e.source - shift, target=e.target - shift) for e in edges if first <= e.target < last]

    steady = into(_SETTLED_AFTER - 1)
    if any(sorted(into(iteration)) != sorted(steady) for iteration in range(1, _SETTLED_AFTER)):
        raise CompileError("Token edges of a loop must repeat from its second iteration on, not change")
    return steady


def _set_bits(elements: Sequence[_Element], edge: _Edge, count: int) -> None:
    source, target = edge.pair
    giver, taker = elements[edge.source % count], elements[edge.target % count]
    release, wait = Units(1 << target), Units(1 << source)
    if isinstance(giver.item, Op) and giver.item.insn.executing_unit is source:
        giver.item.insn = replace(giver.item.insn, release=giver.item.insn.release | release)
    else:
        giver.after.append(Op(Nop(target=source, release=release)))
    if isinstance(taker.item, Op):
        taker.item.insn = replace(taker.item.insn, wait=taker.item.insn.wait | wait)
    else:
        taker.before.append(Op(Nop(target=target, wait=wait)))
