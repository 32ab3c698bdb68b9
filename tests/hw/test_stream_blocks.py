# SPDX-License-Identifier: Apache-2.0
"""Row blocks through the stream front: tiles, steps and constants against what the stream says."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from catenary.hw.stream.front import StreamFront
from catenary.hw.stream.gearbox import take_bits
from catenary.isa import stream
from catenary.isa.opcodes import Opcode
from catenary.isa.registers import ErrorCause
from catenary.isa.stream_layout import HEADER_FIELDS, stream_layouts
from tests.hw.compiled import Compiled
from tests.hw.front_driver import FrontDriver, rebuild
from tests.hw.stream_configs import CONFIGS, HBM, SMALL, seeds
from tests.weights import random_weights


@cache
def model_of(name):
    return Compiled(StreamFront(CONFIGS[name]))


def driver_of(name, seed, pace=0.7):
    return FrontDriver(CONFIGS[name], seed, pace, model_of(name))


def random_layer(rng, config, rows, columns, bits, group, kept=None):
    tensor = random_weights(rng, rows, columns, bits, group, kept, row_block=int(rng.integers(1, 2 * rows)))
    bias = rng.standard_normal(rows).astype(np.float32) if rng.random() < 0.5 else None
    return stream.pack(tensor, bias, config), bias is not None


def check(result, data, columns, rows, config):
    expected = stream.read_rows(data, columns, rows, config)
    weights, scales, biases = rebuild(result, columns)
    assert (weights == expected.weights).all()
    assert (scales.view(np.float32) == expected.row_scales).all()
    if expected.bias is None:
        assert all(bias is None for bias in biases)
    else:
        assert (np.concatenate(biases).view(np.float32) == expected.bias).all()
    return expected.consumed


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
    "table": (1, 8),
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
