# SPDX-License-Identifier: Apache-2.0
"""Crosses of what happens one after the other or side by side: tokens, neighbours in a queue, loops, waits, errors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import combinations, pairwise, product

from catenary.isa.code_check import find_problems
from catenary.isa.config import AcceleratorConfig
from catenary.isa.encoding import encode_all
from catenary.isa.fields import Operand
from catenary.isa.instructions import INSTRUCTIONS, End, Instruction, Loop, Nop
from catenary.isa.opcodes import LOOP_DEPTH, Buffer, Opcode, Unit, Units
from catenary.isa.registers import ErrorCause, Stall
from catenary.isa.rules import consumes_stream, spans
from tests.programs.coverage import Point
from tests.programs.coverage_rules import legal, legal_modes
from tests.programs.traced import Trace


def _name(member: Unit | Stall) -> str:
    return member.name.lower()


def pair_hits(trace: Trace) -> Iterator[Point]:
    for e in trace.executed:
        unit = e.insn.executing_unit
        for other in Unit:
            if e.insn.wait & Units(1 << other):
                yield _name(other), _name(unit)


def pairs(config: AcceleratorConfig) -> Iterator[Point]:
    yield from ((_name(a), _name(b)) for a in Unit for b in Unit if a is not b)


@lru_cache(1 << 12)
def _sets(unit: Unit, wait: Units, release: Units) -> tuple[Point, ...]:
    return tuple((_name(unit), what, _unit_names(units)) for what, units in (("wait", wait), ("release", release)))


def _unit_names(units: Units) -> str:
    return "+".join(_name(unit) for unit in Unit if units & Units(1 << unit)) or "none"


def set_hits(trace: Trace) -> Iterator[Point]:
    for e in trace.executed:
        yield from _sets(e.insn.executing_unit, e.insn.wait, e.insn.release)


def all_sets(config: AcceleratorConfig) -> Iterator[Point]:
    for unit in Unit:
        others = [other for other in Unit if other is not unit]
        for count in range(len(others) + 1):
            for chosen in combinations(others, count):
                units = Units(sum(1 << other for other in chosen))
                yield from _sets(unit, units, units)


# Order


def _what(insn: Instruction) -> str:
    """An instruction as those of the same unit see it: transfers by buffer, rows by source, the rest by opcode."""
    for name in ("buffer", "source"):
        if hasattr(insn, name):
            return f"{insn.opcode.name} {getattr(insn, name).name.lower()}"
    return insn.opcode.name


def order_hits(trace: Trace) -> Iterator[Point]:
    queues: dict[Unit, list[str]] = {unit: [] for unit in Unit}
    for e in trace.executed:
        queues[e.insn.executing_unit].append(_what(e.insn))
    for unit, queue in queues.items():
        yield from ((_name(unit), first, then) for first, then in set(pairwise(queue)))


def orders(config: AcceleratorConfig) -> Iterator[Point]:
    kinds: dict[Unit, set[str]] = {unit: set() for unit in Unit}
    for insn in legal_modes(config):
        kinds[insn.executing_unit].add(_what(insn))
    for unit, names in kinds.items():
        for first, then in product(sorted(names), repeat=2):
            if first != Opcode.END.name:  # behind it nothing runs
                yield _name(unit), first, then


def loop_hits(trace: Trace) -> Iterator[Point]:
    for e in trace.executed:
        if isinstance(e.insn, Loop):
            count = e.value("count")
            turns = "many" if count > 2 else str(count)
            yield f"depth {e.depth + 1}", f"{turns} turns", "ends with another" if e.inner else "ends alone"


def loops(config: AcceleratorConfig) -> Iterator[Point]:
    for depth, turns in product(range(1, LOOP_DEPTH + 1), ("0", "1", "2", "many")):
        for end in ("ends alone", "ends with another") if depth > 1 else ("ends alone",):
            yield f"depth {depth}", f"{turns} turns", end


def nesting_hits(trace: Trace) -> Iterator[Point]:
    yield from {(e.insn.opcode.name, f"depth {e.depth}") for e in trace.executed}


@cache
def nestings(config: AcceleratorConfig) -> tuple[Point, ...]:
    """Every opcode at every depth at which the static check has no more to say about it than outside of loops."""
    found = []
    for opcode, cls in INSTRUCTIONS.items():
        insn = legal(cls, config)
        assert insn is not None
        plain = len(_problems(insn, 0))
        depths = [depth for depth in range(LOOP_DEPTH + 1) if len(_problems(insn, depth)) <= plain]
        found += [(opcode.name, f"depth {depth}") for depth in depths]
    return tuple(found)


def _problems(insn: Instruction, depth: int) -> list[object]:
    """What the static check says about ``insn`` inside ``depth`` loops."""
    body: list[Instruction] = [insn, insn] if not isinstance(insn, Loop) else [insn, *_filling(insn)]
    around = [Loop(count=Operand(0, 2), length=len(body) + depth - index - 1) for index in range(depth)]
    return list(find_problems(encode_all([*around, *body, End()]), [0]))


def _filling(loop: Loop) -> list[Instruction]:
    return [Nop(target=Unit.VECTOR)] * loop.length


# What the hardware tells, and errors


def stalls(config: AcceleratorConfig) -> Iterator[Point]:
    """Waiting that can happen: for the stream where it is filled or used, for memory and buffers where they are."""
    for unit in Unit:
        yield _name(unit), _name(Stall.TOKENS)
        insns = [insn for insn in legal_modes(config) if insn.executing_unit is unit]
        if any(consumes_stream(insn) or getattr(insn, "buffer", None) is Buffer.W for insn in insns):
            yield _name(unit), _name(Stall.STREAM)
        if any(hasattr(insn, "memory") for insn in insns):
            yield _name(unit), _name(Stall.MEMORY)
        if any(span.buffer in (Buffer.V, Buffer.A) for insn in insns for span in spans(insn)):
            yield _name(unit), _name(Stall.BUFFER)


def causes(config: AcceleratorConfig) -> Iterator[Point]:
    yield from ((cause.name.lower(),) for cause in ErrorCause if cause is not ErrorCause.NONE)
