# SPDX-License-Identifier: Apache-2.0
"""Token counters, one for each ordered pair of different units."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from catenary.isa.opcodes import TOKEN_LIMIT, Unit

UNITS = len(Unit)

UnitSets = data.ArrayLayout(UNITS, UNITS)
"""A set of units for each unit."""

PAIRS = tuple((source, target) for source in Unit for target in Unit if source is not target)
"""Units that give and units that take."""


def _name(source: Unit, target: Unit) -> str:
    return f"{source.name}_to_{target.name}".lower()


CountsLayout = data.StructLayout({_name(*pair): range(TOKEN_LIMIT + 1) for pair in PAIRS})
"""The counters; one structure, because each register by itself costs a simulator time in every cycle."""


class Tokens(wiring.Component):
    """The counters. A set of units has one bit per unit, as the wait and release fields of instructions do.

    Members:
        wanted: by unit, the units from each of which it wants a token.
        granted: by unit, all those tokens are there; they stay until they are taken.
        taken: by unit, it takes them in this cycle.
        given: by unit, the units to which it gives a token in this cycle; they can be taken from the next one on.
        overflow: by unit, one of those counters is full already.
        empty: all counters are 0.
    """

    def __init__(self):
        super().__init__(
            {
                "wanted": In(UnitSets),
                "granted": Out(UNITS),
                "taken": In(UNITS),
                "given": In(UnitSets),
                "overflow": Out(UNITS),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        counts = Signal(CountsLayout)
        # One bit for each counter says that it is not 0, so that waiting looks at few bits.
        there = Signal(UnitSets)  # by unit that takes, then by unit that gave
        for unit in Unit:
            m.d.comb += self.granted[unit].eq((self.wanted[unit] & ~there[unit]) == 0)
        m.d.comb += self.empty.eq(there.as_value() == 0)
        # Tokens move in few cycles; saying so once spares simulators a look at each counter in all others.
        with m.If(self.taken.any() | self.given.as_value().any()):
            for source, target in PAIRS:
                count = counts[_name(source, target)]
                give = self.given[source][target]
                take = self.taken[target] & self.wanted[target][source]
                with m.If(give ^ take):
                    m.d.sync += [count.eq(count + Mux(take, -1, 1)), there[target][source].eq(give | (count != 1))]
                with m.If(give & ~take & (count == TOKEN_LIMIT)):
                    m.d.comb += self.overflow[source].eq(1)
        return m
