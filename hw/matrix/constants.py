# SPDX-License-Identifier: Apache-2.0
"""FP32 constants that turn sums into results: scales and biases of rows, and scales of tokens."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.buffers.signatures import V_ADDRESS_BITS, VRead
from catenary.hw.matrix.signatures import BANKS, ConstantsWrite, lanes_of
from catenary.isa.config import AcceleratorConfig


class RowAddress(data.StructLayout):
    """Constants of neighbouring rows.

    Members:
        word: number of the first row / number of rows that are handled together.
        bank: of the row block.
    """

    def __init__(self, config: AcceleratorConfig, lanes: int):
        super().__init__({"word": range(lanes_of(config) // lanes), "bank": range(BANKS)})


class Constants(wiring.Component):
    """Three small memories: scales and biases of banks of rows, and constants of tokens.

    The stream's scales and biases are written by the front. What lies in V is fetched once per instruction (tokens) or
    once per tile (rows of SCORE), not once per result, so V is left to others.

    Parameters:
        config: the accelerator.
        lanes: rows that are handled together.

    Members:
        write: constants from the front.
        v_read: constants from V.
        fetch: pulse: copy ``fetch_words`` words of V from ``fetch_base`` on into the scales of rows of ``fetch_bank``
            (``fetch_rows``), or into the constants of tokens.
        fetched: nothing is being copied.
        fault: a word to copy lies behind V.
        stalled: V does not take a request.
        enable: read; while 0, ``scales`` and ``biases`` hold.
        scale_at, bias_at: rows to read.
        scales, biases: of the rows asked for in the last enabled cycle.
        tokens_at, tokens: two constants of tokens, in the same cycle.
    """

    def __init__(self, config: AcceleratorConfig, lanes: int):
        self._config, self._lanes = config, lanes
        self._row_address = RowAddress(config, lanes)
        super().__init__(
            {
                "write": In(ConstantsWrite(config)),
                "v_read": Out(VRead(config)),
                "fetch": In(1),
                "fetch_rows": In(1),
                "fetch_bank": In(range(BANKS)),
                "fetch_base": In(V_ADDRESS_BITS + 1),
                "fetch_words": In(range(max(lanes_of(config), config.mm_tokens) + 1)),
                "fetched": Out(1),
                "fault": Out(1),
                "stalled": Out(1),
                "enable": In(1),
                "scale_at": In(self._row_address),
                "bias_at": In(self._row_address),
                "scales": Out(32).array(lanes),
                "biases": Out(32).array(lanes),
                "tokens_at": In(range(config.mm_tokens)).array(2),
                "tokens": Out(32).array(2),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes, row = self._lanes, self.write.payload.row
        shift = exact_log2(lanes)

        # From V: requests run ahead of answers.
        fetching, address = Signal(), Signal(V_ADDRESS_BITS + 1)
        left, answered, words = (Signal.like(self.fetch_words, name=name) for name in ("left", "answered", "words"))
        of_rows, bank = Signal(), Signal.like(self.fetch_bank)
        request, answer = self.v_read.request, self.v_read.valid
        step, ends = Mux(of_rows, lanes, 1), Signal()
        m.d.comb += [
            ends.eq(left <= step),
            request.valid.eq(left != 0),
            request.payload.address.eq(address),
            request.payload.count.eq(Mux(ends, left, step)),
            self.stalled.eq(request.valid & ~request.ready),
            self.fetched.eq(~fetching),
            self.fault.eq((request.valid & address[-1]) | (answer & self.v_read.fault)),
        ]
        with m.If(self.fetch):
            m.d.sync += [
                fetching.eq(1),
                address.eq(self.fetch_base),
                left.eq(self.fetch_words),
                words.eq(self.fetch_words),
                answered.eq(0),
                of_rows.eq(self.fetch_rows),
                bank.eq(self.fetch_bank),
            ]
        with m.Elif(fetching):
            with m.If(request.valid & request.ready):
                m.d.sync += [address.eq(address + step), left.eq(Mux(ends, 0, left - step))]
            with m.If(answer):
                m.d.sync += answered.eq(answered + step)
            with m.If(answered >= words):
                m.d.sync += fetching.eq(0)

        # Rows: `lanes` of them in a word. The front has none to write while rows are fetched.
        shape = data.ArrayLayout(32, lanes)
        depth = BANKS << len(self.scale_at.word)
        for name, bias in (("scales", 0), ("biases", 1)):
            at, values = (self.bias_at, self.biases) if bias else (self.scale_at, self.scales)
            m.submodules[name] = memory = Memory(shape=shape, depth=depth, init=[])
            writer, reader = memory.write_port(granularity=1), memory.read_port()
            m.d.comb += [
                writer.addr.eq(Cat(row[shift:], self.write.payload.bank)),
                reader.addr.eq(at),
                reader.en.eq(self.enable),
            ]
            m.d.comb += [writer.data[lane].eq(self.write.payload.data) for lane in range(lanes)]
            with m.If(self.write.valid & (self.write.payload.bias == bias)):
                m.d.comb += writer.en.eq(1 << row[:shift])
            if not bias:
                with m.If(answer & of_rows):
                    m.d.comb += [
                        writer.addr.eq(Cat(answered[shift:][: len(self.scale_at.word)], bank)),
                        writer.en.eq((1 << lanes) - 1),
                    ]
                    m.d.comb += [writer.data[lane].eq(self.v_read.data[lane]) for lane in range(lanes)]
            m.d.comb += [value.eq(reader.data[lane]) for lane, value in enumerate(values)]

        # Tokens.
        m.submodules.tokens = tokens = Memory(shape=32, depth=self._config.mm_tokens, init=[])
        writer = tokens.write_port()
        m.d.comb += [
            writer.addr.eq(answered),
            writer.data.eq(self.v_read.data[0]),
            writer.en.eq(answer & ~of_rows),
        ]
        for at, value in zip(self.tokens_at, self.tokens, strict=True):
            reader = tokens.read_port(domain="comb")
            m.d.comb += [reader.addr.eq(at), value.eq(reader.data)]
        return m
