# SPDX-License-Identifier: Apache-2.0
"""The way through the function unit: element by element, and back to beats."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.fp.function import Function, FunctionUnit
from catenary.isa.config import AcceleratorConfig


class Functions(wiring.Component):
    """Feeds the elements of a beat to the function unit, one a cycle, and collects the results.

    Parameters:
        config: the accelerator.

    Members:
        enable: while 0, everything holds.
        i_valid: a beat comes, not before the last one's elements are gone: ``arguments``, of ``count`` elements, at
            least 1.
        function: of what.
        valid: a beat of results is there: ``results``.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._lanes = config.vector_lanes
        words = data.ArrayLayout(32, self._lanes)
        super().__init__(
            {
                "enable": In(1),
                "i_valid": In(1),
                "arguments": In(words),
                "count": In(range(self._lanes + 1)),
                "function": In(Function),
                "valid": Out(1),
                "results": Out(words),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = unit = FunctionUnit()
        waiting = Signal(data.ArrayLayout(32, self._lanes), reset_less=True)
        left = Signal(range(self._lanes + 1))
        function = Signal(Function, reset_less=True)
        present, last = Signal(unit.latency), Signal(unit.latency)
        lane = Signal(range(self._lanes))
        active = Signal()
        m.d.comb += [
            active.eq(self.enable & (self.i_valid | (left != 0) | present.any() | self.valid)),
            unit.enable.eq(active),
            unit.x.eq(waiting[0]),
            unit.function.eq(function),
        ]
        with m.If(active):
            with m.If(self.i_valid):
                m.d.sync += [waiting.eq(self.arguments), left.eq(self.count), function.eq(self.function)]
            with m.Elif(left != 0):
                m.d.sync += [waiting.as_value().eq(waiting.as_value()[32:]), left.eq(left - 1)]
            m.d.sync += [
                present.eq(Cat(left != 0, present)),
                last.eq(Cat(left == 1, last)),
                self.valid.eq(present[-1] & last[-1]),
            ]
            with m.If(present[-1]):
                m.d.sync += [self.results[lane].eq(unit.o), lane.eq(Mux(last[-1], 0, lane + 1))]
        return m
