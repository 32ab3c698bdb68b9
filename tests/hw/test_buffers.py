# SPDX-License-Identifier: Apache-2.0
"""Buffers V, A and D against arrays, with clients that ask at random."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator

from catenary.boards.loader import load_accelerator
from catenary.hw.buffers.codes import CodeBuffer
from catenary.hw.buffers.descriptors import DescriptorBuffer
from catenary.hw.buffers.signatures import A_LATENCY, V_LATENCY
from catenary.hw.buffers.vector import VectorBuffer

SMALL = load_accelerator("small")


def config(**changes: int):
    return replace(SMALL, vector_words=256, act_bytes=48 * 16, desc_words=24, **changes)


def run(dut, *benches) -> None:
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    for bench in benches:
        sim.add_testbench(bench)
    sim.run()


async def send(ctx, rng, port, **values) -> None:
    """Offer a request after a random pause, until it is accepted."""
    while rng.random() < 0.4:
        await ctx.tick()
    ctx.set(port.request.payload, values if len(values) > 1 else next(iter(values.values())))
    ctx.set(port.request.valid, 1)
    await ctx.tick().until(port.request.ready)
    ctx.set(port.request.valid, 0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lanes", [1, 2, 8])
def test_vector_buffer(lanes: int, seed: int) -> None:
    words, clients = 256, 3
    dut = VectorBuffer(config(vector_lanes=lanes), readers=clients, writers=clients)
    expected = np.random.default_rng(seed).integers(0, 1 << 32, words, np.uint64)
    part = words // clients  # each client has words of its own, so no order between clients matters

    def client(number: int):
        async def bench(ctx) -> None:
            rng = np.random.default_rng([seed, number])
            read, write = dut.reads[number], dut.writes[number]
            for start in range(number * part, (number + 1) * part):
                await send(ctx, rng, write, address=start, count=1, data=[int(expected[start])] + [0] * (lanes - 1))
            for _ in range(60):
                count = int(rng.integers(1, lanes + 1))
                start = int(rng.integers(number * part, (number + 1) * part - count + 1))
                if rng.random() < 0.5:
                    values = rng.integers(0, 1 << 32, lanes, np.uint64)
                    expected[start : start + count] = values[:count]
                    await send(ctx, rng, write, address=start, count=count, data=values.tolist())
                else:
                    await send(ctx, rng, read, address=start, count=count)
                    for _ in range(V_LATENCY - 1):
                        assert not ctx.get(read.valid)
                        await ctx.tick()
                    assert ctx.get(read.valid)
                    assert not ctx.get(read.fault)
                    found = [ctx.get(read.data[lane]) for lane in range(count)]
                    assert found == expected[start : start + count].tolist(), f"seed {seed}"

        return bench

    run(dut, *(client(number) for number in range(clients)))


@pytest.mark.parametrize("lanes", [1, 4])
def test_vector_buffer_refuses_what_lies_behind_it(lanes: int) -> None:
    dut = VectorBuffer(config(vector_lanes=lanes), readers=1, writers=1)
    rng = np.random.default_rng(1)

    async def bench(ctx) -> None:
        read, write = dut.reads[0], dut.writes[0]
        await send(ctx, rng, write, address=256 - lanes, count=lanes, data=[7] * lanes)
        assert not ctx.get(write.fault)
        for start in (257 - lanes, 256, (1 << 20) - 1):
            await send(ctx, rng, write, address=start, count=lanes, data=[9] * lanes)
            assert ctx.get(write.fault)
            await send(ctx, rng, read, address=start, count=lanes)
            await ctx.tick().repeat(V_LATENCY - 1)
            assert ctx.get(read.fault)
        await send(ctx, rng, read, address=256 - lanes, count=lanes)
        await ctx.tick().repeat(V_LATENCY - 1)
        assert not ctx.get(read.fault)
        assert [ctx.get(word) for word in (read.data[i] for i in range(lanes))] == [7] * lanes

    run(dut, bench)


@pytest.mark.parametrize("seed", range(3))
def test_code_buffer(seed: int) -> None:
    dut = CodeBuffer(config(), readers=2, writers=2)
    memory = np.zeros((48, 16), np.uint8)

    def client(number: int):
        async def bench(ctx) -> None:
            rng = np.random.default_rng([seed, number])
            read, write = dut.reads[number], dut.writes[number]
            for _ in range(120):
                address = int(rng.integers(0, 24)) * 2 + number
                if rng.random() < 0.5:
                    mask, word = int(rng.integers(0, 1 << 16)), rng.integers(0, 256, 16, np.uint8)
                    chosen = [bool(mask >> i & 1) for i in range(16)]
                    memory[address][chosen] = word[chosen]
                    await send(
                        ctx, rng, write, address=address, mask=mask, data=int.from_bytes(word.tobytes(), "little")
                    )
                else:
                    await send(ctx, rng, read, address=address)
                    await ctx.tick().repeat(A_LATENCY - 1)
                    assert ctx.get(read.valid)
                    assert ctx.get(read.data).to_bytes(16, "little") == memory[address].tobytes(), f"seed {seed}"
            await send(ctx, rng, read, address=48 + number)
            await ctx.tick().repeat(A_LATENCY - 1)
            assert ctx.get(read.fault)
            await send(ctx, rng, write, address=(1 << 16) - 1, mask=1, data=1)
            assert ctx.get(write.fault)

        return bench

    run(dut, client(0), client(1))


@pytest.mark.parametrize("seed", range(2))
def test_code_buffer_reads_two_words(seed: int) -> None:
    """While another client writes: the second word has the port that writes, and waits for it."""
    dut = CodeBuffer(config(packed=True), readers=2, writers=2)
    memory = np.random.default_rng(seed).integers(0, 256, (48, 16), np.uint8)
    ready = False

    async def writer(ctx) -> None:
        nonlocal ready
        rng = np.random.default_rng([seed, 0])
        for address in range(48):
            await send(
                ctx,
                rng,
                dut.writes[0],
                address=address,
                mask=0xFFFF,
                data=int.from_bytes(memory[address].tobytes(), "little"),
            )
        ready = True
        for _ in range(200):  # the upper half, which nobody reads
            await send(ctx, rng, dut.writes[1], address=int(rng.integers(24, 48)), mask=0xFFFF, data=0)

    async def pairs(ctx) -> None:
        rng = np.random.default_rng([seed, 1])
        read, beside = dut.reads[0], dut.beside
        while not ready:
            await ctx.tick()
        for _ in range(150):
            first, second, both = (int(x) for x in (*rng.integers(0, 24, 2), rng.integers(0, 2)))
            ctx.set(beside.both, both)
            ctx.set(beside.address, second)
            await send(ctx, rng, read, address=first)
            await ctx.tick().repeat(A_LATENCY - 1)
            assert ctx.get(read.valid)
            assert not ctx.get(read.fault)
            assert ctx.get(read.data).to_bytes(16, "little") == memory[first].tobytes(), f"seed {seed}"
            if both:
                assert ctx.get(beside.data).to_bytes(16, "little") == memory[second].tobytes(), f"seed {seed}"
        ctx.set(beside.both, 1)
        for first, second, fault in ((0, 48, 1), (48, 0, 1), (1, (1 << 16) - 1, 1), (2, 3, 0)):
            ctx.set(beside.address, second)
            await send(ctx, rng, read, address=first)
            await ctx.tick().repeat(A_LATENCY - 1)
            assert ctx.get(read.fault) == fault

    async def singles(ctx) -> None:
        rng = np.random.default_rng([seed, 2])
        read = dut.reads[1]
        while not ready:
            await ctx.tick()
        for _ in range(150):
            address = int(rng.integers(0, 24))
            await send(ctx, rng, read, address=address)
            await ctx.tick().repeat(A_LATENCY - 1)
            assert ctx.get(read.valid)
            assert ctx.get(read.data).to_bytes(16, "little") == memory[address].tobytes(), f"seed {seed}"

    run(dut, writer, pairs, singles)


def test_descriptor_buffer() -> None:
    dut = DescriptorBuffer(config())
    rng = np.random.default_rng(2)
    words = [int(word) for word in rng.integers(0, 1 << 63, 24)]

    async def bench(ctx) -> None:
        for address, word in enumerate(words):
            await send(ctx, rng, dut.write, address=address, data=word)
            assert not ctx.get(dut.write.fault)
        await send(ctx, rng, dut.write, address=24, data=5)
        assert ctx.get(dut.write.fault)
        ctx.set(dut.read.enable, 1)
        for address, word in enumerate(words):
            ctx.set(dut.read.address, address)
            await ctx.tick()
            assert (ctx.get(dut.read.data), ctx.get(dut.read.fault)) == (word, 0)
        ctx.set(dut.read.address, 24)
        await ctx.tick()
        assert ctx.get(dut.read.fault)

    run(dut, bench)
