# SPDX-License-Identifier: Apache-2.0
"""Reads the row blocks of MM and MV."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.matrix.signatures import SLOTS, lanes_of
from catenary.hw.stream.cell import CellLayout, Select
from catenary.hw.stream.constants import CONSTANTS, ConstantPairLayout
from catenary.hw.stream.funnel import FunnelSignature
from catenary.hw.stream.gearbox import TAKE_BITS, WORD_BITS
from catenary.hw.stream.header import HeaderCheck, HeaderLayout
from catenary.hw.stream.index import INDEX_WORD_BITS, index_rows
from catenary.hw.stream.params import PARAM_ROWS, PairLayout
from catenary.hw.stream.products import times
from catenary.hw.words import record_layout
from catenary.isa.config import AcceleratorConfig
from catenary.isa.instructions import MatrixMatrix
from catenary.isa.stream_layout import BITS_CODES, IndexKind, index_bits
from catenary.isa.tensors import BLOCK, KEPT_CHOICES

RECORD = record_layout(MatrixMatrix)


class Section(enum.Enum, shape=3):
    """Sections of a row block, in the order in which they come; the last three come once per group."""

    SCALES = 0
    BIAS = 1
    PARAMS = 2
    INDEX = 3
    CODES = 4


class BlockReader(wiring.Component):
    """Takes row blocks off the stream until an instruction has all its rows.

    Every section but the header is read in *passes* over the rows: one for scales, biases and the scales and zeros of a
    group, one for each block of 16 columns of index and codes. A cycle takes what fits of: 2 FP32, 4 pairs of scale
    and zero, one index word, 16 codes.

    Parameters:
        config: the accelerator.
        slots: of the tile ring.

    Members:
        start: pulse; ``depth`` and ``rows`` are stable until ``done``.
        depth, rows: of the instruction, ``rows`` at least 1.
        done: pulse: all row blocks are taken, and padding behind them is dropped.
        bad: a row block is damaged or does not fit the instruction. The reader stops.
        waiting: it waits for the stream.
        funnel: the stream.
        bank_claim: a row block wants a bank; held until ``bank_given``.
        bank_given: it has ``bank`` from now on.
        bank: of accumulators and constants.
        slot_claim: pulse: the next cell is the first one of a new slot.
        slot_free: there is a free slot.
        slot: the slot that a claim in this cycle gets, else the one last claimed.
        constants: constants of rows.
        constants_pending: some have not been written yet.
        params_clear, params_write, params: to :class:`GroupParams`.
        index_clear, index_write, index: to :class:`IndexBuffer`.
        index_following: the cell is the last one that uses the current index word.
        valid: there is a cell in this cycle.
        cell: it; its codes are those that the funnel gives.
    """

    def __init__(self, config: AcceleratorConfig, slots: int = SLOTS):
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
                "bank_claim": Out(1),
                "bank_given": In(1),
                "bank": In(1),
                "slot_claim": Out(1),
                "slot_free": In(1),
                "slot": In(range(slots)),
                "constants": Out(stream.Signature(ConstantPairLayout(config))),
                "constants_pending": In(1),
                "params_clear": Out(1),
                "params_write": Out(1),
                "params": Out(data.ArrayLayout(PairLayout, PARAM_ROWS)),
                "index_clear": Out(1),
                "index_write": Out(1),
                "index": Out(INDEX_WORD_BITS),
                "index_following": Out(1),
                "valid": Out(1),
                "cell": Out(CellLayout(config, slots)),
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
        bitmap = header.index == IndexKind.BITMAP.value

        # Where we are: section, pass over the rows, items left in the pass (lanes, for codes).
        section, begun = Signal(Section), Signal()
        passes_done = Signal(16)
        left = Signal(range(lanes + 1))
        groups_left, blocks_left = Signal(16), Signal(16)  # from the current group on
        block = Signal(16)
        group_blocks = Signal(16)
        m.d.comb += group_blocks.eq(Mux(blocks_left < header.group_blocks, blocks_left, header.group_blocks))
        last_group = blocks_left == group_blocks

        # What a cycle takes: all of a row's items in a section have the same size.
        most, bits, partial = Signal(range(BLOCK + 1)), Signal(range(TAKE_BITS + 1)), Signal(range(TAKE_BITS + 1))
        passes_end, row_items = Signal(), Signal(range(lanes + 1))
        m.d.comb += [passes_end.eq(1), row_items.eq(header.rows)]
        few = left[: BLOCK.bit_length()]

        def takes(items: int, item_bits: int) -> list:
            return [most.eq(items), bits.eq(items * item_bits), partial.eq(times(few, item_bits))]

        with m.Switch(section):
            with m.Case(Section.SCALES, Section.BIAS):
                m.d.comb += takes(CONSTANTS, WORD_BITS)
            with m.Case(Section.PARAMS):
                m.d.comb += takes(PARAM_ROWS, PairLayout.size)
            with m.Case(Section.INDEX):
                m.d.comb += passes_end.eq(passes_done + 1 == group_blocks)
                with m.Switch(header.kept):
                    for code, kept in enumerate(KEPT_CHOICES):
                        if kept != BLOCK:
                            with m.Case(code):
                                m.d.comb += takes(index_rows(kept), index_bits(kept))
            with m.Case(Section.CODES):
                m.d.comb += [
                    passes_end.eq(passes_done + 1 == group_blocks),
                    row_items.eq(header.rows << header.kept),
                ]
                with m.Switch(header.bits):
                    for code, width in enumerate(BITS_CODES):
                        with m.Case(code):
                            m.d.comb += takes(BLOCK, width)
        pass_ends = left <= most
        count = Mux(pass_ends, few, most)

        # The cell of a take of codes.
        group = Signal(self.cell.group.shape())
        odd = group % 2 == 1
        step = self.cell.step
        m.d.comb += [
            self.cell.group.eq(group),
            self.cell.count.eq(count),
            self.cell.bits.eq(header.bits),
            self.cell.select.eq(Mux(sparse, Select.INDEX, Select.OWN)),
            self.cell.half.eq(odd),
            self.cell.push.eq(pass_ends),
            step.slot.eq(self.slot),
            step.kept.eq(header.kept),
            step.act_word.eq(block),
            step.first.eq(block == 0),
            step.last.eq(passes_end & last_group),
            step.rows.eq(header.rows),
            step.has_bias.eq(header.has_bias),
            step.bank.eq(self.bank),
            # 8:16 has two groups of lanes in an index word.
            self.index_following.eq(pass_ends | ~bitmap | (header.kept != KEPT_CHOICES.index(8)) | odd),
        ]
        item = Signal(range(lanes))
        m.d.comb += [
            self.constants.payload.bias.eq(section == Section.BIAS),
            self.constants.payload.row.eq(item),
            self.constants.payload.both.eq(~pass_ends | (left == CONSTANTS)),
            self.constants.payload.data.eq(funnel.data),
            self.params.eq(funnel.data),
            self.index.eq(funnel.data),
        ]

        wanted, room = Signal(), Signal()
        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += rows_left.eq(self.rows)
                m.next = "HEADER"

            with m.State("HEADER"):
                m.d.comb += [
                    funnel.size.eq(HeaderLayout.size),
                    funnel.begin.eq(1),
                    funnel.take.eq(funnel.ready & ~funnel.truncated),
                    self.waiting.eq(~funnel.ready),
                ]
                with m.If(funnel.truncated):
                    m.next = "BAD"
                with m.Elif(funnel.ready):
                    m.d.sync += header.eq(funnel.data)
                    m.next = "CHECK"

            with m.State("CHECK"):
                m.d.comb += self.bank_claim.eq(check.ok)
                m.d.sync += [
                    section.eq(Section.SCALES),
                    begun.eq(0),
                    left.eq(header.rows),
                    item.eq(0),
                    passes_done.eq(0),
                    group.eq(0),
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
                    funnel.size.eq(Mux(pass_ends, partial, bits)),
                    wanted.eq(begun | funnel.aligned),
                    funnel.align.eq(~wanted),
                    room.eq(1),
                    self.waiting.eq(wanted & room & ~funnel.ready),
                    funnel.take.eq(wanted & room & funnel.ready & ~funnel.truncated),
                ]
                with m.Switch(section):
                    with m.Case(Section.SCALES, Section.BIAS):
                        m.d.comb += [room.eq(self.constants.ready), self.constants.valid.eq(funnel.take)]
                    with m.Case(Section.PARAMS):
                        m.d.comb += self.params_write.eq(funnel.take)
                    with m.Case(Section.INDEX):
                        m.d.comb += self.index_write.eq(funnel.take)
                    with m.Case(Section.CODES):
                        # The last step must find all constants written.
                        complete = step.last & pass_ends
                        m.d.comb += [
                            room.eq(((group != 0) | self.slot_free) & ~(complete & self.constants_pending)),
                            self.slot_claim.eq(funnel.take & (group == 0)),
                            self.valid.eq(funnel.take),
                        ]
                with m.If(wanted & funnel.truncated):
                    m.next = "BAD"

                new_group = Signal()
                with m.If(funnel.take):
                    m.d.sync += [begun.eq(1), left.eq(left - most), item.eq(item + CONSTANTS), group.eq(group + 1)]
                    with m.If(pass_ends):
                        m.d.sync += [
                            left.eq(row_items),
                            item.eq(0),
                            group.eq(0),
                            passes_done.eq(Mux(passes_end, 0, passes_done + 1)),
                        ]
                        with m.If(section == Section.CODES):
                            m.d.sync += block.eq(block + 1)
                    with m.If(pass_ends & passes_end):
                        m.d.sync += begun.eq(0)
                        with m.Switch(section):
                            with m.Case(Section.SCALES):
                                with m.If(header.has_bias):
                                    m.d.sync += section.eq(Section.BIAS)
                                with m.Else():
                                    m.d.comb += new_group.eq(1)
                            with m.Case(Section.BIAS):
                                m.d.comb += new_group.eq(1)
                            with m.Case(Section.PARAMS):
                                m.d.sync += section.eq(Mux(sparse, Section.INDEX, Section.CODES))
                                m.d.sync += left.eq(Mux(sparse, header.rows, header.rows << header.kept))
                            with m.Case(Section.INDEX):
                                m.d.sync += [section.eq(Section.CODES), left.eq(header.rows << header.kept)]
                            with m.Case(Section.CODES):
                                m.d.sync += [
                                    blocks_left.eq(blocks_left - group_blocks),
                                    groups_left.eq(groups_left - 1),
                                ]
                                with m.If(last_group != (groups_left == 1)):
                                    m.next = "BAD"
                                with m.Elif(last_group):
                                    m.next = "END"
                                with m.Else():
                                    m.d.comb += new_group.eq(1)
                m.d.comb += [self.params_clear.eq(new_group), self.index_clear.eq(new_group)]
                with m.If(new_group):
                    m.d.sync += section.eq(Mux(affine, Section.PARAMS, Mux(sparse, Section.INDEX, Section.CODES)))
                    m.d.sync += left.eq(Mux(affine | sparse, header.rows, header.rows << header.kept))

            with m.State("END"):
                with m.If(~funnel.aligned):
                    m.d.comb += funnel.align.eq(1)
                with m.Elif(rows_left != 0):
                    m.next = "HEADER"
                with m.Elif(~funnel.mid_line):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
                with m.Elif(funnel.level != 0):  # the rest of a line is always on its way
                    m.next = "PADDING"
                    with m.If(~funnel.padding):
                        m.d.comb += self.done.eq(1)
                        m.next = "IDLE"

            with m.State("PADDING"):
                with m.If(~funnel.mid_line):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
                with m.Elif(funnel.level >= funnel.rest):
                    m.d.comb += funnel.skip.eq(funnel.rest)

            with m.State("BAD"):
                m.d.comb += self.bad.eq(1)
        return m
