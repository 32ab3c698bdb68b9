# SPDX-License-Identifier: Apache-2.0
"""The load unit: LD from all memory ports into V, A, D or the weight stream, and the fetch of instructions."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.buffers.signatures import AWrite, DWrite, IWrite, VWrite
from catenary.hw.control.runs import FetchLayout
from catenary.hw.memory.line_reader import LineReader, line_layout, port_names, read_ports
from catenary.hw.memory.locate import RowLocator
from catenary.hw.memory.read_master import READ_DEPTH
from catenary.hw.memory.scatter import Kind, Scatter, load_words
from catenary.hw.memory.walk import RowWalker
from catenary.hw.unit import UnitSignature
from catenary.isa.config import AcceleratorConfig
from catenary.isa.fields import SCALAR_BITS
from catenary.isa.instructions import WORD_BYTES, MemoryFormat, Unit
from catenary.isa.registers import ErrorCause

_KINDS = {
    MemoryFormat.I8: Kind.CODES,
    MemoryFormat.F32: Kind.F32,
    MemoryFormat.F16: Kind.F16,
    MemoryFormat.BF16: Kind.BF16,
    MemoryFormat.U64: Kind.DESCRIPTORS,
}


class LoadUnit(wiring.Component):
    """The core of the load unit.

    LD as the instruction chapter defines it, except that the format alone decides between V, A, D and W: dispatch
    refuses every other pair. The lines of one instruction are one range, gaps between rows included. Lines for W go
    straight through, one a cycle; all others are taken apart by a :class:`RowWalker` and written by a
    :class:`Scatter`.

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
            Ready when the unit is idle. Too many for the buffer are a fault.
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
        m.submodules.locator = locator = RowLocator(config)
        m.submodules.walker = walker = RowWalker(config, load_words(config))
        m.submodules.scatter = scatter = Scatter(config)
        wiring.connect(m, walker.steps, scatter.steps)
        for name in ("v_write", "a_write", "d_write", "i_write"):
            wiring.connect(m, getattr(scatter, name), wiring.flipped(getattr(self, name)))

        insn, region = self.insn.payload.body.ld, locator.request.payload
        to_stream, fetching, packed = Signal(), Signal(), Signal()
        adjacent = Signal()  # rows of one element each, which lie side by side in the buffer
        total = Signal.like(walker.total)  # bytes of these, or of code
        code_line = Signal(SCALAR_BITS)

        kind, shift = Signal.like(walker.kind), Signal(range(4))
        with m.Switch(insn.format):
            for fmt, meaning in _KINDS.items():
                with m.Case(fmt.value):
                    m.d.comb += [kind.eq(meaning), shift.eq(exact_log2(fmt.bytes))]
        whole_lines = insn.format == MemoryFormat.LINES.value
        row_bytes = Signal.like(region.row_bytes)
        m.d.comb += [
            row_bytes.eq(insn.elements << shift),
            walker.kind.eq(kind),
            walker.address.eq(insn.address),
            walker.stride.eq(insn.stride),
            walker.rows.eq(insn.rows),
            walker.row_bytes.eq(row_bytes),
            walker.row_lines.eq(insn.row_lines),
            walker.packed.eq(packed),
            walker.offset.eq(locator.offset),
            walker.slots.eq(locator.slots),
            walker.per_line.eq(locator.per_line),
            walker.joined.eq(fetching | (packed & adjacent & locator.full)),
            walker.total.eq(total),
            region.memory.eq(insn.memory),
            region.row.eq(insn.row),
            region.rows.eq(insn.rows),
            region.row_lines.eq(insn.row_lines),
            region.row_bytes.eq(row_bytes),
            region.pack.eq(insn.pack),
            reader.command.payload.eq(locator.lines),
            self.stream.payload.eq(reader.lines.payload),
            scatter.lines.payload.eq(reader.lines.payload),
        ]
        with m.If(whole_lines):
            m.d.comb += [region.row_lines.eq(1), region.row_bytes.eq(0), region.pack.eq(0)]

        finished, too_long, refused = Signal(), Signal(), Signal()
        failed = Signal()  # on the bus or in a buffer; what is under way goes on, so that nobody sees a request change
        with m.If(scatter.fault | reader.error):
            m.d.sync += failed.eq(1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.fetch.ready.eq(1), self.insn.ready.eq(~self.fetch.valid)]
                m.d.sync += [fetching.eq(self.fetch.valid), to_stream.eq(whole_lines & ~self.fetch.valid)]
                with m.If(self.fetch.valid):
                    m.d.comb += [walker.load.eq(1), walker.kind.eq(Kind.INSTRUCTIONS), walker.address.eq(0)]
                    m.d.sync += [
                        total.eq(self.fetch.payload.count * WORD_BYTES),
                        code_line.eq(self.fetch.payload.line),
                        packed.eq(1),
                        too_long.eq(self.fetch.payload.count > config.instruction_words),
                    ]
                    with m.If(self.fetch.payload.count == 0):
                        m.next = "DONE"
                    with m.Else():
                        m.next = "MEASURE"
                with m.Elif(self.insn.valid):
                    m.d.comb += walker.load.eq(1)
                    m.d.sync += [
                        total.eq(insn.rows << shift),
                        adjacent.eq((insn.elements == 1) & (insn.stride == 1) & (kind != Kind.CODES)),
                        packed.eq(insn.pack != 0),
                    ]
                    with m.If((insn.rows == 0) | ((insn.elements == 0) & ~whole_lines)):
                        m.next = "DONE"
                    with m.Else():
                        m.d.comb += locator.request.valid.eq(1)
                        m.next = "LOCATE"
            with m.State("MEASURE"):
                measured, code_lines = self._measured(m, total)
                with m.If(too_long):
                    m.d.comb += refused.eq(1)
                    m.next = "FAILED"
                with m.Elif(measured):
                    m.d.comb += locator.request.valid.eq(1)
                    m.next = "LOCATE"
                m.d.comb += [
                    region.memory.eq(code_line),
                    region.row.eq(0),
                    region.rows.eq(code_lines),
                    region.row_lines.eq(1),
                    region.row_bytes.eq(0),
                    region.pack.eq(0),
                ]
            with m.State("LOCATE"):
                with m.If(locator.found):
                    m.next = "ASK"
                with m.If(locator.fault):
                    m.next = "FAILED"
            with m.State("ASK"):
                m.d.comb += reader.command.valid.eq(1)
                with m.If(reader.command.ready):
                    with m.If(to_stream):
                        m.next = "STREAM"
                    with m.Else():
                        m.d.comb += walker.start.eq(1)
                        m.next = "UNPACK"
            with m.State("STREAM"):
                m.d.comb += [
                    self.stream.valid.eq(reader.lines.valid),
                    reader.lines.ready.eq(self.stream.ready),
                    self.stall.memory.eq(~reader.lines.valid),
                    self.stall.stream.eq(reader.lines.valid & ~self.stream.ready),
                ]
                with m.If(reader.lines.valid & self.stream.ready & reader.lines.payload.last):
                    m.next = "DONE"
            with m.State("UNPACK"):
                m.d.comb += [
                    scatter.lines.valid.eq(reader.lines.valid),
                    reader.lines.ready.eq(scatter.lines.ready),
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
            self.done.eq(finished & ~fetching),
            self.fetch_done.eq(finished & fetching),
            self.fault.eq(locator.fault | refused | scatter.fault | reader.error),
            self.cause.eq(Mux(reader.error, ErrorCause.BUS_ERROR.value, ErrorCause.ADDRESS_RANGE.value)),
        ]
        return m

    def _measured(self, m: Module, nbytes: Signal) -> tuple[Signal, Signal]:
        """(it is known, the number) of lines that ``nbytes`` bytes take; to be asked from one state, until known."""
        line_bytes = self._config.line_bytes
        lines = Signal(range(self._config.lines(1 << len(nbytes)) + 1))
        if line_bytes & (line_bytes - 1) == 0:
            m.d.comb += lines.eq((nbytes + line_bytes - 1) >> exact_log2(line_bytes))
            return Const(1), lines
        # No shift divides by these: count lines. It takes no longer than to read them.
        covered, known = Signal(len(nbytes) + 1), Signal()
        m.d.comb += known.eq(covered >= nbytes)
        with m.If(known):
            m.d.sync += [covered.eq(0), lines.eq(0)]
        with m.Else():
            m.d.sync += [covered.eq(covered + line_bytes), lines.eq(lines + 1)]
        return known, lines
