# SPDX-License-Identifier: Apache-2.0
"""Runs from the host's point of view: start, fetching the code, the end, and soft reset."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from catenary.isa.config import AcceleratorConfig
from catenary.isa.fields import SCALAR_BITS
from catenary.isa.registers import PC_BITS

FetchLayout = data.StructLayout({"line": SCALAR_BITS, "count": PC_BITS})
"""Where code begins in memory, and how many instructions it has."""


class State(enum.Enum):
    """Where a run is."""

    IDLE = 0
    """No run, or the last one has ended."""
    FETCH = 1
    """The load unit is asked for the code."""
    FETCHING = 2
    """The code is on its way."""
    RUN = 3
    """The program runs."""
    STOPPED = 4
    """An error has stopped the run; only a soft reset leads on."""
    ABORT = 5
    """Soft reset: the bus masters finish."""
    RESET = 6
    """Soft reset: everything else is reset."""


class RunControl(wiring.Component):
    """Starts and ends runs.

    Code is fetched at the start of a run if the host has written CODE_LINE or CODE_LENGTH since the last time. A soft
    reset first lets the bus masters finish; a start that the host writes meanwhile is carried out afterwards.

    Parameters:
        config: the accelerator.

    Members:
        start, soft_reset: the host asks for it.
        code_written: the host writes CODE_LINE or CODE_LENGTH.
        line, length: those settings.
        code_length: instructions in the instruction buffer.
        fetch: to the load unit: fetch code.
        fetch_done: it has done so.
        fetching: that is going on.
        begin: to dispatch: begin; as soon as ``executing``.
        executing: dispatch and units may go on.
        running: a run is going on, or about to, or a soft reset is.
        too_long: the code does not fit; pulses.
        finished: the run has reached its end.
        failed: an error has stopped it.
        starting: a run starts; pulses.
        abort: to the bus masters: finish what is open and begin nothing.
        axi_idle: they have.
        core_reset: reset all but settings and bus masters, for one cycle.
    """

    def __init__(self, config: AcceleratorConfig):
        self._words = config.instruction_words
        super().__init__(
            {
                "start": In(1),
                "soft_reset": In(1),
                "code_written": In(1),
                "line": In(SCALAR_BITS),
                "length": In(PC_BITS),
                "code_length": Out(PC_BITS),
                "fetch": Out(stream.Signature(FetchLayout)),
                "fetch_done": In(1),
                "fetching": Out(1),
                "begin": Out(1),
                "executing": Out(1),
                "running": Out(1),
                "too_long": Out(1),
                "finished": In(1),
                "failed": In(1),
                "starting": Out(1),
                "abort": Out(1),
                "axi_idle": In(1),
                "core_reset": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        state = Signal(State)
        asked = Signal()  # a start that waits for a soft reset
        stale = Signal(init=1)  # the instruction buffer does not hold what the settings say
        settled = Signal()  # the bus masters have seen ``abort``, so that their idleness lasts
        m.d.comb += [
            self.fetch.payload.line.eq(self.line),
            self.fetch.payload.count.eq(self.code_length),
            self.fetching.eq((state == State.FETCH) | (state == State.FETCHING)),
            self.executing.eq(self.fetching | (state == State.RUN)),
            self.running.eq(self.executing | asked | self.abort),
            self.abort.eq((state == State.ABORT) | (state == State.RESET)),
        ]
        m.d.sync += self.begin.eq(self.starting)
        with m.Switch(state):
            with m.Case(State.IDLE), m.If(self.start | asked):
                m.d.comb += self.starting.eq(1)
                m.d.sync += [asked.eq(0), self.code_length.eq(self.length), stale.eq(0)]
                m.d.sync += state.eq(State.RUN)
                with m.If(stale & (self.length != 0)):
                    m.d.sync += state.eq(State.FETCH)
            with m.Case(State.FETCH):
                with m.If(self.code_length > self._words):
                    m.d.comb += self.too_long.eq(~self.begin)  # once dispatch has the entry point, to be reported
                with m.Else():
                    m.d.comb += self.fetch.valid.eq(1)
                    with m.If(self.fetch.ready):
                        m.d.sync += state.eq(State.FETCHING)
            with m.Case(State.FETCHING), m.If(self.fetch_done):
                m.d.sync += state.eq(State.RUN)
            with m.Case(State.RUN), m.If(self.finished):
                m.d.sync += state.eq(State.IDLE)
            with m.Case(State.ABORT):
                m.d.sync += settled.eq(1)
                with m.If(settled & self.axi_idle):
                    m.d.sync += state.eq(State.RESET)
            with m.Case(State.RESET):
                m.d.comb += self.core_reset.eq(1)
                m.d.sync += state.eq(State.IDLE)
        with m.If(self.code_written):
            m.d.sync += stale.eq(1)
        with m.If(self.abort & self.start):
            m.d.sync += asked.eq(1)
        with m.If(self.executing & self.failed):
            m.d.sync += state.eq(State.STOPPED)
        with m.If(self.soft_reset):
            m.d.sync += [state.eq(State.ABORT), settled.eq(0), asked.eq(0), stale.eq(1)]
        return m
