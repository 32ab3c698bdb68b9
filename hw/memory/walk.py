# SPDX-License-Identifier: Apache-2.0
"""The walk over rows in lines: which bytes of which piece of a line belong to which word of a buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for, exact_log2

from catenary.hw.memory.locate import ROW_BYTES_BITS, TRANSFER, code_bytes
from catenary.isa.config import AcceleratorConfig
from catenary.isa.opcodes import WORD_BYTES
from catenary.isa.tensors import BLOCK

WIDEST_PIECE = 64
"""Bytes. Wider lines are taken apart: rotating whole lines of a wide memory would cost more than all else here, and
what goes through a buffer is little beside the weights, which go through no rotation."""

ADDRESS_BITS = TRANSFER["address"].width + 1
"""Width of a buffer address in a step: an instruction's and a bit for "behind the end"."""

KIND_BITS = 3
"""Width of an index of a kind of words."""


def piece_bytes(config: AcceleratorConfig) -> int:
    """Bytes of a piece: the widest even part of a line that is no wider than a beat of V or a word of A needs."""
    limit = min(WIDEST_PIECE, max(BLOCK, 4 * config.vector_lanes))
    return max(size for size in range(4, limit + 1, 4) if config.line_bytes % size == 0)


def grain_bytes(config: AcceleratorConfig) -> int:
    """Bytes that a step takes of an instruction word: pieces and instruction words both consist of so many."""
    return gcd(piece_bytes(config), WORD_BYTES)


@dataclass(frozen=True)
class Words:
    """Words of a buffer as a walk sees them.

    Attributes:
        bytes: memory bytes of one word, a power of two.
        most: most bytes of one step, words or parts of words; ``None`` for as many as the word has left.
    """

    bytes: int
    most: int | None


def step_layout(piece: int) -> data.StructLayout:
    """One step of a walk.

    Members:
        kind: index of the kind of words.
        position: first byte in the piece.
        count: bytes; 0 where a piece holds none of the rows.
        address: word that the first byte belongs to.
        offset: of the first byte in that word.
        word_end: the last byte ends its word.
        row_end: the last byte ends its row.
        piece_end: nothing more of this piece is needed.
        line_end: it was the last piece of its line.
    """
    return data.StructLayout(
        {
            "kind": KIND_BITS,
            "position": range(piece),
            "count": range(piece + 1),
            "address": ADDRESS_BITS,
            "offset": range(WORD_BYTES),
            "word_end": 1,
            "row_end": 1,
            "piece_end": 1,
            "line_end": 1,
        }
    )


