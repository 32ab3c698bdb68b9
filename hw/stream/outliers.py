# SPDX-License-Identifier: Apache-2.0
"""Outliers: the entries of a row block's section become slots of single weights."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from catenary.hw.matrix.signatures import BANKS, fill_groups, fill_rows, lanes_of, tile_slots
from catenary.hw.stream.cell import CellLayout, Select
from catenary.hw.stream.header import HeaderLayout
from catenary.hw.stream.products import times
from catenary.isa.config import AcceleratorConfig
from catenary.isa.stream_layout import BITS_CODES, OUTLIER_FIELDS
from catenary.isa.tensors import BLOCK, KEPT_CHOICES

EntryLayout = data.StructLayout({field.name: field.width for field in OUTLIER_FIELDS})
"""An entry; fields follow one another without gaps, as :data:`OUTLIER_FIELDS` says."""

_BLOCK_BITS = HeaderLayout["blocks"].width


class OutlierReader(wiring.Component):
    """Makes cells of the entries of an outlier section: at best one a cycle.

    Every tile write of a slot is made at least once, with weights of 0 where there is no entry. Lanes ascend in a slot,
    so tile writes are gone through in order. Entries of one tile write follow one another, each in a cell of its own,
    which keeps what the one before it has set and is written again. An entry waits until the one behind it is there,
    which tells whether the slot is complete.

    Parameters:
        config: the accelerator.

    Members:
        clear: pulse: a row block begins.
        kept, rows, blocks: of its header.
        bank: of the row block.
        write: ``word`` is the next entry. It stays until another one is taken.
        word: the entry.
        ends: it is the last one.
        room: another entry may be taken in this cycle.
        busy: entries are here.
        bad: an entry belongs to no row or no block of columns. Stays until reset.
        slot_claim: pulse: ``cell`` is the first one of a new slot.
        slot_free: there is a free slot.
        slot: the slot that a claim in this cycle gets, else the one last claimed.
        valid: there is a cell in this cycle.
        cell: its codes have 8 bits.
        value: the first one of them, which all lanes share.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "clear": In(1),
                "kept": In(range(len(KEPT_CHOICES))),
                "rows": In(range(lanes_of(config) + 1)),
                "blocks": In(_BLOCK_BITS),
                "bank": In(range(BANKS)),
                "write": In(1),
                "word": In(EntryLayout),
                "ends": In(1),
                "room": Out(1),
                "busy": Out(1),
                "bad": Out(1),
                "slot_claim": Out(1),
                "slot_free": In(1),
                "slot": In(range(tile_slots(config))),
                "valid": Out(1),
                "cell": Out(CellLayout(config)),
                "value": Out(EntryLayout["value"].width),
            }
        )

    def elaborate(self, platform):
        m = Module()
        word, cell, step = self.word, self.cell, self.cell.step
        lanes, rows, width = lanes_of(self._config), fill_rows(self._config), fill_groups(self._config) * BLOCK

        # The entry that arrives, and the one before it, which becomes a cell.
        waits, present = Signal(), Signal()
        started, held, last = Signal(), Signal(), Signal(reset_less=True)
        lane, column, block = Signal(range(lanes)), Signal.like(cell.column), Signal(_BLOCK_BITS)
        following = Signal(_BLOCK_BITS + 1)
        begins, enter, leave = Signal(), Signal(), Signal()
        m.d.comb += [
            present.eq(self.write | waits),
            following.eq(block + word.advance),
            begins.eq(~started | (word.advance != 0) | (word.lane <= lane)),
            self.bad.eq(present & ((word.lane >= self.rows << self.kept) | (following >= self.blocks))),
            enter.eq(present & ~self.bad & (~held | leave)),
            self.room.eq(~present | enter),
            self.busy.eq(present | held),
        ]
        m.d.sync += waits.eq(present & ~enter)
        with m.If(enter):
            m.d.sync += [
                started.eq(1),
                held.eq(1),
                last.eq(self.ends),
                lane.eq(word.lane),
                column.eq(word.column),
                self.value.eq(word.value),
                block.eq(following),
            ]
        with m.Elif(leave):
            m.d.sync += held.eq(0)

        # Where the entry belongs, and which tile writes of the slot have been made.
        target, written, after = Signal(range(rows)), Signal(range(rows + 1)), Signal(range(rows + 1))
        entered, first = Signal(), Signal()
        above = [lane >= width * row for row in range(1, rows)]
        m.d.comb += target.eq(sum(above)) if width & (width - 1) else target.eq(lane >> bits_for(width - 1))
        joins = target < written
        sets = ~entered & (target <= written)  # the cell holds the entry
        ends_slot, complete = Signal(), Signal()
        m.d.comb += [
            ends_slot.eq(last | begins),
            after.eq(Mux(sets & joins, written, written + 1)),
            complete.eq(ends_slot & (sets | entered) & (after == rows)),
            self.valid.eq(held & (last | present) & ((written != 0) | self.slot_free)),
            leave.eq(self.valid & Mux(ends_slot, complete, sets)),
            self.slot_claim.eq(self.valid & (written == 0)),
        ]
        with m.If(self.valid):
            m.d.sync += [
                written.eq(Mux(complete, 0, after)),
                entered.eq(~leave & (sets | entered)),
                first.eq(first & ~complete),
            ]
        with m.If(self.clear):
            m.d.sync += [started.eq(0), block.eq(0), first.eq(1)]

        place = lane[: bits_for(width - 1)] if not width & (width - 1) else lane - times(target, width)
        m.d.comb += [
            cell.row.eq(Mux(sets, target, written)),
            cell.mask.eq(~0),
            cell.count.eq(Mux(sets, place, 0)),
            cell.single.eq(sets),
            cell.joins.eq(sets & joins),
            cell.repeat.eq(1),
            cell.bits.eq(BITS_CODES.index(EntryLayout["value"].width)),
            cell.select.eq(Select.COLUMN),
            cell.column.eq(column),
            cell.push.eq(complete),
            step.slot.eq(self.slot),
            step.kept.eq(self.kept),
            step.act_word.eq(block),
            step.first.eq(first),
            step.bank.eq(self.bank),
        ]
        return m
