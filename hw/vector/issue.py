# SPDX-License-Identifier: Apache-2.0
"""Decides when a beat may start."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.vector.layouts import (
    QUEUE_DEPTH,
    SCALAR_REGISTERS,
    C,
    P,
    Q,
    Scalar,
    beat_layout,
)
from catenary.isa.config import AcceleratorConfig


class Issue(wiring.Component):
    """Beats start in order, and results come in order: so the number of beats on their way is all it takes to know
    which results are there. Scalars have a busy bit each.

    Beats for the function unit take longer, so they are counted by themselves. They start no faster than their elements
    go through it, one a cycle.

    Parameters:
        config: the accelerator.

    Members:
        beats: waiting beats.
        operand: V has answered the oldest beat that reads it.
        advance: the pipeline moves in this cycle.
        pending: beats on their way, but for those to the function unit.
        pending_slow: beats on their way to the function unit.
        inverse_busy: FP32(1/length) is not there yet.
        settled: scalar registers that are written in this cycle.
        extreme_settled: an extreme is complete in this cycle.
        start: the first of ``beats`` starts, which is its transfer.
        searching: an extreme is not complete.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "beats": In(stream.Signature(beat_layout(config))),
                "operand": In(1),
                "advance": In(1),
                "pending": In(range(QUEUE_DEPTH + 1)),
                "pending_slow": In(range(QUEUE_DEPTH + 1)),
                "inverse_busy": In(1),
                "settled": In(len(SCALAR_REGISTERS)),
                "extreme_settled": In(1),
                "start": Out(1),
                "searching": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        beat = self.beats.payload
        compute, sink = beat.compute, beat.ticket.sink
        pace = Signal(range(self._config.vector_lanes))
        busy = Signal(len(SCALAR_REGISTERS))

        def unsettled(used, scalar):
            blocked = Signal()
            with m.Switch(Mux(used, scalar.as_value(), Scalar.ONE.value)):
                for at, register in enumerate(SCALAR_REGISTERS):
                    with m.Case(register):
                        m.d.comb += blocked.eq(busy[at])
                with m.Case(Scalar.INVERSE_LENGTH):
                    m.d.comb += blocked.eq(self.inverse_busy)
            return blocked

        begins = sink.to_extreme & beat.ticket.first
        claims = Signal(len(SCALAR_REGISTERS))
        m.d.comb += claims.eq(Mux(sink.to_scalar | begins, 1 << sink.target, 0))
        waits = (
            (beat.reads_v & ~self.operand)
            | (Mux(beat.limits_slow, self.pending_slow, self.pending) > beat.limit)
            | Mux(compute.apply, (pace != 0) | (self.pending_slow == QUEUE_DEPTH), self.pending == QUEUE_DEPTH)
            | (begins & self.searching)
            | (claims & busy).any()
            | unsettled(compute.q == Q.SCALAR, compute.scalar_q)
            | unsettled((compute.p == P.SCALAR) | (compute.c == C.SCALAR), compute.scalar_c)
        )
        m.d.comb += [
            self.start.eq(self.beats.valid & ~waits & self.advance),
            self.beats.ready.eq(self.start),
        ]
        with m.If(self.start & compute.apply):
            m.d.sync += pace.eq(beat.ticket.count - 1)
        with m.Elif(self.advance & (pace != 0)):
            m.d.sync += pace.eq(pace - 1)
        m.d.sync += busy.eq((busy & ~self.settled) | Mux(self.start, claims, 0))
        with m.If(self.start & begins):
            m.d.sync += self.searching.eq(1)
        with m.Elif(self.extreme_settled):
            m.d.sync += self.searching.eq(0)
        return m
