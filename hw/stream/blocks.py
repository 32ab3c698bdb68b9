# SPDX-License-Identifier: Apache-2.0
"""Reads the row blocks of MM and MV."""

from __future__ import annotations

from amaranth import Array, Module, Mux, Signal
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.matrix.signatures import BANKS, WEIGHT_BITS, fill_groups, fill_rows, lanes_of, tile_slots
from catenary.hw.stream.cell import CellLayout, Select, wide_groups, wide_turns
from catenary.hw.stream.constants import CONSTANT_BITS, constants_of
from catenary.hw.stream.funnel import FunnelSignature
from catenary.hw.stream.gearbox import NARROW_BITS
from catenary.hw.stream.header import HeaderCheck, HeaderLayout
from catenary.hw.stream.index import HALVED, index_rows
from catenary.hw.stream.outliers import EntryLayout
from catenary.hw.stream.params import PairLayout, param_rows
from catenary.hw.stream.products import times
from catenary.hw.stream.table import PAIR_BITS
from catenary.hw.words import record_layout
from catenary.isa.config import AcceleratorConfig
from catenary.isa.instructions import MatrixMatrix
from catenary.isa.stream_layout import BITS_CODES, index_bits
from catenary.isa.tensors import BLOCK, KEPT_CHOICES, TABLE_ENTRIES

RECORD = record_layout(MatrixMatrix)


class Section(enum.Enum, shape=3):
    """Sections of a row block, in the order in which they come; the last three come once per group."""

    HEADER = 0
    TABLE = 1
    SCALES = 2
    BIAS = 3
    OUTLIERS = 4
    PARAMS = 5
    INDEX = 6
    CODES = 7


