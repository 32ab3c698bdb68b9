# SPDX-License-Identifier: Apache-2.0
"""The epilogue: the FP32 pipeline from integer sums to results."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.buffers.signatures import V_ADDRESS_BITS
from catenary.hw.fp.add import FpAdd
from catenary.hw.fp.convert import IntToFloat
from catenary.hw.fp.format import MINUS_ZERO, Float32
from catenary.hw.fp.multiply import FpMul
from catenary.hw.matrix.accumulators import SUM_BITS
from catenary.hw.matrix.constants import RowAddress
from catenary.isa.config import AcceleratorConfig
from catenary.isa.numbers import LOW_BITS


class BeatLayout(data.StructLayout):
    """Sums that go through the epilogue side by side.

    Members:
        address: of the first result in V.
        count: results.
        row: their scales and biases; its bank is that of the sums.
        token: whose constants apply.
        has_bias: biases are to be added.
        partial: high parts of CONTEXT: results come with the next beat, which has the low parts.
        last: the last beat of its row block.
    """

    def __init__(self, config: AcceleratorConfig, lanes: int):
        super().__init__(
            {
                "address": V_ADDRESS_BITS,
                "count": range(lanes + 1),
                "row": RowAddress(config, lanes),
                "token": range(config.mm_tokens),
                "has_bias": 1,
                "partial": 1,
                "last": 1,
            }
        )


class Epilogue(wiring.Component):
    """One beat a cycle: ``(float(sum) * row) * token + bias``, or for CONTEXT
    ``((float(high) * 128 + float(low)) * c1) * c2``.

    Both orders of one addition and two multiplications take equally long, so each lane has one adder and two
    multipliers whose operands are switched, and every result takes ``latency`` enabled cycles.

    A multiplier that served twice per result would halve the rate, and sums of few columns would wait for it.

    Parameters:
        config: the accelerator.
        lanes: results in a beat.

    Members:
        enable: while 0, every register holds.
        context: CONTEXT, not MM, MV or SCORE; changes only while the pipeline is empty.
        valid, beat, sums: a beat.
        scale_at, scales, bias_at, biases, tokens_at, tokens: see :class:`Constants`.
        done: there is a beat at the output.
        done_beat, results: the beat.
        occupied: a beat is in the pipeline.
    """

    def __init__(self, config: AcceleratorConfig, lanes: int):
        self._lanes = lanes
        self.latency = IntToFloat.latency + 2 * FpMul.latency + FpAdd.latency
        beat, row = BeatLayout(config, lanes), RowAddress(config, lanes)
        super().__init__(
            {
                "enable": In(1),
                "context": In(1),
                "valid": In(1),
                "beat": In(beat),
                "sums": In(signed(SUM_BITS)).array(lanes),
                "scale_at": Out(row),
                "scales": In(32).array(lanes),
                "bias_at": Out(row),
                "biases": In(32).array(lanes),
                "tokens_at": Out(range(config.mm_tokens)).array(2),
                "tokens": In(32).array(2),
                "done": Out(1),
                "done_beat": Out(beat),
                "results": Out(32).array(lanes),
                "occupied": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        valid, beats = [self.valid], [self.beat]
        for stage in range(1, self.latency + 1):
            passed, beat = Signal(name=f"valid_{stage}"), Signal.like(self.beat, name=f"beat_{stage}", reset_less=True)
            with m.If(self.enable):
                m.d.sync += [passed.eq(valid[-1]), beat.eq(beats[-1])]
            valid.append(passed)
            beats.append(beat)
        m.d.comb += [
            self.done.eq(valid[-1] & ~beats[-1].partial),
            self.done_beat.eq(beats[-1]),
            self.occupied.eq(Cat(valid[1:]).any()),
        ]

        # Where the operands of each operator are due. Scales and biases are asked for a cycle ahead.
        converted = IntToFloat.latency
        row_scaled = converted + FpMul.latency
        token_scaled = row_scaled + FpMul.latency
        merged = converted + FpAdd.latency
        merged_scaled = merged + FpMul.latency
        m.d.comb += [
            self.scale_at.eq(beats[converted - 1].row),
            self.bias_at.eq(beats[token_scaled - 1].row),
            self.tokens_at[0].eq(beats[merged].token << 1),
            self.tokens_at[1].eq(Mux(self.context, Cat(1, beats[merged_scaled].token), beats[row_scaled].token)),
        ]

        for lane in range(self._lanes):
            m.submodules[f"convert_{lane}"] = convert = IntToFloat(SUM_BITS)
            m.submodules[f"first_{lane}"] = first = FpMul()
            m.submodules[f"second_{lane}"] = second = FpMul()
            m.submodules[f"add_{lane}"] = add = FpAdd()
            m.d.comb += [unit.enable.eq(self.enable) for unit in (convert, first, second, add)]
            high = Signal(Float32, name=f"high_{lane}", reset_less=True)
            with m.If(self.enable & beats[converted].partial):
                m.d.sync += high.eq(convert.o)
            shifted = Signal(Float32, name=f"shifted_{lane}")  # no sum is so large that this would overflow
            m.d.comb += [shifted.eq(high), shifted.exponent.eq(Mux(high.is_zero(), 0, high.exponent + LOW_BITS))]
            bias = Mux(beats[token_scaled].has_bias, self.biases[lane], MINUS_ZERO)
            m.d.comb += [
                convert.i.eq(self.sums[lane]),
                first.a.eq(Mux(self.context, add.o, convert.o)),
                first.b.eq(Mux(self.context, self.tokens[0], self.scales[lane])),
                second.a.eq(first.o),
                second.b.eq(self.tokens[1]),
                add.a.eq(Mux(self.context, shifted, second.o)),
                add.b.eq(Mux(self.context, convert.o, bias)),
                self.results[lane].eq(Mux(self.context, second.o, add.o)),
            ]
        return m
