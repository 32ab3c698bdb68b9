# SPDX-License-Identifier: Apache-2.0
"""Reads the rows of SCORE and CONTEXT: keys and values, from the stream or from A."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.buffers.signatures import A_ADDRESS_BITS, A_LATENCY, CODE_BITS, ARead
from catenary.hw.matrix.signatures import BANKS, fill_groups, groups_of, tile_slots
from catenary.hw.stream.cell import CellLayout, Select, key_shifts, wide_groups
from catenary.hw.stream.funnel import ROW_BITS, FunnelSignature
from catenary.hw.stream.gearbox import line_units
from catenary.hw.stream.products import times
from catenary.hw.words import record_layout
from catenary.isa.config import AcceleratorConfig
from catenary.isa.instructions import Context
from catenary.isa.memory import key_pack
from catenary.isa.opcodes import Source
from catenary.isa.stream_layout import BITS_CODES
from catenary.isa.tensors import BLOCK, KEPT_CHOICES

RECORD = record_layout(Context)


class RowReader(wiring.Component):
    """Cuts rows into cells.

    A key of SCORE fills one group of lanes in ``ceil(depth / 16)`` slots, and as many keys as there are groups make a
    tile; of interleaved keys, as many whole blocks as fit. A value row of CONTEXT fills one slot, or one per turn if it
    has more channels than there are lanes.

    A cell has 16 bytes, or more where the stream and the tile writes are wide: of a value row as much as a tile write
    takes of 8-bit codes; of interleaved keys all that a line holds, 16 bytes of each key of a block.

    Parameters:
        config: the accelerator.

    Members:
        start: pulse; what follows up to ``parts`` is stable until ``done``.
        context: the instruction is CONTEXT, not SCORE.
        idle_lanes: there are no tokens: rows are taken off the stream, but become no cells.
        source, rows, depth, pack, row_lines, rows_at, rows_stride: of the instruction; ``rows`` at least 1.
        first: of CONTEXT.
        emit: of CONTEXT; the last step of the last row is the last of its sum.
        parts: accumulators of each turn of CONTEXT.
        done: pulse: all rows are taken.
        bad: the stream does not hold the rows where they should be. The reader stops.
        beyond: an address lies behind A, or a row behind the activations. The reader stops.
        waiting: it waits for the stream.
        waiting_buffer: it waits for A.
        funnel: the stream.
        a_read: A.
        bank_claim: a tile of SCORE wants a bank, which it needs when its first slot is complete.
        bank_given: it has ``bank`` from now on.
        bank: of accumulators.
        fresh: the sum of CONTEXT is still zero.
        summed: pulse: a whole value row is on its way.
        slot_claim: pulse: the next cell is the first one of a new slot.
        slot_free: there is a free slot.
        slot: the slot that a claim in this cycle gets, else the one last claimed.
        valid: there is a cell in this cycle, whose codes a take in this cycle brings, or ``word``.
        cell: it.
        word_valid: its codes are ``word``.
        word: from A.
        busy: a cell still waits for its codes.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        self._line = line_units(config)
        from_record = ("source", "rows", "depth", "pack", "row_lines", "rows_at", "rows_stride", "first", "emit")
        super().__init__(
            {
                "start": In(1),
                "context": In(1),
                "idle_lanes": In(1),
                **{name: In(RECORD[name].shape) for name in from_record},
                "parts": In(range(config.mm_tokens + 1)),
                "done": Out(1),
                "bad": Out(1),
                "beyond": Out(1),
                "waiting": Out(1),
                "waiting_buffer": Out(1),
                "funnel": Out(FunnelSignature(config)),
                "a_read": Out(ARead(config)),
                "bank_claim": Out(1),
                "bank_given": In(1),
                "bank": In(range(BANKS)),
                "fresh": In(1),
                "summed": Out(1),
                "slot_claim": Out(1),
                "slot_free": In(1),
                "slot": In(range(tile_slots(config))),
                "valid": Out(1),
                "cell": Out(CellLayout(config)),
                "word_valid": Out(1),
                "word": Out(ROW_BITS),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        funnel, cell, groups = self.funnel, Signal.like(self.cell), groups_of(self._config)
        from_stream = self.source == Source.STREAM.value

        # Position: rows left, bytes left of this row, word of 16 bytes in it, group of lanes, and where that is.
        fill, wide, pack = fill_groups(self._config), wide_groups(self._config), key_pack(self._config)
        rows_left, depth_left = Signal.like(self.rows), Signal.like(self.depth)
        word, group = Signal(range(-(-(1 << len(self.depth)) // BLOCK))), Signal(range(groups))
        row, at = Signal.like(cell.row), Signal(range(fill))  # of the tile write, and the group in it
        turn_part = Signal(range(self._config.mm_tokens + 1))
        step_groups = Signal(range(wide + 1))  # groups that are done with this cell, or with this row of SCORE
        keys, interleaved, malformed = Signal(range(wide + 1)), Signal(), Signal()
        groups_end = Signal()
        limit = Signal(range(wide * BLOCK + 1))
        row_ends = depth_left <= limit
        last_row = rows_left == keys
        tile_ends = last_row | groups_end
        turn_ends = row_ends | groups_end
        count = Mux(row_ends, depth_left[: len(limit)], limit)

        # Where rows lie: units left of the line or lines that hold them, or addresses in A.
        unit_size = Signal(range((1 << len(self.row_lines)) * self._line))
        units_left, in_line = Signal.like(unit_size), Signal.like(self.rows)
        line_rows = Signal(len(self.rows))
        m.d.comb += [
            unit_size.eq(Mux(self.pack == 0, times(self.row_lines, self._line), self._line)),
            line_rows.eq(1 << self.pack),
        ]
        unit_ends = (in_line + keys == line_rows) | last_row
        row_at = Signal(A_ADDRESS_BITS + 1)
        address = Signal(A_ADDRESS_BITS + 1)
        m.d.comb += address.eq(row_at + word)

        # How much a cell takes.
        m.d.comb += [
            keys.eq(1),
            interleaved.eq(0),
            malformed.eq(from_stream & (self.pack != 0) & (self.row_lines > 1) & ~interleaved),
            limit.eq(BLOCK),
            step_groups.eq(1),
            groups_end.eq(group == groups - 1),
            funnel.size.eq(count << 3),
        ]
        if wide > 1:
            usual = Signal.like(step_groups)  # the last turn of a tile write is shorter, and the last tile write
            m.d.comb += usual.eq(Mux(at >= fill // wide * wide, fill % wide, wide))
            with m.If(self.context & from_stream):
                m.d.comb += step_groups.eq(usual)
                with m.If(group + usual >= groups):
                    m.d.comb += [step_groups.eq(groups - group), groups_end.eq(1)]
                m.d.comb += limit.eq(step_groups << exact_log2(BLOCK))
        if pack:
            # Line by line: a word of each key of a block. Keys of one word that fill their lines are no different.
            most, shifts = 1 << pack, key_shifts(self._config)
            whole = self.depth == Cat(Const(0, exact_log2(BLOCK)), self.row_lines)
            m.d.comb += interleaved.eq(from_stream & ~self.context & (self.pack == pack) & whole)
            with m.If(interleaved):
                m.d.comb += [
                    keys.eq(Mux(rows_left < most, rows_left, most)),
                    step_groups.eq(keys),
                    groups_end.eq(group + 2 * most > groups),
                    funnel.size.eq(most * ROW_BITS),
                    funnel.line.eq(1),
                ]
                with m.Switch(at):
                    for place in range(0, fill - most + 1, most):
                        with m.Case(place):
                            m.d.comb += funnel.shift.eq(shifts.index(place % wide))

        # CONTEXT: byte of the activations that a value row is multiplied with.
        byte = Signal(len(self.first) + 1)

        step = cell.step
        first_slot = Signal(range(tile_slots(self._config)))
        tile_slot = Signal(range(tile_slots(self._config)))
        m.d.comb += tile_slot.eq((first_slot + word) % tile_slots(self._config))
        many = self.context & from_stream if wide > 1 else 0
        m.d.comb += [
            cell.row.eq(row),
            cell.mask.eq(Cat((at <= place) & (place < at + step_groups) for place in range(fill)) if fill > 1 else 1),
            cell.count.eq(count),
            cell.each.eq(~many),
            cell.repeat.eq(~many & ~interleaved),
            cell.bits.eq(BITS_CODES.index(CODE_BITS)),
            step.bank.eq(self.bank),
        ]
        with m.If(self.context):
            m.d.comb += [
                cell.select.eq(Select.COLUMN),
                cell.column.eq(byte % BLOCK),
                cell.push.eq(turn_ends),
                step.slot.eq(self.slot),
                step.act_word.eq(byte // BLOCK),
                step.first.eq(self.fresh),
                step.last.eq(self.emit & last_row & row_ends),
                step.part_base.eq(turn_part),
            ]
        with m.Else():
            m.d.comb += [
                cell.select.eq(Select.OWN),
                cell.push.eq(tile_ends),
                step.slot.eq(Mux(group == 0, self.slot, tile_slot)),
                step.kept.eq(KEPT_CHOICES.index(BLOCK)),
                step.act_word.eq(word),
                step.first.eq(word == 0),
                step.last.eq(row_ends),
                step.rows.eq(group + keys),
            ]

        new_slot, begun = Signal(), Signal()
        has_bank, room, go = Signal(), Signal(), Signal()
        m.d.comb += [
            new_slot.eq(~self.idle_lanes & (group == 0)),
            funnel.begin.eq(~begun),
            self.slot_claim.eq(go & new_slot),
        ]
        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [
                    begun.eq(0),
                    has_bank.eq(0),
                    rows_left.eq(self.rows),
                    depth_left.eq(self.depth),
                    units_left.eq(unit_size),
                    in_line.eq(0),
                    row_at.eq(self.rows_at),
                    byte.eq(self.first),
                    word.eq(0),
                    group.eq(0),
                    row.eq(0),
                    at.eq(0),
                    turn_part.eq(0),
                ]
                m.next = "BETWEEN"

            with m.State("BETWEEN"):
                with m.If(rows_left == 0):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
                with m.Elif(from_stream & ~begun & ~funnel.settled):
                    pass
                with m.Elif(malformed | (from_stream & ~begun & funnel.mid_line)):
                    m.next = "BAD"
                with m.Else():
                    m.next = "ROW"

            with m.State("ROW"):
                m.d.comb += [
                    self.bank_claim.eq(~self.idle_lanes & ~self.context & ~has_bank),
                    room.eq((~new_slot | self.slot_free) & ~(self.bank_claim & cell.push)),
                ]
                with m.If(self.bank_given):
                    m.d.sync += has_bank.eq(1)
                with m.If(from_stream):
                    with m.If(funnel.truncated | (funnel.units > units_left)):
                        m.next = "BAD"
                    with m.Else():
                        m.d.comb += [
                            go.eq(room & funnel.ready),
                            funnel.take.eq(go),
                            self.waiting.eq(room & ~funnel.ready),
                        ]
                with m.Elif(address[-1]):
                    m.next = "BEYOND"
                with m.Else():
                    m.d.comb += [
                        self.a_read.request.valid.eq(room),
                        go.eq(room & self.a_read.request.ready),
                        self.waiting_buffer.eq(room & ~self.a_read.request.ready),
                    ]
                with m.If(self.context & ~self.idle_lanes & byte[-1]):
                    m.next = "BEYOND"

                next_group = Signal()
                with m.If(go):
                    m.d.sync += [
                        begun.eq(1),
                        depth_left.eq(depth_left - limit),
                        word.eq(word + 1),
                    ]
                    with m.If(~interleaved):
                        m.d.sync += units_left.eq(units_left - funnel.dropped)
                    m.d.comb += next_group.eq(self.context)
                    with m.If(self.slot_claim & (word == 0)):
                        m.d.sync += first_slot.eq(self.slot)
                with m.If(go & row_ends):
                    m.d.comb += [self.summed.eq(self.context), next_group.eq(1)]
                    m.d.sync += [
                        rows_left.eq(rows_left - keys),
                        depth_left.eq(self.depth),
                        in_line.eq(Mux(unit_ends, 0, in_line + keys)),
                        row_at.eq(row_at + self.rows_stride),
                        byte.eq(byte + 1),
                        word.eq(0),
                    ]
                    with m.If(from_stream & unit_ends & (units_left != funnel.dropped)):
                        m.next = "REST"
                    with m.Else():
                        with m.If(unit_ends):
                            m.d.sync += units_left.eq(unit_size)
                        with m.If(last_row | (tile_ends & ~self.context)):
                            m.next = "BETWEEN"
                with m.If(next_group):
                    m.d.sync += [group.eq(group + step_groups), at.eq(at + step_groups)]
                    with m.If(at + step_groups == fill):
                        m.d.sync += [at.eq(0), row.eq(row + 1)]
                    with m.If(Mux(self.context, turn_ends, tile_ends)):
                        m.d.sync += [
                            has_bank.eq(0),
                            group.eq(0),
                            at.eq(0),
                            row.eq(0),
                            turn_part.eq(turn_part + self.parts),
                        ]
                        with m.If(row_ends):
                            m.d.sync += turn_part.eq(0)

            # What is left of the last line of a row, or of a line of rows.
            with m.State("REST"):
                m.d.comb += funnel.skip.eq(1)
                with m.If(funnel.truncated):
                    m.next = "BAD"
                with m.Elif(funnel.ready):
                    m.d.sync += units_left.eq(units_left - funnel.dropped)
                    with m.If(units_left == funnel.dropped):
                        m.d.sync += units_left.eq(unit_size)
                        m.next = "BETWEEN"
                with m.Else():
                    m.d.comb += self.waiting.eq(1)

            with m.State("BAD"):
                m.d.comb += self.bad.eq(1)

            with m.State("BEYOND"):
                m.d.comb += self.beyond.eq(1)

        # Codes of A come later than those of the stream, and their cells wait for them.
        cells = [Signal.like(cell, name=f"cell_{i}", reset_less=True) for i in range(A_LATENCY)]
        valid = Signal(A_LATENCY)
        asked = go & ~from_stream
        m.d.sync += valid.eq(Cat(asked, valid[:-1]))
        for before, waits, after in zip([cell, *cells], [asked, *valid[:-1]], cells, strict=False):
            with m.If(waits):
                m.d.sync += after.eq(before)
        m.d.comb += [
            self.a_read.request.payload.eq(address),
            self.busy.eq(valid.any()),
            self.valid.eq(Mux(from_stream, go & ~self.idle_lanes, valid[-1])),
            self.cell.eq(Mux(from_stream, cell, cells[-1])),
            self.word_valid.eq(valid[-1]),
            self.word.eq(self.a_read.data),
        ]
        return m
