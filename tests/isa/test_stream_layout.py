# SPDX-License-Identifier: Apache-2.0
"""Weight streams: the header, and the sizes of sections and row blocks."""

from __future__ import annotations

import numpy as np
import pytest

from catenary.isa.stream import pack
from catenary.isa.stream_layout import (
    HEADER_BYTES,
    HEADER_FIELDS,
    BlockLayout,
    IndexKind,
    index_kind,
    stream_layouts,
)
from catenary.isa.tensors import KEPT_CHOICES, QuantTensor
from tests.isa.streams import make_config


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