class BlockReader(wiring.Component):
    """Takes row blocks off the stream until an instruction has all its rows.

    Sections of rows are read in *passes* over them: one for scales, biases and the scales and zeros of a group, one for
    each block of 16 columns of index and codes. For each group of lanes that a tile write holds, a cycle takes what
    fits of: 2 FP32, 4 pairs of scale and zero, one index word, 16 codes, or 8 of 8 bits. Of outliers, each of which is
    a pass of its own, it takes one; of a table two entries, every other cycle.

    Parameters:
        config: the accelerator.

    Members:
        start: pulse; ``depth`` and ``rows`` are stable until ``done``.
        depth, rows: of the instruction, ``rows`` at least 1.
        done: pulse: all row blocks are taken, and padding behind them is dropped.
        bad: a row block is damaged or does not fit the instruction. The reader stops.
        waiting: it waits for the stream.
        funnel: the stream.
        data: what was taken ...
        arrived: ... is aligned now.
        section: what a take in this cycle belongs to.
        count: how many items of it.
        ends: it is the last of its section.
        opens: pulse: it is the first of its section.
        kept: log2 N of the row block.
        row_count, blocks: of its header.
        bank_claim: a row block wants a bank; held until ``bank_given``.
        bank_given: it has ``bank`` from now on.
        bank: of accumulators and constants.
        slot_claim: pulse: the next cell is the first one of a new slot.
        slot_free: there is a free slot.
        slot: the slot that a claim in this cycle gets, else the one last claimed.
        constants_room: constants can be taken.
        constants_pending: some have not been written yet.
        params_ready: the scales and zeros that ``cell`` needs will have been written.
        params_busy: some wait to be written.
        table_restore: pulse: the row block has no table.
        table_room: entries of a table can be taken.
        table_busy: some have not been written yet.
        outliers_clear: pulse: a row block begins.
        outliers_room: an outlier can be taken.
        outliers_busy: some have not become cells yet.
        outliers_bad: one is wrong.
        cell: of a take of codes.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "depth": In(RECORD["depth"].shape),
                "rows": In(RECORD["rows"].shape),
                "done": Out(1),
                "bad": Out(1),
                "waiting": Out(1),
                "funnel": Out(FunnelSignature(config)),
                "data": In(HeaderLayout),
                "arrived": In(1),
                "section": Out(Section),
                "count": Out(range(fill_groups(config) * BLOCK + 1)),
                "ends": Out(1),
                "opens": Out(1),
                "kept": Out(range(len(KEPT_CHOICES))),
                "row_count": Out(range(lanes_of(config) + 1)),
                "blocks": Out(HeaderLayout["blocks"].width),
                "bank_claim": Out(1),
                "bank_given": In(1),
                "bank": In(range(BANKS)),
                "slot_claim": Out(1),
                "slot_free": In(1),
                "slot": In(range(tile_slots(config))),
                "constants_room": In(1),
                "constants_pending": In(1),
                "params_ready": In(1),
                "params_busy": In(1),
                "table_restore": Out(1),
                "table_room": In(1),
                "table_busy": In(1),
                "outliers_clear": Out(1),
                "outliers_room": In(1),
                "outliers_busy": In(1),
                "outliers_bad": In(1),
                "cell": Out(CellLayout(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        funnel = self.funnel
        lanes = lanes_of(self._config)

        # Header.
        header = Signal(HeaderLayout, reset_less=True)
        rows_left = Signal.like(self.rows)
        m.submodules.check = check = HeaderCheck(self._config)
        m.d.comb += [check.header.eq(header), check.depth.eq(self.depth), check.rows.eq(rows_left)]
        affine = header.bits != BITS_CODES.index(8)
        sparse = header.kept != KEPT_CHOICES.index(BLOCK)

        # Where we are: section, pass over the rows, items of the pass that are done (lanes, for codes).
        section, begun = Signal(Section), Signal()
        passes_done = Signal(16)
        items_done = Signal(range(2 * lanes + 1))
        groups_left, blocks_left = Signal(16), Signal(16)  # from the current group on
        block = Signal(16)
        group_blocks = Signal(16)
        m.d.comb += group_blocks.eq(Mux(blocks_left < header.group_blocks, blocks_left, header.group_blocks))
        last_group = blocks_left == group_blocks
        passes_left = Mux(section == Section.OUTLIERS, header.outliers, group_blocks) - passes_done

        # Full row blocks of 8:16 have half an index line for every tile write. Where a slot is an odd number of those,
        # two blocks of columns share a line.
        groups, writes = fill_groups(self._config), fill_rows(self._config)
        paired = Signal()
        if writes % 2 and writes * groups * BLOCK == lanes:
            full = header.rows == self._config.block_rows(HALVED)
            m.d.comb += paired.eq(full & (header.kept == KEPT_CHOICES.index(HALVED)))
        two_blocks = paired & (passes_left != 1)

        # What a cycle takes: all of a row's items in a section have the same size.
        most, size, count = Signal.like(self.count), Signal.like(funnel.size), Signal.like(self.count)
        steps, row_items = Signal(range(3)), Signal.like(items_done)  # passes at once
        passes_end = Signal()
        turns, wide = range(wide_turns(self._config)), wide_groups(self._config)
        row, turn = Signal.like(self.cell.row), Signal(turns)
        narrow = header.bits != BITS_CODES.index(8)
        turn_ends = narrow | (turn == turns[-1])
        m.d.comb += [steps.eq(1), row_items.eq(header.rows), passes_end.eq(1)]

        def takes(items: int, item_bits: int) -> list:
            return [most.eq(items), size.eq(times(count, item_bits))]

        with m.Switch(section):
            with m.Case(Section.TABLE):
                m.d.comb += takes(1, PAIR_BITS)
                m.d.comb += row_items.eq(TABLE_ENTRIES * WEIGHT_BITS // PAIR_BITS)
            with m.Case(Section.OUTLIERS):
                m.d.comb += takes(1, EntryLayout.size)
                m.d.comb += [row_items.eq(1), passes_end.eq(passes_left == 1)]
            with m.Case(Section.SCALES, Section.BIAS):
                m.d.comb += takes(constants_of(self._config), CONSTANT_BITS)
            with m.Case(Section.PARAMS):
                m.d.comb += size.eq(times(count, PairLayout.size))
                with m.Switch(header.kept):
                    for code, kept in enumerate(KEPT_CHOICES):
                        with m.Case(code):
                            m.d.comb += most.eq(param_rows(self._config, kept))
            with m.Case(Section.INDEX):
                m.d.comb += [
                    steps.eq(Mux(two_blocks, 2, 1)),
                    row_items.eq(Mux(two_blocks, header.rows << 1, header.rows)),
                    passes_end.eq(passes_left == steps),
                ]
                with m.Switch(header.kept):
                    for code, kept in enumerate(KEPT_CHOICES):
                        if kept != BLOCK:
                            with m.Case(code):
                                m.d.comb += takes(groups * index_rows(kept), index_bits(kept))
            with m.Case(Section.CODES):
                m.d.comb += [row_items.eq(header.rows << header.kept), passes_end.eq(passes_left == 1)]
                with m.Switch(header.bits):
                    for code, width in enumerate(BITS_CODES):
                        with m.Case(code):
                            m.d.comb += takes((groups if width <= NARROW_BITS else wide) * BLOCK, width)
                            if width > NARROW_BITS and groups % wide:  # the last turn is shorter
                                with m.If(turn_ends):
                                    m.d.comb += most.eq(groups % wide * BLOCK)
        left = row_items - items_done
        pass_ends = left <= most
        m.d.comb += [
            count.eq(Mux(pass_ends, left, most)),
            self.section.eq(section),
            self.count.eq(count),
            self.ends.eq(pass_ends & passes_end),
            self.kept.eq(header.kept),
            self.row_count.eq(header.rows),
            self.blocks.eq(header.blocks),
        ]

        # The cell of a take of codes.
        half = Signal()
        cell, step = self.cell, self.cell.step
        masks = Array((1 << min(wide, groups - wide * number)) - 1 << wide * number for number in range(len(turns)))
        m.d.comb += [
            cell.row.eq(row),
            cell.mask.eq(Mux(narrow, ~0, masks[turn])),
            cell.count.eq(count),
            cell.bits.eq(header.bits),
            cell.select.eq(Mux(sparse, Select.INDEX, Select.OWN)),
            cell.half.eq(half),
            cell.push.eq(pass_ends),
            step.slot.eq(self.slot),
            step.kept.eq(header.kept),
            step.act_word.eq(block),
            step.first.eq((block == 0) & (header.outliers == 0)),
            step.last.eq(passes_end & last_group),
            step.rows.eq(header.rows),
            step.has_bias.eq(header.has_bias),
            step.bank.eq(self.bank),
            # 8:16 has two tile writes in an index line.
            cell.following.eq(
                (pass_ends & ~paired) | ((pass_ends | turn_ends) & (half | (header.kept != KEPT_CHOICES.index(HALVED))))
            ),
        ]

        room, settled = Signal(), Signal()
        m.d.comb += settled.eq(~self.table_busy & ~self.outliers_busy)
        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += rows_left.eq(self.rows)
                m.next = "HEADER"

            with m.State("HEADER"):
                m.d.comb += [
                    funnel.size.eq(HeaderLayout.size),
                    funnel.pads.eq(1),
                    funnel.begin.eq(1),
                    self.section.eq(Section.HEADER),
                    funnel.take.eq(funnel.ready & ~funnel.truncated),
                    self.waiting.eq(~funnel.ready),
                ]
                with m.If(funnel.truncated):
                    m.next = "BAD"
                with m.Elif(funnel.ready):
                    m.next = "ARRIVAL"

            with m.State("ARRIVAL"), m.If(self.arrived):
                m.d.sync += header.eq(self.data)
                m.next = "CHECK"

            with m.State("CHECK"):
                m.d.comb += [
                    self.bank_claim.eq(check.ok),
                    self.outliers_clear.eq(1),
                    self.table_restore.eq(header.table == 0),
                ]
                m.d.sync += [
                    section.eq(Mux(header.table == 0, Section.SCALES, Section.TABLE)),
                    begun.eq(0),
                    items_done.eq(0),
                    passes_done.eq(0),
                    row.eq(0),
                    turn.eq(0),
                    half.eq(0),
                    groups_left.eq(header.groups),
                    blocks_left.eq(header.blocks),
                    block.eq(0),
                ]
                with m.If(~check.ok):
                    m.next = "BAD"
                with m.Elif(self.bank_given):
                    m.d.sync += rows_left.eq(rows_left - header.rows)
                    m.next = "SECTION"

            with m.State("SECTION"):
                m.d.comb += [
                    funnel.size.eq(size),
                    funnel.pads.eq(self.ends),
                    room.eq(settled),
                    self.waiting.eq(room & ~funnel.ready),
                    funnel.take.eq(room & funnel.ready & ~funnel.truncated),
                ]
                with m.Switch(section):
                    with m.Case(Section.TABLE):
                        m.d.comb += room.eq(self.table_room)
                    with m.Case(Section.SCALES, Section.BIAS):
                        m.d.comb += room.eq(settled & self.constants_room)
                    with m.Case(Section.OUTLIERS):
                        m.d.comb += room.eq(self.outliers_room)
                    with m.Case(Section.PARAMS):
                        m.d.comb += room.eq(settled & (begun | ~self.params_busy))
                    with m.Case(Section.CODES):
                        # The last step must find all constants written.
                        complete = step.last & pass_ends
                        opens_slot = (row == 0) & (turn == 0)
                        m.d.comb += [
                            room.eq(
                                settled
                                & (~opens_slot | self.slot_free)
                                & ~(complete & self.constants_pending)
                                & (self.params_ready | ~affine)
                            ),
                            self.slot_claim.eq(funnel.take & opens_slot),
                        ]
                m.d.comb += self.opens.eq(funnel.take & ~begun)
                with m.If(funnel.truncated | self.outliers_bad):
                    m.next = "BAD"

                new_group, constants_end = Signal(), Signal()
                with m.If(funnel.take):
                    m.d.sync += [begun.eq(1), items_done.eq(items_done + most)]
                    with m.If(section == Section.CODES):
                        m.d.sync += turn.eq(Mux(turn_ends, 0, turn + 1))
                        with m.If(turn_ends):
                            m.d.sync += [row.eq(row + 1), half.eq(~half)]
                    with m.If(pass_ends):
                        m.d.sync += [items_done.eq(0), passes_done.eq(Mux(passes_end, 0, passes_done + steps))]
                        with m.If(section == Section.CODES):
                            m.d.sync += [block.eq(block + 1), row.eq(0), turn.eq(0), half.eq(paired & ~half)]
                    with m.If(pass_ends & passes_end):
                        m.d.sync += begun.eq(0)
                        with m.Switch(section):
                            with m.Case(Section.TABLE):
                                m.d.sync += section.eq(Section.SCALES)
                            with m.Case(Section.SCALES):
                                with m.If(header.has_bias):
                                    m.d.sync += section.eq(Section.BIAS)
                                with m.Else():
                                    m.d.comb += constants_end.eq(1)
                            with m.Case(Section.BIAS):
                                m.d.comb += constants_end.eq(1)
                            with m.Case(Section.OUTLIERS):
                                m.d.comb += new_group.eq(1)
                            with m.Case(Section.PARAMS):
                                m.d.sync += section.eq(Mux(sparse, Section.INDEX, Section.CODES))
                            with m.Case(Section.INDEX):
                                m.d.sync += section.eq(Section.CODES)
                            with m.Case(Section.CODES):
                                m.d.sync += [
                                    half.eq(0),
                                    blocks_left.eq(blocks_left - group_blocks),
                                    groups_left.eq(groups_left - 1),
                                ]
                                with m.If(last_group != (groups_left == 1)):
                                    m.next = "BAD"
                                with m.Elif(last_group):
                                    m.next = "END"
                                with m.Else():
                                    m.d.comb += new_group.eq(1)
                with m.If(constants_end & (header.outliers != 0)):
                    m.d.sync += section.eq(Section.OUTLIERS)
                with m.Elif(new_group | constants_end):
                    m.d.sync += section.eq(Mux(affine, Section.PARAMS, Mux(sparse, Section.INDEX, Section.CODES)))

            # What is left of the last line behind the last row block is dropped, unless another row block follows.
            with m.State("END"):
                with m.If(rows_left != 0):
                    m.next = "HEADER"
                with m.Elif(funnel.settled):
                    m.d.comb += funnel.skip.eq(funnel.mid_line & funnel.padding)
                    with m.If(~funnel.skip | funnel.ready):
                        m.d.comb += self.done.eq(1)
                        m.next = "IDLE"

            with m.State("BAD"):
                m.d.comb += self.bad.eq(1)
        return m
