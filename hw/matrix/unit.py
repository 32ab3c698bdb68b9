# SPDX-License-Identifier: Apache-2.0
"""The matrix unit: MM, MV, SCORE and CONTEXT."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from catenary.hw.buffers.signatures import ABeside, ARead, VRead, VWrite
from catenary.hw.dsp.segment import Primitive
from catenary.hw.matrix.engine import MatrixEngine
from catenary.hw.matrix.signatures import tokens_of
from catenary.hw.memory.line_reader import line_layout
from catenary.hw.stream.front import StreamFront
from catenary.hw.unit import UnitSignature
from catenary.hw.words import command_layout
from catenary.isa.config import AcceleratorConfig
from catenary.isa.opcodes import Unit
from catenary.isa.registers import ErrorCause


class MatrixUnit(wiring.Component):
    """The front, which turns what comes from memory into tiles, and the engine, which multiplies them.

    Parameters:
        config: the accelerator.
        primitive: what multiplies codes.

    Members:
        insn, done, fault, cause, stall: see :class:`UnitSignature`.
        lines: from the stream FIFO.
        a_read, a_beside: activations, see :class:`~catenary.hw.matrix.array.MultiplierArray`.
        rows_read: rows of keys and values that lie in A.
        v_read: scales, and the constants of CONTEXT.
        v_write: results.
        stream_empty: the unit holds nothing of the stream.
        multiplies: its multipliers take on a token, or two.
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
                **UnitSignature(Unit.MATRIX).members,
                "lines": In(stream.Signature(line_layout(config))),
                "a_read": Out(ARead(config)),
                **beside,
                "rows_read": Out(ARead(config)),
                "v_read": Out(VRead(config)),
                "v_write": Out(VWrite(config)),
                "stream_empty": Out(1),
                "multiplies": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.front = front = StreamFront(self._config)
        m.submodules.engine = engine = MatrixEngine(self._config, self._primitive)
        connect(m, flipped(self.lines), front.lines)
        connect(m, front.a_read, flipped(self.rows_read))
        connect(m, front.feed, engine.feed)
        connect(m, engine.a_read, flipped(self.a_read))
        if tokens_of(self._config) > 1:
            connect(m, engine.a_beside, flipped(self.a_beside))
        connect(m, engine.v_read, flipped(self.v_read))
        connect(m, engine.v_write, flipped(self.v_write))

        command = Signal(command_layout(Unit.MATRIX), reset_less=True)
        with m.If(engine.accept):
            m.d.sync += command.eq(self.insn.payload)
        m.d.comb += [
            self.insn.ready.eq(engine.idle),
            engine.accept.eq(self.insn.valid & engine.idle),
            engine.command.eq(command),
            front.command.eq(command),
            front.start.eq(engine.feed_start),
            engine.feed_finished.eq(front.finished),
            self.done.eq(engine.done),
            self.stream_empty.eq(front.stream_empty),
            self.multiplies.eq(engine.multiplies),
        ]

        faulty, cause = Signal(), Signal.like(self.cause, init=ErrorCause.NONE.value)
        with m.If(~faulty):
            with m.If(front.fault):
                m.d.sync += [faulty.eq(1), cause.eq(front.cause)]
            with m.Elif(engine.address_fault):
                m.d.sync += [faulty.eq(1), cause.eq(ErrorCause.ADDRESS_RANGE.value)]
            with m.Elif(engine.too_many_tokens):
                m.d.sync += [faulty.eq(1), cause.eq(ErrorCause.ADDRESS_RANGE.value)]
        m.d.comb += [self.fault.eq(faulty), self.cause.eq(cause)]

        # The front may wait for lines while the array still has work: then the unit does not wait.
        for_stream = front.stall_stream & ~engine.computing
        m.d.comb += [
            self.stall.stream.eq(for_stream),
            self.stall.buffer.eq(~for_stream & (engine.stalled | front.stall_buffer)),
        ]
        return m
