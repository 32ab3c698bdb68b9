# SPDX-License-Identifier: Apache-2.0
"""From codes to weights: 16 lanes a cycle."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from catenary.hw.matrix.signatures import SLOTS, StepLayout, TileWrite
from catenary.hw.stream.cell import CellLayout, Select
from catenary.hw.stream.gearbox import TAKE_BITS
from catenary.hw.stream.index import INDEX_WORD_BITS, ColumnDecoder, Columns
from catenary.hw.stream.params import LaneParams, ParamsSignature
from catenary.hw.stream.products import gated_product
from catenary.isa.config import AcceleratorConfig
from catenary.isa.stream_layout import BITS_CODES
from catenary.isa.tensors import BLOCK

SIGNED_BITS = 8
"""Codes of this width are weights themselves."""


class Expander(wiring.Component):
    """Computes ``(q - z) * s`` modulo 256 for the 16 codes of each cell, with the column that each lane multiplies.

    Four cycles: split codes and decode the index; read scales and zeros; multiply; write. Steps of complete slots wait
    in a FIFO behind it, which cannot overflow, because each of them holds a slot.

    Parameters:
        config: the accelerator.
        slots: of the tile ring, which is the most steps that can wait.

    Members:
        valid: there is a cell in this cycle; always accepted.
        cell: the cell.
        codes: packed from bit 0 on.
        index: the index word of the cell, one cycle later.
        params: scales and zeros of the row block.
        tile: tile writes.
        steps: steps of complete slots.
        busy: a cell or a step is still here.
    """

    def __init__(self, config: AcceleratorConfig, slots: int = SLOTS):
        self._config, self._slots = config, slots
        super().__init__(
            {
                "valid": In(1),
                "cell": In(CellLayout(config, slots)),
                "codes": In(TAKE_BITS),
                "index": In(INDEX_WORD_BITS),
                "params": Out(ParamsSignature(config)),
                "tile": Out(TileWrite(config, slots)),
                "steps": Out(stream.Signature(StepLayout(config, slots))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        cells = [Signal(CellLayout(self._config, self._slots), name=f"cell_{i}", reset_less=True) for i in range(4)]
        valid = [Signal(name=f"valid_{i}") for i in range(4)]
        for stage in range(4):
            before, cell = (valid[stage - 1], cells[stage - 1]) if stage else (self.valid, self.cell)
            m.d.sync += valid[stage].eq(before)
            with m.If(before):
                m.d.sync += cells[stage].eq(cell)

        # Stage 0: codes as they came; the index word comes out of its buffer.
        packed = Signal(TAKE_BITS, reset_less=True)
        with m.If(self.valid):
            m.d.sync += packed.eq(self.codes)
        m.d.comb += [
            self.params.read.eq(valid[0]),
            self.params.group.eq(cells[0].group),
            self.params.kept.eq(cells[0].step.kept),
        ]

        # Stage 1: one code and one column a lane; scales and zeros come out of their buffer.
        m.submodules.decoder = decoder = ColumnDecoder()
        m.d.comb += [
            decoder.word.eq(self.index),
            decoder.kept.eq(cells[0].step.kept),
            decoder.half.eq(cells[0].half),
        ]
        codes = Signal(data.ArrayLayout(8, BLOCK), reset_less=True)
        columns = [Signal(Columns, name=f"columns_{i}", reset_less=True) for i in (1, 2)]
        used = [Signal(BLOCK, name=f"used_{i}", reset_less=True) for i in (1, 2)]
        with m.If(valid[0]):
            m.d.sync += used[0].eq(Cat(lane < cells[0].count for lane in range(BLOCK)))
            with m.Switch(cells[0].bits):
                for number, bits in enumerate(BITS_CODES):
                    with m.Case(number):
                        m.d.sync += [codes[lane].eq(packed.word_select(lane, bits)) for lane in range(BLOCK)]
            with m.Switch(cells[0].select):
                with m.Case(Select.OWN):
                    m.d.sync += [columns[0][lane].eq(lane) for lane in range(BLOCK)]
                with m.Case(Select.COLUMN):
                    m.d.sync += [columns[0][lane].eq(cells[0].column) for lane in range(BLOCK)]
                with m.Case(Select.INDEX):
                    m.d.sync += columns[0].eq(decoder.columns)

        # Stage 2: every lane has its scale and shift.
        factors = Signal(data.ArrayLayout(LaneParams, BLOCK), reset_less=True)
        scaled_codes = Signal.like(codes, reset_less=True)
        with m.If(valid[1]):
            m.d.sync += [
                factors.eq(self.params.lanes),
                scaled_codes.eq(codes),
                columns[1].eq(columns[0]),
                used[1].eq(used[0]),
            ]

        # Stage 3: the weights.
        tile = self.tile.payload
        with m.If(valid[2]):
            m.d.sync += tile.index.eq(columns[1])
            signed = cells[2].bits == BITS_CODES.index(SIGNED_BITS)
            for lane in range(BLOCK):
                code, factor = scaled_codes[lane], factors[lane]
                # Unsigned codes have at most half the bits of a signed one.
                expanded = (gated_product(code[: SIGNED_BITS // 2], factor.scale) - factor.shift)[:8]
                m.d.sync += tile.weights[lane].eq(Mux(used[1][lane], Mux(signed, code, expanded), 0).as_signed())
        m.d.comb += [self.tile.valid.eq(valid[3]), tile.slot.eq(cells[3].step.slot), tile.group.eq(cells[3].group)]

        # The step follows its slot's last write.
        m.submodules.waiting = waiting = SyncFIFOBuffered(width=cells[3].step.shape().size, depth=self._slots)
        m.d.comb += [
            waiting.w_en.eq(valid[3] & cells[3].push),
            waiting.w_data.eq(cells[3].step),
            self.steps.valid.eq(waiting.r_rdy),
            self.steps.payload.eq(waiting.r_data),
            waiting.r_en.eq(self.steps.ready),
            self.busy.eq(Cat(valid).any() | waiting.r_rdy | (waiting.level != 0)),
        ]
        return m
