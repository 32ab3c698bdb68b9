# SPDX-License-Identifier: Apache-2.0
"""Row blocks through the stream front: tiles, steps and constants against what the stream says."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from catenary.hw.matrix.signatures import fill_rows
from catenary.hw.stream.front import StreamFront
from catenary.hw.stream.gearbox import take_bits
from catenary.isa import stream
from catenary.isa.opcodes import Opcode
from catenary.isa.outliers import Outliers
from catenary.isa.registers import ErrorCause
from catenary.isa.stream_layout import HEADER_FIELDS, OUTLIER_FIELDS, stream_layouts
from tests.hw.compiled import Compiled
from tests.hw.front_driver import FrontDriver, rebuild
from tests.hw.stream_configs import CONFIGS, HBM, SMALL, seeds
from tests.weights import random_weights


@cache
def model_of(name):
    return Compiled(StreamFront(CONFIGS[name]))


def driver_of(name, seed, pace=0.7):
    return FrontDriver(CONFIGS[name], seed, pace, model_of(name))


def random_layer(rng, config, rows, columns, bits, group, kept=None, **more):
    tensor = random_weights(rng, rows, columns, bits, group, kept, row_block=int(rng.integers(1, 2 * rows)), **more)
    bias = rng.standard_normal(rows).astype(np.float32) if rng.random() < 0.5 else None
    return stream.pack(tensor, bias, config), bias is not None


def check(result, data, columns, rows, config):
    expected = stream.read_rows(data, columns, rows, config)
    found = rebuild(result, columns)
    assert (found.weights == expected.weights).all()
    assert (found.scales.view(np.float32) == expected.row_scales).all()
    if expected.bias is None:
        assert all(bias is None for bias in found.biases)
    else:
        assert (np.concatenate(found.biases).view(np.float32) == expected.bias).all()
    added = np.zeros_like(found.added)
    if expected.outliers is not None:
        added[expected.outliers.rows, expected.outliers.columns] = expected.outliers.values
    assert (found.added == added).all()
    assert found.outlier_steps == outlier_slots(data, columns, rows, config)
    return expected.consumed


def outlier_slots(data, columns, rows, config):
    """By row block, the columns' block of each slot that the entries of its outlier section make."""
    offset, slots = 0, []
    while rows:
        layout = stream.read_block(data, offset, columns, config).layout
        section = layout.outliers
        words = data[offset + section.offset : offset + section.offset + section.used].view("<u4").astype(int)
        blocks, lanes = np.cumsum(words >> 12 & 255), words >> 20
        begins = (np.diff(blocks, prepend=-1) != 0) | (np.diff(lanes, prepend=0) <= 0)
        slots.append(blocks[begins].tolist())
        offset, rows = offset + layout.stored_bytes, rows - layout.rows
    return slots


@pytest.mark.parametrize("seed", seeds(8, 3))
@pytest.mark.parametrize("name", CONFIGS)
def test_random_layers(name, seed):
    """Mixed N, all widths of codes, short last groups and row blocks, one instruction after the other."""
    rng = np.random.default_rng(seed)
    config, driver = CONFIGS[name], driver_of(name, seed, (0.5, 0.8, 1.0)[seed % 3])
    for _ in range(4):
        rows, columns = int(rng.integers(1, 60)), int(rng.integers(1, 200))
        bits, group = int(rng.choice([2, 3, 4, 8])), 16 * int(rng.integers(1, 5))
        data, _ = random_layer(rng, config, rows, columns, bits, group)
        driver.load(data)
        opcode = (Opcode.MM, Opcode.MV)[int(rng.integers(2))]
        result = driver.run(opcode, rows=rows, depth=columns, tokens=1)
        assert not result.fault
        check(result, data, columns, rows, config)
        assert driver.empty


