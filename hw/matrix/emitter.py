# SPDX-License-Identifier: Apache-2.0
"""The emitter: takes complete sums out of the accumulators and puts results into V."""

from __future__ import annotations

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import enum, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from catenary.hw.buffers.signatures import V_ADDRESS_BITS, VRead, VWrite
from catenary.hw.matrix.accumulators import SUM_BITS
from catenary.hw.matrix.array import BlockLayout
from catenary.hw.matrix.constants import Constants
from catenary.hw.matrix.epilogue import BeatLayout, Epilogue
from catenary.hw.matrix.signatures import BANKS, ConstantsWrite, lanes_of, sum_lane, tokens_of
from catenary.hw.words import record_layout
from catenary.isa.config import AcceleratorConfig
from catenary.isa.instructions import Context
from catenary.isa.tensors import BLOCK, KEPT_CHOICES

RECORD = record_layout(Context)
"""CONTEXT has the widest fields of the instructions that are emitted."""

HEAD_DIM = 128
"""Channels of a head for which emitter and array are equally fast in SCORE."""


def emit_lanes(config: AcceleratorConfig) -> int:
    """Results per cycle: a power of two, as many as the array makes of keys with :data:`HEAD_DIM` channels."""
    made = max(1, lanes_of(config) * tokens_of(config) // HEAD_DIM)
    return min(BLOCK, config.vector_lanes, 1 << made.bit_length() - 1)


class State(enum.Enum, shape=2):
    """What the emitter is doing."""

    WAIT = 0
    TOKENS = 1
    """Fetching constants of tokens."""
    ROWS = 2
    """Fetching scales of rows."""
    EMIT = 3


class Emitter(wiring.Component):
    """Emits row blocks, one after the other, each token by token.

    Parameters:
        config: the accelerator.
        lanes: results per cycle, a power of two up to 16; default :func:`emit_lanes`.

    Members:
        start: pulse: an instruction that emits begins; what follows, up to ``fresh``, is stable until it has ended.
        context, score: it is CONTEXT or SCORE.
        tokens, depth, out, out_stride, group, scales, row_scales: of the instruction; ``group`` is 1 but in CONTEXT.
        fresh: CONTEXT: no sum was ever added to, so all are 0, whatever the accumulators hold.
        complete, block: a row block is complete, or CONTEXT (which needs only the bank); always accepted.
        constants: scales and biases of rows from the front.
        read_address, sums: accumulators.
        released: pulse: the sums of the next token, or of those side by side, have been read; tokens go in order. Not
            in CONTEXT.
        bank_free: pulses: the bank has been emitted, or, of SCORE, its sums have been read.
        v_read, v_write: V.
        busy: something is going on.
        stalled: V is in the way.
        fault: an address behind V.
    """

    def __init__(self, config: AcceleratorConfig, lanes: int | None = None):
        self._config = config
        self._lanes = emit_lanes(config) if lanes is None else lanes
        super().__init__(
            {
                "start": In(1),
                "context": In(1),
                "score": In(1),
                "tokens": In(range(config.mm_tokens + 1)),
                "depth": In(RECORD["depth"].shape),
                "out": In(V_ADDRESS_BITS),
                "out_stride": In(RECORD["out_stride"].shape),
                "group": In(RECORD["group"].shape),
                "scales": In(V_ADDRESS_BITS),
                "row_scales": In(V_ADDRESS_BITS),
                "fresh": In(1),
                "complete": In(1),
                "block": In(BlockLayout(config)),
                "constants": In(ConstantsWrite(config)),
                "released": Out(1),
                "read_address": Out(range(config.mm_tokens)),
                "sums": In(signed(SUM_BITS)).array(lanes_of(config)),
                "bank_free": Out(BANKS),
                "v_read": Out(VRead(config)),
                "v_write": Out(VWrite(config)),
                "busy": Out(1),
                "stalled": Out(1),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, lanes = self._config, self._lanes
        m.submodules.constants = constants = Constants(config, lanes)
        m.submodules.epilogue = epilogue = Epilogue(config, lanes)
        connect(m, flipped(self.constants), constants.write)
        connect(m, flipped(self.v_read), constants.v_read)
        for name in ("scale_at", "bias_at", "scales", "biases", "tokens_at", "tokens"):
            source, sink = (epilogue, constants) if name.endswith("_at") else (constants, epilogue)
            to, of = getattr(sink, name), getattr(source, name)
            m.d.comb += to.eq(of) if name in ("scale_at", "bias_at") else [a.eq(b) for a, b in zip(to, of, strict=True)]

        # Complete row blocks; the front claims a bank for each, so there are never more than banks.
        m.submodules.blocks = blocks = SyncFIFO(width=BlockLayout(config).size, depth=BANKS)
        block = Signal(BlockLayout(config))
        m.d.comb += [blocks.w_data.eq(self.block), blocks.w_en.eq(self.complete), block.eq(blocks.r_data)]

        # What is to be done next.
        state = Signal(State)
        scaled = Signal(BANKS)  # scales of rows of SCORE that results still need
        above = Signal(V_ADDRESS_BITS + 1)  # rows of earlier row blocks
        begin, emitted = Signal(), Signal()
        with m.Switch(state):
            with m.Case(State.WAIT):
                with m.If(self.start):
                    m.d.sync += [state.eq(State.TOKENS), above.eq(0)]
                    m.d.comb += constants.fetch.eq(1)
                with m.Elif(blocks.r_rdy & self.score):
                    m.d.comb += constants.fetch.eq(~scaled.bit_select(block.bank, 1))
                    with m.If(constants.fetch):
                        m.d.sync += state.eq(State.ROWS)
                with m.Elif(blocks.r_rdy):
                    m.d.sync += state.eq(State.EMIT)
                    m.d.comb += begin.eq(1)
            with m.Case(State.TOKENS), m.If(constants.fetched):
                m.d.sync += state.eq(State.WAIT)
            with m.Case(State.ROWS), m.If(constants.fetched):
                m.d.sync += state.eq(State.EMIT)
                m.d.comb += begin.eq(1)
            with m.Case(State.EMIT), m.If(emitted):
                m.d.sync += [state.eq(State.WAIT), above.eq(above + block.rows)]
                m.d.comb += blocks.r_en.eq(1)
        of_rows = ~self.start  # what is fetched next
        m.d.comb += [
            constants.fetch_rows.eq(of_rows),
            constants.fetch_bank.eq(block.bank),
            constants.fetch_base.eq(Mux(of_rows, self.row_scales + above, self.scales)),
            constants.fetch_words.eq(Mux(of_rows, block.rows, Mux(self.context, self.tokens << 1, self.tokens))),
        ]

        sums, beat, valid, outside = self._walk(m, state == State.EMIT, block, above, begin, emitted, epilogue.enable)
        m.d.comb += [epilogue.beat.eq(beat), epilogue.valid.eq(valid[-1]), epilogue.context.eq(self.context)]
        m.d.comb += [to.eq(value) for to, value in zip(epilogue.sums, sums, strict=True)]

        # Results. While V takes none, everything behind waits; while there is nothing, nothing moves.
        request, done = self.v_write.request, epilogue.done_beat
        waiting, accepted = Signal(), Signal()
        m.d.comb += [
            request.valid.eq(epilogue.done),
            request.payload.address.eq(done.address),
            request.payload.count.eq(done.count),
            waiting.eq(request.valid & ~request.ready),
            accepted.eq(request.valid & request.ready),
            epilogue.enable.eq(~waiting & (epilogue.occupied | valid.any() | (state == State.EMIT))),
            constants.enable.eq(epilogue.enable),
        ]
        m.d.comb += [request.payload.data[lane].eq(value) for lane, value in enumerate(epilogue.results)]
        # The front writes constants into a bank that it has, but not those of SCORE.
        ends, read = Signal(BANKS), Signal(BANKS)
        m.d.comb += [
            ends.eq((accepted & done.last) << done.row.bank),
            read.eq(emitted << block.bank),
            self.bank_free.eq(Mux(self.score, read, ends)),
        ]
        with m.If(self.score):
            m.d.sync += scaled.eq((scaled | read) & ~ends)
        m.d.comb += [
            self.busy.eq((state != State.WAIT) | blocks.r_rdy | epilogue.occupied | valid.any()),
            self.stalled.eq(waiting | constants.stalled),
            self.fault.eq(constants.fault | self.v_write.fault | outside),
        ]
        return m

    def _walk(self, m: Module, emitting, block, above, begin, emitted, enable):
        """Go through tokens, and through the rows or channels of each.

        Returns registers: sums, the beat that they are, whether there is one, and whether it lies behind V.
        """
        config, lanes = self._config, self._lanes
        columns = max(RECORD["depth"].width, lanes_of(config).bit_length())
        token = Signal(range(config.mm_tokens))
        column = Signal(columns)  # row of the row block, or channel
        lane = Signal(range(lanes_of(config)))  # the same modulo lanes of the array
        turn = Signal(range(config.mm_tokens))  # accumulators of earlier turns
        low = Signal()  # CONTEXT: the high parts have been read
        in_group = Signal(RECORD["group"].shape)
        line, start = Signal(V_ADDRESS_BITS + 1), Signal(V_ADDRESS_BITS + 1)  # first result of the group, of the token

        left, count, ends, partial = Signal(columns), Signal(range(lanes + 1)), Signal(), Signal()
        address = Signal(V_ADDRESS_BITS + 1)
        last_token = token + 1 == self.tokens
        alone = last_token | (token % tokens_of(config) == tokens_of(config) - 1)  # of those side by side, the last one
        m.d.comb += [
            left.eq(Mux(self.context, self.depth, block.rows) - column),
            ends.eq(left <= lanes),
            count.eq(Mux(ends, left, lanes)),
            partial.eq(self.context & ~low),
            address.eq(start + column),
            self.released.eq(emitting & enable & ends & ~self.context & alone),
            self.read_address.eq(Mux(self.context, turn + (token << 1) + low, token)),
            emitted.eq(emitting & enable & ends & ~partial & last_token),
        ]
        next_line = Signal(V_ADDRESS_BITS + 1)
        m.d.comb += next_line.eq(line + self.out_stride)
        with m.If(begin):
            first = self.out + above
            m.d.sync += [token.eq(0), column.eq(0), lane.eq(0), turn.eq(0), low.eq(0), in_group.eq(0)]
            m.d.sync += [line.eq(first), start.eq(first)]
        with m.Elif(emitting & enable):
            with m.If(partial):
                m.d.sync += low.eq(1)
            with m.Elif(ends):
                m.d.sync += [low.eq(0), column.eq(0), lane.eq(0), turn.eq(0), token.eq(token + 1)]
                with m.If(in_group + 1 == self.group):
                    m.d.sync += [in_group.eq(0), line.eq(next_line), start.eq(next_line)]
                with m.Else():
                    m.d.sync += [in_group.eq(in_group + 1), start.eq(start + self.depth)]
            with m.Else():
                m.d.sync += [low.eq(0), column.eq(column + lanes), lane.eq(lane + lanes)]
                with m.If(lane == lanes_of(config) - lanes):
                    m.d.sync += [lane.eq(0), turn.eq(turn + (self.tokens << 1))]

        # A cycle to read sums, and one to bring those of the beat together.
        layout = BeatLayout(config, lanes)
        valid, outside = Signal(2), Signal()
        reading, beat = Signal(layout, reset_less=True), Signal(layout, reset_less=True)
        with m.If(enable):
            m.d.sync += [valid.eq(Cat(emitting, valid[0])), beat.eq(reading)]
            with m.If(emitting):
                m.d.sync += [
                    reading.address.eq(address),
                    reading.count.eq(count),
                    reading.row.word.eq(column[exact_log2(lanes) :]),
                    reading.row.bank.eq(block.bank),
                    reading.token.eq(token),
                    reading.has_bias.eq(block.has_bias & ~self.context),
                    reading.partial.eq(partial),
                    reading.last.eq(emitted),
                ]
                with m.If(address[-1]):
                    m.d.sync += outside.eq(1)
        kept = Mux(self.context, 0, block.kept)
        return self._picked(m, enable, emitting, lane[exact_log2(lanes) :], kept), beat, valid, outside

    def _picked(self, m: Module, enable, emitting, word, kept):
        """Registers for the sums of rows ``word * lanes ..`` of a row block with N = ``1 << kept``.

        Each lane of the array has a register for its sum, which is 0 unless the lane is wanted, so an OR is all that
        remains to be done: registers cost nothing beside the multiplexers that they spare.
        """
        total, lanes = lanes_of(self._config), self._lanes
        levels = [[sum_lane(row, level) for row in range(total >> level)] for level in range(len(KEPT_CHOICES))]
        wanted: list[list[Value]] = [[] for _ in range(total)]
        for level, sources in enumerate(levels):
            for row, source in enumerate(sources):
                wanted[source].append((kept == level) & (word == row // lanes))
        zero = self.fresh & self.context
        gated = []
        for source, reasons in enumerate(wanted):
            register = Signal(signed(SUM_BITS), name=f"gated_{source}", reset_less=True)
            with m.If(enable & emitting):
                m.d.sync += register.eq(Mux(Cat(reasons).any() & ~zero, self.sums[source], 0))
            gated.append(register)

        level_read = Signal.like(kept, reset_less=True)
        with m.If(enable & emitting):
            m.d.sync += level_read.eq(kept)
        picked = []
        for offset in range(lanes):
            register = Signal(signed(SUM_BITS), name=f"sum_{offset}", reset_less=True)
            if lanes == 1:  # no other lane is wanted, whatever the level
                found = reduce(or_, gated)
            else:
                ones = [
                    reduce(or_, (gated[source] for source in sources[offset::lanes]), Const(0)) for sources in levels
                ]
                found = reduce(or_, (Mux(level_read == level, one, 0) for level, one in enumerate(ones)))
            with m.If(enable):
                m.d.sync += register.eq(found)
            picked.append(register)
        return picked
