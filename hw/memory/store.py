# SPDX-License-Identifier: Apache-2.0
"""The store unit: ST from V or A to memory through all ports."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.buffers.signatures import ARead, VRead
from catenary.hw.memory.gather import Gather, Kind, store_words
from catenary.hw.memory.line_reader import port_names
from catenary.hw.memory.line_writer import LineWriter, bytes_layout, write_ports
from catenary.hw.memory.locate import RowLocator
from catenary.hw.memory.walk import RowWalker
from catenary.hw.memory.write_master import WRITE_DEPTH
from catenary.hw.unit import UnitSignature
from catenary.isa.config import AcceleratorConfig
from catenary.isa.opcodes import MemoryFormat, Unit
from catenary.isa.registers import ErrorCause
from catenary.isa.tensors import BLOCK


class StoreUnit(wiring.Component):
    """The core of the store unit.

    ST as the instruction chapter defines it, except that the format alone decides between V and A. Dispatch refuses
    interleaved rows of floats. The lines of one
    instruction are one range; in gaps between rows no strobe is set.

    Apart from its bus masters, the unit is reset by ``abort``; no other reset may reach it while a program may still be
    running, because AXI does not allow a master to forget what it has begun.

    Parameters:
        config: the accelerator.
        depth: beats that each port's FIFO holds.

    Members:
        insn, done, fault, cause, stall: see :class:`~catenary.hw.unit.UnitSignature`.
        v_read, a_read: the buffers.
        memory_0, memory_1 ...: write halves of the memory ports.
        moved: a line has been made in this cycle.
        written: by port, the bytes that it wrote in this cycle; over all ports and cycles, those of the rows.
        abort: stop; finish bursts that have begun without writing anything more. For one cycle, or until ``idle``, or
            longer.
        idle: all that was commanded has been acknowledged.
    """

    def __init__(self, config: AcceleratorConfig, *, depth: int = WRITE_DEPTH):
        self._config = config
        self._depth = depth
        super().__init__(
            {
                **UnitSignature(Unit.STORE).members,
                "v_read": Out(VRead(config)),
                "a_read": Out(ARead(config)),
                **{name: Out(signature) for name, signature in write_ports(config).items()},
                "moved": Out(1),
                "written": Out(bytes_layout(config)),
                "abort": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.writer = writer = LineWriter(self._config, depth=self._depth)
        for name in port_names(len(self._config.port_bytes)):
            wiring.connect(m, getattr(writer, name), wiring.flipped(getattr(self, name)))
        m.d.comb += [
            writer.abort.eq(self.abort),
            self.idle.eq(writer.idle),
            self.written.eq(writer.written),
            self.moved.eq(writer.lines.valid),
        ]
        m.submodules.unit = ResetInserter(self.abort)(self._unit(writer))
        return m

    def _unit(self, writer: LineWriter) -> Module:
        """Everything but the bus masters."""
        m = Module()
        m.submodules.locator = locator = RowLocator(self._config, interleaves=True)
        m.submodules.walker = walker = RowWalker(self._config, store_words(self._config))
        m.submodules.gather = gather = Gather(self._config)
        wiring.connect(m, walker.steps, gather.steps)
        wiring.connect(m, gather.v_read, wiring.flipped(self.v_read))
        wiring.connect(m, gather.a_read, wiring.flipped(self.a_read))

        insn, region = self.insn.payload.body.st, locator.request.payload
        walk = walker.walk
        codes = insn.format == MemoryFormat.I8.value

        # Of interleaved rows each line is a walk over a word of each row of a block. Only in the first block may rows
        # of others lie before them.
        rows_left, block_rows = Signal.like(walk.rows), Signal.like(walk.rows)
        row_lines, lines_left, later = Signal.like(insn.row_lines), Signal.like(insn.row_lines), Signal()
        following = Signal.like(walk.address)  # first word of the next block
        two_words, interleaved = self._config.line_bytes >= 2 * BLOCK, Signal()
        m.d.comb += [
            interleaved.eq((insn.pack != 0) & (insn.row_lines > 1) if two_words else 0),
            walk.offset.eq(Mux(later, 0, locator.offset)),
            walk.slots.eq(Mux(later, locator.per_line, locator.slots)),
            walk.per_line.eq(locator.per_line),
            block_rows.eq(Mux(rows_left < walk.slots, rows_left, walk.slots)),
            walk.rows.eq(Mux(locator.interleaved, block_rows, rows_left)),
            region.memory.eq(insn.memory),
            region.row.eq(insn.row),
            region.rows.eq(insn.rows),
            region.row_lines.eq(insn.row_lines),
            region.row_bytes.eq(Mux(codes, insn.elements, insn.elements << 2)),
            region.pack.eq(insn.pack),
            writer.command.payload.eq(locator.lines),
            writer.lines.payload.eq(gather.lines.payload),
            writer.lines.valid.eq(gather.lines.valid),
            gather.room.eq(writer.room),
        ]

        copying = Signal()
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.insn.ready.eq(1)
                with m.If(self.insn.valid):
                    m.d.sync += [
                        walk.kind.eq(Mux(codes, Kind.CODES, Kind.F32)),
                        walk.address.eq(insn.address),
                        walk.stride.eq(insn.stride),
                        walk.row_bytes.eq(Mux(interleaved, BLOCK, region.row_bytes)),
                        walk.row_lines.eq(insn.row_lines),
                        walk.packed.eq(insn.pack != 0),
                        rows_left.eq(insn.rows),
                        row_lines.eq(insn.row_lines),
                        lines_left.eq(insn.row_lines),
                        later.eq(0),
                    ]
                    with m.If((insn.rows == 0) | (insn.elements == 0)):
                        m.next = "DONE"
                    with m.Else():
                        m.d.comb += locator.request.valid.eq(1)
                        m.next = "LOCATE"
            with m.State("LOCATE"):
                with m.If(locator.found):
                    m.next = "ASK"
                with m.If(locator.fault):
                    m.next = "FAILED"
            with m.State("ASK"):
                m.d.comb += writer.command.valid.eq(1)
                with m.If(writer.command.ready):
                    m.next = "WALK"
            with m.State("WALK"):
                m.d.comb += walker.start.eq(1)
                m.next = "COPY"
                if two_words:
                    with m.If(locator.interleaved):
                        m.next = "LINE"
            if two_words:
                with m.State("LINE"):
                    m.d.comb += copying.eq(1)
                    with m.If(self.fault):
                        m.next = "FAILED"
                    with m.Elif(walker.final):
                        m.d.sync += [walk.address.eq(walk.address + 1), lines_left.eq(lines_left - 1)]
                        m.next = "WALK"
                        with m.If(lines_left == row_lines):
                            m.d.sync += following.eq(walker.following)
                        with m.If(lines_left == 1):
                            m.d.sync += [
                                walk.address.eq(following),
                                lines_left.eq(row_lines),
                                rows_left.eq(rows_left - block_rows),
                                later.eq(1),
                            ]
                            with m.If(rows_left == block_rows):
                                m.next = "COPY"
            with m.State("COPY"):
                m.d.comb += copying.eq(1)
                with m.If(self.fault):
                    m.next = "FAILED"
                with m.Elif(walker.idle & gather.idle):
                    m.next = "ACKNOWLEDGE"
            with m.State("ACKNOWLEDGE"):
                m.d.comb += self.stall.memory.eq(~writer.idle)
                with m.If(self.fault):
                    m.next = "FAILED"
                with m.Elif(writer.idle):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
            with m.State("FAILED"):
                pass  # until abort
        with m.If(copying):
            m.d.comb += [self.stall.buffer.eq(gather.blocked), self.stall.memory.eq(~gather.blocked & ~writer.room)]
        m.d.comb += [
            self.fault.eq(locator.fault | gather.fault | writer.error),
            self.cause.eq(Mux(writer.error, ErrorCause.BUS_ERROR.value, ErrorCause.ADDRESS_RANGE.value)),
        ]
        return m