@pytest.mark.parametrize("seed", seeds(6, 2))
@pytest.mark.parametrize("name", CONFIGS)
def test_tables_and_outliers(name, seed):
    """With and without them in turn, for each N and any number of bits; the last layer is long, which takes fillers."""
    rng = np.random.default_rng(seed)
    config, driver = CONFIGS[name], driver_of(name, seed)
    for number in range(8):
        kept = (1, 2, 4, 8, 16, None)[int(rng.integers(6))]
        bits, table = int(rng.choice([2, 3, 4, 8])), bool(rng.integers(2))
        rows, columns = (3, 4200) if number == 7 else (int(rng.integers(1, 60)), int(rng.integers(1, 200)))
        outliers = int(rng.choice([0, 1, 3, rows * columns // 10]))
        data, _ = random_layer(
            rng, config, rows, columns, bits, 64, kept, table=table and bits != 8, outliers=min(outliers, 200)
        )
        driver.load(data)
        result = driver.run(Opcode.MM, rows=rows, depth=columns, tokens=1)
        assert not result.fault
        check(result, data, columns, rows, config)
        assert driver.empty


@pytest.mark.parametrize("kept", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("name", ["small", "uneven", "hbm-slice"])
def test_outliers_of_full_slots(name, kept):
    """Every row block is full and has an outlier in every lane, and in some lanes more."""
    rng = np.random.default_rng(kept)
    config = CONFIGS[name]
    rows = config.block_rows(kept)
    driver = driver_of(name, kept, pace=1)
    tensor = random_weights(rng, rows, 40, 8, kept=kept)
    places = np.stack([np.repeat(np.arange(rows), kept + 1), np.tile(16 + np.arange(kept + 1) % 16, rows)])
    values = rng.choice([-127, -1, 1, 127], places.shape[1])
    tensor = replace(tensor, outliers=Outliers.of_entries(*places, values))
    data = stream.pack(tensor, None, config)
    driver.load(data)
    result = driver.run(Opcode.MV, rows=rows, depth=40, tokens=1)
    assert not result.fault
    check(result, data, 40, rows, config)


@pytest.mark.parametrize("seed", seeds(3, 1))
@pytest.mark.parametrize("name", CONFIGS)
def test_instructions_share_a_load(name, seed):
    """Each goes on where the one before it stopped; what is left of the last line is dropped with the last of them."""
    rng = np.random.default_rng(seed)
    config, driver = CONFIGS[name], driver_of(name, seed)
    for _ in range(2):
        parts = [(int(rng.integers(1, 20)), int(rng.integers(1, 80)), int(rng.choice([4, 8]))) for _ in range(3)]
        packed = [random_layer(rng, config, rows, columns, bits, 32)[0] for rows, columns, bits in parts]
        driver.load(np.concatenate(packed))
        for number, ((rows, columns, _), data) in enumerate(zip(parts, packed, strict=True)):
            result = driver.run(Opcode.MM, rows=rows, depth=columns, tokens=2)
            assert not result.fault
            check(result, data, columns, rows, config)
            assert driver.empty == (number == 2)


def damage(data, name, value):
    """A copy of a stream with another value in a field of its first header."""
    (this,) = (item for item in HEADER_FIELDS if item.name == name)
    word = int.from_bytes(data[:16].tobytes(), "little")
    word &= ~(((1 << this.width) - 1) << this.offset)
    word |= value << this.offset
    return np.concatenate([np.frombuffer(word.to_bytes(16, "little"), np.uint8), data[16:]])


DAMAGES = {
    "magic": (0, 0xC6, 0x47),
    "version": (0, 2, 9),
    "index": (0, 2, 3),
    "kept": (1, 4, 5, 6, 7),
    "table": (2, 3, 8),
    "reserved_a": (1, 128),
    "rows": (0, 13, 17, 4096),
    "groups": (0, 1, 2, 4, 0x8003),
    "group_blocks": (0, 1, 3, 33, 0x8002),
    "blocks": (0, 4, 6, 0x8005),
    "outliers": (1, 0x8000),
    "checksum_row": (1,),
    "reserved_b": (1, 0x4000),
}


def test_every_field_has_damage():
    assert set(DAMAGES) | {"bits", "has_bias"} == {item.name for item in HEADER_FIELDS}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_header(name):
    """12 rows of 8:16, five blocks in groups of two: one field wrong."""
    tensor = random_weights(np.random.default_rng(1), 12, 75, 4, 32, kept=8)
    data = stream.pack(tensor, None, SMALL)
    for value in DAMAGES[name]:
        driver = driver_of("small", 1)
        driver.load(damage(data, name, value))
        result = driver.run(Opcode.MM, rows=12, depth=75, tokens=1)
        assert result.fault == ErrorCause.STREAM_FORMAT, value


def test_table_of_codes_of_eight_bits():
    driver = driver_of("small", 1)
    data = stream.pack(random_weights(np.random.default_rng(1), 12, 75, 8, kept=8), None, SMALL)
    driver.load(damage(data, "table", 1))
    assert driver.run(Opcode.MM, rows=12, depth=75, tokens=1).fault == ErrorCause.STREAM_FORMAT


@pytest.mark.parametrize("name", ["small", "uneven", "hbm-slice"])
@pytest.mark.parametrize("field, value", [("lane", 12 * 4), ("lane", 4095), ("advance", 5), ("advance", 255)])
@pytest.mark.parametrize("entry", [0, 3, -1])
def test_damaged_outlier(name, entry, field, value):
    """12 rows of 4:16 with five blocks of columns: the first, a middle or the last entry is outside."""
    tensor = random_weights(np.random.default_rng(1), 12, 75, 4, 32, kept=4, outliers=9)
    config, driver = CONFIGS[name], driver_of(name, 1)
    data = stream.pack(tensor, None, config).copy()
    section = stream.read_block(data, 0, 75, config).layout.outliers
    words = data[section.offset : section.offset + section.used].view("<u4")
    (this,) = (item for item in OUTLIER_FIELDS if item.name == field)
    words[entry] = int(words[entry]) & ~(((1 << this.width) - 1) << this.offset) | value << this.offset
    driver.load(data)
    assert driver.run(Opcode.MM, rows=12, depth=75, tokens=1).fault == ErrorCause.STREAM_FORMAT


@pytest.mark.parametrize("depth", [64, 81])
def test_depth_of_another_layer(depth):
    driver = driver_of("small", 1)
    driver.load(random_layer(np.random.default_rng(1), SMALL, 12, 75, 4, 32)[0])
    assert driver.run(Opcode.MM, rows=12, depth=depth, tokens=1).fault == ErrorCause.STREAM_FORMAT


@pytest.mark.parametrize("seed", range(6))
def test_load_that_ends_too_early(seed):
    """A stream without its last lines faults, whatever the next load is."""
    rng = np.random.default_rng(seed)
    name = list(CONFIGS)[seed % len(CONFIGS)]
    config, driver = CONFIGS[name], driver_of(name, seed)
    data, _ = random_layer(rng, config, 20, 100, 4, 32)
    lines = -(-len(data) // config.line_bytes)
    driver.load(data[: int(rng.integers(1, lines)) * config.line_bytes])
    driver.load(data)
    assert driver.run(Opcode.MM, rows=20, depth=100, tokens=1).fault == ErrorCause.STREAM_FORMAT


def test_rows_of_several_instructions_in_one_row_block():
    driver = driver_of("small", 0)
    driver.load(random_layer(np.random.default_rng(0), SMALL, 8, 16, 4, 16, kept=16)[0])
    assert driver.run(Opcode.MM, rows=7, depth=16, tokens=1).fault == ErrorCause.STREAM_FORMAT


@pytest.mark.parametrize("bits, kept", [(4, 16), (4, 8), (4, 4), (4, 2), (8, 16), (8, 8), (3, 16), (2, 16)])
def test_rate(bits, kept):
    """A line of ``small`` a cycle, but for a few cycles a row block; 16 lanes a cycle where that is less."""
    rows, columns = 3 * SMALL.block_rows(kept), 512
    tensor = random_weights(np.random.default_rng(0), rows, columns, bits, 128, kept)
    data = stream.pack(tensor, None, SMALL)
    driver = driver_of("small", 0, pace=1)
    driver.load(data)
    result = driver.run(Opcode.MV, rows=rows, depth=columns, tokens=1)
    check(result, data, columns, rows, SMALL)
    ((_, _, layout),) = stream_layouts(tensor.kept, columns, bits, tensor.group, False, SMALL)
    codes = sum(run.count * run.codes.used for run in layout.runs()) * 3
    fills = 3 * columns // 16 * -(-SMALL.block_rows(kept) * kept // 16)
    ideal = (len(data) - codes) // 8 + max(codes // 8, fills)
    assert result.cycles <= ideal * 1.02 + 3 * 12


@pytest.mark.slow
@pytest.mark.parametrize(
    "bits, kept, columns", [(4, 16, 4096), (3, 16, 4096), (8, 16, 2048), (4, 8, 4096), (4, 4, 2048), (4, 2, 4096)]
)
def test_rate_of_wide_lines(bits, kept, columns):
    """A line of ``hbm-slice`` a cycle, or a take where that is less, but for a cycle a group and few a row block."""
    rows = HBM.block_rows(kept)
    tensor = random_weights(np.random.default_rng(0), rows, columns, bits, 128, kept)
    data = stream.pack(tensor, None, HBM)
    driver = driver_of("hbm-slice", 0, pace=1)
    driver.load(data)
    result = driver.run(Opcode.MV, rows=rows, depth=columns, tokens=1)
    check(result, data, columns, rows, HBM)
    ((_, _, layout),) = stream_layouts(tensor.kept, columns, bits, tensor.group, False, HBM)
    ideal_takes = 0
    for run in layout.runs():
        sections = sum(-(-8 * section.used // take_bits(HBM)) for section in (run.params, run.index))
        ideal_takes += run.count * (sections + run.blocks * (2 if bits == 8 else 1))
    ideal = max(ideal_takes, len(data) // HBM.line_bytes)
    assert result.cycles <= ideal + 2 * layout.groups + 40


@pytest.mark.parametrize("name, columns", [("small", 1024), ("hbm-slice", 2048)])
def test_rate_of_outliers_and_tables(name, columns):
    """An entry a cycle and every tile write of its slots, and some 20 cycles for a table, in a full row block."""
    config = CONFIGS[name]
    rows, cycles = config.block_rows(16), {}
    for table, outliers in ((False, 0), (False, rows * columns // 512), (True, 0)):
        rng = np.random.default_rng(0)
        tensor = random_weights(rng, rows, columns, 4, 128, 16, table=table, outliers=outliers)
        data = stream.pack(tensor, None, config)
        driver = driver_of(name, 0, pace=1)
        driver.load(data)
        result = driver.run(Opcode.MV, rows=rows, depth=columns, tokens=1)
        check(result, data, columns, rows, config)
        cycles[table, outliers] = result.cycles
        if outliers:
            words = stream.read_block(data, 0, columns, config).layout.outlier_words
            (slots,) = outlier_slots(data, columns, rows, config)
            bound = words + (fill_rows(config) - 1) * len(slots) + 12
            assert result.cycles - cycles[False, 0] <= bound
    assert cycles[True, 0] - cycles[False, 0] <= 20
