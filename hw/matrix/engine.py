# SPDX-License-Identifier: Apache-2.0
"""Array and emitter under the control of one instruction."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from catenary.hw.buffers.signatures import ABeside, ARead, VRead, VWrite
from catenary.hw.dsp.segment import Primitive
from catenary.hw.matrix.array import MultiplierArray
from catenary.hw.matrix.emitter import RECORD, Emitter
from catenary.hw.matrix.signatures import ArrayFeed, lanes_of, tokens_of
from catenary.hw.words import command_layout
from catenary.isa.config import AcceleratorConfig
from catenary.isa.opcodes import Opcode, Unit


class State(enum.Enum, shape=3):
    """Where the instruction is."""

    IDLE = 0
    CHECK = 1
    COMPUTE = 2
    EMIT = 3
    DONE = 4
    REFUSED = 5


class MatrixEngine(wiring.Component):
    """Runs instructions whose operands somebody else, the front, feeds.

    Parameters:
        config: the accelerator.
        primitive: what the array multiplies with.

    Members:
        idle: ``accept`` is allowed.
        accept: pulse: run ``command``, which is stable from the next cycle until ``done``.
        command: an instruction of the matrix unit.
        feed_start: pulse: the front is to feed ``command``.
        feed_finished: pulse: the array has taken every step of it.
        feed: from the front.
        a_read, a_beside: activations, see :class:`~catenary.hw.matrix.array.MultiplierArray`.
        v_read, v_write: constants and results.
        done: pulse: all results are in V.
        too_many_tokens: the instruction has more tokens than there are accumulators; stays until reset.
        address_fault: an address behind a buffer.
        computing: the array has work.
        multiplies: see :class:`MultiplierArray`.
        stalled: a buffer is in the way.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        primitive: Primitive = Primitive.BEHAVIOURAL,
    ):
        self._config, self._primitive = config, primitive
        beside = {"a_beside": Out(ABeside())} if tokens_of(config) > 1 else {}
        super().__init__(
            {
                "idle": Out(1),
                "accept": In(1),
                "command": In(command_layout(Unit.MATRIX)),
                "feed_start": Out(1),
                "feed_finished": In(1),
                "feed": In(ArrayFeed(config)),
                "a_read": Out(ARead(config)),
                **beside,
                "v_read": Out(VRead(config)),
                "v_write": Out(VWrite(config)),
                "done": Out(1),
                "too_many_tokens": Out(1),
                "address_fault": Out(1),
                "computing": Out(1),
                "multiplies": Out(1),
                "stalled": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        feed = self.feed
        m.submodules.array = array = MultiplierArray(self._config, self._primitive)
        m.submodules.emitter = emitter = Emitter(self._config)
        connect(m, flipped(feed.tile), array.tile)
        connect(m, flipped(feed.steps), array.steps)
        connect(m, flipped(feed.constants), emitter.constants)
        connect(m, array.a_read, flipped(self.a_read))
        if tokens_of(self._config) > 1:
            connect(m, array.a_beside, flipped(self.a_beside))
        connect(m, emitter.v_read, flipped(self.v_read))
        connect(m, emitter.v_write, flipped(self.v_write))
        m.d.comb += [
            feed.freed.eq(array.freed),
            feed.bank_free.eq(emitter.bank_free),
            array.released.eq(emitter.released),
            array.growing.eq(emitter.context),
            array.read_address.eq(emitter.read_address),
            emitter.fresh.eq(feed.fresh),
            self.computing.eq(array.busy),
            self.multiplies.eq(array.multiplies),
            self.stalled.eq(array.stalled | emitter.stalled),
            self.address_fault.eq(array.fault | emitter.fault),
        ]
        m.d.comb += [to.eq(value) for to, value in zip(emitter.sums, array.sums, strict=True)]

        tokens, rows, most, emits = self._decode(m, array, emitter)
        context = emitter.context
        nothing = Mux(context, 0, rows == 0) | (~context & ~emitter.score & (tokens == 0))

        state = Signal(State)
        fed = Signal()
        end_of_context = Signal()
        with m.If(self.feed_finished):
            m.d.sync += fed.eq(1)
        with m.Switch(state):
            with m.Case(State.IDLE):
                m.d.comb += self.idle.eq(1)
                with m.If(self.accept):
                    m.d.sync += [state.eq(State.CHECK), fed.eq(0)]
            with m.Case(State.CHECK):
                with m.If(nothing):
                    m.d.sync += state.eq(State.DONE)
                with m.Elif(tokens > most):
                    m.d.sync += state.eq(State.REFUSED)
                with m.Else():
                    m.d.comb += [self.feed_start.eq(1), emitter.start.eq(emits & (tokens != 0))]
                    m.d.sync += state.eq(State.COMPUTE)
            with m.Case(State.COMPUTE), m.If(fed & ~array.busy):
                m.d.comb += end_of_context.eq(context & emits & (tokens != 0))
                m.d.sync += state.eq(State.EMIT)
            with m.Case(State.EMIT), m.If(~emitter.busy):
                m.d.sync += state.eq(State.DONE)
            with m.Case(State.DONE):
                m.d.comb += self.done.eq(1)
                m.d.sync += state.eq(State.IDLE)
            with m.Case(State.REFUSED):
                m.d.comb += self.too_many_tokens.eq(1)

        # Row blocks are complete as the array says; CONTEXT when its last instruction is.
        m.d.comb += emitter.complete.eq(Mux(context, end_of_context, array.finished))
        with m.If(context):
            m.d.comb += emitter.block.bank.eq(feed.bank)
        with m.Else():
            m.d.comb += emitter.block.eq(array.block)
        return m

    def _decode(self, m: Module, array: MultiplierArray, emitter: Emitter):
        """Spread the instruction's fields; returns tokens, rows, the most tokens it may have, and whether it emits."""
        opcode, body = self.command.opcode, self.command.body
        tokens, rows = Signal.like(body.context.tokens), Signal.like(body.context.rows)
        most, emits = Signal(range(self._config.mm_tokens + 1)), Signal()
        m.d.comb += [most.eq(self._config.mm_tokens), emits.eq(1), emitter.group.eq(1), emitter.tokens.eq(tokens)]

        def common(insn):
            m.d.comb += [tokens.eq(insn.tokens), rows.eq(insn.rows), emitter.depth.eq(insn.depth)]
            m.d.comb += [array.act.eq(insn.act), array.act_stride.eq(insn.act_stride), array.parts.eq(insn.tokens)]
            m.d.comb += [getattr(emitter, name).eq(getattr(insn, name)) for name in ("out", "out_stride", "scales")]

        with m.Switch(opcode):
            with m.Case(Opcode.CONTEXT.value):
                common(body.context)
                m.d.comb += [
                    array.parts.eq(tokens << 1),
                    emitter.context.eq(1),
                    emitter.group.eq(body.context.group),
                    emits.eq(body.context.emit),
                ]
                for depth, limit in self._context_limits():
                    with m.If(body.context.depth > depth):
                        m.d.comb += most.eq(limit)
            with m.Case(Opcode.SCORE.value):
                common(body.score)
                m.d.comb += [emitter.score.eq(1), emitter.row_scales.eq(body.score.row_scales)]
            with m.Default():
                common(body.mm)
        return tokens, rows, most, emits

    def _context_limits(self):
        """For rising depths, the most tokens that CONTEXT may have if its depth is larger."""
        deepest = (1 << RECORD["depth"].width) - 1
        depths = range(0, deepest, lanes_of(self._config))
        return [(depth, self._config.context_rows(depth + 1)) for depth in depths]
