# SPDX-License-Identifier: Apache-2.0
"""Weight streams: what is packed reads back, and an independent reader sees the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catenary.isa.errors import ProgramError
from catenary.isa.stream import pack, packed_bytes, read_block, unpack, unpack_weights
from catenary.isa.stream_layout import (
    BITS_CODES,
)
from catenary.isa.tensors import KEPT_CHOICES
from tests.isa.streams import assert_same, make_bias, make_config, naive_read, total
from tests.weights import random_weights

ROUND_TRIPS = [
    (rows, columns, group, chains, atom)
    for rows, columns in ((1, 8), (1, 16), (5, 172), (33, 64), (70, 400))
    for group, chains, atom in ((16, 1, 4), (32, 4, 16), (128, 3, 64), (128, 2, 12))
]


@pytest.mark.parametrize("bits", BITS_CODES)
@pytest.mark.parametrize("kept", [*KEPT_CHOICES, None])
@pytest.mark.parametrize("table, outliers", [(False, 0), (True, 0), (False, 90), (True, 5)])
def test_round_trip(bits: int, kept: int | None, table: bool, outliers: int) -> None:
    if table and bits == 8:
        return  # refused; see test_pack_refuses_what_would_not_read_back
    for seed, (rows, columns, group, chains, atom) in enumerate(ROUND_TRIPS):
        where = (bits, kept, table, outliers, rows, columns, group, chains, atom, seed)
        rng = np.random.default_rng(seed)
        config = make_config(chains=chains, atom=atom)
        tensor = random_weights(rng, rows, columns, bits, group, kept, 7, table, outliers)
        bias = make_bias(rng, rows, bool(seed % 2))
        data = pack(tensor, bias, config)
        assert len(data) == packed_bytes(tensor, bias is not None, config), where
        assert len(data) % atom == 0, where

        again, bias_again, consumed = unpack(data, columns, config)
        assert_same(again, tensor, where)
        assert consumed == len(data), where
        assert (bias_again is None) == (bias is None), where
        assert bias is None or bias_again.tobytes() == bias.tobytes(), where

        whole = unpack_weights(data.tobytes(), columns, config)
        assert whole.weights.dtype == np.int8
        assert (whole.weights == tensor.expanded()).all(), where
        assert (total(whole.weights, whole.outliers) == total(whole.weights, tensor.outliers)).all(), where
        assert (whole.kept == tensor.kept).all(), where
        assert (whole.row_scales == tensor.channel_scales).all(), where
        assert whole.consumed == consumed, where
        assert (whole.bias is None) == (bias is None), where


@pytest.mark.parametrize("bits", BITS_CODES)
@pytest.mark.parametrize("kept", [*KEPT_CHOICES, None])
@pytest.mark.parametrize("table", [False, True])
def test_independent_reader_agrees(bits: int, kept: int | None, table: bool) -> None:
    for seed, (rows, columns, group, atom) in enumerate([(1, 8, 16, 4), (5, 44, 32, 16), (9, 80, 64, 8)]):
        rng = np.random.default_rng(seed)
        tensor = random_weights(rng, rows, columns, bits, group, kept, 3, table and bits != 8, outliers=8 * seed)
        bias = make_bias(rng, rows, seed != 1)
        config = make_config(chains=1, atom=atom)
        data = pack(tensor, bias, config)
        weights, scales, biases, end = naive_read(data.tobytes(), columns, atom)
        assert weights == total(tensor.expanded(), tensor.outliers).tolist(), (bits, kept, seed)
        assert scales == tensor.channel_scales.tolist(), (bits, kept, seed)
        assert biases == ([] if bias is None else bias.tolist()), (bits, kept, seed)
        assert end == len(data)


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 200),
    bits=st.sampled_from(BITS_CODES),
    group=st.sampled_from((16, 48, 128, 512)),
    kept=st.sampled_from((*KEPT_CHOICES, None)),
    chains=st.integers(1, 9),
    atom=st.sampled_from((4, 16, 20, 64)),
    has_bias=st.booleans(),
    table=st.booleans(),
    outliers=st.sampled_from((0, 0, 1, 40)),
    seed=st.integers(0, 1 << 32),
)
def test_blocks_follow_one_another(
    rows: int,
    columns: int,
    bits: int,
    group: int,
    kept: int | None,
    chains: int,
    atom: int,
    has_bias: bool,
    table: bool,
    outliers: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    config = make_config(chains=chains, atom=atom)
    tensor = random_weights(rng, rows, columns, bits, group, kept, 5, table and bits != 8, outliers)
    bias = make_bias(rng, rows, has_bias)
    data = pack(tensor, bias, config)
    offset, row = 0, 0
    while offset < len(data):
        block = read_block(data, offset, columns, config)
        part = slice(row, row + block.rows)
        assert block.rows <= config.block_rows(block.kept)
        assert (tensor.kept[part] == block.kept).all()
        assert (block.weights == tensor.expanded()[part]).all()
        wanted = tensor.rows_of(part).outliers
        assert (total(block.weights, block.outliers) == total(block.weights, wanted)).all()
        assert (block.row_scales == tensor.channel_scales[part]).all()
        assert (block.bias is None) == (bias is None)
        assert bias is None or (block.bias == bias[part]).all()
        assert block.next_offset == offset + block.stored_bytes
        offset, row = block.next_offset, part.stop
    assert (offset, row) == (len(data), rows)


def test_long_runs_are_cut() -> None:
    """More weights than one step of pack and unpack handles, in row blocks that do not divide a step."""
    rng = np.random.default_rng(5)
    config = make_config(chains=3)
    tensor = random_weights(rng, 1500, 1024, 4, 128, 8, row_block=1500)
    data = pack(tensor, None, config)
    again, _, consumed = unpack(data, 1024, config)
    assert consumed == len(data)
    assert_same(again, tensor, 5)


def test_zero_beyond_the_codes() -> None:
    """``z`` is a whole byte: all weights of a group may have one sign."""
    rng = np.random.default_rng(6)
    tensor = random_weights(rng, 6, 32, 4, 16, 16)
    tensor = replace(tensor, zeros=np.full((6, 2), 40, np.uint8), scales=np.full((6, 2), 3, np.uint8))
    tensor.check("tensor")
    config = make_config()
    data = pack(tensor, None, config)
    assert_same(unpack(data, 32, config)[0], tensor, 6)
    assert (unpack_weights(data, 32, config).weights == tensor.expanded()).all()


def test_line_padding_is_not_consumed() -> None:
    config = make_config(ports=(16, 16))
    tensor = random_weights(np.random.default_rng(8), 3, 16, 4, 16, 16)
    data = pack(tensor, None, config)
    assert len(data) % 32 == 16
    for padding in (0, 16, 31):
        assert unpack(np.pad(data, (0, padding)), 16, config)[2] == len(data)
    with pytest.raises(ProgramError, match=r"^magic of a row block must be 0xc7, not 0x0$"):
        unpack(np.pad(data, (0, 32)), 16, config)
