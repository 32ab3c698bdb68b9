# SPDX-License-Identifier: Apache-2.0
"""Runs microprograms: turns one micro-operation after the other into beats."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, Value
from amaranth.hdl import ValueLike
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.buffers.signatures import V_ADDRESS_BITS
from catenary.hw.vector.cursor import Cursor, Move, advanced
from catenary.hw.vector.decode import JobLayout
from catenary.hw.vector.layouts import (
    POINTER_BITS,
    QUEUE_DEPTH,
    STRIP,
    Flow,
    Geometry,
    MicroLayout,
    Order,
    P,
    Shape,
    beat_layout,
)
from catenary.hw.vector.microcode import WORDS
from catenary.isa.config import AcceleratorConfig


class Sequencer(wiring.Component):
    """The microprogram counter, and the beats of one micro-operation after the other.

    A micro-operation takes one cycle to be prepared, in which its addresses are computed, and one for each beat. A beat
    that needs words of V is handed on in the cycle in which its request is accepted.

    Parameters:
        config: the accelerator.

    Members:
        job: what to do; ready when idle.
        written: nothing that was handed on is on its way to V any more.
        beats: beats to compute, in order.
        read: requests for V, as in :class:`~catenary.hw.buffers.signatures.VRead`.
        active: a job is going on; falls when its last beat has been handed on.
        fault: a length or an address is out of range; stays until reset.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        self._geometry = Geometry(config)
        request = data.StructLayout({"address": V_ADDRESS_BITS, "count": range(config.vector_lanes + 1)})
        super().__init__(
            {
                "job": In(stream.Signature(JobLayout)),
                "written": In(1),
                "beats": Out(stream.Signature(beat_layout(config))),
                "read": Out(stream.Signature(request)),
                "active": Out(1),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, beats = self._geometry.lanes, self._geometry.beats
        shift = exact_log2(lanes)

        m.submodules.cursor = cursor = Cursor(self._config)
        m.submodules.rom = rom = Memory(
            shape=MicroLayout, depth=len(WORDS), init=[MicroLayout.from_bits(word) for word in WORDS]
        )
        fetch = rom.read_port()
        plan, compute = fetch.data.plan, fetch.data.compute
        pc = Signal(range(len(WORDS)))
        m.d.comb += [cursor.job.eq(self.job.payload), fetch.en.eq(0)]

        index, within = Signal(range(beats)), Signal(range(beats))

        # The index of the last beat of a block, of the next power of two of beats, and of a level of the tree.
        block_top, padded_top, level_top = (Signal(range(beats)) for _ in range(3))
        level_limit = Signal(range(max(beats, QUEUE_DEPTH) + 1))
        width = Signal(range(STRIP))  # of the level, in elements
        ragged = Signal()  # the last strip before the tree did not reach all partial sums
        m.d.comb += [
            block_top.eq((cursor.extent - 1) >> shift),
            padded_top.eq(block_top),
            level_top.eq(Mux(width[:shift].any(), 0, (width >> shift) - 1)),
        ]
        with m.If(cursor.head):  # ones below its highest one
            m.d.comb += [padded_top[bit].eq(block_top[bit:].any()) for bit in range(len(padded_top))]

        # What stays while the micro-operation goes on, so that a beat is not late for it.
        fixed = Signal(
            data.StructLayout(
                {
                    "extent": cursor.extent.shape(),
                    "blocks_top": cursor.blocks.shape(),
                    "gap": len(cursor.held.block) + 1,  # to the first element of the next block
                    "counted": 1,  # the last beat is that with index `top`
                    "top": block_top.shape(),
                    "level_top": level_top.shape(),
                }
            )
        )
        m.d.comb += level_limit.eq(Mux(ragged, Mux(index == 0, 0, QUEUE_DEPTH), fixed.level_top))

        # The beat.
        previous, previous_slow, applied = Signal(range(beats)), Signal(), Signal(range(beats))
        block, remaining = Signal(range(beats)), Signal(range(STRIP + 1))
        read_at, write_at, step = Signal(POINTER_BITS), Signal(POINTER_BITS), Signal(len(cursor.held.block) + 1)
        beat, ticket = self.beats.payload, self.beats.payload.ticket
        running, last, block_ends = Signal(), Signal(), Signal()
        folding, padding = plan.beats == Shape.FOLD, plan.beats == Shape.PADDED
        m.d.comb += [
            block_ends.eq(remaining <= lanes),
            step.eq(Mux(block_ends, fixed.gap, lanes)),
            beat.compute.eq(compute),
            beat.a_beat.eq(Mux(plan.wrap, within, index)),
            beat.b_beat.eq(index + Mux(folding, width >> shift, 0)),
            beat.fold.eq(Mux(folding, width[:shift], 0)),
            beat.fresh.eq(cursor.head),
            beat.masked.eq(padding),
            beat.reads_v.eq((compute.p == P.V) & (ticket.count != 0)),
            ticket.sink.eq(fetch.data.sink),
            ticket.count.eq(Mux(block_ends, remaining, lanes)),
            ticket.beat.eq(index),
            ticket.address.eq(write_at),
            ticket.first.eq(cursor.head & (index == 0)),
            ticket.final.eq(last & ~cursor.more_strips),
        ]
        with m.If(fixed.counted):
            m.d.comb += last.eq(index == fixed.top)
        with m.Else():
            m.d.comb += last.eq(block_ends & ((plan.beats != Shape.STRIP) | (block == fixed.blocks_top)))
        self._order(m, beat, plan, index, previous, previous_slow, applied, level_limit)

        # A request and its beat go together.
        m.d.comb += [
            self.read.payload.address.eq(read_at),
            self.read.payload.count.eq(ticket.count),
            self.read.valid.eq(running & beat.reads_v & self.beats.ready & ~self.fault),
            self.beats.valid.eq(running & (~beat.reads_v | self.read.ready) & ~self.fault),
        ]

        leave = Signal()
        end = self._flow(m, fetch, pc, cursor, leave, running, width)
        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.comb += [self.job.ready.eq(1), fetch.addr.eq(self.job.payload.entry)]
                with m.If(self.job.valid):
                    m.d.comb += [cursor.load.eq(1), fetch.en.eq(1)]
                    m.d.sync += pc.eq(self.job.payload.entry)
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.next = "PREPARE"
            with m.State("PREPARE"):
                m.d.sync += [
                    index.eq(0),
                    within.eq(0),
                    block.eq(0),
                    read_at.eq(self._address(m, "read", plan.read, cursor, plan.ahead)),
                    write_at.eq(self._address(m, "write", plan.write, cursor)),
                    fixed.extent.eq(cursor.extent),
                    fixed.blocks_top.eq(cursor.blocks - 1),
                    fixed.gap.eq(cursor.held.block - (block_top << shift)),
                    fixed.counted.eq(padding | folding),
                    fixed.top.eq(Mux(folding, level_top, padded_top)),
                    fixed.level_top.eq(level_top),
                ]
                with m.Switch(plan.beats):
                    with m.Case(Shape.ONE):
                        m.d.sync += remaining.eq(1)
                    with m.Case(Shape.FOLD):
                        m.d.sync += remaining.eq(lanes)
                    with m.Default():
                        m.d.sync += remaining.eq(cursor.extent)
                with m.If(cursor.fault):
                    m.d.sync += self.fault.eq(1)
                with m.Elif((plan.order == Order.FENCE) & ~self.written):
                    pass
                with m.Elif((plan.beats == Shape.NONE) | (folding & (width == 0))):
                    m.d.comb += leave.eq(1)
                    with m.If(end):
                        m.next = "IDLE"
                with m.Else():
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += running.eq(1)
                with m.If(beat.reads_v & read_at[-1]):
                    m.d.sync += self.fault.eq(1)
                with m.Elif(self.beats.valid & self.beats.ready):
                    m.d.sync += [
                        index.eq(index + 1),
                        within.eq(within + 1),
                        remaining.eq(remaining - ticket.count),
                        read_at.eq(advanced(read_at, step)),
                        write_at.eq(advanced(write_at, step)),
                    ]
                    with m.If(block_ends & (plan.beats == Shape.STRIP)):
                        m.d.sync += [within.eq(0), block.eq(block + 1), remaining.eq(fixed.extent)]
                    with m.If(last):
                        m.d.sync += [previous.eq(index), previous_slow.eq(compute.apply)]
                        with m.If(compute.apply & (plan.beats == Shape.STRIP)):
                            m.d.sync += applied.eq(index)
                        with m.If(padding):
                            m.d.sync += ragged.eq(~cursor.head)
                            with m.If(cursor.head):
                                m.d.sync += width.eq((fixed.top + 1 << shift) >> 1)
                        with m.If(folding):
                            m.d.sync += [ragged.eq(0), width.eq(width >> 1)]
                        m.d.comb += leave.eq(1)
                        with m.If(end):
                            m.next = "IDLE"
                        with m.Else():
                            m.next = "PREPARE"
        m.d.comb += self.active.eq(~fsm.ongoing("IDLE"))
        return m

    def _order(
        self,
        m: Module,
        beat: data.View,
        plan: data.View,
        index: Value,
        previous: Value,
        slow: Value,
        applied: Value,
        level: Value,
    ) -> None:
        """When the beat may start. ``previous`` is the last beat of the micro-operation before, ``slow`` its kind;
        ``applied`` that of the last strip that went to the function unit.

        Beats of one kind keep their order. So beat i of that micro-operation is through once fewer beats of its kind
        are on their way than it has; or fewer by i, if beats of this one do not count among them. A level of the tree
        takes beats i and i + n of the level before, which has 2 * n. When a slow beat is through, so are all beats that
        went into the lanes before it.
        """
        limit = Signal.like(level)
        m.d.comb += [beat.limit.eq(QUEUE_DEPTH), beat.limits_slow.eq(slow)]
        with m.If(plan.beats == Shape.FOLD):
            m.d.comb += [limit.eq(level), beat.limits_slow.eq(0)]
        with m.Elif(plan.order == Order.APPLIED):
            m.d.comb += [limit.eq(Mux(index > applied, QUEUE_DEPTH, applied - index)), beat.limits_slow.eq(1)]
        with m.Elif(index > previous):  # more beats than before
            m.d.comb += limit.eq(QUEUE_DEPTH)
        with m.Else():
            m.d.comb += limit.eq(Mux(slow == beat.compute.apply, previous, previous - index))
        with m.If(((plan.order == Order.AFTER) | (plan.order == Order.APPLIED)) & (limit < QUEUE_DEPTH)):
            m.d.comb += beat.limit.eq(limit)

    def _address(self, m: Module, name: str, number: Value, cursor: Cursor, ahead: ValueLike = 0) -> Value:
        chosen = Signal(POINTER_BITS, name=f"{name}_pointer")
        with m.Switch(number):
            for at, pointer in enumerate(cursor.pointers):
                with m.Case(at):
                    m.d.comb += chosen.eq(pointer if at else Mux(ahead, cursor.ahead, pointer))
        return advanced(chosen, cursor.offset)

    def _flow(
        self,
        m: Module,
        fetch: wiring.PureInterface,
        pc: Signal,
        cursor: Cursor,
        leave: Value,
        running: Value,
        width: Value,
    ) -> Value:
        """Go to the next micro-operation when ``leave`` is high; returns whether there is none.

        Where to is found while the micro-operation is prepared, for the last beat knows late that it is.
        """
        plan = fetch.data.plan
        go, end, following = Signal(), Signal(), Signal.like(pc)
        move = Signal(Move)
        with m.Switch(plan.flow):
            with m.Case(Flow.STRIPS):
                m.d.comb += [go.eq(cursor.more_strips), move.eq(Mux(go, Move.STRIP, Move.REWIND))]
            with m.Case(Flow.LAST):
                m.d.comb += [go.eq(~(cursor.more_parts | cursor.more_rows)), move.eq(Mux(go, Move.STAY, Move.AHEAD))]
            with m.Case(Flow.LEVELS):
                m.d.comb += go.eq(width[1:].any())
            with m.Case(Flow.PARTS):
                m.d.comb += [go.eq(cursor.more_parts), move.eq(Mux(go, Move.PARTS, Move.STAY))]
            with m.Case(Flow.ROWS, Flow.EACH):
                m.d.comb += go.eq(1)
                with m.If((plan.flow == Flow.EACH) & cursor.more_strips):
                    m.d.comb += move.eq(Move.STRIP)
                with m.Elif(cursor.more_parts):
                    m.d.comb += move.eq(Move.PARTS)
                with m.Elif(cursor.more_rows):
                    m.d.comb += move.eq(Move.ROW)
                with m.Else():
                    m.d.comb += end.eq(1)
        m.d.comb += following.eq(Mux(go, plan.target, pc + 1))
        way = data.StructLayout({"end": 1, "move": Move, "following": len(pc)})
        found, kept, taken = (Signal(way, name=name) for name in ("way_found", "way_kept", "way_taken"))
        m.d.comb += [
            found.end.eq(end),
            found.move.eq(move),
            found.following.eq(following),
            taken.eq(Mux(running, kept, found)),
            fetch.addr.eq(taken.following),
        ]
        m.d.sync += kept.eq(found)
        with m.If(leave):
            m.d.comb += [cursor.move.eq(taken.move), fetch.en.eq(~taken.end)]
            m.d.sync += pc.eq(taken.following)
        return taken.end
