# SPDX-License-Identifier: Apache-2.0
"""The way through the function units: a few elements at a time, and back to beats."""

from __future__ import annotations

from amaranth import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.fp.function import Function, FunctionUnit
from catenary.hw.vector.layouts import QUEUE_DEPTH
from catenary.isa.config import AcceleratorConfig

LANES_PER_UNIT = 4
"""Lanes that share a function unit: few operations need a function, and one takes more than a lane."""


def function_units(config: AcceleratorConfig) -> int:
    """Function units, each of which takes an element a cycle."""
    return max(1, config.vector_lanes // LANES_PER_UNIT)


class Functions(wiring.Component):
    """Feeds the elements of waiting beats to the function units, as many a cycle as there are units, and collects the
    results.

    Parameters:
        config: the accelerator.

    Members:
        enable: while 0, everything holds.
        i_valid: a beat comes, while fewer than ``QUEUE_DEPTH`` are on their way: ``arguments``, of ``count`` elements,
            at least 1.
        function: of what.
        valid: a beat of results is there: ``results``.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._lanes, self._units = config.vector_lanes, function_units(config)
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
        units = [FunctionUnit() for _ in range(self._units)]
        beat = data.StructLayout({"words": self.arguments.shape(), "count": self.count.shape(), "function": Function})
        arriving = Signal(beat)
        m.submodules.waiting = waiting = SyncFIFO(width=beat.size, depth=QUEUE_DEPTH)
        head = data.View(beat, waiting.r_data)
        present, last = Signal(FunctionUnit.latency), Signal(FunctionUnit.latency)
        turns = self._lanes // self._units  # of which all but the last fill the units
        sending, receiving = Signal(range(turns)), Signal(range(turns))
        active, ends = Signal(), Signal()
        m.d.comb += [
            arriving.words.eq(self.arguments),
            arriving.count.eq(self.count),
            arriving.function.eq(self.function),
            waiting.w_data.eq(arriving),
            waiting.w_en.eq(self.i_valid),
            waiting.r_en.eq(active & ends),
            active.eq(self.enable & (waiting.r_rdy | present.any() | self.valid)),
            ends.eq(waiting.r_rdy & (sending == (head.count - 1)[exact_log2(self._units) :])),
        ]
        for index, unit in enumerate(units):
            m.submodules[f"unit_{index}"] = unit
            mine = [head.words[turn * self._units + index] for turn in range(turns)]
            m.d.comb += [
                unit.enable.eq(active),
                unit.x.eq(Array(mine)[sending]),
                unit.function.eq(head.function),
            ]
        with m.If(active):
            m.d.sync += [
                sending.eq(Mux(ends, 0, sending + waiting.r_rdy)),
                present.eq(Cat(waiting.r_rdy, present)),
                last.eq(Cat(ends, last)),
                self.valid.eq(present[-1] & last[-1]),
            ]
            with m.If(present[-1]):
                m.d.sync += receiving.eq(Mux(last[-1], 0, receiving + 1))
                with m.Switch(receiving):
                    for turn in range(turns):
                        with m.Case(turn):
                            first = turn * self._units
                            m.d.sync += [self.results[first + i].eq(unit.o) for i, unit in enumerate(units)]
        return m
