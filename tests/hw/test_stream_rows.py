# SPDX-License-Identifier: Apache-2.0
"""Rows of keys and values through the stream front, from the stream and from A."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from catenary.hw.matrix.signatures import groups_of
from catenary.hw.stream.front import StreamFront
from catenary.isa import stream
from catenary.isa.memory import RowLayout, key_layout, key_pack, row_layout
from catenary.isa.opcodes import KEY_LIMIT, Opcode, Source
from catenary.isa.registers import ErrorCause
from catenary.isa.tensors import BLOCK
from tests.hw.compiled import Compiled
from tests.hw.front_driver import FrontDriver, key_rows, rebuild, value_rows
from tests.hw.stream_configs import CONFIGS, ODD, SMALL, WIDE, seeds
from tests.weights import random_weights


@cache
def model_of(name):
    return Compiled(StreamFront(CONFIGS[name]))


def driver_of(name, seed=0, pace=0.7):
    return FrontDriver(CONFIGS[name], seed, pace, model_of(name))


def place(driver, rng, rows, source, layout_of=row_layout):
    """Put ``rows`` int8 [n, depth] where an instruction finds them; returns the fields that say where."""
    count, depth = rows.shape
    if source is Source.BUFFER:
        words = -(-depth // BLOCK)
        stride, at = words + int(rng.integers(0, 3)), int(rng.integers(0, 50))
        driver.codes[:] = rng.integers(0, 256, driver.codes.shape, dtype=np.uint8)  # behind the rows lies anything
        for number, row in enumerate(rows):
            start = at + number * stride
            driver.codes[start : start + words].reshape(-1)[:depth] = row.view(np.uint8)
        return {"source": 1, "rows_at": at, "rows_stride": stride}
    layout = layout_of(driver.config, depth)
    if layout.pack and layout.row_lines > 1:
        pass
    elif layout.pack and rng.random() < 0.5:
        layout = RowLayout(depth, layout.pack - 1, 1)
    elif not layout.pack:
        layout = RowLayout(depth, 0, layout.row_lines + int(rng.integers(0, 3)))
    if count:
        lines = layout.scatter(rows.view(np.uint8), driver.config.line_bytes)
        driver.load(lines.reshape(-1))
    return {"source": 0, "pack": layout.pack, "row_lines": layout.row_lines}


def tile_keys(config, depth, source, pack=0, row_lines=0, **_):
    """Most keys of a tile: whole lines of them where each line has 16 bytes of as many keys as the unit takes."""
    groups, keys = groups_of(config), 1 << key_pack(config)
    words = source == 0 and pack and pack == key_pack(config) and depth == BLOCK * row_lines
    return groups // keys * keys if words else groups


def random_rows(rng, count, depth):
    return rng.integers(-128, 128, (count, depth), dtype=np.int8)


@pytest.mark.parametrize("seed", seeds(6))
@pytest.mark.parametrize("name", CONFIGS)
def test_keys(name, seed):
    rng = np.random.default_rng(seed)
    config, driver = CONFIGS[name], driver_of(name, seed, (0.5, 0.8, 1.0)[seed % 3])
    for _ in range(4):
        rows, depth = int(rng.integers(1, 3 * groups_of(config) + 2)), int(rng.integers(1, 130))
        tokens = int(rng.integers(0, config.mm_tokens + 1))
        keys = random_rows(rng, rows, depth)
        where = place(driver, rng, keys, Source(int(rng.integers(2))))
        result = driver.run(Opcode.SCORE, rows=rows, depth=depth, tokens=tokens, **where)
        assert not result.fault
        most = tile_keys(config, depth, **where)
        assert (key_rows(result, rows if tokens else 0, depth, config, most) == keys[: rows if tokens else 0]).all()
        assert driver.empty


@pytest.mark.parametrize("seed", seeds(6))
@pytest.mark.parametrize("name", CONFIGS)
def test_values(name, seed):
    """Sums over several instructions, some of them without rows."""
    rng = np.random.default_rng(seed)
    config, driver = CONFIGS[name], driver_of(name, seed, (0.5, 0.8, 1.0)[seed % 3])
    for _ in range(3):
        depth = int(rng.integers(1, 300))
        most = config.context_rows(depth)
        tokens = int(rng.integers(0, most + 1))
        pieces = int(rng.integers(1, 4))
        fresh, bank = True, None
        for piece in range(pieces):
            rows, first = int(rng.choice([0, 1, 2, 9])), int(rng.integers(0, 40))
            values = random_rows(rng, rows, depth)
            where = place(driver, rng, values, Source(int(rng.integers(2))))
            emit = piece == pieces - 1
            result = driver.run(
                Opcode.CONTEXT, rows=rows, depth=depth, tokens=tokens, first=first, clear=piece == 0, emit=emit, **where
            )
            assert not result.fault
            counted = rows if tokens else 0
            got = value_rows(result, counted, depth, first, 2 * tokens, config, fresh, emit)
            assert (got == values[:counted]).all()
            fresh &= not counted
            assert result.fresh == fresh
            banks = {step.bank for step in result.steps} | ({bank} if bank is not None else set())
            assert len(banks) <= 1
            bank = next(iter(banks), None)
            assert driver.empty


@pytest.mark.parametrize("seed", seeds(8))
@pytest.mark.parametrize("name", [name for name, config in CONFIGS.items() if key_pack(config)])
def test_interleaved_keys(name, seed):
    """Of all lengths, also those that are not interleaved; several tiles, and blocks that are not full."""
    rng = np.random.default_rng([seed, 1])
    config, driver = CONFIGS[name], driver_of(name, seed, (0.5, 0.8, 1.0)[seed % 3])
    most = 1 << key_pack(config)
    for words in (1, 2, 3, 8, 16):
        rows = int(rng.choice([1, most, rng.integers(1, 3 * groups_of(config)), 2 * groups_of(config) // most * most]))
        tokens, depth = int(rng.integers(0, config.mm_tokens + 1)), BLOCK * words
        keys = random_rows(rng, rows, depth)
        where = place(driver, rng, keys, Source.STREAM, key_layout)
        assert words == 1 or where["row_lines"] == words
        result = driver.run(Opcode.SCORE, rows=rows, depth=depth, tokens=tokens, **where)
        assert not result.fault
        full = tile_keys(config, depth, **where)
        assert (key_rows(result, rows if tokens else 0, depth, config, full) == keys[: rows if tokens else 0]).all()
        assert driver.empty


def test_weights_and_rows_in_turn():
    """Padding behind weights is dropped; rows begin at a line."""
    rng = np.random.default_rng(3)
    for name in CONFIGS:
        config, driver = CONFIGS[name], driver_of(name, 3)
        for _ in range(3):
            tensor = random_weights(rng, 5, 40, 4, 32)
            data, keys = stream.pack(tensor, None, config), random_rows(rng, 7, 24)
            driver.load(data)
            where = place(driver, rng, keys, Source.STREAM)
            result = driver.run(Opcode.MV, rows=5, depth=40, tokens=1)
            assert (rebuild(result, 40).weights == stream.read_rows(data, 40, 5, config).weights).all()
            result = driver.run(Opcode.SCORE, rows=7, depth=24, tokens=1, **where)
            assert (key_rows(result, 7, 24, config) == keys).all()


def test_rows_of_one_load_in_several_instructions():
    rng = np.random.default_rng(4)
    for config in CONFIGS.values():
        driver = driver_of(config.name, 4)
        layout = row_layout(config, 12)
        keys = random_rows(rng, 3 << layout.pack, 12)
        driver.load(layout.scatter(keys.view(np.uint8), config.line_bytes).reshape(-1))
        fields = {"depth": 12, "tokens": 1, "pack": layout.pack, "row_lines": layout.row_lines}
        for start, count in ((0, 2 << layout.pack), (2 << layout.pack, 1 << layout.pack)):
            result = driver.run(Opcode.SCORE, rows=count, **fields)
            assert (key_rows(result, count, 12, config) == keys[start : start + count]).all()
        assert driver.empty


SCORE_OK = {"depth": 16, "rows": 4, "tokens": 1, "source": 1, "rows_stride": 1}


@pytest.mark.parametrize(
    "config, wrong",
    [
        (SMALL, {"depth": KEY_LIMIT + 1}),
        (SMALL, {"rows_at": SMALL.act_bytes // BLOCK - 3}),
        (WIDE, {"rows_at": 0xFFFF, "rows_stride": 0xFFF}),
    ],
)
def test_score_out_of_range(config, wrong):
    driver = driver_of(config.name)
    assert not driver.run(Opcode.SCORE, **SCORE_OK).fault
    assert driver.run(Opcode.SCORE, **(SCORE_OK | wrong)).fault == ErrorCause.ADDRESS_RANGE


CONTEXT_OK = {"depth": 96, "rows": 2, "tokens": 2, "source": 1, "rows_stride": 6}


@pytest.mark.parametrize(
    "opcode, wrong",
    [
        (Opcode.CONTEXT, {"tokens": 1}),
        (Opcode.CONTEXT, {"depth": 95}),
        (Opcode.CONTEXT, {"tokens": 1, "rows": 0, "emit": 1}),
        (Opcode.CONTEXT, {"first": (1 << 20) - 1}),
        (Opcode.MM, {"depth": 16, "rows": 1, "tokens": 1}),
        (Opcode.SCORE, SCORE_OK),
    ],
)
def test_context_out_of_range(opcode, wrong):
    """While sums are live, only instructions that go on with them are legal."""
    driver = driver_of(ODD.name)
    assert not driver.run(Opcode.CONTEXT, clear=1, **CONTEXT_OK).fault
    assert not driver.run(Opcode.CONTEXT, **CONTEXT_OK).fault
    fields = CONTEXT_OK | wrong if opcode is Opcode.CONTEXT else wrong
    assert driver.run(opcode, **fields).fault == ErrorCause.ADDRESS_RANGE


def test_context_without_clear():
    driver = driver_of(ODD.name)
    assert driver.run(Opcode.CONTEXT, **CONTEXT_OK).fault == ErrorCause.ADDRESS_RANGE
    driver.reset()
    assert not driver.run(Opcode.CONTEXT, clear=1, emit=1, **CONTEXT_OK).fault
    assert driver.run(Opcode.CONTEXT, **CONTEXT_OK).fault == ErrorCause.ADDRESS_RANGE


def test_sums_cleared_twice():
    """A second clear begins anew, in the same bank; one of no tokens gives the bank back."""
    driver = driver_of(ODD.name)
    for tokens in (2, 1, 0):
        assert not driver.run(Opcode.CONTEXT, clear=1, **(CONTEXT_OK | {"tokens": tokens})).fault
    assert not driver.run(Opcode.CONTEXT, emit=1, **(CONTEXT_OK | {"tokens": 0})).fault
    for _ in range(3):
        assert not driver.run(Opcode.SCORE, **(SCORE_OK | {"rows": 20})).fault


@pytest.mark.parametrize(
    "fields",
    [
        {"row_lines": 1, "depth": 9},  # a row that does not fit its lines
        {"pack": 2, "depth": 4},  # rows that do not fit a line
        {"pack": 31, "depth": 4},
        {"row_lines": 5, "rows": 2, "depth": 8},  # loads that end too early
        {"row_lines": 3, "depth": 20},
    ],
)
def test_rows_of_another_shape(fields):
    driver = driver_of("small")
    driver.load(np.full(64, 1, np.uint8))
    driver.load(np.full(64, 1, np.uint8))
    result = driver.run(Opcode.SCORE, **({"rows": 8, "tokens": 1} | fields))
    assert result.fault == ErrorCause.STREAM_FORMAT


@pytest.mark.parametrize(
    "name, fields",
    [
        ("small", {"pack": 1, "row_lines": 2, "depth": 32}),  # keys are not interleaved there
        ("uneven", {"pack": 2, "row_lines": 2, "depth": 32}),
        ("uneven", {"pack": 1, "row_lines": 3, "depth": 32}),
        ("uneven", {"pack": 1, "row_lines": 2, "depth": 40}),
        ("uneven", {"pack": 1, "row_lines": 5, "depth": 80, "rows": 3}),  # a load that ends too early
    ],
)
def test_interleaved_keys_of_another_shape(name, fields):
    driver = driver_of(name)
    driver.load(np.full(9 * driver.config.line_bytes, 1, np.uint8))
    driver.load(np.full(9 * driver.config.line_bytes, 1, np.uint8))
    result = driver.run(Opcode.SCORE, **({"rows": 2, "tokens": 1} | fields))
    assert result.fault == ErrorCause.STREAM_FORMAT


def test_rows_inside_a_row_block():
    """Rows cannot begin in the middle of a line that is not padding."""
    config, driver = WIDE, driver_of("wide")
    data = stream.pack(random_weights(np.random.default_rng(0), 3, 16, 4, 16), None, config)
    driver.load(np.concatenate([data, data]))
    assert not driver.run(Opcode.MV, rows=3, depth=16, tokens=1).fault
    result = driver.run(Opcode.SCORE, rows=1, depth=16, tokens=1, pack=1)
    assert result.fault == ErrorCause.STREAM_FORMAT


def test_rate():
    """Keys and values at two lines of ``small`` a cell."""
    rng = np.random.default_rng(0)
    driver = driver_of("small", 0, pace=1)
    keys = random_rows(rng, 64, 64)
    where = place(driver, rng, keys, Source.STREAM) | {"row_lines": 8}
    driver.reset()
    driver.load(keys.view(np.uint8).reshape(-1))
    result = driver.run(Opcode.SCORE, rows=64, depth=64, tokens=1, **where)
    assert result.cycles <= 64 * 8 + 40


@pytest.mark.parametrize("name", ["uneven", "hbm-slice"])
def test_rate_of_interleaved_keys(name):
    """A line of them in a cycle, and two cycles more for each tile."""
    rng = np.random.default_rng(1)
    config, driver = CONFIGS[name], driver_of(name, 0, pace=1)
    most = tile_keys(config, 128, 0, key_pack(config), 8)
    keys = random_rows(rng, 12 * most, 128)
    where = place(driver, rng, keys, Source.STREAM, key_layout)
    driver.reset()
    lines = key_layout(config, 128).scatter(keys.view(np.uint8), config.line_bytes)
    driver.load(lines.reshape(-1))
    result = driver.run(Opcode.SCORE, rows=len(keys), depth=128, tokens=1, **where)
    assert result.cycles <= len(lines) + 2 * 12 + 40
