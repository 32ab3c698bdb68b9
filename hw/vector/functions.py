# SPDX-License-Identifier: Apache-2.0
"""The way through the function unit: element by element, and back to beats."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from catenary.hw.fp.function import Function, FunctionUnit
from catenary.hw.vector.layouts import QUEUE_DEPTH
from catenary.isa.config import AcceleratorConfig


class Functions(wiring.Component):
    """Feeds the elements of waiting beats to the function unit, one a cycle, and collects the results.

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
        beat = data.StructLayout({"words": self.arguments.shape(), "count": self.count.shape(), "function": Function})
        arriving = Signal(beat)
        m.submodules.waiting = waiting = SyncFIFO(width=beat.size, depth=QUEUE_DEPTH)
        head = data.View(beat, waiting.r_data)
        present, last = Signal(unit.latency), Signal(unit.latency)
        sending, lane = Signal(range(self._lanes)), Signal(range(self._lanes))
        active, ends = Signal(), Signal()
        m.d.comb += [
            arriving.words.eq(self.arguments),
            arriving.count.eq(self.count),
            arriving.function.eq(self.function),
            waiting.w_data.eq(arriving),
            waiting.w_en.eq(self.i_valid),
            waiting.r_en.eq(active & ends),
            active.eq(self.enable & (waiting.r_rdy | present.any() | self.valid)),
            ends.eq(waiting.r_rdy & (sending + 1 == head.count)),
            unit.enable.eq(active),
            unit.x.eq(head.words[sending]),
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
                m.d.sync += [self.results[lane].eq(unit.o), lane.eq(Mux(last[-1], 0, lane + 1))]
        return m
