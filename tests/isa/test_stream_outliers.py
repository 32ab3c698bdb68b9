# SPDX-License-Identifier: Apache-2.0
"""Weight streams: tables of weights, and the slots of the outlier section."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from catenary.isa.errors import GraphError, ProgramError
from catenary.isa.outliers import Outliers
from catenary.isa.stream import pack, read_block, read_rows, tensor_layouts, unpack
from catenary.isa.stream_layout import (
    HEADER_BYTES,
    OUTLIER_FIELDS,
)
from catenary.isa.stream_outliers import outlier_words
from catenary.isa.tensors import KEPT_CHOICES, QuantTensor
from tests.isa.streams import assert_same, make_config, total
from tests.weights import random_weights


def outliers_at(*entries: tuple[int, int, int]) -> Outliers:
    return Outliers.of_entries(*np.array(entries, np.int64).T)


def slots(words: np.ndarray) -> list[tuple[int, list[int]]]:
    """(block, lanes) of every slot, as the rule states it: what the hardware does in one step."""
    found: list[tuple[int, list[int]]] = []
    block = 0
    for word in words.tolist():
        advance, lane = word >> 12 & 0xFF, word >> 20
        block += advance
        if not found or advance or lane <= found[-1][1][-1]:
            found.append((block, []))
        found[-1][1].append(lane)
    return found


def test_every_bit_of_an_outlier_belongs_to_one_field() -> None:
    offset = 0
    for field in OUTLIER_FIELDS:
        assert field.offset == offset, field.name
        offset += field.width
    assert offset == 32


def test_bytes_of_a_block_with_a_table_and_outliers() -> None:
    """One dense row of 2 bits, written out by hand."""
    codes = np.array([[0, 1, 2, 3] * 4], np.int16)
    tensor = QuantTensor(
        columns=16,
        bits=2,
        group=16,
        codes=codes,
        mask=np.ones_like(codes, np.bool_),
        kept=np.array([16], np.uint8),
        scales=np.array([[2]], np.uint8),
        zeros=np.array([[1]], np.uint8),
        channel_scales=np.array([1.0], np.float32),
        table=np.array([-9, -1, 1, 60], np.int8),
        outliers=outliers_at((0, 3, 200), (0, 7, -1)),
    )
    tensor.check("tensor")
    data = pack(tensor, None, make_config(atom=4))
    assert data.tobytes().hex(" ", 4) == " ".join(
        [
            "c7011400", "01000100", "01000100", "03000000",  # header
            "f7ff013c", "00000000", "00000000", "00000000",  # table
            "0000803f",  # channel scale
            "7f030000", "49031000", "ff072000",  # 127 at 3 in lane 0, 73 at 3 in lane 1, -1 at 7 in lane 2
            "02010000",  # s, z
            "e4e4e4e4",  # codes
        ]
    )  # fmt: skip
    assert read_block(data, 0, 16, make_config(atom=4)).weights.tolist() == [[-20, -4, 0, 118] * 4]


@pytest.mark.parametrize(
    "kept, entries, expected",
    [
        # One block, three rows: one slot.
        (1, [(0, 0, 5), (1, 15, -5), (2, 3, 1)], [(0, [0, 1, 2])]),
        # Row 0 has three in a block and two lanes: a second slot; row 1 is in the first.
        (2, [(0, 0, 5), (0, 1, 6), (0, 2, 7), (1, 0, 8)], [(0, [0, 1, 2]), (0, [0])]),
        # What is left of row 1 has higher lanes than row 0 and joins its slot.
        (1, [(0, 0, 5), (1, 0, 127 + 127 + 1)], [(0, [0, 1]), (0, [1]), (0, [1])]),
        # Blocks ascend, whatever the row.
        (4, [(0, 40, 1), (1, 0, 1), (2, 33, 1)], [(0, [4]), (2, [0, 8])]),
        # Gaps of 255 need no filler, gaps of 256 one, of 511 two.
        (16, [(0, 16 * 255, 1)], [(255, [0])]),
        (16, [(1, 16 * 256, 1)], [(255, [0]), (256, [16])]),
        (16, [(0, 16, 1), (1, 16 * 512, 1)], [(1, [0]), (256, [0]), (511, [0]), (512, [16])]),
    ],
)
def test_slots(kept: int, entries: list[tuple[int, int, int]], expected: list[tuple[int, list[int]]]) -> None:
    assert slots(outlier_words(outliers_at(*entries), kept)) == expected


@pytest.mark.parametrize("kept", KEPT_CHOICES)
@pytest.mark.parametrize("seed", range(4))
def test_slots_are_legal_and_add_up(kept: int, seed: int) -> None:
    """A lane of a slot is used once, by its row; as many slots as the busiest row of every block needs."""
    rng = np.random.default_rng(seed)
    tensor = random_weights(rng, 4, 400, 4, 128, kept, outliers=int(rng.choice([5, 300])))
    words = outlier_words(tensor.outliers, kept)
    sums = np.zeros((4, 400), np.int64)
    block = 0
    for word in words.tolist():
        block += word >> 12 & 0xFF
        sums[(word >> 20) // kept, 16 * block + (word >> 8 & 15)] += np.int8(np.uint8(word & 0xFF))
    assert (sums == total(np.zeros((4, 400)), tensor.outliers)).all()
    found = slots(words)
    assert all(lanes == sorted(set(lanes)) for _, lanes in found)
    products = np.zeros((4, 25), np.int64)
    np.add.at(products, (tensor.outliers.rows, tensor.outliers.columns // 16), tensor.outliers.products)
    assert len(found) == (-(-products // kept)).max(axis=0).sum()


def test_tables_of_row_blocks_may_differ_for_the_unit_only() -> None:
    config = make_config(chains=1)
    rng = np.random.default_rng(20)
    parts = [random_weights(rng, 1, 32, 4, 32, 16, table=table) for table in (False, True, True)]
    plain, one, other = (pack(part, None, config) for part in parts)
    for pair, rule in (
        ([plain, one], "must all have a table or none, not some"),
        ([one, other], r"must have the table \[.*\], not \[.*\]"),
    ):
        with pytest.raises(ProgramError, match=f"^Row blocks of one tensor {rule}$"):
            unpack(np.concatenate(pair), 32, config)
    mixed = read_rows(np.concatenate([plain, one, other]), 32, 3, config)
    assert (mixed.weights == np.concatenate([part.expanded() for part in parts])).all()


def test_entries_that_no_code_reaches_must_be_zero() -> None:
    config = make_config(atom=4)
    data = pack(random_weights(np.random.default_rng(21), 2, 16, 3, 16, 16, table=True), None, config)
    data[HEADER_BYTES + 8] = 7
    with pytest.raises(ProgramError, match=r"^Entries of a table of a row block from 8 to 15 must be 0, not 7$"):
        unpack(data, 16, config)


def test_weight_of_a_table_beyond_the_limit() -> None:
    tensor = random_weights(np.random.default_rng(22), 1, 16, 2, 16, 16, table=True)
    full = np.full((1, 1), 171, np.uint8)
    tensor = replace(tensor, codes=np.zeros((1, 16), np.int16), table=np.array([-128, 0, 0, 0], np.int8))
    tensor = replace(tensor, scales=full, zeros=np.full((1, 1), 255, np.uint8))
    with pytest.raises(
        GraphError, match=r"^Weight \(T\[q\] - z\) \* s of w at row 0, column 0 must be at most .* 65493$"
    ):
        tensor.check("w")  # 383 * 171 is 43 in 16 bits
    with pytest.raises(ProgramError, match=r"^Weight of a row block must be at most 127 in magnitude, not 65493$"):
        unpack(pack(tensor, None, make_config()), 16, make_config())


@pytest.mark.parametrize(
    "table, rule",
    [
        (np.zeros(8, np.int8), r"int8 \(16,\), not int8 \(8,\)"),
        (np.zeros(16, np.int16), r"int8 \(16,\), not int16 \(16,\)"),
    ],
)
def test_tables_of_another_kind_are_refused(table: np.ndarray, rule: str) -> None:
    tensor = random_weights(np.random.default_rng(23), 1, 16, 4, 16, 16)
    with pytest.raises(GraphError, match=f"^Table of w must be {rule}$"):
        replace(tensor, table=table).check("w")
    eight = random_weights(np.random.default_rng(23), 1, 16, 8, 16, 16)
    with pytest.raises(GraphError, match=r"^Table of w must be absent for 8-bit codes, not int8 \(16,\)$"):
        replace(eight, table=np.zeros(16, np.int8)).check("w")


@pytest.mark.parametrize(
    "rows, columns, values, message",
    [
        ([2], [0], [1], "Row of an outlier of w must be in 0..1, not 2"),
        ([0], [20], [1], "Column of an outlier of w must be in 0..19, not 20"),
        ([0, 0], [3, 3], [1, 1], "Outliers of w must ascend by row and column, not go from (0, 3) to (0, 3)"),
        ([1, 0], [3, 4], [1, 1], "Outliers of w must ascend by row and column, not go from (1, 3) to (0, 4)"),
        ([1], [3], [0], "Outlier of w at (1, 3) must not be 0"),
        ([], [], [], "Outlier rows of w must be int32 (1,), not int32 (0,)"),
        ([1], [3], [127 * 132_073], "Row 1 of w must have at most 132104 products, outliers included, not 132105"),
    ],
)
def test_outliers_that_break_a_rule(rows: list[int], columns: list[int], values: list[int], message: str) -> None:
    arrays = (np.array(array, np.int32) for array in (rows, columns, values))
    tensor = replace(random_weights(np.random.default_rng(24), 2, 20, 4, 16), outliers=Outliers(*arrays))
    with pytest.raises(GraphError) as caught:
        tensor.check("w")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "word, message",
    [
        (0x0200_0001, "Lane of an outlier must be below 32, not 32"),
        (0x0000_3001, "Block of an outlier must be below 3, not 3"),
        (0x0000_0080, "Value of an outlier must be at most 127 in magnitude, not 128"),
        (0x0000_2801, "Column of an outlier must be below 40, not 40"),
    ],
)
def test_damaged_outliers_are_named(word: int, message: str) -> None:
    config = make_config()
    tensor = replace(random_weights(np.random.default_rng(25), 2, 40, 4, 16, 16), outliers=outliers_at((1, 2, 3)))
    data = pack(tensor, None, config)
    ((_, _, layout),) = tensor_layouts(tensor, False, config)
    assert layout.outliers.used == 4
    data[layout.outliers.offset : layout.outliers.offset + 4] = np.array([word], "<u4").view(np.uint8)
    with pytest.raises(ProgramError) as caught:
        unpack(data, 40, config)
    assert str(caught.value) == message


def test_more_products_than_a_sum_can_take() -> None:
    config = make_config(chains=1)
    tensor = random_weights(np.random.default_rng(26), 1, 132_096, 4, 512, 16)
    tensor = replace(tensor, outliers=outliers_at((0, 5, 8 * 127)))
    tensor.check("w")
    data = pack(tensor, None, config)
    assert_same(unpack(data, 132_096, config)[0], tensor, 26)
    tensor = replace(tensor, outliers=outliers_at((0, 5, 8 * 127 + 1)))
    with pytest.raises(
        ProgramError, match=r"^Products of a row must be at most 132104, outliers included, not 132105$"
    ):
        unpack(pack(tensor, None, config), 132_096, config)


def test_sizes_that_the_section_cannot_hold() -> None:
    tensor = replace(random_weights(np.random.default_rng(27), 1, 16, 4), outliers=outliers_at((0, 5, 65536 * 127)))
    with pytest.raises(ProgramError, match=r"^outliers of a row block must be below 65536, not 65536$"):
        pack(tensor, None, make_config())
    wide = replace(random_weights(np.random.default_rng(28), 4097, 16, 8, kept=1), outliers=outliers_at((4096, 5, 1)))
    with pytest.raises(ProgramError, match=r"^Lane of an outlier must be below 4096, not 4096$"):
        pack(wide, None, make_config(chains=257))


def test_a_section_of_fillers_adds_nothing() -> None:
    config = make_config(atom=4)
    tensor = replace(random_weights(np.random.default_rng(29), 1, 64, 4, 64, 16), outliers=outliers_at((0, 17, 3)))
    data = pack(tensor, None, config)
    ((_, _, layout),) = tensor_layouts(tensor, False, config)
    data[layout.outliers.offset] = 0
    assert unpack(data, 64, config)[0].outliers is None
