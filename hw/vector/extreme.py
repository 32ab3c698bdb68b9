# SPDX-License-Identifier: Apache-2.0
"""Largest element of a row, and where it is."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.fp.compare import rank_key
from catenary.hw.vector.decode import LENGTH_BITS
from catenary.hw.vector.layouts import SCALAR_REGISTERS, ticket_layout
from catenary.isa.config import AcceleratorConfig
from catenary.isa.fields import SCALAR_BITS

_KEY_OF_MINUS_INFINITY = 0x007FFFFF
_KEY_OF_FLOOR = 0x9F800000  # 2**-64


class Extreme(wiring.Component):
    """Each lane keeps its largest element and its place; after the last beat the lanes are compared one by one.

    NaN never wins; of equal elements, which -0 and +0 are, the first one does.

    Parameters:
        config: the accelerator.

    Members:
        valid: a beat comes: ``ticket`` and ``elements``.
        search: the row is a piece of a longer one: what is ``found`` counts on from piece to piece.
        begin: a new search begins, at ``base``.
        base: number of the row's first element.
        settled: the scalar register that gets ``extreme`` in this cycle, as a bit.
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
                "extreme": Out(32),
                "found": Out(SCALAR_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, sink = self._lanes, self.ticket.sink
        shift = exact_log2(lanes)

        # Per lane. The beat in which an element came stands for its place.
        key = data.ArrayLayout(32, lanes)
        keys = Signal(key)
        place = Signal(data.ArrayLayout(LENGTH_BITS - shift, lanes))
        beat, beat_here = Signal(LENGTH_BITS - shift), Signal(LENGTH_BITS - shift)
        initial = Mux(sink.floor, _KEY_OF_FLOOR, _KEY_OF_MINUS_INFINITY)
        m.d.comb += beat_here.eq(Mux(self.ticket.first, 0, beat))
        with m.If(self.valid):
            m.d.sync += beat.eq(beat_here + 1)
            for lane in range(lanes):
                element, mine, new = (Signal(32, name=f"{name}_{lane}") for name in ("element", "mine", "new"))
                m.d.comb += [
                    element.eq(Cat(self.elements[lane][:-1], self.elements[lane][-1] & ~sink.magnitude)),
                    new.eq(rank_key(element)),
                    mine.eq(Mux(self.ticket.first, initial, keys[lane])),
                ]
                with m.If((lane < self.ticket.count) & (new > mine)):
                    m.d.sync += [keys[lane].eq(new), place[lane].eq(beat_here)]
                with m.Elif(self.ticket.first):
                    m.d.sync += keys[lane].eq(initial)

        # Over the lanes.
        best, top = Signal(32), Signal(32)
        where, replaced = Signal(LENGTH_BITS), Signal()
        target = Signal(range(len(SCALAR_REGISTERS)))
        scanning, at = Signal(), Signal(range(lanes))
        candidate, index = Signal(32), Signal(LENGTH_BITS)
        m.d.comb += [candidate.eq(keys[at]), index.eq(Cat(at[:shift], place[at]))]
        wins = Signal()
        m.d.comb += wins.eq((candidate > top) | ((candidate == top) & replaced & (index < where)))
        finished = Signal()
        with m.If(self.valid & self.ticket.final):
            m.d.sync += [
                scanning.eq(1),
                at.eq(0),
                replaced.eq(0),
                target.eq(sink.target),
                top.eq(Mux(self.search, best, initial)),
            ]
        with m.Elif(scanning):
            m.d.sync += at.eq(at + 1)
            with m.If(wins):
                m.d.sync += [top.eq(candidate), where.eq(index), replaced.eq(1)]
            with m.If(at == lanes - 1):
                m.d.sync += [scanning.eq(0), finished.eq(1)]
        with m.If(finished):
            m.d.sync += finished.eq(0)
            with m.If(self.search & replaced):
                m.d.sync += [best.eq(top), self.found.eq(self.base + where)]
        with m.If(self.begin):
            m.d.sync += [best.eq(_KEY_OF_MINUS_INFINITY), self.found.eq(self.base)]
        m.d.comb += [self.settled.eq(finished << target), self.extreme.eq(_number(top))]
        return m


def _number(key: Value) -> Value:
    """The number whose key is ``key``."""
    negative = ~key[-1]
    return Cat(key[:-1] ^ negative.replicate(31), negative)
