# SPDX-License-Identifier: Apache-2.0
"""Gearbox with funnel, and the index decoder, by themselves."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.sim import Simulator

from catenary.hw.stream.funnel import Funnel, FunnelSignature
from catenary.hw.stream.gearbox import TAKE_BITS, Gearbox, LineLayout, chunk_words
from catenary.hw.stream.header import HeaderLayout
from catenary.hw.stream.index import ColumnDecoder
from catenary.hw.stream.products import gated_product, times
from catenary.isa.stream_layout import HEADER_FIELDS
from tests.hw.compiled import Compiled
from tests.hw.stream_configs import SMALL


class Taker(wiring.Component):
    """A gearbox and a funnel."""

    def __init__(self, config):
        self._config = config
        super().__init__(
            {"lines": In(stream.Signature(LineLayout(config))), "port": In(FunnelSignature(config)), "empty": Out(1)}
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.gearbox = gearbox = Gearbox(self._config)
        m.submodules.funnel = funnel = Funnel(self._config)
        connect(m, flipped(self.lines), gearbox.lines)
        connect(m, gearbox.head, funnel.head)
        m.d.comb += self.empty.eq(gearbox.empty)
        connect(m, flipped(self.port), funnel.port)
        return m


@pytest.mark.parametrize(
    "ports, atom", [((8,), 8), ((4, 8), 4), ((4, 16), 12), ((32,), 16), ((4, 8, 32), 4), ((8, 16, 32), 64)]
)
@pytest.mark.parametrize("seed", range(2))
def test_any_number_of_bits(ports, atom, seed):
    """Takes, alignments and skips of whole lines give the bits of the stream, for any width of line."""
    config = replace(SMALL, port_bytes=ports, stream_atom=atom)
    rng = np.random.default_rng(seed)
    width = config.line_bytes
    loads = [rng.integers(0, 256, (int(rng.integers(1, 30)), width), dtype=np.uint8) for _ in range(5)]
    lines = [
        (int.from_bytes(line.tobytes(), "little"), number == len(load) - 1)
        for load in loads
        for number, line in enumerate(load)
    ]
    dut = Taker(config)

    async def feed(ctx):
        for data, last in lines:
            for _ in range(int(rng.integers(0, 3))):
                await ctx.tick()
            ctx.set(dut.lines.payload.data, data)
            ctx.set(dut.lines.payload.last, last)
            ctx.set(dut.lines.valid, 1)
            await ctx.tick().until(dut.lines.ready)
            ctx.set(dut.lines.valid, 0)

    async def until(ctx, signal):
        for _ in range(500):
            if ctx.get(signal):
                return
            await ctx.tick()
        raise AssertionError(f"{signal} did not come (seed {seed})")

    async def take(ctx):
        for load in loads:
            content, bits, at, base = int.from_bytes(load.tobytes(), "little"), load.size * 8, 0, 0
            begin = True
            while bits - at >= 32:
                ctx.set(dut.port.begin, begin)
                size = int(rng.integers(1, min(TAKE_BITS, bits - at) + 1))
                base = at if begin else base
                ctx.set(dut.port.size, size)
                await until(ctx, dut.port.ready)
                assert not ctx.get(dut.port.truncated)
                assert ctx.get(dut.port.data) & ((1 << size) - 1) == content >> at & ((1 << size) - 1)
                ctx.set(dut.port.take, 1)
                await ctx.tick()
                ctx.set(dut.port.take, 0)
                at, begin = at + size, False
                goal = base + -(-(at - base) // (8 * atom)) * 8 * atom
                if rng.random() < 0.3 and goal < bits:
                    ctx.set(dut.port.align, 1)
                    await until(ctx, dut.port.aligned)
                    ctx.set(dut.port.align, 0)
                    at = goal
            while ctx.get(dut.port.mid_line):  # the rest of the last line
                if ctx.get(dut.port.level) >= (rest := ctx.get(dut.port.rest)):
                    ctx.set(dut.port.skip, rest)
                await ctx.tick()
                ctx.set(dut.port.skip, 0)
                at = bits
            if at < bits:
                pytest.fail("lines are left")
        await ctx.tick()
        assert ctx.get(dut.empty)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(feed)
    simulator.add_testbench(take)
    simulator.run()


def test_chunks_divide_lines():
    for words in range(2, 200):
        assert words % chunk_words(words) == 0
        assert chunk_words(words) >= min(words, 4)


def test_header_layout():
    assert HeaderLayout.size == 128
    for item in HEADER_FIELDS:
        assert (HeaderLayout[item.name].offset, HeaderLayout[item.name].width) == (item.offset, item.width)


def bitmaps_of(count):
    """Every bitmap of 16 columns with ``count`` bits set, and its columns."""
    columns = np.array(list(combinations(range(16), count)))
    return (1 << columns).sum(axis=1).astype(np.uint64), columns


@pytest.mark.slow
def test_every_bitmap():
    decoder = Compiled(ColumnDecoder())
    rng = np.random.default_rng(0)
    for kept, count in ((3, 8), (2, 4)):
        bitmaps, columns = bitmaps_of(count)
        rows = 16 // count
        order = np.stack([rng.permutation(len(bitmaps)) for _ in range(4)])
        word = sum(bitmaps[order[i]] << np.uint64(16 * i) for i in range(4))
        for half in range(rows // 2 if kept == 2 else 2):
            inputs = {"word": word, "kept": np.full(len(word), kept), "half": np.full(len(word), half)}
            got = decoder.run(inputs, ["columns"])["columns"]
            shown = [order[i] for i in (range(4) if kept == 2 else range(2 * half, 2 * half + 2))]
            expected = np.concatenate([columns[at] for at in shown], axis=1)
            assert (got[:, None] >> np.arange(0, 64, 4, dtype=np.uint64) & np.uint64(15) == expected).all()
    for kept in (0, 1):
        word = rng.integers(0, 1 << 64, 100, dtype=np.uint64)
        inputs = {"word": word, "kept": np.full(100, kept), "half": np.zeros(100, int)}
        assert (decoder.run(inputs, ["columns"])["columns"] == word).all()


class Products(wiring.Component):
    """A gated product, and one with a constant."""

    a: In(8)
    b: In(8)
    product: Out(8)
    elevenfold: Out(12)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.product.eq(gated_product(self.a, self.b)), self.elevenfold.eq(times(self.a, 11))]
        return m


@pytest.mark.slow
def test_every_product():
    a, b = (part.reshape(-1) for part in np.meshgrid(np.arange(256), np.arange(256)))
    got = Compiled(Products()).run({"a": a, "b": b}, ["product", "elevenfold"])
    assert (got["product"] == a * b % 256).all()
    assert (got["elevenfold"] == a * 11).all()
