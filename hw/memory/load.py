# SPDX-License-Identifier: Apache-2.0
"""The load unit: LD from all memory ports into V, A, D or the weight stream, and the fetch of instructions."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from catenary.hw.buffers.signatures import AWrite, DWrite, IWrite, VWrite
from catenary.hw.control.runs import FetchLayout
from catenary.hw.memory.line_reader import LineReader, line_layout, port_names, read_ports
from catenary.hw.memory.load_plan import LoadPlanner, Task, plan_layout
from catenary.hw.memory.read_master import READ_DEPTH
from catenary.hw.memory.scatter import Scatter, load_words
from catenary.hw.memory.walk import RowWalker
from catenary.hw.unit import UnitSignature, started_limit
from catenary.isa.config import AcceleratorConfig
from catenary.isa.opcodes import Unit
from catenary.isa.registers import ErrorCause


class LoadUnit(wiring.Component):
    """The core of the load unit.

    LD as the instruction chapter defines it, except that the format alone decides between V, A, D and W: dispatch
    refuses every other pair. The lines of one instruction are one range, gaps between rows included. Lines for W go
    straight through, one a cycle; all others are taken apart by a :class:`RowWalker` and written by a
    :class:`Scatter`.

    The lines of the next instructions are asked for while those of the one before are still coming, so that a load pays
    the latency of memory only if the unit had nothing to do. Errors are those of the instruction whose turn it is: an
    error response goes with its beat, and a range that is too long is reported when all before it has been done.

    Apart from its bus masters, the unit is reset by ``abort``; no other reset may reach it while a program may still be
    running, because AXI does not allow a master to forget what it has asked for.

    Parameters:
        config: the accelerator.
        depth: beats that each port's FIFO holds.

    Members:
        insn, done, fault, cause, stall: see :class:`~catenary.hw.unit.UnitSignature`.
        v_write, a_write, d_write, i_write: the buffers.
        stream: lines into W; ``last`` marks the last one of a load.
        memory_0, memory_1 ...: read halves of the memory ports.
        fetch: load ``count`` instruction words, from memory line ``line`` on, into the instruction buffer, from 0 on.
            Only while no instruction is under way. Too many for the buffer are a fault.
        fetch_done: pulses when they have been written.
        moved: a line has come in this cycle.
        beats: by port, a beat crossed it in this cycle.
        abort: stop; drop what comes from bursts that have begun. For one cycle, or until ``idle``, or longer.
        idle: nothing is outstanding on any port.
    """

    def __init__(self, config: AcceleratorConfig, *, depth: int = READ_DEPTH):
        self._config = config
        self._depth = depth
        super().__init__(
            {
                **UnitSignature(Unit.LOAD).members,
                "v_write": Out(VWrite(config)),
                "a_write": Out(AWrite(config)),
                "d_write": Out(DWrite(config)),
                "i_write": Out(IWrite(config)),
                "stream": Out(stream.Signature(line_layout(config))),
                **{name: Out(signature) for name, signature in read_ports(config).items()},
                "fetch": In(stream.Signature(FetchLayout)),
                "fetch_done": Out(1),
                "moved": Out(1),
                "beats": Out(len(config.port_bytes)),
                "abort": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.reader = reader = LineReader(self._config, depth=self._depth)
        for name in port_names(len(self._config.port_bytes)):
            wiring.connect(m, getattr(reader, name), wiring.flipped(getattr(self, name)))
        m.d.comb += [
            reader.abort.eq(self.abort),
            self.idle.eq(reader.idle),
            self.beats.eq(reader.beats),
            self.moved.eq(reader.lines.valid & reader.lines.ready),
        ]
        m.submodules.unit = ResetInserter(self.abort)(self._unit(reader))
        return m

    def _unit(self, reader: LineReader) -> Module:
        """Everything but the bus masters."""
        m = Module()
        config = self._config
        m.submodules.planner = planner = LoadPlanner(config)
        m.submodules.walker = walker = RowWalker(config, load_words(config))
        m.submodules.scatter = scatter = Scatter(config)
        layout = plan_layout(config)
        m.submodules.plans = plans = SyncFIFO(width=layout.size, depth=started_limit(Unit.LOAD))
        wiring.connect(m, wiring.flipped(self.insn), planner.insn)
        wiring.connect(m, wiring.flipped(self.fetch), planner.fetch)
        wiring.connect(m, planner.lines, reader.command)
        wiring.connect(m, walker.steps, scatter.steps)
        for name in ("v_write", "a_write", "d_write", "i_write"):
            wiring.connect(m, getattr(scatter, name), wiring.flipped(getattr(self, name)))

        plan = data.View(layout, plans.r_data)
        line, line_valid, line_taken = reader.lines.payload, reader.lines.valid, Signal()
        left, of_code = Signal.like(plan.walk.rows), Signal()
        m.d.comb += [
            plans.w_data.eq(planner.plans.payload),
            plans.w_en.eq(planner.plans.valid),
            planner.plans.ready.eq(plans.w_rdy),
            walker.walk.eq(plan.walk),
            self.stream.payload.data.eq(line.data),
            self.stream.payload.last.eq(left == 1),
            scatter.lines.payload.eq(line),
            scatter.final.eq(walker.final),
            line_taken.eq(line_valid & reader.lines.ready),
        ]

        finished, refused, broken = Signal(), Signal(), Signal()
        failed = Signal()  # on the bus or in a buffer; what is under way goes on, so that nobody sees a request change
        m.d.comb += broken.eq(line_taken & line.error)
        with m.If(scatter.fault | broken):
            m.d.sync += failed.eq(1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += plans.r_en.eq(1)
                m.d.sync += left.eq(plan.walk.rows)
                m.d.sync += of_code.eq((plan.task == Task.CODE) | (plan.task == Task.NO_CODE))
                with m.If(plans.r_rdy), m.Switch(plan.task):
                    with m.Case(Task.STREAM):
                        m.next = "STREAM"
                    with m.Case(Task.ROWS, Task.CODE):
                        m.d.comb += walker.start.eq(1)
                        m.next = "UNPACK"
                    with m.Case(Task.NOTHING, Task.NO_CODE):
                        m.next = "DONE"
                    with m.Case(Task.FAULT):
                        m.d.comb += refused.eq(1)
                        m.next = "FAILED"
            with m.State("STREAM"):
                m.d.comb += [
                    self.stream.valid.eq(line_valid),
                    reader.lines.ready.eq(self.stream.ready),
                    self.stall.memory.eq(~line_valid),
                    self.stall.stream.eq(line_valid & ~self.stream.ready),
                ]
                with m.If(line_taken):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 1):
                        m.next = "DONE"
            with m.State("UNPACK"):
                m.d.comb += [
                    scatter.lines.valid.eq(line_valid & ~walker.idle),
                    reader.lines.ready.eq(scatter.lines.ready & ~walker.idle),
                    self.stall.buffer.eq(scatter.blocked),
                    self.stall.memory.eq(scatter.starved & ~scatter.blocked),
                ]
                with m.If(walker.idle & scatter.idle):
                    m.next = "DONE"
            with m.State("DONE"):
                with m.If(failed):
                    m.next = "FAILED"
                with m.Else():
                    m.d.comb += finished.eq(1)
                    m.next = "IDLE"
            with m.State("FAILED"):
                pass  # until abort
        m.d.comb += [
            self.done.eq(finished & ~of_code),
            self.fetch_done.eq(finished & of_code),
            self.fault.eq(refused | scatter.fault | broken),
            self.cause.eq(Mux(broken, ErrorCause.BUS_ERROR.value, ErrorCause.ADDRESS_RANGE.value)),
        ]
        return m
