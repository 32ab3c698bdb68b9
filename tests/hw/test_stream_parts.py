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

from catenary.hw.memory.line_reader import line_layout
from catenary.hw.stream.funnel import Aligner, Funnel, FunnelSignature
from catenary.hw.stream.gearbox import Gearbox, take_bits
from catenary.hw.stream.header import HeaderLayout
from catenary.hw.stream.index import ColumnDecoder
from catenary.hw.stream.products import times
from catenary.isa.stream_layout import HEADER_FIELDS
from tests.hw.compiled import Compiled
from tests.hw.stream_configs import SMALL


class Taker(wiring.Component):
    """A gearbox, a funnel and an aligner."""

    def __init__(self, config):
        self._config = config
        super().__init__(
            {
                "lines": In(stream.Signature(line_layout(config))),
                "port": In(FunnelSignature(config)),
                "data": Out(take_bits(config)),
                "valid": Out(1),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.gearbox = gearbox = Gearbox(self._config)
        m.submodules.funnel = funnel = Funnel(self._config)
        m.submodules.aligner = aligner = Aligner(self._config)
        connect(m, flipped(self.lines), gearbox.lines)
        connect(m, gearbox.head, funnel.head)
        m.d.comb += [
            self.empty.eq(gearbox.empty),
            aligner.load.eq(funnel.load),
            aligner.window.eq(gearbox.head.window),
            aligner.skew.eq(funnel.skew),
            funnel.busy.eq(aligner.busy),
            self.data.eq(aligner.data),
            self.valid.eq(aligner.valid),
        ]
        connect(m, flipped(self.port), funnel.port)
        return m


@pytest.mark.parametrize(
    "ports, atom, chains",
    [((8,), 8, 4), ((4, 8), 4, 4), ((4, 16), 12, 1), ((32,), 16, 12), ((4, 8, 32), 4, 2), ((8, 16, 32), 64, 9)],
)
@pytest.mark.parametrize("seed", range(2))
def test_any_number_of_bits(ports, atom, chains, seed):
    """Takes, some with the rest of their atoms, and skips of lines give the bits of the stream, for any line width."""
    config = replace(SMALL, port_bytes=ports, stream_atom=atom, chains=chains)
    rng = np.random.default_rng(seed)
    width = config.line_bytes
    loads = [rng.integers(0, 256, (int(rng.integers(1, 12)), width), dtype=np.uint8) for _ in range(5)]
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
                size = int(rng.integers(1, min(take_bits(config), bits - at) + 1))
                base = at if begin else base
                ctx.set(dut.port.size, size)
                goal = base + -(-(at + size - base) // (8 * atom)) * 8 * atom
                pads = rng.random() < 0.4 and goal <= bits
                ctx.set(dut.port.pads, pads)
                await until(ctx, dut.port.ready)
                assert not ctx.get(dut.port.truncated)
                ctx.set(dut.port.take, 1)
                await ctx.tick()
                ctx.set(dut.port.take, 0)
                await until(ctx, dut.valid)
                assert ctx.get(dut.data) & ((1 << size) - 1) == content >> at & ((1 << size) - 1)
                ctx.set(dut.port.pads, 0)
                at, begin = goal if pads else at + size, False
            await until(ctx, dut.port.settled)
            if ctx.get(dut.port.mid_line):  # the rest of the last line
                ctx.set(dut.port.skip, 1)
                await until(ctx, dut.port.ready)
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


def test_header_layout():
    assert HeaderLayout.size == 128
    for item in HEADER_FIELDS:
        assert (HeaderLayout[item.name].offset, HeaderLayout[item.name].width) == (item.offset, item.width)


def bitmaps_of(count):
    """Every bitmap of 16 columns with ``count`` bits set, and its columns."""
    columns = np.array(list(combinations(range(16), count)))
    return (1 << columns).sum(axis=1).astype(np.uint64), columns


def decoded(decoder, words, **inputs):
    """Columns uint8 [cycles, groups, 16] of index words uint64 [cycles, groups]."""
    cycles, latency = len(words), ColumnDecoder.latency
    line = np.concatenate([words, np.zeros((latency, words.shape[1]), np.uint64)]).view(np.uint32)
    values = {name: np.full(len(line), value) for name, value in inputs.items()}
    values["valid"] = np.ones(len(line), int)
    columns = decoder.run({"line": line, "word": line, **values}, ["columns"])["columns"][latency:]
    nibbles = columns.view(np.uint8).reshape(cycles, -1)
    return np.stack([nibbles & 15, nibbles >> 4], axis=-1).reshape(cycles, -1, 16)


@pytest.mark.parametrize("groups", [2, 3])
def test_every_bitmap(groups):
    decoder = Compiled(ColumnDecoder(groups))
    rng = np.random.default_rng(0)
    for count in (8, 4):
        bitmaps, columns = bitmaps_of(count)
        order = np.stack([rng.permutation(len(bitmaps)) for _ in range(4 * groups)], axis=1)
        words = np.ascontiguousarray(bitmaps[order].astype(np.uint16)).view(np.uint64)
        for half in (0, 1) if count == 8 else (0,):
            got = decoded(decoder, words, bitmaps=1, halved=count == 8, half=half)
            shown = order[:, 2 * groups * half : 2 * groups * (half + 1)] if count == 8 else order
            assert (got.reshape(len(words), -1) == columns[shown].reshape(len(words), -1)).all()
    words = rng.integers(0, 1 << 64, (100, groups), dtype=np.uint64)
    got = decoded(decoder, words, bitmaps=0, halved=0, half=0)
    assert (got == (words[:, :, None] >> np.arange(0, 64, 4, dtype=np.uint64) & np.uint64(15))).all()


class Product(wiring.Component):
    """A product with a constant."""

    a: In(8)
    elevenfold: Out(12)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.elevenfold.eq(times(self.a, 11))
        return m


def test_every_product():
    a = np.arange(256)
    assert (Compiled(Product()).run({"a": a}, ["elevenfold"])["elevenfold"] == a * 11).all()
