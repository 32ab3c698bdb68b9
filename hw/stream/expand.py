# SPDX-License-Identifier: Apache-2.0
"""From codes to weights: the lanes of a tile write a cycle."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.matrix.signatures import COLUMN_BITS, WEIGHT_BITS, StepLayout, TileWrite, fill_groups, tile_slots
from catenary.hw.stream.cell import CellLayout, Select, wide_groups
from catenary.hw.stream.gearbox import take_bits
from catenary.hw.stream.index import HALVED, INDEX_WORD_BITS, ColumnDecoder, is_bitmap
from catenary.hw.stream.params import PairLayout, ParamsSignature
from catenary.hw.stream.table import TABLE_CODE_BITS, TableSignature
from catenary.isa.config import AcceleratorConfig
from catenary.isa.stream_layout import BITS_CODES
from catenary.isa.tensors import BLOCK, KEPT_CHOICES

SIGNED_BITS = 8
"""Codes of this width are weights themselves."""

OWN_COLUMNS = sum(lane << COLUMN_BITS * lane for lane in range(BLOCK))
"""Every lane's own number in its group."""


class Expander(wiring.Component):
    """Computes ``(T[q] - z) * s`` modulo 256 for the codes of each cell, with the column that each lane multiplies.

    Four cycles: split codes, and read scales, zeros and index; look up and subtract; multiply; select. Meanwhile the
    index is decoded. Steps of complete slots wait in a FIFO behind it, which cannot overflow, because each of them
    holds a slot.

    Parameters:
        config: the accelerator.

    Members:
        valid: there is a cell in this cycle; always accepted.
        cell: the cell.
        codes: packed from bit 0 on.
        index: the index line of the cell, one cycle later.
        params: scales and zeros of the row block.
        table: what its codes stand for.
        tile: tile writes.
        steps: steps of complete slots.
        busy: a cell or a step is still here.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "valid": In(1),
                "cell": In(CellLayout(config)),
                "codes": In(take_bits(config)),
                "index": In(INDEX_WORD_BITS * fill_groups(config)),
                "params": Out(ParamsSignature(config)),
                "table": Out(TableSignature(config)),
                "tile": Out(TileWrite(config)),
                "steps": Out(stream.Signature(StepLayout(config))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        groups = fill_groups(self._config)
        stages = 1 + ColumnDecoder.latency
        layout = CellLayout(self._config)
        cells = [Signal(layout, name=f"cell_{i}", reset_less=True) for i in range(stages)]
        valid = [Signal(name=f"valid_{i}") for i in range(stages)]
        for stage in range(stages):
            before, cell = (valid[stage - 1], cells[stage - 1]) if stage else (self.valid, self.cell)
            m.d.sync += valid[stage].eq(before)
            with m.If(before):
                m.d.sync += cells[stage].eq(cell)
        first, third, written = cells[0], cells[2], cells[3]

        # Stage 1: a code for each lane; scales, zeros and index come out of their buffers.
        m.d.comb += [self.params.read.eq(self.valid), self.params.row.eq(self.cell.row)]
        codes = [Signal(SIGNED_BITS * BLOCK, name=f"codes_{group}", reset_less=True) for group in range(groups)]
        used = Signal(BLOCK * groups, reset_less=True)
        with m.If(self.valid):
            m.d.sync += [code.eq(value) for code, value in zip(codes, self._codes(m), strict=True)]
            m.d.sync += used.eq(self._used(m))

        # Columns come with stage 4.
        m.submodules.decoder = decoder = ColumnDecoder(groups)
        m.d.comb += [
            decoder.valid.eq(valid[0]),
            decoder.bitmaps.eq((first.select == Select.INDEX) & is_bitmap(first.step.kept)),
            decoder.line.eq(self.index),
            decoder.halved.eq(first.step.kept == KEPT_CHOICES.index(HALVED)),
            decoder.half.eq(first.half),
        ]
        with m.Switch(first.select):
            with m.Case(Select.OWN):
                m.d.comb += decoder.word.eq(Const(OWN_COLUMNS, INDEX_WORD_BITS).replicate(groups))
            with m.Case(Select.COLUMN):
                m.d.comb += decoder.word.eq(first.column.replicate(BLOCK * groups))
            with m.Default():
                m.d.comb += decoder.word.eq(self.index)

        # Stages 2 and 3: products. Codes and what is in use go along.
        lanes = range(BLOCK * groups)
        differences, scales, products = (
            [Signal(WEIGHT_BITS, name=f"{name}_{lane}", reset_less=True) for lane in lanes]
            for name in ("difference", "scale", "product")
        )
        whole, in_use = [codes], [used]
        for stage in (2, 3):
            whole.append([Signal.like(code, name=f"whole_{stage}_{i}") for i, code in enumerate(codes)])
            in_use.append(Signal.like(used, name=f"in_use_{stage}"))
            with m.If(valid[stage - 2]):
                m.d.sync += in_use[-1].eq(in_use[-2])
                m.d.sync += [after.eq(before) for before, after in zip(whole[-2], whole[-1], strict=True)]
        m.d.comb += self.table.codes.eq(
            Cat(codes[lane // BLOCK].word_select(lane % BLOCK, SIGNED_BITS)[:TABLE_CODE_BITS] for lane in lanes)
        )
        with m.If(valid[0]):
            for lane in lanes:
                pair = data.View(PairLayout, self.params.lanes.word_select(lane, PairLayout.size))
                entry = self.table.entries.word_select(lane, WEIGHT_BITS)
                m.d.sync += [differences[lane].eq(entry - pair.zero), scales[lane].eq(pair.scale)]
        with m.If(valid[1]):
            m.d.sync += [products[lane].eq(differences[lane] * scales[lane]) for lane in lanes]

        # Stage 4: the weights.
        tile = self.tile.payload
        signed = third.bits == BITS_CODES.index(SIGNED_BITS)
        weights = Signal(tile.weights.shape(), reset_less=True)
        with m.If(valid[2]):
            for lane in lanes:
                group, place = divmod(lane, BLOCK)
                code = whole[-1][group].word_select(place, SIGNED_BITS)
                weight = Mux(in_use[-1][lane], Mux(signed, code, products[lane]), 0)
                with m.If(in_use[-1][lane] | ~third.joins):
                    m.d.sync += weights[group][place].eq(weight.as_signed())
        m.d.comb += [
            decoder.joins.eq(third.joins),
            decoder.places.eq(in_use[-1]),
            self.tile.valid.eq(valid[3]),
            tile.slot.eq(written.step.slot),
            tile.row.eq(written.row),
            tile.mask.eq(written.mask),
            tile.weights.eq(weights),
            tile.index.eq(decoder.columns),
        ]

        # The step follows its slot's last write.
        m.submodules.waiting = waiting = SyncFIFOBuffered(
            width=written.step.shape().size, depth=tile_slots(self._config)
        )
        m.d.comb += [
            waiting.w_en.eq(valid[3] & written.push),
            waiting.w_data.eq(written.step),
            self.steps.valid.eq(waiting.r_rdy),
            self.steps.payload.eq(waiting.r_data),
            waiting.r_en.eq(self.steps.ready),
            self.busy.eq(self.valid | Cat(valid).any() | waiting.r_rdy | (waiting.level != 0)),
        ]
        return m

    def _codes(self, m: Module) -> list[Signal]:
        """By group, its codes in bytes. Groups take turns with codes of 8 bits: ``codes`` holds fewer."""
        wide = wide_groups(self._config)
        split = []
        for group in range(fill_groups(self._config)):
            codes = Signal(SIGNED_BITS * BLOCK, name=f"split_{group}")
            with m.Switch(self.cell.bits):
                for number, bits in enumerate(BITS_CODES):
                    with m.Case(number):
                        packed = self.codes.word_select(group % wide if bits == SIGNED_BITS else group, bits * BLOCK)
                        if bits == SIGNED_BITS and wide > 1:
                            packed = Mux(self.cell.repeat, self.codes[: bits * BLOCK], packed)
                        padding = Const(0, SIGNED_BITS - bits)
                        parts = [part for lane in range(BLOCK) for part in (packed.word_select(lane, bits), padding)]
                        m.d.comb += codes.eq(Cat(parts))
            split.append(codes)
        return split

    def _used(self, m: Module) -> Signal:
        """Which lanes have a code."""
        groups, wide = fill_groups(self._config), wide_groups(self._config)
        used, below = Signal(BLOCK * groups), Signal(BLOCK * groups)
        whole, rest = self.cell.count[exact_log2(BLOCK) :], Signal(BLOCK)
        one = 1 << self.cell.count[: exact_log2(BLOCK)]
        m.d.comb += rest.eq(Mux(self.cell.single, one, one - 1))
        before = [((whole > group) & ~self.cell.single).replicate(BLOCK) for group in range(groups)]
        parts = [Mux(whole == group, rest, before[group]) for group in range(groups)]
        m.d.comb += [below.eq(Cat(parts)), used.eq(below)]
        if groups > 1:
            with m.If(self.cell.each):
                m.d.comb += used.eq(below[:BLOCK].replicate(groups))
            with m.Elif((self.cell.bits == BITS_CODES.index(SIGNED_BITS)) & ~self.cell.single):
                m.d.comb += used.eq(Cat(below.word_select(group % wide, BLOCK) for group in range(groups)))
        return used
