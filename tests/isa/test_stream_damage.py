# SPDX-License-Identifier: Apache-2.0
"""Weight streams: what breaks a rule is refused by name, and damage is never taken for a stream."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from catenary.isa.errors import GraphError, ProgramError
from catenary.isa.stream import pack, read_block, unpack, unpack_weights
from catenary.isa.stream_layout import (
    BITS_CODES,
    HEADER_BYTES,
    MAGIC,
    BlockLayout,
    stream_layouts,
)
from catenary.isa.tensors import BLOCK, KEPT_CHOICES
from tests.isa.streams import changed, make_bias, make_config
from tests.weights import random_weights


def test_only_dense_groups_may_be_longer_than_the_index_buffer() -> None:
    rng = np.random.default_rng(5)
    dense = random_weights(rng, 3, 600, 4, 4096, 16)
    assert (unpack(pack(dense, None, make_config()), 600, make_config())[0].codes == dense.codes).all()
    sparse = random_weights(rng, 3, 600, 4, 4096, 8)
    with pytest.raises(ProgramError, match="must have at most 512 columns, not 4096"):
        pack(sparse, None, make_config())
    longest = BlockLayout(rows=3, kept=8, bits=4, blocks=40, group_blocks=32, has_bias=False, atom=4)
    header = bytearray(longest.encode())
    header[8:10] = (33).to_bytes(2, "little")
    with pytest.raises(ProgramError, match="group_blocks of a sparse row block must be at most 32, not 33"):
        BlockLayout.decode(bytes(header), 4)


def test_products_that_wrap_are_seen() -> None:
    """-255 * 255 is 511 in 16 bits and -1 in 8 bits."""
    tensor = random_weights(np.random.default_rng(7), 1, 16, 4, 16, 16)
    codes = np.full((1, 16), 15, np.int16)
    codes[0, 3] = 0
    tensor = replace(tensor, codes=codes, zeros=np.full((1, 1), 255, np.uint8), scales=np.full((1, 1), 255, np.uint8))
    with pytest.raises(GraphError, match=r"^Weight \(q - z\) \* s of w at row 0, column 0 must be at most 127"):
        tensor.check("w")
    with pytest.raises(ProgramError, match=r"^Weight of a row block must be at most 127 in magnitude, not 65025$"):
        unpack(pack(tensor, None, make_config()), 16, make_config())


def test_pack_refuses_what_would_not_read_back() -> None:
    tensor = random_weights(np.random.default_rng(9), 4, 32, 4, 16, 8)
    config = make_config()
    with pytest.raises(GraphError, match=r"^Bias of a stream must have shape \(4,\), not \(3,\)$"):
        pack(tensor, np.zeros(3, np.float32), config)
    mask = tensor.mask.copy()
    mask[2, :16] = True
    with pytest.raises(GraphError, match=r"^Row 2 must keep 8 of 16 weights in every block"):
        pack(replace(tensor, mask=mask), None, config)
    eight = random_weights(np.random.default_rng(9), 4, 32, 8, 16, 16)
    with pytest.raises(ProgramError, match=r"^Table of a row block must be for codes of at most 4 bits, not 8$"):
        pack(replace(eight, table=np.zeros(4, np.int8)), None, config)
    layout = BlockLayout(rows=1, kept=16, bits=4, blocks=1 << 16, group_blocks=8, has_bias=False, atom=4)
    with pytest.raises(ProgramError, match=r"^blocks of a row block must be below 65536, not 65536$"):
        layout.encode()


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("magic", 0x11, "magic of a row block must be 0xc7, not 0x11"),
        ("version", 2, "version of a row block must be 0x1, not 0x2"),
        ("index", 2, "index of a row block of 8:16 must be 1, not 2"),
        ("kept", 5, "kept of a row block must be at most 4, not 5"),
        ("table", 2, "table of a row block of 4-bit codes must be at most 1, not 2"),
        ("reserved_a", 1, "reserved_a of a row block must be 0x0, not 0x1"),
        ("rows", 0, "rows of a row block must be at least 1, not 0"),
        ("rows", 9, "rows of a row block of 8:16 must be at most 8, not 9"),
        ("groups", 3, "groups of a row block must be 2, not 3"),
        ("group_blocks", 0, "group_blocks of a row block must be at least 1, not 0"),
        ("blocks", 4, "blocks of a row block must be 3 for 40 columns, not 4"),
        ("checksum_row", 1, "checksum_row of a row block must be 0x0, not 0x1"),
        ("reserved_b", 1, "reserved_b of a row block must be 0x0, not 0x1"),
    ],
)
def test_header_damage_is_named(name: str, value: int, message: str) -> None:
    config = make_config()
    tensor = random_weights(np.random.default_rng(10), 8, 40, 4, 32, 8)
    data = changed(pack(tensor, None, config), name, value)
    with pytest.raises(ProgramError) as caught:
        unpack(data, 40, config)
    assert str(caught.value) == message


def test_block_damage_is_named() -> None:
    config = make_config()
    rng = np.random.default_rng(11)
    tensor = random_weights(rng, 4, 40, 4, 32, 8)
    bias = make_bias(rng, 4, True)
    data = pack(tensor, bias, config)
    run = next(layout for _, _, layout in stream_layouts(tensor.kept, 40, 4, 32, True, config))
    group = next(run.runs())

    def refused(at: int, values: list[int], message: str) -> None:
        damaged = data.copy()
        damaged[at : at + len(values)] = values
        with pytest.raises(ProgramError) as caught:
            unpack(damaged, 40, config)
        assert str(caught.value) == message

    nan, infinity = [0, 0, 0xC0, 0x7F], [0, 0, 0x80, 0x7F]
    refused(run.channel_scales.offset, nan, "Channel scales of a row block must be finite, not nan")
    refused(run.bias.offset, infinity, "Bias of a row block must be finite, not inf")
    refused(group.offset + group.index.offset, [0xFF, 0x01], "A block of a row must keep 8 of 16 weights, not 9")
    refused(group.offset + group.params.used, [1], "Padding of a row block must be zero, not other bytes")
    with pytest.raises(ProgramError, match=rf"^A row block must have its {len(data)} bytes, not {len(data) - 1}$"):
        unpack(data[:-1], 40, config)
    with pytest.raises(ProgramError, match=r"^A row block must have a header of 16 bytes, not 0$"):
        unpack(b"", 40, config)
    with pytest.raises(ProgramError, match=r"^A row block must have a header of 16 bytes, not 0$"):
        read_block(data, len(data) + 5, 40, config)


def test_kept_padding_columns_must_weigh_nothing() -> None:
    config = make_config(atom=4)
    tensor = random_weights(np.random.default_rng(12), 1, 8, 8, 16, 16)
    data = pack(tensor, None, config)
    data[-1] = 3
    with pytest.raises(ProgramError, match=r"^Weights in columns past 8 must be 0, not others$"):
        unpack(data, 8, config)


def test_indices_must_ascend() -> None:
    config = make_config(atom=4)
    tensor = random_weights(np.random.default_rng(13), 1, 16, 8, 16, 2)
    data = pack(tensor, None, config)
    layout = next(layout for _, _, layout in stream_layouts(tensor.kept, 16, 8, 16, False, config))
    group = next(layout.runs())
    at = group.offset + group.index.offset
    for pair in (0x55, 0x37):  # 5, 5 and 7, 3
        data[at] = pair
        with pytest.raises(ProgramError, match=r"^Indices of a block must ascend, not repeat or fall$"):
            unpack(data, 16, config)


def test_blocks_of_one_layer_must_agree() -> None:
    config = make_config(chains=1)
    rng = np.random.default_rng(14)
    four, eight = (random_weights(rng, 1, 32, bits, 32, 16) for bits in (4, 8))
    data = np.concatenate([pack(four, None, config), pack(eight, None, config)])
    rule = r"^Row blocks of one tensor must have 4 bits and 2 blocks in a group, not 8 and 2$"
    with pytest.raises(ProgramError, match=rule):
        unpack(data, 32, config)
    mixed = unpack_weights(data, 32, config)  # the matrix unit does not mind
    assert (mixed.weights == np.concatenate([four.expanded(), eight.expanded()])).all()
    data = np.concatenate([pack(four, None, config), pack(four, np.zeros(1, np.float32), config)])
    with pytest.raises(ProgramError, match=r"^Row blocks of one layer must all have a bias or none, not some$"):
        unpack(data, 32, config)


@pytest.mark.parametrize("seed", range(6))
def test_random_damage_raises_program_error_only(seed: int) -> None:
    rng = np.random.default_rng(seed)
    refused = 0
    for trial in range(120):
        bits, kept = int(rng.choice(BITS_CODES)), int(rng.choice(KEPT_CHOICES))
        rows, columns = int(rng.integers(1, 12)), int(rng.integers(1, 70))
        config = make_config(chains=int(rng.integers(1, 4)), atom=int(rng.choice([4, 16])))
        table, outliers = bits != 8 and bool(rng.integers(2)), int(rng.choice([0, 5]))
        tensor = random_weights(rng, rows, columns, bits, 32, kept, table=table, outliers=outliers)
        data = pack(tensor, make_bias(rng, rows, bool(rng.integers(2))), config)
        match trial % 4:
            case 0:  # a few bytes anywhere
                data[rng.integers(0, len(data), 3)] = rng.integers(0, 256, 3)
            case 1:  # one bit of the header
                data[rng.integers(0, HEADER_BYTES)] ^= 1 << rng.integers(0, 8)
            case 2:  # a piece cut out of the middle
                cut = np.sort(rng.integers(0, len(data), 2))
                data = np.delete(data, slice(*cut))
            case _:  # noise behind a sound header
                data[HEADER_BYTES:] = rng.integers(0, 256, len(data) - HEADER_BYTES)
        try:
            found, bias, consumed = unpack(data, columns, config)
        except ProgramError:
            refused += 1
            continue
        found.check(f"seed {seed}, trial {trial}")
        assert consumed <= len(data)
        assert bias is None or np.isfinite(bias).all()
        assert (unpack_weights(data, columns, config).weights == found.expanded()).all(), (seed, trial)
    assert refused > 60, seed


def test_noise_is_refused() -> None:
    rng = np.random.default_rng(15)
    config = make_config()
    for length in (0, 1, 15, 16, 17, 64, 1000):
        noise = rng.integers(0, 256, length, np.uint8)
        noise[:1] = MAGIC
        with pytest.raises(ProgramError):
            unpack(noise, BLOCK, config)
