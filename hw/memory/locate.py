# SPDX-License-Identifier: Apache-2.0
"""Where the rows of a transfer lie: from the operands of LD and ST to a range of lines, or an error."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from catenary.hw.memory.bursts import range_layout
from catenary.hw.words import record_layout
from catenary.isa.config import AcceleratorConfig
from catenary.isa.instructions import Load
from catenary.isa.opcodes import WORD_BYTES, MemoryFormat
from catenary.isa.tensors import BLOCK

TRANSFER = record_layout(Load)
"""The fields that LD and ST have in common; widths below are theirs."""

ROW_BYTES_BITS = TRANSFER["elements"].width + exact_log2(max(form.bytes for form in MemoryFormat))
"""Width of a row's size in bytes."""


def code_bytes(config: AcceleratorConfig) -> int:
    """Bytes of the longest program."""
    return config.instruction_words * WORD_BYTES


def region_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Rows ``row .. row + rows - 1`` of a region of memory that begins at line ``memory``.

    ``row_bytes``, ``pack`` and ``row_lines`` are those of :class:`catenary.isa.memory.RowLayout`.
    """
    return data.StructLayout(
        {
            "memory": TRANSFER["memory"].width,
            "row": TRANSFER["row"].width,
            "rows": max(TRANSFER["rows"].width, bits_for(config.lines(code_bytes(config)))),
            "row_bytes": ROW_BYTES_BITS,
            "pack": TRANSFER["pack"].width,
            "row_lines": TRANSFER["row_lines"].width,
        }
    )


class RowLocator(wiring.Component):
    """Finds the lines of rows one bit at a time, and checks them against the end of memory and of a line.

    There is nothing to multiply with: rows are few bits, loads are long, and multipliers are for matrices. A shift
    costs a cycle for each unit of ``pack``, a product one for each bit of ``row_lines``. Numbers of lines saturate: the
    top bit of a register means "behind the end of memory", and stays.

    Parameters:
        config: the accelerator.
        interleaves: rows with both ``pack`` and several ``row_lines`` are interleaved, 16 bytes of each in a line;
            otherwise ``row_lines`` of packed rows do not count.

    Members:
        request: a region; at least one row.
        found: pulses when the lines are known; ``lines`` and the others stay until the next request.
        fault: pulses instead if rows do not fit in lines, or lie behind the end of memory.
        lines: the range of lines, gaps between rows included.
        interleaved: the rows are.
        offset: bytes in the first line before the first row.
        slots: rows of the region that fit in the first line, from the first row on; 1 if ``pack`` is 0.
        per_line: rows in a line, ``1 << pack``.
        full: packed rows leave no gap at the end of a line.
    """

    def __init__(self, config: AcceleratorConfig, *, interleaves: bool = False):
        self._config = config
        self._interleaves = interleaves
        super().__init__(
            {
                "request": In(stream.Signature(region_layout(config))),
                "interleaved": Out(1),
                "found": Out(1),
                "fault": Out(1),
                "lines": Out(range_layout(config.memory_lines)),
                "offset": Out(range(config.line_bytes)),
                "slots": Out(bits_for(config.line_bytes)),
                "per_line": Out(bits_for(config.line_bytes)),
                "full": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, request = self._config, self.request.payload
        line_bytes, lines = config.line_bytes, config.memory_lines
        # One bit more than lines have, and than row + rows has, so that nothing is "behind the end" from the start.
        width = max(bits_for(lines) + 1, len(request.rows) + 1)
        first, count, row, rows = (Signal(width, name=name) for name in ("first", "count", "row", "rows"))
        size = Signal.like(request.row_bytes)  # bytes of all rows, or pieces of rows, in a line
        pack, row_lines = Signal.like(request.pack), Signal.like(request.row_lines)
        room = Signal(len(row_lines) + bits_for(line_bytes))
        low = row[0]
        memory = Signal(max(width, len(request.memory)))
        packed, interleaved, uneven = request.pack != 0, Signal(), Signal()
        bad_size = request.row_bytes != request.row_lines << exact_log2(BLOCK)
        if self._interleaves:
            m.d.comb += interleaved.eq(packed & (request.row_lines > 1))
        if line_bytes < 2 * BLOCK:
            bad_size = 1  # no line holds 16 bytes of two rows

        m.d.comb += [
            memory.eq(request.memory),
            self.lines.first.eq(first),
            self.lines.count.eq(count),
            self.full.eq(size == line_bytes),
            room.eq(sum(row_lines << bit for bit in range(bits_for(line_bytes)) if line_bytes >> bit & 1)),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.request.ready.eq(1)
                with m.If(self.request.valid):
                    m.d.sync += [
                        first.eq(Cat(memory[: width - 1], memory[width - 1 :].any())),
                        count.eq(0),
                        row.eq(request.row),
                        rows.eq(request.rows),
                        size.eq(Mux(interleaved, BLOCK, request.row_bytes)),
                        uneven.eq(interleaved & bad_size),
                        self.interleaved.eq(interleaved & (line_bytes >= 2 * BLOCK)),
                        pack.eq(request.pack),
                        row_lines.eq(Mux(packed & ~interleaved, 1, request.row_lines)),
                        self.offset.eq(0),
                        self.slots.eq(1),
                        self.per_line.eq(1),
                    ]
                    with m.If(packed):
                        m.next = "PACK"
                    with m.Else():
                        m.next = "FIT"
            with m.State("FIT"):
                with m.If(size > room):
                    m.d.comb += self.fault.eq(1)
                    m.next = "IDLE"
                with m.Else():
                    m.next = "MULTIPLY"
            with m.State("PACK"):
                # row = row >> 1; rows = ceil((row % 2 + rows) / 2): in the end, lines before and lines in the range.
                with m.If((size > line_bytes) | uneven):
                    m.d.comb += self.fault.eq(1)
                    m.next = "IDLE"
                with m.Elif(pack == 0):
                    m.next = "MULTIPLY"
                with m.Else():
                    m.d.sync += [
                        pack.eq(pack - 1),
                        row.eq(row >> 1),
                        rows.eq((rows + low + 1) >> 1),
                        size.eq(size << 1),
                        self.per_line.eq(self.per_line << 1),
                    ]
                    with m.If(low):
                        m.d.sync += self.offset.eq(self.offset + size)
                    with m.Else():
                        m.d.sync += self.slots.eq(self.slots + self.per_line)
            with m.State("MULTIPLY"):
                # first += row * row_lines; count += rows * row_lines
                m.d.sync += [
                    row_lines.eq(row_lines >> 1),
                    row.eq(Cat(Const(0, 1), row[: width - 2], row[width - 2] | row[width - 1])),
                    rows.eq(Cat(Const(0, 1), rows[: width - 2], rows[width - 2] | rows[width - 1])),
                ]
                with m.If(row_lines[0]):
                    m.d.sync += [first.eq(first + row), count.eq(count + rows)]
                with m.If(first[-1] | count[-1] | (row_lines[0] & (row[-1] | rows[-1]))):
                    m.d.comb += self.fault.eq(1)
                    m.next = "IDLE"
                with m.Elif(row_lines == 0):
                    m.next = "CHECK"
            with m.State("CHECK"):
                beyond = Signal()
                m.d.comb += beyond.eq(first + count > lines)
                m.d.comb += [self.fault.eq(beyond), self.found.eq(~beyond)]
                m.next = "IDLE"
        return m
