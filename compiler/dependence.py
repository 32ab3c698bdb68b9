# SPDX-License-Identifier: Apache-2.0
"""Dependences between the units at work in structured code, for :mod:`catenary.compiler.tokens`.

An *element* is an instruction, or a whole loop. What a loop asks of its surroundings is less than all that it touches:
when a unit waits for another inside the loop, it also waits for what that one did before, and what it has waited for by
the end of the last iteration needs no edge behind the loop. If the loop runs no times, it touches nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from catenary.compiler.builder import LoopOp, Op, Region
from catenary.isa.opcodes import Unit

Pair = tuple[Unit, Unit]
"""The giver and the taker of tokens."""
Known = dict[Unit, int]
"""The latest element of each other unit that is known to have finished."""


@dataclass
class Touch:
    """Regions that a unit reads and writes."""

    reads: list[Region] = field(default_factory=list)
    writes: list[Region] = field(default_factory=list)

    def conflicts(self, later: Touch) -> bool:
        """Whether ``later`` must not overtake this access."""
        pairs = ((self.writes, later.reads), (self.writes, later.writes), (self.reads, later.writes))
        return any(a.overlaps(b) for mine, others in pairs for a in mine for b in others)

    def add(self, other: Touch) -> None:
        """Touch what ``other`` touches too."""
        self.reads += other.reads
        self.writes += other.writes


@dataclass(frozen=True)
class Boundary:
    """What a loop asks of its surroundings, by giver and taker.

    Attributes:
        entering: accesses of the taker before it has waited for the giver inside the loop.
        leaving: accesses of the giver that the taker has not waited for by the end.
        settled: pairs with a credit, which is taken back behind the loop, and nothing leaving: behind the loop the
            taker knows that the giver is done with it and with all before it.
    """

    entering: Mapping[Pair, Touch]
    leaving: Mapping[Pair, Touch]
    settled: frozenset[Pair]


@dataclass
class Element:
    """One instruction or one whole loop at the level under analysis.

    Attributes:
        item: the instruction or the loop.
        touches: what each unit touches in it.
        boundary: for a loop.
        inner_pairs: pairs that use tokens inside the loop.
        before, after: NOPs that carry tokens into the loop and out of it.
    """

    item: Op | LoopOp
    touches: dict[Unit, Touch]
    boundary: Boundary | None = None
    inner_pairs: frozenset[Pair] = frozenset()
    before: list[Op] = field(default_factory=list)
    after: list[Op] = field(default_factory=list)

    def entering(self, pair: Pair) -> Touch:
        """Accesses of ``pair[1]`` that must wait for what ``pair[0]`` did before the element."""
        return self.boundary.entering.get(pair, Touch()) if self.boundary else self.touches[pair[1]]

    def leaving(self, pair: Pair) -> Touch:
        """Accesses of ``pair[0]`` that ``pair[1]`` must wait for behind the element."""
        return self.boundary.leaving.get(pair, Touch()) if self.boundary else self.touches[pair[0]]


@dataclass(frozen=True, order=True)
class Edge:
    """Element ``source`` of unit ``pair[0]`` before element ``target`` of unit ``pair[1]``, counted over iterations."""

    pair: Pair
    source: int
    target: int


def distances(elements: Sequence[Element], index: int) -> dict[Unit, dict[Unit, int]]:
    """For each unit at work in an element: how far back, at most one iteration, the latest conflict with another is."""
    count = len(elements)
    found: dict[Unit, dict[Unit, int]] = {}
    for target in sorted(elements[index].touches):
        found[target] = {}
        for back in range(1, count + 1):
            earlier = elements[(index - back) % count]
            for source in earlier.touches:
                pair = (source, target)
                if source is target or source in found[target]:
                    continue
                if earlier.leaving(pair).conflicts(elements[index].entering(pair)):
                    found[target][source] = back
    return found


def all_touches(elements: Iterable[Element]) -> dict[Unit, Touch]:
    """What each unit touches in any of ``elements``."""
    merged: dict[Unit, Touch] = {}
    for element in elements:
        for unit, touch in element.touches.items():
            merged.setdefault(unit, Touch()).add(touch)
    return merged


def boundary_of(elements: Sequence[Element], edges: Sequence[Edge]) -> Boundary:
    """The boundary of a loop over ``elements``, which ``edges`` order.

    Targets of edges lie in the second iteration. A source in the first one stands for the credit as well, which the
    giver released before the loop, and so behind all that it did there.
    """
    count = len(elements)
    credits = [edge for edge in edges if edge.source < count]
    # Of the surroundings, each unit knows its own work; of the iteration, elements of others that are finished.
    surroundings: dict[Unit, set[Unit]] = {unit: {unit} for unit in Unit}
    known: dict[Unit, Known] = {unit: {} for unit in Unit}
    snapshots: list[tuple[dict[Unit, set[Unit]], dict[Unit, Known]]] = []
    entering: dict[Pair, Touch] = {}
    for index, element in enumerate(elements):
        for source, target, at in ((*edge.pair, edge.source - count) for edge in edges if edge.target == index + count):
            surroundings[target] |= {source} if at < 0 else snapshots[at][0][source]
            if at >= 0:
                _learn(known[target], target, {**snapshots[at][1][source], source: at})
        for target in element.touches:
            for source in set(Unit) - surroundings[target]:
                entering.setdefault((source, target), Touch()).add(element.entering((source, target)))
        snapshots.append(({u: set(s) for u, s in surroundings.items()}, {u: dict(k) for u, k in known.items()}))
    for edge in credits:
        source, target = edge.pair
        _learn(known[target], target, {**snapshots[edge.source][1][source], source: edge.source})
    leaving: dict[Pair, Touch] = {}
    for index, element in enumerate(elements):
        for source in element.touches:
            for target in set(Unit) - {source}:
                if known[target].get(source, -1) < index:
                    leaving.setdefault((source, target), Touch()).add(element.leaving((source, target)))
    settled = frozenset(edge.pair for edge in credits if not _any_region(leaving.get(edge.pair)))
    return Boundary(entering, leaving, settled)


def _learn(known: Known, unit: Unit, news: Known) -> None:
    for other, position in news.items():
        if other is not unit:
            known[other] = max(known.get(other, -1), position)


def _any_region(touch: Touch | None) -> bool:
    return touch is not None and bool(touch.reads or touch.writes)
