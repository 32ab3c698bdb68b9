# SPDX-License-Identifier: Apache-2.0
"""The vector unit."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import Out

from catenary.hw.buffers.signatures import V_ADDRESS_BITS, AWrite, VRead, VWrite
from catenary.hw.unit import ResultLayout, UnitSignature
from catenary.hw.vector.decode import LENGTH_BITS, Decode, JobLayout
from catenary.hw.vector.extreme import Extreme
from catenary.hw.vector.functions import Functions
from catenary.hw.vector.inverse import Inverse
from catenary.hw.vector.issue import Issue
from catenary.hw.vector.lanes import Lanes
from catenary.hw.vector.layouts import QUEUE_DEPTH, beat_layout, ticket_layout
from catenary.hw.vector.packer import Packer
from catenary.hw.vector.scalars import Scalars
from catenary.hw.vector.sequencer import Sequencer
from catenary.isa.config import AcceleratorConfig
from catenary.isa.opcodes import Unit
from catenary.isa.registers import ErrorCause

_STORES = 4
"""Beats that wait to be written to V."""


class VectorUnit(wiring.Component):
    """Executes NORM, APPLY, COMBINE, ROPE, QUANT, SOFTMAX and ARGMAX.

    The :class:`~catenary.hw.vector.sequencer.Sequencer` turns an instruction's microprogram into beats and asks V for
    their operands. Beats wait in a queue until :class:`~catenary.hw.vector.issue.Issue` starts them; while they are in
    the lanes, and in the function unit, a ticket in a second queue keeps where their results go. The whole pipeline
    stands still while V or A does not take a result.

    Parameters:
        config: the accelerator.

    Members:
        insn, done, fault, cause, stall: see :class:`~catenary.hw.unit.UnitSignature`.
        v_read, v_write, a_write: the buffers.
        result: what ARGMAX found, together with ``done``.
        numeric: a NaN has been quantised to 0.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                **UnitSignature(Unit.VECTOR).members,
                "v_read": Out(VRead(config)),
                "v_write": Out(VWrite(config)),
                "a_write": Out(AWrite(config)),
                "result": Out(ResultLayout),
                "numeric": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.decode = decode = Decode()
        m.submodules.sequencer = sequencer = Sequencer(config)
        m.submodules.issue = issue = Issue(config)
        m.submodules.lanes = lanes = Lanes(config)
        m.submodules.functions = functions = Functions(config)
        m.submodules.scalars = scalars = Scalars()
        m.submodules.inverse = inverse = Inverse(LENGTH_BITS)
        m.submodules.extreme = extreme = Extreme(config)
        m.submodules.packer = packer = Packer(config)
        words = data.ArrayLayout(32, config.vector_lanes)
        ticket = Signal(ticket_layout(config))
        store = Signal(self.v_write.request.payload.shape())
        m.submodules.waiting = waiting = SyncFIFO(width=beat_layout(config).size, depth=QUEUE_DEPTH)
        m.submodules.operands = operands = SyncFIFO(width=words.size, depth=QUEUE_DEPTH)
        m.submodules.tickets = tickets = SyncFIFO(width=ticket.shape().size, depth=QUEUE_DEPTH)
        m.submodules.slow_tickets = slow_tickets = SyncFIFO(width=ticket.shape().size, depth=QUEUE_DEPTH)
        m.submodules.stores = stores = SyncFIFO(width=store.shape().size, depth=_STORES)

        # Instructions.
        job = Signal(data.StructLayout({name: JobLayout[name].shape for name in ("parameter", "codes", "search")}))
        begun, drained, failed = Signal(), Signal(), Signal()  # `begun`: in the first cycle of a job
        m.d.comb += [decode.command.eq(self.insn.payload), sequencer.job.payload.eq(decode.job)]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.insn.ready.eq(1)
                with m.If(self.insn.valid):
                    m.d.comb += sequencer.job.valid.eq(~decode.job.empty)
                    m.d.sync += [job[name].eq(decode.job[name]) for name in job.shape().members]
                    m.d.sync += begun.eq(1)
                    m.d.comb += inverse.start.eq(decode.job.inverse & ~decode.job.empty)
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.sync += begun.eq(0)
                idle = ~(sequencer.active | begun | packer.busy | issue.searching)
                with m.If(idle & drained & ~self.fault):
                    m.d.comb += [self.done.eq(1), self.result.valid.eq(job.search.active)]
                    m.next = "IDLE"
        m.d.comb += [
            inverse.n.eq(decode.job.length),
            extreme.begin.eq(begun & job.search.active & job.search.first),
            extreme.base.eq(job.search.base),
            extreme.search.eq(job.search.active),
            packer.load.eq(begun),
            packer.codes.eq(job.codes),
            scalars.load.eq(begun),
            scalars.parameter.eq(job.parameter),
            self.result.register.eq(job.search.register),
            self.result.value.eq(extreme.found),
            drained.eq(~(waiting.r_rdy | tickets.r_rdy | slow_tickets.r_rdy | stores.r_rdy)),
        ]

        # Beats whose results are not in V yet.
        unwritten = Signal(range(2 * QUEUE_DEPTH + QUEUE_DEPTH + _STORES + 1))
        enters = sequencer.beats.valid & sequencer.beats.ready & sequencer.beats.payload.ticket.sink.to_v
        leaves = self.v_write.request.valid & self.v_write.request.ready
        with m.If(enters & ~leaves):
            m.d.sync += unwritten.eq(unwritten + 1)
        with m.Elif(leaves & ~enters):
            m.d.sync += unwritten.eq(unwritten - 1)
        m.d.comb += sequencer.written.eq(unwritten == 0)

        # Beats and their operands wait. There is room for an answer wherever there was room for its beat.
        m.d.comb += [
            waiting.w_data.eq(sequencer.beats.payload),
            waiting.w_en.eq(sequencer.beats.valid),
            sequencer.beats.ready.eq(waiting.w_rdy),
            self.v_read.request.valid.eq(sequencer.read.valid),
            self.v_read.request.payload.eq(sequencer.read.payload),
            sequencer.read.ready.eq(self.v_read.request.ready),
            operands.w_data.eq(self.v_read.data),
            operands.w_en.eq(self.v_read.valid),
        ]

        # Start.
        moving, advance = Signal(), Signal()
        beat = issue.beats.payload
        m.d.comb += [
            beat.eq(waiting.r_data),
            issue.beats.valid.eq(waiting.r_rdy),
            waiting.r_en.eq(issue.beats.ready),
            issue.operand.eq(operands.r_rdy),
            operands.r_en.eq(issue.start & beat.reads_v),
            issue.advance.eq(advance),
            issue.pending.eq(tickets.level),
            issue.pending_slow.eq(slow_tickets.level),
            issue.inverse_busy.eq(inverse.busy),
            scalars.select_q.eq(beat.compute.scalar_q),
            scalars.select_c.eq(beat.compute.scalar_c),
            scalars.inverse.eq(inverse.o),
            tickets.w_data.eq(beat.ticket),
            tickets.w_en.eq(issue.start & ~beat.compute.apply),
            slow_tickets.w_data.eq(beat.ticket),
            slow_tickets.w_en.eq(issue.start & beat.compute.apply),
            lanes.enable.eq(advance),
            lanes.start.eq(issue.start),
            lanes.offered.eq(waiting.r_rdy),
            lanes.beat.eq(beat),
            lanes.words.eq(operands.r_data),
            lanes.scalar_q.eq(scalars.q),
            lanes.scalar_c.eq(scalars.c),
            functions.enable.eq(moving),
            functions.i_valid.eq(lanes.valid & lanes.apply & advance),
            functions.arguments.eq(lanes.result),
            functions.count.eq(lanes.count),
            functions.function.eq(lanes.function),
        ]

        # Results, one beat a cycle. The function unit goes first; the lanes wait for it, and with it.
        fast, retire = Signal(), Signal()
        result = Signal(words)
        sink = ticket.sink
        m.d.comb += [
            ticket.eq(Mux(functions.valid, slow_tickets.r_data, tickets.r_data)),
            fast.eq(lanes.valid & ~lanes.apply),
            moving.eq(~((fast | functions.valid) & (sink.to_v & ~stores.w_rdy | sink.to_codes & ~packer.ready))),
            advance.eq(moving & ~(fast & functions.valid)),
            retire.eq((fast | functions.valid) & moving),
            tickets.r_en.eq(retire & ~functions.valid),
            slow_tickets.r_en.eq(retire & functions.valid),
        ]
        with m.If(functions.valid):
            m.d.comb += result.eq(functions.results)
        with m.Else():
            for lane in range(config.vector_lanes):
                negative = lanes.result[lane][-1]  # NaN is not
                m.d.comb += result[lane].eq(Mux(sink.relu & negative, 0, lanes.result[lane]))
        m.d.comb += [
            lanes.write.valid.eq(retire & sink.to_register),
            lanes.write.register.eq(sink.target),
            lanes.write.beat.eq(ticket.beat),
            lanes.write.data.eq(result),
            scalars.result.eq(result[0]),
            extreme.valid.eq(retire & sink.to_extreme),
            extreme.ticket.eq(ticket),
            extreme.elements.eq(result),
            scalars.write_extreme.eq(extreme.settled),
            scalars.extreme.eq(extreme.extreme),
            extreme.taken.eq(~scalars.write.any()),
            issue.settled.eq(Mux(extreme.taken, extreme.settled, scalars.write)),
            issue.extreme_settled.eq(extreme.taken & extreme.settled.any()),
            packer.valid.eq(retire & sink.to_codes),
            packer.elements.eq(result),
            packer.count.eq(ticket.count),
            packer.final.eq(ticket.final),
            self.numeric.eq(packer.numeric),
            store.address.eq(ticket.address),
            store.count.eq(ticket.count),
            store.data.eq(result),
            stores.w_data.eq(store),
            stores.w_en.eq(retire & sink.to_v),
            self.v_write.request.payload.eq(stores.r_data),
            self.v_write.request.valid.eq(stores.r_rdy),
            stores.r_en.eq(self.v_write.request.ready),
        ]
        with m.If(retire & sink.to_scalar):
            m.d.comb += scalars.write.eq(1 << sink.target)
        wiring.connect(m, packer.write, wiring.flipped(self.a_write))

        # Errors and stalls.
        overflow = retire & sink.to_v & ticket.address[V_ADDRESS_BITS]
        refused = (self.v_read.valid & self.v_read.fault) | self.v_write.fault | self.a_write.fault
        blocked = [
            request.valid & ~request.ready
            for request in (self.v_read.request, self.v_write.request, self.a_write.request)
        ]
        with m.If(self.fault):
            m.d.sync += failed.eq(1)
        m.d.comb += [
            self.fault.eq(failed | refused | overflow | sequencer.fault | packer.fault),
            self.cause.eq(ErrorCause.ADDRESS_RANGE),
            self.stall.buffer.eq(Cat(*blocked).any()),
        ]
        return m
