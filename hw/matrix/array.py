# SPDX-License-Identifier: Apache-2.0
"""The multiplier array: chains, and the sequencer that leads steps through them."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.buffers.signatures import A_LATENCY, ARead
from catenary.hw.matrix.accumulators import SUM_BITS
from catenary.hw.matrix.chain import LOW_LEVELS, Chain, LaneControl
from catenary.hw.matrix.signatures import A_ADDRESS_BITS, BANKS, SLOTS, StepLayout, TileWrite, fill_groups, lanes_of
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

    def __init__(self, config: AcceleratorConfig, slots: int):
        super().__init__(
            {
                "slot": range(slots),
                "address": range(config.mm_tokens),
                "opens": 1,  # the first token of the step
                "closes": 1,  # the last token of the step
                "first": 1,
                "last": 1,  # the last token of the last step of the row block
                "block": BlockLayout(config),
            }
        )


class MultiplierArray(wiring.Component):
    """Carries out steps, one token a cycle and the next step right behind.

    Once A has accepted the request for a token's word, the token goes through the pipeline without a stop. Every stage
    is gated by its own valid bit. With L = ``A_LATENCY``, in cycles after the request:

    ====== ========================================================
    L - 1  index registers, with the first token of a step
    L      multiplexers; weight registers, with the first token
    L + 1  multipliers
    L + 2  reduction, levels 1 and 2
    L + 3  reduction, levels 3 and 4
    L + 4  accumulators
    ====== ========================================================

    Parameters:
        config: the accelerator.
        slots: slots of the tile ring.

    Members:
        tile: tile writes.
        steps: steps.
        freed: pulse: the oldest slot in use is free; its step has been taken.
        act, act_stride: first row and distance of rows in A, in words; stable while there are steps.
        parts: rows of A that each step multiplies, 1 to ``mm_tokens``; stable while there are steps.
        a_read: activations.
        finished: pulse: the sums of ``block`` are complete.
        block: see :class:`BlockLayout`.
        read_bank, read_address: accumulators that ``sums`` shows; of a bank that no step adds to.
        sums: of each lane, in the same cycle.
        busy: a step waits, or is not through; still high in the cycle of ``finished``.
        stalled: a step waits for A.
        fault: a row of activations reaches behind A.
    """

    latency = A_LATENCY + 5
    """Cycles from an accepted request to a complete sum."""

    def __init__(self, config: AcceleratorConfig, slots: int = SLOTS):
        self._config, self._slots = config, slots
        super().__init__(
            {
                "tile": In(TileWrite(config, slots)),
                "steps": In(stream.Signature(StepLayout(config, slots))),
                "freed": Out(1),
                "act": In(A_ADDRESS_BITS),
                "act_stride": In(12),
                "parts": In(range(config.mm_tokens + 1)),
                "a_read": Out(ARead(config)),
                "finished": Out(1),
                "block": Out(BlockLayout(config)),
                "read_bank": In(range(BANKS)),
                "read_address": In(range(config.mm_tokens)),
                "sums": Out(signed(SUM_BITS)).array(lanes_of(config)),
                "busy": Out(1),
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

        # What lanes do, stage by stage.
        select, low, high, store = A_LATENCY, A_LATENCY + 2, A_LATENCY + 3, A_LATENCY + 4
        control = LaneControl(self._config, self._slots).create()
        sums = control.accumulators
        m.d.comb += [
            control.load_index.eq(valid[select - 1] & work[select - 1].opens),
            control.index_slot.eq(work[select - 1].slot),
            control.word.eq(self.a_read.data),
            control.select.eq(valid[select]),
            control.load_weights.eq(valid[select] & work[select].opens),
            control.weights_slot.eq(work[select].slot),
            control.multiply.eq(valid[select + 1]),
            sums.bank.eq(work[store].block.bank),
            sums.first.eq(work[store].first),
            sums.read_bank.eq(self.read_bank),
            # Weights are read with the first token, but the step is taken with the last one only.
            self.freed.eq(valid[select] & work[select].closes),
        ]
        for bank in range(BANKS):
            adding = valid[store] & (work[store].block.bank == bank)
            m.d.comb += sums.addresses[bank].eq(Mux(adding, work[store].address, self.read_address))
        for stage, enables, adds, base in (
            (low, control.low, control.low_add, 0),
            (high, control.high, control.high_add, LOW_LEVELS),
            (store, control.add, None, 0),
        ):
            # Of sums of 2**kept lanes, those at lower levels hold nothing of use.
            kept, useful = work[stage - 1].block.kept, len(enables) - 1
            m.d.sync += enables.eq(Mux(valid[stage - 1], Cat(*(kept <= level for level in range(useful)), 1), 0))
            if adds is not None:
                m.d.sync += adds.eq(Cat(kept > base + level for level in range(len(adds))))

        complete = valid[store] & work[store].last
        m.d.sync += self.finished.eq(complete)
        with m.If(complete):
            m.d.sync += self.block.eq(work[store].block)

        groups = self._config.chain_length // BLOCK
        for index in range(self._config.chains):
            first = index * groups
            m.submodules[f"chain_{index}"] = chain = Chain(self._config, first, self._slots)
            wiring.connect(m, control, chain.control)
            m.d.comb += chain.tile.eq(self.tile.payload)
            for group in range(groups):
                row, position = divmod(first + group, fill_groups(self._config))
                mine = self.tile.payload.mask[position] & (self.tile.payload.row == row)
                m.d.comb += chain.writes[group].eq(self.tile.valid & mine)
            for lane, value in enumerate(chain.sums):
                m.d.comb += self.sums[index * len(chain.sums) + lane].eq(value)
        return m

    def _sequence(self, m: Module):
        """Ask for one word of A a cycle. Returns whether one was accepted in this cycle, and what it is for."""
        step, request = self.steps.payload, self.a_read.request
        part = Signal(range(self._config.mm_tokens))
        # One bit more than an address, so that rows which leave A are seen: no row is half of A long.
        row, following = Signal(A_ADDRESS_BITS + 1), Signal(A_ADDRESS_BITS + 1)
        address, outside = Signal(A_ADDRESS_BITS + 1), Signal()
        opens, closes, accepted = Signal(), Signal(), Signal()
        m.d.comb += [
            opens.eq(part == 0),
            closes.eq(part + 1 == self.parts),
            address.eq(Mux(opens, self.act, row) + step.act_word),
            following.eq(Mux(opens, self.act, row) + self.act_stride),
            request.valid.eq(self.steps.valid),
            request.payload.eq(address),
            accepted.eq(request.valid & request.ready),
            self.steps.ready.eq(request.ready & closes),
            self.stalled.eq(request.valid & ~request.ready),
        ]
        with m.If(accepted):
            m.d.sync += [part.eq(Mux(closes, 0, part + 1)), row.eq(following)]
            with m.If(address[-1]):
                m.d.sync += outside.eq(1)
        m.d.comb += self.fault.eq(outside | (self.a_read.valid & self.a_read.fault))

        work = Signal(_Work(self._config, self._slots), name="issue")
        m.d.comb += [
            work.slot.eq(step.slot),
            work.address.eq(step.part_base + part),
            work.opens.eq(opens),
            work.closes.eq(closes),
            work.first.eq(step.first),
            work.last.eq(step.last & closes),
            work.block.bank.eq(step.bank),
            work.block.kept.eq(step.kept),
            work.block.rows.eq(step.rows),
            work.block.has_bias.eq(step.has_bias),
        ]
        return accepted, work
