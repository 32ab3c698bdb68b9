# SPDX-License-Identifier: Apache-2.0
"""Largest element of a row, and where it is."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.fp.format import FRACTION_BITS, Float32
from catenary.hw.vector.decode import LENGTH_BITS
from catenary.hw.vector.layouts import SCALAR_REGISTERS, ticket_layout
from catenary.isa.config import AcceleratorConfig
from catenary.isa.fields import SCALAR_BITS

_KEY_OF_MINUS_INFINITY = 0x007FFFFF
_KEY_OF_FLOOR = 0x9F800000  # 2**-64


@dataclass(frozen=True)
class _Candidate:
    """The largest of some lanes: its key, and its lane (bits below the lanes' own numbers)."""

    key: Value
    lane: Value


class Extreme(wiring.Component):
    """Keys, which compare as the elements do, go through a tree over the lanes, and then against the largest so far.

    NaN never wins; of equal elements, which -0 and +0 are, the first one does. Elements are results of the lanes or of
    the function unit: no subnormal numbers, and one NaN. Two of key, levels of the tree and the last comparison make a
    cycle.

    Parameters:
        config: the accelerator.

    Members:
        valid: a beat comes: ``ticket`` and ``elements``.
        search: the row is a piece of a longer one: what is ``found`` counts on from piece to piece.
        begin: a new search begins, at ``base``.
        base: number of the row's first element.
        settled: the scalar register that gets ``extreme``, as a bit; until ``taken``.
        taken: it has it.
        extreme: the largest element.
        found: number of the largest element of the search.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._lanes = config.vector_lanes
        super().__init__(
            {
                "valid": In(1),
                "ticket": In(ticket_layout(config)),
                "elements": In(data.ArrayLayout(32, self._lanes)),
                "search": In(1),
                "begin": In(1),
                "base": In(SCALAR_BITS),
                "settled": Out(len(SCALAR_REGISTERS)),
                "taken": In(1),
                "extreme": Out(32),
                "found": Out(SCALAR_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat, beat_here = Signal(LENGTH_BITS - exact_log2(self._lanes)), Signal(LENGTH_BITS - exact_log2(self._lanes))
        m.d.comb += beat_here.eq(Mux(self.ticket.first, 0, beat))
        with m.If(self.valid):
            m.d.sync += beat.eq(beat_here + 1)

        # What goes with the keys: the ticket, and the number of the beat.
        valid, ticket = self.valid, self.ticket
        candidates = [_Candidate(self._key(m, lane, ticket), Const(0, 0)) for lane in range(self._lanes)]
        operations = 1
        while len(candidates) > 1:
            if operations % 2 == 0:
                valid, ticket, beat_here, candidates = self._registered(
                    m, operations, valid, ticket, beat_here, candidates
                )
            candidates = [
                self._better(m, f"{operations}_{pair}", *candidates[2 * pair : 2 * pair + 2])
                for pair in range(len(candidates) // 2)
            ]
            operations += 1
        if operations % 2 == 0:
            valid, ticket, beat_here, candidates = self._registered(m, operations, valid, ticket, beat_here, candidates)

        # Against the largest so far: of the search, or of the row.
        (candidate,) = candidates
        best, top, mine = Signal(32, reset_less=True), Signal(32, reset_less=True), Signal(32)
        wins, floor, settling = Signal(), Signal(), Signal()
        target = Signal(range(len(SCALAR_REGISTERS)))
        m.d.comb += [
            mine.eq(Mux(self.search, best, Mux(ticket.first, _KEY_OF_MINUS_INFINITY, top))),
            wins.eq(candidate.key > mine),
        ]
        where = Signal(LENGTH_BITS)
        m.d.comb += where.eq(Mux(self.begin, 0, Cat(candidate.lane, beat_here)))
        with m.If(self.begin | (valid & self.search & wins)):
            m.d.sync += [best.eq(candidate.key), self.found.eq(self.base + where)]
        with m.If(self.begin):
            m.d.sync += best.eq(_KEY_OF_MINUS_INFINITY)
        with m.If(valid):
            m.d.sync += top.eq(Mux(wins, candidate.key, mine))
        with m.If(valid & ticket.final):
            m.d.sync += [settling.eq(1), target.eq(ticket.sink.target), floor.eq(ticket.sink.floor)]
        with m.Elif(self.taken):
            m.d.sync += settling.eq(0)
        m.d.comb += self.settled.eq(settling << target)
        with m.If(floor & (top[FRACTION_BITS:] < _KEY_OF_FLOOR >> FRACTION_BITS)):
            m.d.comb += self.extreme.eq(_number(Const(_KEY_OF_FLOOR, 32)))
        with m.Else():
            m.d.comb += self.extreme.eq(_number(top))
        return m

    def _key(self, m: Module, lane: int, ticket: data.View) -> Value:
        """32 unsigned bits that compare as elements do; 0, below everything, for NaN and where there is none."""
        number, key = Float32(self.elements[lane]), Signal(32, name=f"key_{lane}")
        negative = number.sign & ~ticket.sink.magnitude & ~number.is_zero()
        nan = number.is_special() & number.fraction[-1]
        m.d.comb += key.eq(Cat(number.magnitude ^ negative.replicate(31), ~negative))
        with m.If(nan | (lane >= ticket.count)):
            m.d.comb += key.eq(0)
        return key

    def _better(self, m: Module, name: str, left: _Candidate, right: _Candidate) -> _Candidate:
        """The larger one; of two equal ones the left one."""
        later = Signal(name=f"later_{name}")
        key = Signal(32, name=f"better_{name}")
        lane = Signal(len(left.lane) + 1, name=f"lane_{name}")
        m.d.comb += [
            later.eq(right.key > left.key),
            key.eq(Mux(later, right.key, left.key)),
            lane.eq(Cat(Mux(later, right.lane, left.lane), later)),
        ]
        return _Candidate(key, lane)

    def _registered(self, m, stage, valid, ticket, beat, candidates):
        """All that, a cycle later."""
        present = Signal(name=f"valid_{stage}")
        m.d.sync += present.eq(valid)
        after = [
            Signal.like(value, name=f"{name}_{stage}", reset_less=True)
            for name, value in (("ticket", ticket), ("beat", beat))
        ]
        kept = [
            _Candidate(
                Signal(32, name=f"key_{stage}_{at}", reset_less=True),
                Signal(len(candidate.lane), name=f"lane_{stage}_{at}", reset_less=True),
            )
            for at, candidate in enumerate(candidates)
        ]
        with m.If(valid):
            m.d.sync += [after[0].eq(ticket), after[1].eq(beat)]
            for new, old in zip(kept, candidates, strict=True):
                m.d.sync += [new.key.eq(old.key), new.lane.eq(old.lane)]
        return present, *after, kept


def _number(key: Value) -> Value:
    """The number whose key is ``key``."""
    negative = ~key[-1]
    return Cat(key[:-1] ^ negative.replicate(31), negative)