def walk_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A walk over rows.

    Members:
        kind: index of the kind of words.
        address: word of the first row's first byte.
        stride: words from row to row.
        rows: rows, at least one.
        row_bytes: bytes of a row, at least one. Packed rows without gaps, in memory and in the buffer, may be one row.
        row_lines: lines of a row that has lines of its own.
        packed: rows do not begin a line each; after the last one, only the rest of its line is unused.
        offset, slots, per_line: as :class:`~catenary.hw.memory.locate.RowLocator` finds them.
    """
    one_row = max(ROW_BYTES_BITS, ROW_BYTES_BITS - TRANSFER["elements"].width + TRANSFER["rows"].width)
    return data.StructLayout(
        {
            "kind": KIND_BITS,
            "address": ADDRESS_BITS,
            "stride": TRANSFER["stride"].width,
            "rows": TRANSFER["rows"].width,
            "row_bytes": max(one_row, bits_for(code_bytes(config))),
            "row_lines": TRANSFER["row_lines"].width,
            "packed": 1,
            "offset": range(config.line_bytes),
            "slots": bits_for(config.line_bytes),
            "per_line": bits_for(config.line_bytes),
        }
    )


class RowWalker(wiring.Component):
    """Steps through rows in a range of lines, in the order of memory.

    A step never leaves a piece, a row, or (for words with ``most = None``) a word, and each piece of the range, gaps
    included, ends in exactly one step. So whoever has the pieces, or makes them, only counts along.

    Parameters:
        config: the accelerator.
        kinds: what words there can be.

    Members:
        walk: the rows.
        start: begin; when idle.
        steps: the steps.
        final: the step is the last one.
        idle: no step is left.
        following: behind the last step, the word at which the next row would begin.
    """

    def __init__(self, config: AcceleratorConfig, kinds: Sequence[Words]):
        self._piece = piece_bytes(config)
        self._pieces = config.line_bytes // self._piece
        self._kinds = tuple(kinds)
        super().__init__(
            {
                "walk": In(walk_layout(config)),
                "start": In(1),
                "steps": Out(stream.Signature(step_layout(self._piece))),
                "final": Out(1),
                "idle": Out(1),
                "following": Out(ADDRESS_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        piece, step = self._piece, self.steps.payload
        walk = self.walk
        kind, stride, packed, per_line, row_bytes, row_lines = (
            Signal.like(walk[name], name=name)
            for name in ("kind", "stride", "packed", "per_line", "row_bytes", "row_lines")
        )
        active, gap = Signal(), Signal()
        place = Signal.like(walk.offset)  # of the next byte, from the current piece on
        part = Signal(range(self._pieces))  # current piece of the line
        left, rows_left, slots_left = Signal.like(row_bytes), Signal.like(walk.rows), Signal.like(walk.slots)
        lines_left = Signal.like(row_lines)
        address, row_address = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        offset = Signal.like(step.offset)

        # What a step would take, if bytes are next: what is left of the row, or `room`, which is known beforehand.
        space, room, fills = Signal(range(piece + 1)), Signal(range(piece + 1)), Signal()
        count = Signal.like(room)
        moved, words = Signal(range(WORD_BYTES + piece)), Signal(range(piece + 1))
        next_offset = Signal.like(offset)
        row_end, word_end = Signal(), Signal()
        m.d.comb += [
            space.eq(piece - place),
            row_end.eq(left <= room),
            count.eq(Mux(row_end, left, room)),
            moved.eq(offset + room),
        ]
        with m.Switch(kind):
            for index, word in enumerate(self._kinds):
                with m.Case(index):
                    shift = exact_log2(word.bytes)
                    behind = (offset + left[: len(space)])[:shift]
                    m.d.comb += [words.eq(moved >> shift), next_offset.eq(moved[:shift])]
                    m.d.comb += word_end.eq(Mux(row_end, behind, moved[:shift]) == 0)

        seek, last, final, finished, piece_end, line_end, over = (
            Signal(name=name) for name in ("seek", "last", "final", "finished", "piece_end", "line_end", "over")
        )
        m.d.comb += [
            seek.eq(place >= piece),
            final.eq(rows_left == 1),
            last.eq(packed | (lines_left == 1)),  # of the lines that this row begins in or has
            finished.eq(row_end & (~packed | final | (slots_left == 1)) & ~seek & ~gap),
            piece_end.eq(seek | gap | finished | Mux(row_end, left[: len(space)] == space, fills)),
            line_end.eq(piece_end & (part == self._pieces - 1)),
            over.eq(line_end & last & (finished | gap)),
        ]

        advance = Signal()
        m.d.comb += [
            advance.eq(active & (~self.steps.valid | self.steps.ready)),
            self.final.eq(~active),
            self.idle.eq(~active & ~self.steps.valid),
            self.following.eq(row_address),
        ]
        with m.If(self.steps.ready):
            m.d.sync += self.steps.valid.eq(0)
        with m.If(advance):
            m.d.sync += [
                self.steps.valid.eq(1),
                step.kind.eq(kind),
                step.position.eq(place),
                step.count.eq(Mux(seek | gap, 0, count)),
                step.address.eq(address),
                step.offset.eq(offset),
                step.word_end.eq(word_end),
                step.row_end.eq(row_end),
                step.piece_end.eq(piece_end),
                step.line_end.eq(line_end),
            ]
            with m.If(piece_end):
                m.d.sync += part.eq(Mux(line_end, 0, part + 1))
            with m.If(line_end):
                m.d.sync += lines_left.eq(Mux(last, row_lines, lines_left - 1))
            with m.If(~seek & ~gap):
                with m.If(row_end):
                    m.d.sync += [
                        left.eq(row_bytes),
                        rows_left.eq(rows_left - 1),
                        slots_left.eq(Mux(slots_left == 1, per_line, slots_left - 1)),
                        address.eq(row_address + stride),
                        row_address.eq(row_address + stride),
                    ]
                with m.Else():
                    m.d.sync += [left.eq(left - room), address.eq(address + words)]
            with m.If(over):
                m.d.sync += [gap.eq(0), active.eq(Mux(gap, rows_left != 0, ~final))]
            with m.Elif(finished):
                m.d.sync += gap.eq(1)

        with m.If(self.start):
            m.d.sync += [
                active.eq(1),
                kind.eq(walk.kind),
                address.eq(walk.address),
                row_address.eq(walk.address),
                stride.eq(walk.stride),
                left.eq(walk.row_bytes),
                row_bytes.eq(walk.row_bytes),
                rows_left.eq(walk.rows),
                lines_left.eq(walk.row_lines),
                row_lines.eq(walk.row_lines),
                packed.eq(walk.packed),
                slots_left.eq(walk.slots),
                per_line.eq(walk.per_line),
            ]

        # Where the next step begins, and how far it may reach.
        new_kind, new_place, new_offset = (Signal.like(now, name=f"new_{now.name}") for now in (kind, place, offset))
        m.d.comb += [new_kind.eq(kind), new_place.eq(place + count), new_offset.eq(offset)]
        with m.If(piece_end):
            m.d.comb += new_place.eq(Mux(seek, place - piece, 0))
        with m.If(~seek & ~gap):
            m.d.comb += new_offset.eq(Mux(row_end, 0, next_offset))
        with m.If(self.start):
            m.d.comb += [new_kind.eq(walk.kind), new_place.eq(walk.offset), new_offset.eq(0)]
        new_room, new_fills = self._room(m, new_kind, new_place, new_offset)
        with m.If(self.start | advance):
            m.d.sync += [place.eq(new_place), offset.eq(new_offset), room.eq(new_room), fills.eq(new_fills)]
        return m

    def _room(self, m: Module, kind: Value, place: Value, offset: Value) -> tuple[Value, Value]:
        """Bytes that a step may take from ``place`` on if the row does not end, and whether the piece ends there."""
        space, room, fills = Signal(range(self._piece + 1)), Signal(range(self._piece + 1)), Signal()
        m.d.comb += [space.eq(self._piece - place), room.eq(space), fills.eq(1)]
        with m.Switch(kind):
            for index, word in enumerate(self._kinds):
                most = word.bytes - offset[: exact_log2(word.bytes)] if word.most is None else word.most
                with m.Case(index):
                    if word.most is None or word.most < self._piece:
                        m.d.comb += [room.eq(Mux(space < most, space, most)), fills.eq(space <= most)]
        return room, fills
