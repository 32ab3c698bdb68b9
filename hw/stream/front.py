# SPDX-License-Identifier: Apache-2.0
"""The front of the matrix unit: turns what an instruction takes off the stream, or out of A, into tiles and steps."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from catenary.hw.buffers.signatures import CODE_BITS, ARead
from catenary.hw.matrix.signatures import ArrayFeed, tile_slots
from catenary.hw.memory.line_reader import line_layout
from catenary.hw.stream.blocks import BlockReader, Section
from catenary.hw.stream.cell import Select
from catenary.hw.stream.constants import ConstantsQueue
from catenary.hw.stream.expand import Expander
from catenary.hw.stream.funnel import Aligner, Funnel
from catenary.hw.stream.gearbox import Gearbox
from catenary.hw.stream.index import IndexBuffer
from catenary.hw.stream.outliers import OutlierReader
from catenary.hw.stream.params import GroupParams
from catenary.hw.stream.rows import RowReader
from catenary.hw.stream.slots import BankRing, SlotRing
from catenary.hw.stream.table import CodeTable
from catenary.hw.unit import CAUSE_BITS
from catenary.hw.words import command_layout
from catenary.isa.config import AcceleratorConfig
from catenary.isa.opcodes import KEY_LIMIT, Opcode, Source, Unit
from catenary.isa.registers import ErrorCause
from catenary.isa.tensors import BLOCK


class StreamFront(wiring.Component):
    """Gearbox, funnel, readers and expander, with the slots and banks that the readers claim.

    Instructions are those that the engine lets through: it has refused too many tokens, and MM, MV and SCORE without
    rows and MM and MV without tokens never come here.

    Parameters:
        config: the accelerator.

    Members:
        start: pulse: run ``command``, which is held until ``finished``.
        command: an instruction of the matrix unit.
        finished: pulse, at least one cycle after ``start``: the array has taken every step of the instruction.
        fault: the instruction cannot go on; stays until reset.
        cause: an :class:`ErrorCause`, valid while ``fault`` is high.
        lines: from the stream FIFO.
        a_read: rows of keys and values that lie in A.
        feed: to array and emitter.
        stream_empty: no line or part of a line is here. What is left of the last line of a load is dropped before the
            instruction that leaves it has finished.
        stall_stream: it waits for lines in this cycle.
        stall_buffer: it waits for A in this cycle.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "command": In(command_layout(Unit.MATRIX)),
                "finished": Out(1),
                "fault": Out(1),
                "cause": Out(CAUSE_BITS),
                "lines": In(stream.Signature(line_layout(config))),
                "a_read": Out(ARead(config)),
                "feed": Out(ArrayFeed(config)),
                "stream_empty": Out(1),
                "stall_stream": Out(1),
                "stall_buffer": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, feed = self._config, self.feed
        m.submodules.gearbox = gearbox = Gearbox(config)
        m.submodules.funnel = funnel = Funnel(config)
        m.submodules.aligner = aligner = Aligner(config)
        m.submodules.blocks = blocks = BlockReader(config)
        m.submodules.rows = rows = RowReader(config)
        m.submodules.slots = slots = SlotRing(tile_slots(config))
        m.submodules.banks = banks = BankRing()
        m.submodules.constants = constants = ConstantsQueue(config)
        m.submodules.index = index = IndexBuffer(config)
        m.submodules.params = params = GroupParams(config)
        m.submodules.table = table = CodeTable(config)
        m.submodules.outliers = outliers = OutlierReader(config)
        m.submodules.expander = expander = Expander(config)

        connect(m, flipped(self.lines), gearbox.lines)
        connect(m, gearbox.head, funnel.head)
        connect(m, rows.a_read, flipped(self.a_read))
        connect(m, constants.port, flipped(feed.constants))
        connect(m, expander.params, params.port)
        connect(m, expander.table, table.port)
        connect(m, expander.tile, flipped(feed.tile))
        connect(m, expander.steps, flipped(feed.steps))

        # The instruction. Fields that SCORE and CONTEXT share lie in different places of their records.
        linear, score, context = self.command.body.mm, self.command.body.score, self.command.body.context
        # Half the unit asks what it is, so a register knows; it does in the second cycle of the instruction.
        is_context, is_score, of_rows = Signal(), Signal(), Signal()
        tokens = Signal(context.tokens.shape())
        opcode = self.command.opcode
        m.d.sync += [
            is_context.eq(opcode == Opcode.CONTEXT.value),
            is_score.eq(opcode == Opcode.SCORE.value),
            of_rows.eq((opcode == Opcode.CONTEXT.value) | (opcode == Opcode.SCORE.value)),
        ]
        m.d.comb += [
            tokens.eq(Mux(is_context, context.tokens, score.tokens)),
            blocks.depth.eq(linear.depth),
            blocks.rows.eq(linear.rows),
            rows.context.eq(is_context),
            rows.idle_lanes.eq(tokens == 0),
            rows.first.eq(context.first),
            rows.emit.eq(context.emit),
            rows.parts.eq(2 * tokens),
        ]
        for name in ("source", "rows", "depth", "pack", "row_lines", "rows_at", "rows_stride"):
            m.d.comb += getattr(rows, name).eq(Mux(is_context, context[name], score[name]))

        # One of the two readers works at a time.
        for name, member in funnel.port.signature.flip().members.items():
            port, of_blocks, of_reader = (getattr(side, name) for side in (funnel.port, blocks.funnel, rows.funnel))
            if member.flow is Out:
                m.d.comb += port.eq(Mux(of_rows, of_reader, of_blocks))
            else:
                m.d.comb += [of_blocks.eq(port), of_reader.eq(port)]

        # What a take brings is aligned in the next cycle or later, and what it is waits for it.
        taken, bias, ends, count = Signal(Section), Signal(), Signal(), Signal.like(blocks.count)
        taken_cell, is_cell = Signal.like(blocks.cell, reset_less=True), Signal()
        with m.If(funnel.port.take):
            m.d.sync += taken.eq(blocks.section)
            m.d.sync += [bias.eq(blocks.section == Section.BIAS), ends.eq(blocks.ends), count.eq(blocks.count)]
        of_codes = funnel.port.take & ~of_rows & (blocks.section == Section.CODES)
        with m.If(funnel.port.take | rows.word_valid):
            m.d.sync += is_cell.eq(of_codes | rows.valid)
        with m.If(of_codes):
            m.d.sync += taken_cell.eq(blocks.cell)
        with m.If(rows.valid):
            m.d.sync += taken_cell.eq(rows.cell)
        arrived = aligner.valid & ~of_rows
        m.d.comb += [
            aligner.load.eq(funnel.load),
            aligner.window.eq(gearbox.head.window),
            aligner.skew.eq(funnel.skew),
            aligner.shift.eq(funnel.port.shift),
            aligner.load_word.eq(rows.word_valid),
            aligner.word.eq(rows.word),
            funnel.busy.eq(aligner.busy),
            blocks.data.eq(aligner.data),
            blocks.arrived.eq(aligner.valid),
            constants.write.eq(arrived & ((taken == Section.SCALES) | (taken == Section.BIAS))),
            constants.item.bias.eq(bias),
            constants.item.ends.eq(ends),
            constants.item.count.eq(count),
            constants.item.data.eq(aligner.data),
            params.clear.eq(blocks.opens & (blocks.section == Section.PARAMS)),
            params.write.eq(arrived & (taken == Section.PARAMS)),
            params.pairs.eq(aligner.data),
            params.kept.eq(blocks.kept),
            params.row.eq(blocks.cell.row),
            index.clear.eq(blocks.opens & (blocks.section == Section.INDEX)),
            index.write.eq(arrived & (taken == Section.INDEX)),
            index.data.eq(aligner.data),
            index.read.eq(expander.valid & (expander.cell.select == Select.INDEX)),
            index.following.eq(taken_cell.following),
            table.write.eq(arrived & (taken == Section.TABLE)),
            table.pair.eq(aligner.data),
            table.restore.eq(blocks.table_restore),
            outliers.clear.eq(blocks.outliers_clear),
            outliers.kept.eq(blocks.kept),
            outliers.rows.eq(blocks.row_count),
            outliers.blocks.eq(blocks.blocks),
            outliers.write.eq(arrived & (taken == Section.OUTLIERS)),
            outliers.word.eq(aligner.data),
            outliers.ends.eq(ends),
            # Codes are not taken before all outliers have become cells.
            expander.valid.eq((aligner.valid & is_cell) | outliers.valid),
            expander.cell.eq(Mux(outliers.valid, outliers.cell, taken_cell)),
            expander.codes.eq(aligner.data),
            expander.index.eq(index.line),
        ]
        with m.If(outliers.valid):
            m.d.comb += expander.codes[: CODE_BITS * BLOCK].eq(outliers.value.replicate(BLOCK))

        claim = Signal()  # of a bank, by CONTEXT
        m.d.comb += [
            slots.claim.eq(blocks.slot_claim | rows.slot_claim | outliers.slot_claim),
            slots.freed.eq(feed.freed),
            banks.claim.eq(blocks.bank_claim | rows.bank_claim | claim),
            feed.bank.eq(banks.bank),
            constants.bank.eq(banks.bank),
            blocks.constants_room.eq(constants.room),
            blocks.constants_pending.eq(constants.pending),
            blocks.params_ready.eq(params.ready),
            blocks.params_busy.eq(params.busy),
            blocks.table_room.eq(table.room),
            blocks.table_busy.eq(table.busy),
            blocks.outliers_room.eq(outliers.room),
            blocks.outliers_busy.eq(outliers.busy),
            blocks.outliers_bad.eq(outliers.bad),
            outliers.slot_free.eq(slots.free),
            outliers.slot.eq(slots.slot),
            outliers.bank.eq(banks.bank),
            self.stream_empty.eq(gearbox.empty),
            self.stall_stream.eq(blocks.waiting | rows.waiting),
            self.stall_buffer.eq(rows.waiting_buffer),
        ]
        for reader in (blocks, rows):
            m.d.comb += [
                reader.slot_free.eq(slots.free),
                reader.slot.eq(slots.slot),
                reader.bank_given.eq(banks.given),
                reader.bank.eq(banks.bank),
            ]

        # Sums of CONTEXT live from the instruction that clears them to the one that emits them.
        live, held = Signal(), Signal()  # there are sums; they have a bank
        live_tokens, live_depth = Signal.like(tokens), Signal.like(rows.depth)
        fits = live & (tokens == live_tokens) & (rows.depth == live_depth)
        fresh = Signal()
        unused = Signal()
        m.d.comb += [
            feed.fresh.eq(fresh),
            rows.fresh.eq(fresh),
            banks.free.eq(feed.bank_free | (unused << banks.bank)),
        ]
        with m.If(rows.summed & ~rows.idle_lanes):
            m.d.sync += fresh.eq(0)

        of_buffer = rows.source == Source.BUFFER.value
        nothing = (is_context & (rows.rows == 0)) | (of_rows & (tokens == 0) & of_buffer)

        def fail(cause: ErrorCause) -> None:
            m.d.sync += [self.fault.eq(1), self.cause.eq(cause.value)]
            m.next = "FAULT"

        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.next = "CHECK"

            with m.State("CHECK"):
                with m.If(is_context):
                    m.next = "CONTEXT"
                with m.Elif(live | (is_score & (tokens != 0) & (rows.depth > KEY_LIMIT))):
                    fail(ErrorCause.ADDRESS_RANGE)
                with m.Elif(nothing):
                    m.next = "FINISH"
                with m.Else():
                    m.d.comb += [blocks.start.eq(~of_rows), rows.start.eq(of_rows)]
                    m.next = "RUN"

            with m.State("CONTEXT"):
                with m.If(~context.clear & ~fits):
                    fail(ErrorCause.ADDRESS_RANGE)
                with m.Elif(context.clear & ~held & (tokens != 0)):
                    m.d.comb += claim.eq(1)
                    m.d.sync += held.eq(banks.given)
                with m.Else():
                    m.d.sync += live.eq(~context.emit)
                    with m.If(context.clear):
                        m.d.sync += [fresh.eq(1), live_tokens.eq(tokens), live_depth.eq(rows.depth)]
                    with m.If(context.emit | (tokens == 0)):  # a cleared sum of no tokens is never emitted
                        m.d.sync += held.eq(0)
                        m.d.comb += unused.eq(held & (tokens == 0))
                    with m.If(nothing):
                        m.next = "FINISH"
                    with m.Else():
                        m.d.comb += rows.start.eq(1)
                        m.next = "RUN"

            with m.State("RUN"):
                with m.If(blocks.bad | rows.bad):
                    fail(ErrorCause.STREAM_FORMAT)
                with m.Elif(rows.beyond | self.a_read.fault):
                    fail(ErrorCause.ADDRESS_RANGE)
                with m.Elif(blocks.done | rows.done):
                    m.next = "DRAIN"

            with m.State("DRAIN"):
                with m.If(self.a_read.fault):
                    fail(ErrorCause.ADDRESS_RANGE)
                with m.Elif(~(expander.busy | rows.busy | aligner.busy)):
                    m.next = "FINISH"

            with m.State("FINISH"):
                m.d.comb += self.finished.eq(1)
                m.next = "IDLE"

            with m.State("FAULT"):
                pass
        return m
