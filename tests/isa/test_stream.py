# SPDX-License-Identifier: Apache-2.0
"""Weight streams: round trips, an independent bit-by-bit reader, exact sizes, and damage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import GraphError, ProgramError
from catenary.isa.stream import pack, packed_bytes, read_block, unpack, unpack_weights
from catenary.isa.stream_layout import (
    BITS_CODES,
    HEADER_BYTES,
    HEADER_FIELDS,
    MAGIC,
    BlockLayout,
    IndexKind,
    index_kind,
    stream_layouts,
)
from catenary.isa.tensors import BLOCK, KEPT_CHOICES, QuantTensor
from tests.weights import random_weights


def make_config(chains: int = 4, atom: int = 16, ports: tuple[int, ...] = (16,)) -> AcceleratorConfig:
    return AcceleratorConfig(
        name="test",
        port_bytes=ports,
        memory_bytes=1 << 24,
        chains=chains,
        chain_length=16,
        mm_tokens=4,
        packed=False,
        stream_atom=atom,
        stream_bytes=4096,
        vector_words=4096,
        vector_lanes=4,
        act_bytes=4096,
        desc_words=512,
        instruction_words=512,
        queue_depth=4,
    )


def make_bias(rng: np.random.Generator, rows: int, wanted: bool) -> np.ndarray | None:
    return rng.standard_normal(rows).astype(np.float32) if wanted else None


def assert_same(left: QuantTensor, right: QuantTensor, seed: object) -> None:
    assert (left.columns, left.bits, left.group) == (right.columns, right.bits, right.group), seed
    for name in ("codes", "mask", "kept", "scales", "zeros", "channel_scales"):
        a, b = getattr(left, name), getattr(right, name)
        assert a.dtype == b.dtype, (name, seed)
        assert a.tobytes() == b.tobytes(), (name, seed)


def naive_read(data: bytes, columns: int, atom: int) -> tuple[list[list[int]], list[float], list[float], int]:
    """A reader as the format chapter states it, one bit at a time: weights, channel scales, biases, bytes read."""
    weights: list[list[int]] = []
    scales: list[float] = []
    biases: list[float] = []
    at = 0

    def section(length: int) -> bytes:
        nonlocal at
        found = data[at : at + length]
        at += -(-length // atom) * atom
        return found

    def number(octets: bytes, first: int, width: int) -> int:
        return sum((octets[b // 8] >> b % 8 & 1) << (b - first) for b in range(first, first + width))

    while at < len(data) and data[at]:
        header = section(16)
        bits = (2, 3, 4, 8)[number(header, 12, 2)]
        n = 1 << number(header, 16, 3)
        rows, groups, group_blocks, blocks = (number(header, b, 16) for b in (32, 48, 64, 80))
        scales += np.frombuffer(section(4 * rows), "<f4").tolist()
        if number(header, 19, 1):
            biases += np.frombuffer(section(4 * rows), "<f4").tolist()
        block_weights = [[0] * (blocks * 16) for _ in range(rows)]
        for group in range(groups):
            here = range(group * group_blocks, min(blocks, (group + 1) * group_blocks))
            params = section(2 * rows) if bits != 8 else b"\x01\x00" * rows
            kind = number(header, 14, 2)
            index_bits = (0, 16, 4 * n)[kind]
            index = section(-(-len(here) * rows * index_bits // 8))
            codes = section(-(-len(here) * rows * n * bits // 8))
            cell = 0
            for block in here:
                for row in range(rows):
                    if kind == 0:
                        positions = list(range(16))
                    elif kind == 1:
                        positions = [i for i in range(16) if number(index, 16 * cell + i, 1)]
                    else:
                        positions = [number(index, 4 * (n * cell + i), 4) for i in range(n)]
                    for i, position in enumerate(positions):
                        code = number(codes, bits * (n * cell + i), bits)
                        if bits == 8 and code >= 128:
                            code -= 256
                        value = (code - params[2 * row + 1]) * params[2 * row]
                        block_weights[row][16 * block + position] = value
                    cell += 1
        assert all(value == 0 for row in block_weights for value in row[columns:])
        weights += [row[:columns] for row in block_weights]
    return weights, scales, biases, at


def test_every_header_bit_belongs_to_one_field() -> None:
    owners = [field.name for field in HEADER_FIELDS for _ in range(field.width)]
    assert len(owners) == 8 * HEADER_BYTES
    offset = 0
    for field in HEADER_FIELDS:
        assert field.offset == offset, field.name
        offset += field.width
    assert len({field.name for field in HEADER_FIELDS}) == len(HEADER_FIELDS)


def test_index_is_the_smaller_one() -> None:
    assert {n: index_kind(n) for n in KEPT_CHOICES} == {
        1: IndexKind.INDEX4,
        2: IndexKind.INDEX4,
        4: IndexKind.BITMAP,
        8: IndexKind.BITMAP,
        16: IndexKind.NONE,
    }


def test_bytes_of_a_small_block() -> None:
    """Two rows of 2:16, 4 bits, written out by hand."""
    mask = np.zeros((2, 16), np.bool_)
    mask[0, [3, 15]] = mask[1, [0, 1]] = True
    codes = np.full((2, 16), 8, np.int16)
    codes[0, [3, 15]] = [1, 2]
    codes[1, [0, 1]] = [15, 8]
    tensor = QuantTensor(
        columns=16,
        bits=4,
        group=16,
        codes=codes,
        mask=mask,
        kept=np.array([2, 2], np.uint8),
        scales=np.array([[5], [7]], np.uint8),
        zeros=np.array([[8], [8]], np.uint8),
        channel_scales=np.array([1.0, -2.0], np.float32),
    )
    tensor.check("tensor")
    data = pack(tensor, np.array([0.5, 0.0], np.float32), make_config(atom=4))
    assert data.tobytes().hex(" ", 4) == " ".join(
        [
            "c7a10900", "02000100", "01000100", "00000000",  # header
            "0000803f", "000000c0",  # channel scales
            "0000003f", "00000000",  # bias
            "05080708",  # s, z of both rows
            "f3100000",  # indices 3, 15 and 0, 1
            "218f0000",  # codes 1, 2 and 15, 8
        ]
    )  # fmt: skip


ROUND_TRIPS = [
    (rows, columns, group, chains, atom)
    for rows, columns in ((1, 8), (1, 16), (5, 172), (33, 64), (70, 400))
    for group, chains, atom in ((16, 1, 4), (32, 4, 16), (128, 3, 64), (128, 2, 12))
]


@pytest.mark.parametrize("bits", BITS_CODES)
@pytest.mark.parametrize("kept", [*KEPT_CHOICES, None])
@pytest.mark.parametrize("has_bias", [False, True])
def test_round_trip(bits: int, kept: int | None, has_bias: bool) -> None:
    for seed, (rows, columns, group, chains, atom) in enumerate(ROUND_TRIPS):
        where = (bits, kept, has_bias, rows, columns, group, chains, atom, seed)
        rng = np.random.default_rng(seed)
        config = make_config(chains=chains, atom=atom)
        tensor = random_weights(rng, rows, columns, bits, group, kept, row_block=7)
        bias = make_bias(rng, rows, has_bias)
        data = pack(tensor, bias, config)
        assert len(data) == packed_bytes(tensor, has_bias, config), where
        assert len(data) % atom == 0, where

        again, bias_again, consumed = unpack(data, columns, config)
        assert_same(again, tensor, where)
        assert consumed == len(data), where
        assert (bias_again is None) == (bias is None), where
        assert bias is None or bias_again.tobytes() == bias.tobytes(), where

        whole = unpack_weights(data.tobytes(), columns, config)
        assert whole.weights.dtype == np.int8
        assert (whole.weights == tensor.expanded()).all(), where
        assert (whole.kept == tensor.kept).all(), where
        assert (whole.row_scales == tensor.channel_scales).all(), where
        assert whole.consumed == consumed, where
        assert (whole.bias is None) == (bias is None), where


@pytest.mark.parametrize("bits", BITS_CODES)
@pytest.mark.parametrize("kept", [*KEPT_CHOICES, None])
def test_independent_reader_agrees(bits: int, kept: int | None) -> None:
    for seed, (rows, columns, group, atom) in enumerate([(1, 8, 16, 4), (5, 44, 32, 16), (9, 80, 64, 8)]):
        rng = np.random.default_rng(seed)
        tensor = random_weights(rng, rows, columns, bits, group, kept, row_block=3)
        bias = make_bias(rng, rows, seed != 1)
        config = make_config(chains=1, atom=atom)
        data = pack(tensor, bias, config)
        weights, scales, biases, end = naive_read(data.tobytes(), columns, atom)
        assert weights == tensor.expanded().tolist(), (bits, kept, seed)
        assert scales == tensor.channel_scales.tolist(), (bits, kept, seed)
        assert biases == ([] if bias is None else bias.tolist()), (bits, kept, seed)
        assert end == len(data)


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


@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 200),
    bits=st.sampled_from(BITS_CODES),
    group=st.sampled_from((16, 48, 128, 512)),
    kept=st.sampled_from((*KEPT_CHOICES, None)),
    chains=st.integers(1, 9),
    atom=st.sampled_from((4, 16, 20, 64)),
    has_bias=st.booleans(),
    seed=st.integers(0, 1 << 32),
)
def test_blocks_follow_one_another(
    rows: int, columns: int, bits: int, group: int, kept: int | None, chains: int, atom: int, has_bias: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    config = make_config(chains=chains, atom=atom)
    tensor = random_weights(rng, rows, columns, bits, group, kept, row_block=5)
    bias = make_bias(rng, rows, has_bias)
    data = pack(tensor, bias, config)
    offset, row = 0, 0
    while offset < len(data):
        block = read_block(data, offset, columns, config)
        part = slice(row, row + block.rows)
        assert block.rows <= config.block_rows(block.kept)
        assert (tensor.kept[part] == block.kept).all()
        assert (block.weights == tensor.expanded()[part]).all()
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


@pytest.mark.parametrize("kept", KEPT_CHOICES)
def test_breakdown_adds_up(kept: int) -> None:
    layout = BlockLayout(rows=7, kept=kept, bits=3, blocks=11, group_blocks=4, has_bias=True, atom=16)
    sizes = layout.breakdown()
    index = {IndexKind.NONE: 0, IndexKind.BITMAP: 2, IndexKind.INDEX4: kept / 2}[index_kind(kept)]
    assert sizes["index"] == np.ceil(7 * 8 * index) + np.ceil(7 * 3 * index)
    assert sizes["codes"] == np.ceil(7 * 4 * kept * 3 / 8) * 2 + np.ceil(7 * 3 * kept * 3 / 8)
    assert sizes["scales and zeros"] == 3 * 7 * 2
    assert sizes["channel scales"] == sizes["bias"] == 28
    assert sum(sizes.values()) == layout.stored_bytes


def test_rows_split_at_changes_of_n_and_at_full_blocks() -> None:
    config = make_config(chains=2)
    kept = np.repeat(np.array([16, 8, 16], np.uint8), [5, 3, 2])
    parts = stream_layouts(kept, 64, 4, 16, False, config)
    found = [(row, count, layout.rows, layout.kept) for row, count, layout in parts]
    assert found == [(0, 2, 2, 16), (4, 1, 1, 16), (5, 1, 3, 8), (8, 1, 2, 16)]


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


def test_line_padding_is_not_consumed() -> None:
    config = make_config(ports=(16, 16))
    tensor = random_weights(np.random.default_rng(8), 3, 16, 4, 16, 16)
    data = pack(tensor, None, config)
    assert len(data) % 32 == 16
    for padding in (0, 16, 31):
        assert unpack(np.pad(data, (0, padding)), 16, config)[2] == len(data)
    with pytest.raises(ProgramError, match=r"^magic of a row block must be 0xc7, not 0x0$"):
        unpack(np.pad(data, (0, 32)), 16, config)


def test_pack_refuses_what_would_not_read_back() -> None:
    tensor = random_weights(np.random.default_rng(9), 4, 32, 4, 16, 8)
    config = make_config()
    with pytest.raises(GraphError, match=r"^Bias of a stream must have shape \(4,\), not \(3,\)$"):
        pack(tensor, np.zeros(3, np.float32), config)
    mask = tensor.mask.copy()
    mask[2, :16] = True
    with pytest.raises(GraphError, match=r"^Row 2 must keep 8 of 16 weights in every block"):
        pack(replace(tensor, mask=mask), None, config)
    layout = BlockLayout(rows=1, kept=16, bits=4, blocks=1 << 16, group_blocks=8, has_bias=False, atom=4)
    with pytest.raises(ProgramError, match=r"^blocks of a row block must be below 65536, not 65536$"):
        layout.encode()


def changed(data: np.ndarray, name: str, value: int) -> np.ndarray:
    """``data`` with one field of its first header changed."""
    field = next(field for field in HEADER_FIELDS if field.name == name)
    word = int.from_bytes(data[:HEADER_BYTES].tobytes(), "little")
    word &= ~(((1 << field.width) - 1) << field.offset)
    word |= value << field.offset
    damaged = data.copy()
    damaged[:HEADER_BYTES] = np.frombuffer(word.to_bytes(HEADER_BYTES, "little"), np.uint8)
    return damaged


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("magic", 0x11, "magic of a row block must be 0xc7, not 0x11"),
        ("version", 2, "version of a row block must be 0x1, not 0x2"),
        ("index", 2, "index of a row block of 8:16 must be 1, not 2"),
        ("kept", 5, "kept of a row block must be at most 4, not 5"),
        ("table", 1, "table of a row block must be 0x0, not 0x1"),
        ("reserved_a", 1, "reserved_a of a row block must be 0x0, not 0x1"),
        ("rows", 0, "rows of a row block must be at least 1, not 0"),
        ("rows", 9, "rows of a row block of 8:16 must be at most 8, not 9"),
        ("groups", 3, "groups of a row block must be 2, not 3"),
        ("group_blocks", 0, "group_blocks of a row block must be at least 1, not 0"),
        ("blocks", 4, "blocks of a row block must be 3 for 40 columns, not 4"),
        ("outliers", 1, "outliers of a row block must be 0x0, not 0x1"),
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
        tensor = random_weights(rng, rows, columns, bits, 32, kept)
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
