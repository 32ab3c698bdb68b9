# SPDX-License-Identifier: Apache-2.0
"""The multiplier array: chains, and the sequencer that leads steps through them."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.buffers.signatures import A_LATENCY, ABeside, ARead
from catenary.hw.dsp.segment import SEGMENT, DspSegment, Primitive
from catenary.hw.matrix.accumulators import SUM_BITS, depth_of
from catenary.hw.matrix.chain import Chain, LaneControl, lane_delay
from catenary.hw.matrix.signatures import (
    A_ADDRESS_BITS,
    BANKS,
    StepLayout,
    TileWrite,
    fill_groups,
    lanes_of,
    tile_slots,
    tokens_of,
)
from catenary.isa.config import AcceleratorConfig
from catenary.isa.tensors import BLOCK, KEPT_CHOICES


class BlockLayout(data.StructLayout):
    """A row block whose sums are complete.

    Members:
        bank: of accumulators and constants.
        kept: log2 of the lanes that were added up: row r is in lane r << kept.
        rows: rows of the block.
        has_bias: biases are to be added.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "bank": range(BANKS),
                "kept": range(len(KEPT_CHOICES)),
                "rows": range(lanes_of(config) + 1),
                "has_bias": 1,
            }
        )


class _Work(data.StructLayout):
    """What the pipeline must know about one token of one step."""

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "slot": range(tile_slots(config)),
                "address": range(depth_of(config)),
                "opens": 1,  # the first token of the step
                "closes": 1,  # the last token of the step
                "again": 1,  # with the words of the step before
                "first": 1,
                "show": 1,  # the emitter may want this token's sum,
                "shown_at": range(depth_of(config)),  # and where it will be
                "last": 1,  # the last token of the last step of the row block
                "block": BlockLayout(config),
            }
        )


