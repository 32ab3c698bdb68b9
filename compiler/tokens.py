# SPDX-License-Identifier: Apache-2.0
"""Token assignment: turn data dependences into wait and release bits.

Units run in order and only tokens order them against each other. The pass finds, for each ordered pair of units, the
fewest edges that cover every dependence (read after write, write after read, write after write), using vector clocks:
a unit that has waited for another knows what that one knew. A loop may run no times, so inside it nothing is known of
what came before.

Token counters carry no name, so the n-th wait takes the n-th release. That is right as long as the edges of a pair are
strictly increasing at both ends, which keeping only the *latest* source guarantees, and as long as every loop body is
balanced by itself, which three rules give:

* A dependence into a loop is waited for by a NOP before it; one out of a loop is released by a NOP after it.
* A dependence between iterations gets one credit: a releasing NOP before the loop and a waiting NOP after it.
* No edge of a pair spans a loop that uses the pair inside; its release moves behind that loop.

The result satisfies the rule that every release precedes its wait in program order, so no queue depth can deadlock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from catenary.compiler.builder import LoopOp, Op
from catenary.compiler.dependence import Edge, Element, Known, Pair, Touch, all_touches, boundary_of, distances
from catenary.isa.errors import CompileError
from catenary.isa.instructions import End, Nop
from catenary.isa.opcodes import Unit, Units

_ITERATIONS = 8
"""Iterations of a loop body that are looked at."""
_STEADY = 3
"""How many of them, the last ones, must have the same edges; most bodies repeat from the second on."""


def assign_tokens(code: Sequence[Op | LoopOp]) -> list[Op | LoopOp]:
    """``code`` with wait and release bits set and the NOPs that carry tokens across loops.

    Raises:
        CompileError: the edges of a loop do not settle (an internal error, never a user's).
    """
    elements = [_element(item) for item in code]
    return _with_bits(elements, _edges(elements, 1))


def _element(item: Op | LoopOp) -> Element:
    """An element of the level above; the inside of a loop is assigned first."""
    if isinstance(item, Op):
        touch = Touch(list(item.reads), list(item.writes))
        return Element(Op(item.insn, item.reads, item.writes), {item.insn.executing_unit: touch})
    inner = [_element(part) for part in item.body]
    edges = _single_edges(inner) if item.once else _settled_edges(inner)
    pairs = frozenset(edge.pair for edge in edges).union(*(element.inner_pairs for element in inner))
    boundary = boundary_of(inner, edges)
    element = Element(LoopOp(item.count, _with_bits(inner, edges), item.once), all_touches(inner), boundary, pairs)
    for source, target in sorted(edge.pair for edge in edges if edge.source < len(inner)):
        element.before.append(Op(Nop(target=source, release=Units(1 << target))))
        element.after.append(Op(Nop(target=target, wait=Units(1 << source))))
    return element


def _with_bits(elements: Sequence[Element], edges: Sequence[Edge]) -> list[Op | LoopOp]:
    """The code of one level with the bits and NOPs of ``edges``."""
    for edge in edges:
        _set_bits(elements, edge)
    result: list[Op | LoopOp] = []
    late: list[Op] = []
    for element in elements:
        units = _concerned(element)
        result += _merged([op for op in late if op.insn.executing_unit in units])
        late = [op for op in late if op.insn.executing_unit not in units]
        # A release behind the loop passes on what the waits before it teach, so these stay where they are.
        giving = {op.insn.executing_unit for op in element.after if op.insn.release}
        now = [op for op in element.after if op.insn.executing_unit in giving]
        late += [op for op in element.after if op.insn.executing_unit not in giving]
        result += [*_merged(element.before), element.item, *_merged(now)]
    return result + _merged(late)


def _concerned(element: Element) -> set[Unit]:
    """Units that must have collected their credits before ``element``.

    A wait behind a loop would hold up whatever its unit does next. Loads of streams neither need it nor pass on what it
    teaches: they go first, so that weights are fetched while the units behind the loop are still at work.
    """
    item = element.item
    if isinstance(item, Op) and isinstance(item.insn, End):
        return set(Unit)
    if isinstance(item, Op) and not (item.reads or item.writes or item.insn.wait or item.insn.release):
        return set()
    units = set(element.touches) | {target for _, target in element.inner_pairs}
    return units | {op.insn.executing_unit for op in (*element.before, *element.after)}


@dataclass(frozen=True)
class _Need:
    """A dependence on element ``needed`` of unit ``source``, met by waiting for its element ``at``."""

    source: Unit
    needed: int
    at: int


def _edges(elements: Sequence[Element], iterations: int) -> list[Edge]:
    """Edges that order ``iterations`` runs of ``elements`` one after the other; none follows from the others."""
    count = len(elements)
    conflicts = [distances(elements, index) for index in range(count)]
    # known[unit]: the latest element of every other unit that is known finished; snapshots: as it was after an element
    known: dict[Unit, Known] = {unit: {} for unit in Unit}
    snapshots: dict[tuple[Unit, int], Known] = {}
    edges: list[Edge] = []
    for index in range(count * iterations):
        for target, latest in conflicts[index % count].items():
            needs: dict[_Need, Known] = {}
            for source, back in latest.items():
                needed = index - back
                if needed >= 0 and known[target].get(source, -1) < needed:
                    at = _behind_loops(elements, needed, index, (source, target))
                    needs[_Need(source, needed, at)] = {**snapshots[source, at], source: at}
            for need in _irredundant(needs):
                edges.append(Edge((need.source, target), need.at, index))
                for unit, position in needs[need].items():
                    if unit is not target:
                        known[target][unit] = max(known[target].get(unit, -1), position)
        if (boundary := elements[index % count].boundary) is not None:
            for source, target in boundary.settled:
                known[target][source] = max(known[target].get(source, -1), index)
        for unit in Unit:
            snapshots[unit, index] = dict(known[unit])
    return edges


def _irredundant(needs: Mapping[_Need, Known]) -> list[_Need]:
    """A smallest choice of ``needs``: what is learned by waiting for them meets the others too."""
    chosen = list(needs)
    for need in sorted(needs, key=lambda n: n.at):
        rest = [other for other in chosen if other is not need]
        if all(any(needs[other].get(n.source, -1) >= n.needed for other in rest) for n in needs):
            chosen = rest
    return chosen


def _behind_loops(elements: Sequence[Element], source: int, target: int, pair: Pair) -> int:
    """Move a release behind the last loop before ``target`` that uses ``pair`` inside."""
    for between in range(target - 1, source, -1):
        if pair in elements[between % len(elements)].inner_pairs:
            return between
    return source


def _single_edges(elements: Sequence[Element]) -> list[Edge]:
    """Edges of a body that runs at most once, numbered like those of :func:`_settled_edges`."""
    count = len(elements)
    return [replace(edge, source=edge.source + count, target=edge.target + count) for edge in _edges(elements, 1)]


def _settled_edges(elements: Sequence[Element]) -> list[Edge]:
    """Edges into one steady-state iteration, with indices moved so that this iteration is the second.

    They serve every iteration. What the pass relies on at some element lies at most one iteration back, and so do the
    releases through which it is known; the first iterations may need other edges only because, in the analysis, those
    before them had not yet the steady ones.
    """
    count = len(elements)
    edges = _edges(elements, _ITERATIONS)

    def into(iteration: int) -> list[Edge]:
        shift = (iteration - 1) * count
        first, last = iteration * count, (iteration + 1) * count
        return [replace(e, source=e.source - shift, target=e.target - shift) for e in edges if first <= e.target < last]

    steady = into(_ITERATIONS - 1)
    if any(sorted(into(_ITERATIONS - back)) != sorted(steady) for back in range(2, _STEADY + 1)):
        raise CompileError("Token edges of a loop must settle, not change from iteration to iteration")
    return steady


def _set_bits(elements: Sequence[Element], edge: Edge) -> None:
    count = len(elements)
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


def _merged(nops: Sequence[Op]) -> list[Op]:
    """The NOPs at one place with as few as possible: one unit's share one unless it would wait or release twice.

    Waits come before releases in an instruction, so a wait never joins a release in front of it; and a release passes
    on what all waits in front of it teach, so it never joins a NOP before the unit's last one.
    """
    merged: list[Nop] = []
    for op in nops:
        assert isinstance(op.insn, Nop)
        nop = op.insn
        mine = [index for index, other in enumerate(merged) if other.target is nop.target]
        for index in mine[-1:] if nop.release else mine:
            other = merged[index]
            if not (other.wait & nop.wait or other.release & nop.release or (nop.wait and other.release)):
                merged[index] = replace(other, wait=other.wait | nop.wait, release=other.release | nop.release)
                break
        else:
            merged.append(nop)
    return [Op(nop) for nop in merged]