class MultiplierArray(wiring.Component):
    """Carries out steps, one token a cycle and the next step right behind.

    Once A has accepted the request for a token's word, or that word is still there, the token goes through the pipeline
    without a stop. Every stage is gated by its own valid bit. Complete sums go round a ring, an entry for each token or
    for those side by side; the last step of a row block waits, token by token, while the emitter has not read what is
    there. With L = ``A_LATENCY``, in cycles after the request:

    ====== ========================================================
    L - 1  index registers, with the first token of a step
    L      multiplexers; weight registers, with the first token
    L + 1  multipliers
    L + 2  cascade
    L + 3  accumulators
    ====== ========================================================

    for the first lane of each segment, and a cycle later for each lane behind it. A configuration with ``packed`` does
    all this with two tokens at a time.

    Parameters:
        config: the accelerator.
        primitive: what multiplies.

    Members:
        tile: tile writes.
        steps: steps.
        freed: pulse: the oldest slot in use is free; its step has been taken.
        act, act_stride: first row and distance of rows in A, in words; stable while there are steps.
        parts: rows of A that each step multiplies, 1 to ``mm_tokens``; stable while there are steps.
        growing: sums may be read after any step, and grow on with the next one; nothing is read before all steps are
            through. Stable while there are steps and until sums have been read.
        a_read: activations.
        a_beside: those of the next token; only if two go side by side.
        finished: pulse: the sums of ``block`` are complete.
        block: see :class:`BlockLayout`.
        read_address: accumulators that ``sums`` shows. Unless sums are ``growing``, tokens are read in order, and of
            the address only which one it is of those side by side counts.
        released: pulse: the sums of the next token, or of those side by side, of the oldest complete row block have
            been read; tokens go in order.
        sums: of each lane, in the same cycle.
        busy: a step waits, or is not through; still high in the cycle of ``finished``.
        multiplies: a token, or two, go into the multipliers.
        stalled: a step waits for A.
        fault: a row of activations reaches behind A.
    """

    latency = A_LATENCY + DspSegment.latency + SEGMENT + 1
    """Cycles from an accepted request to a complete sum."""

    def __init__(self, config: AcceleratorConfig, primitive: Primitive = Primitive.BEHAVIOURAL):
        self._config, self._primitive = config, primitive
        self._tokens = tokens_of(config)
        beside = {"a_beside": Out(ABeside())} if self._tokens > 1 else {}
        super().__init__(
            {
                **beside,
                "tile": In(TileWrite(config)),
                "steps": In(stream.Signature(StepLayout(config))),
                "freed": Out(1),
                "act": In(A_ADDRESS_BITS),
                "act_stride": In(12),
                "parts": In(range(config.mm_tokens + 1)),
                "growing": In(1),
                "a_read": Out(ARead(config)),
                "finished": Out(1),
                "block": Out(BlockLayout(config)),
                "released": In(1),
                "read_address": In(range(config.mm_tokens)),
                "sums": Out(signed(SUM_BITS)).array(lanes_of(config)),
                "busy": Out(1),
                "multiplies": Out(1),
                "stalled": Out(1),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        issued, issue = self._sequence(m)

        # The pipeline of valid bits and work.
        valid, work = [issued], [issue]
        for stage in range(1, self.latency):
            passed, item = Signal(name=f"valid_{stage}"), Signal.like(issue, name=f"work_{stage}", reset_less=True)
            m.d.sync += passed.eq(valid[-1])
            with m.If(valid[-1]):
                m.d.sync += item.eq(work[-1])
            valid.append(passed)
            work.append(item)
        m.d.comb += self.busy.eq(self.steps.valid | Cat(valid).any() | self.finished)

        # What lanes do, stage by stage, and position by position.
        select = A_LATENCY
        multiply, add, store = select + 1, select + 2, select + DspSegment.latency
        end = store + SEGMENT  # where the last lane of each group accumulates
        control = LaneControl(self._config).create()
        first_word = [self.a_read.data, *([self.a_beside.data] if self._tokens > 1 else [])]
        # What went on last is still there.
        for word, read, held in zip(control.words[0], first_word, control.words[1], strict=True):
            m.d.comb += word.eq(Mux(work[select].again, held, read))
        for i in range(SEGMENT):
            m.d.comb += [
                control.load_index[i].eq(valid[select - 1 + i] & work[select - 1 + i].opens),
                control.index_slots[i].eq(work[select - 1 + i].slot),
                control.take[i].eq(valid[select + i]),
                control.load[i].eq(valid[select + i] & work[select + i].opens),
                control.weights_slots[i].eq(work[select + i].slot),
                control.multiply[i].eq(valid[multiply + i]),
                control.add[i].eq(valid[add + i]),
            ]
            if i:
                with m.If(valid[select + i - 1]):
                    m.d.sync += [a.eq(b) for a, b in zip(control.words[i], control.words[i - 1], strict=True)]
            # A sum goes on through the positions that are no multiple of its length.
            starts = (i & -i).bit_length() - 1 if i else len(KEPT_CHOICES)
            m.d.sync += control.cut[i].eq(work[multiply + i - 1].block.kept <= starts)
        for delay, address in enumerate(control.addresses):
            at = work[store + delay]
            m.d.comb += [
                address.eq(at.address),
                control.first[delay].eq(at.first),
                control.show[delay].eq(at.show),
                control.shown_at[delay].eq(at.shown_at),
            ]
        for lane in range(BLOCK):
            before, ends = store + lane_delay(lane) - 1, (~lane & (lane + 1)).bit_length() - 1
            m.d.sync += control.accumulate[lane].eq(valid[before] & (work[before].block.kept <= ends))
        m.d.sync += control.joins.eq(work[end - 2].block.kept == KEPT_CHOICES.index(BLOCK))
        m.d.comb += [
            control.join.eq(valid[end - 1]),
            # Weights are read with the first token, but the step is taken with the last one only.
            self.freed.eq(valid[select + SEGMENT - 1] & work[select + SEGMENT - 1].closes),
        ]

        bits, reading = exact_log2(self._tokens), self._next_place(m, self.released)
        m.d.comb += [
            control.read_token.eq(self.read_address[:bits]),
            control.read_address.eq(Mux(self.growing, self.read_address[bits:], reading)),
        ]

        complete = valid[end] & work[end].last
        m.d.sync += self.finished.eq(complete)
        with m.If(complete):
            m.d.sync += self.block.eq(work[end].block)

        groups = self._config.chain_length // BLOCK
        for index in range(self._config.chains):
            first = index * groups
            m.submodules[f"chain_{index}"] = chain = Chain(self._config, self._primitive)
            wiring.connect(m, control, chain.control)
            for group in range(groups):
                row, position = divmod(first + group, fill_groups(self._config))
                mine = self.tile.payload.mask[position] & (self.tile.payload.row == row)
                m.d.comb += [
                    chain.writes[group].eq(self.tile.valid & mine),
                    chain.tile[group].slot.eq(self.tile.payload.slot),
                    chain.tile[group].weights.eq(self.tile.payload.weights[position]),
                    chain.tile[group].index.eq(self.tile.payload.index[position]),
                ]
            for lane, value in enumerate(chain.sums):
                m.d.comb += self.sums[index * len(chain.sums) + lane].eq(value)
        return m

    def _next_place(self, m: Module, taken: Value) -> Signal:
        """The next entry of the ring of complete sums, which goes on after a cycle in which it was ``taken``."""
        place = Signal(range(depth_of(self._config)))
        with m.If(taken):
            m.d.sync += place.eq(Mux(place == depth_of(self._config) - 1, 0, place + 1))
        return place

    def _sequence(self, m: Module):
        """Ask for one word of A a cycle, or two. Returns whether there is one in this cycle, and what it is for.

        Successive steps of CONTEXT want the same words, which are not read again if they are all of a step's. So the
        vector unit can write A while there are one or two tokens.
        """
        step, request, tokens = self.steps.payload, self.a_read.request, self._tokens
        part = Signal(range(self._config.mm_tokens))
        # One bit more than an address, so that rows which leave A are seen: no row is half of A long.
        row, first = Signal(A_ADDRESS_BITS + 1), Signal(A_ADDRESS_BITS + 1)
        addresses = [Signal(A_ADDRESS_BITS + 1, name=f"address_{token}") for token in range(tokens)]
        outside = Signal()
        opens, closes, offered, accepted = Signal(), Signal(), Signal(), Signal()
        unread = Signal(range(depth_of(self._config) + 1))  # complete sums of a lane that are not read yet
        room = unread != depth_of(self._config)
        completes = step.last & ~self.growing
        again, held, last_word = Signal(), Signal(), Signal.like(step.act_word)
        with m.If(accepted):
            m.d.sync += [held.eq(opens & closes), last_word.eq(step.act_word)]
        with m.Elif(~self.busy):  # the next instruction has other words
            m.d.sync += held.eq(0)
        m.d.comb += [
            opens.eq(part == 0),
            closes.eq(part + tokens >= self.parts),
            first.eq(Mux(opens, self.act, row)),
            offered.eq(self.steps.valid & (room | ~completes)),
            again.eq(held & (step.act_word == last_word)),
            request.valid.eq(offered & ~again),
            request.payload.eq(addresses[0]),
            accepted.eq(offered & (again | request.ready)),
            self.steps.ready.eq(accepted & closes),
            self.multiplies.eq(accepted),
            self.stalled.eq(request.valid & ~request.ready),
        ]
        m.d.comb += [at.eq(first + token * self.act_stride + step.act_word) for token, at in enumerate(addresses)]
        leaves = addresses[0][-1]
        if tokens > 1:
            both = part + 1 < self.parts  # the last token may be alone
            m.d.comb += [self.a_beside.both.eq(both), self.a_beside.address.eq(addresses[1])]
            leaves |= both & addresses[1][-1]
        m.d.sync += unread.eq(unread + (accepted & completes) - self.released)
        with m.If(accepted):
            m.d.sync += [part.eq(Mux(closes, 0, part + tokens)), row.eq(first + tokens * self.act_stride)]
            with m.If(leaves):
                m.d.sync += outside.eq(1)
        m.d.comb += self.fault.eq(outside | (self.a_read.valid & self.a_read.fault))

        work = Signal(_Work(self._config), name="issue")
        m.d.comb += [
            work.shown_at.eq(Mux(self.growing, work.address, self._next_place(m, accepted & completes))),
            work.slot.eq(step.slot),
            work.address.eq((step.part_base + part) >> exact_log2(tokens)),
            work.opens.eq(opens),
            work.closes.eq(closes),
            work.again.eq(again),
            work.first.eq(step.first),
            work.show.eq(step.last | self.growing),
            work.last.eq(step.last & closes),
            work.block.bank.eq(step.bank),
            work.block.kept.eq(step.kept),
            work.block.rows.eq(step.rows),
            work.block.has_bias.eq(step.has_bias),
        ]
        return accepted, work
