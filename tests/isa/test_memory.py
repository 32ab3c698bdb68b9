# SPDX-License-Identifier: Apache-2.0
"""Rows in memory lines, and the memory map."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catenary.boards.loader import load_accelerator
from catenary.isa.errors import ProgramError
from catenary.isa.memory import MemoryMap, Range, RowLayout, key_layout, key_pack, row_layout
from tests.isa.small_programs import SMALL

LINES = st.sampled_from([8, 12, 24, 64, 96, 256])
"""Bytes of a line; ports may be unequal, so not only powers of two."""


@given(LINES, st.integers(1, 700), st.integers(1, 40))
def test_rows_lie_where_locate_says(line_bytes: int, row_bytes: int, rows: int) -> None:
    layout = row_layout(config_of(line_bytes), row_bytes)
    data = np.random.default_rng([line_bytes, row_bytes, rows]).integers(1, 256, (rows, row_bytes), dtype=np.uint8)
    lines = layout.scatter(data, line_bytes)
    assert lines.shape == (layout.lines(rows), line_bytes)
    flat = lines.reshape(-1)
    for row in range(rows):
        line, offset = layout.locate(row)
        start = line * line_bytes + offset
        assert flat[start : start + row_bytes].tobytes() == data[row].tobytes()
    assert int((flat != 0).sum()) == data.size  # and nothing else is written
    assert layout.gather(lines, rows).tobytes() == data.tobytes()


@given(LINES, st.integers(1, 700), st.integers(0, 1000))
def test_lines_are_as_many_as_the_last_row_needs(line_bytes: int, row_bytes: int, rows: int) -> None:
    layout = row_layout(config_of(line_bytes), row_bytes)
    needed = 0 if not rows else layout.locate(rows - 1)[0] + layout.row_lines
    assert layout.lines(rows) == needed


@given(LINES, st.integers(1, 700))
def test_layouts_are_such_that_hardware_finds_rows_by_shifting(line_bytes: int, row_bytes: int) -> None:
    layout = row_layout(config_of(line_bytes), row_bytes)
    per_line = 1 << layout.pack
    if layout.pack:
        assert layout.row_lines == 1
        assert per_line * row_bytes <= line_bytes < 2 * per_line * row_bytes
    else:
        assert 2 * row_bytes > line_bytes
        assert (layout.row_lines - 1) * line_bytes < row_bytes <= layout.row_lines * line_bytes


LAYOUTS = st.one_of(
    st.builds(RowLayout, st.integers(1, 700), st.just(0), st.integers(1, 90)),
    st.builds(RowLayout, st.integers(1, 60), st.integers(1, 5), st.just(1)),
    st.builds(lambda words, pack: RowLayout(16 * words, pack, words), st.integers(1, 16), st.integers(1, 4)),
)
"""One row in lines, rows in a line, and interleaved ones; the least lines that they fit in is up to the test."""


def bytes_of(layout: RowLayout, row: int, line_bytes: int) -> list[int]:
    """Where the bytes of a row lie, from the first line on: the definition, byte by byte."""
    if not layout.pack:
        return [row * layout.row_lines * line_bytes + byte for byte in range(layout.row_bytes)]
    block, place = divmod(row, 1 << layout.pack)
    size = layout.row_bytes // layout.row_lines
    return [
        (block * layout.row_lines + byte // size) * line_bytes + place * size + byte % size
        for byte in range(layout.row_bytes)
    ]


@given(LAYOUTS, st.integers(0, 9), st.integers(0, 40))
def test_every_byte_of_a_row_lies_where_its_block_says(layout: RowLayout, gap: int, rows: int) -> None:
    share = layout.piece_bytes << layout.pack if layout.pack else -(-layout.row_bytes // layout.row_lines)
    line_bytes = share + gap
    data = np.random.default_rng([share, rows]).integers(1, 256, (rows, layout.row_bytes), dtype=np.uint8)
    lines = layout.scatter(data, line_bytes)
    assert lines.shape == (layout.lines(rows), line_bytes)
    flat = lines.reshape(-1)
    for row in range(rows):
        places = bytes_of(layout, row, line_bytes)
        line, offset = layout.locate(row)
        assert places[0] == line * line_bytes + offset
        assert (flat[places] == data[row]).all()
    assert int((flat != 0).sum()) == data.size
    assert (layout.gather(lines, rows) == data).all()
    if rows:
        tail, used = layout.tail(rows, line_bytes)
        behind = lines[len(lines) - tail :]
        assert (behind[:, used:] == 0).all()
        if layout.row_bytes > (layout.row_lines - 1) * line_bytes:
            assert behind[:, :used].all()


def test_keys_are_interleaved_where_a_line_has_several_words_and_the_unit_takes_them() -> None:
    slice_, small = load_accelerator("hbm-slice"), load_accelerator("small")
    assert key_pack(slice_) == 4
    assert key_layout(slice_, 128) == RowLayout(128, 4, 8)
    assert key_layout(slice_, 256) == RowLayout(256, 4, 16)
    assert key_layout(slice_, 32) == RowLayout(32, 4, 2)
    for row_bytes in (1, 8, 15, 16, 24, 100):
        assert key_layout(slice_, row_bytes) == row_layout(slice_, row_bytes)
    for config in (small, load_accelerator("uneven")):
        assert key_pack(config) == 0
        for row_bytes in (8, 16, 64, 128):
            assert key_layout(config, row_bytes) == row_layout(config, row_bytes)
    # Lines of 44 bytes have two words; of 36, too, and 6 of 21 groups are written in a cycle.
    wide = replace(SMALL, port_bytes=(16, 16, 8, 4), chains=8, chain_length=32)
    assert key_layout(wide, 48) == RowLayout(48, 1, 3)
    assert key_pack(replace(wide, port_bytes=(4, 16, 16), chains=7, chain_length=48)) == 1
    # 16 words in a line and as many groups in a cycle, or one less; two cycles of 18 groups, or of 16.
    for chains, pack in ((32, 4), (31, 0), (72, 0), (64, 4)):
        assert key_pack(replace(slice_, chains=chains)) == pack


def config_of(line_bytes: int) -> Any:
    ports = {8: (8,), 12: (4, 8), 24: (8, 16), 64: (64,), 96: (32, 64), 256: (64,) * 4}[line_bytes]
    return replace(SMALL, port_bytes=ports, stream_atom=4)


def test_edges_of_row_layouts() -> None:
    config = config_of(8)
    assert row_layout(config, 1) == RowLayout(1, 3, 1)
    assert row_layout(config, 4) == RowLayout(4, 1, 1)
    assert row_layout(config, 5) == RowLayout(5, 0, 1)
    assert row_layout(config, 8) == RowLayout(8, 0, 1)
    assert row_layout(config, 9) == RowLayout(9, 0, 2)
    assert row_layout(config_of(24), 5) == RowLayout(5, 2, 1)


MAP = MemoryMap(
    code=Range(0, 4), tables=Range(8, 1), image=Range(9, 10), ids=Range(19, 2), kv=Range(21, 0), logits=Range(21, 3)
)
CONTENTS = {"code": 4 * 8, "tables": 3, "image": 80}


def test_a_map_is_its_regions_in_order() -> None:
    assert list(MAP.regions()) == ["code", "tables", "image", "ids", "kv", "logits"]
    assert MAP.lines == 24
    assert Range(3, 4).end == 7
    assert MemoryMap.from_json(MAP.to_json()) == MAP
    MAP.check(SMALL, CONTENTS)


@pytest.mark.parametrize(
    "data, message",
    [
        ([], "memory must be a JSON object, not []"),
        ({**MAP.to_json(), "x": [1, 2]}, "Keys of memory must be [...], not with ['x'] missing or added"),
        ({**MAP.to_json(), "kv": [1]}, "memory.kv must be a line and a number of lines, not 1 integers"),
        ({**MAP.to_json(), "kv": [1, 2, 3]}, "memory.kv must be a line and a number of lines, not 3 integers"),
        ({**MAP.to_json(), "kv": [1, True]}, "memory.kv[1] must be of type int, not True"),
        ({**MAP.to_json(), "kv": [1, 1.0]}, "memory.kv[1] must be of type int, not 1.0"),
        ({**MAP.to_json(), "kv": 7}, "memory.kv must be of type list, not 7"),
    ],
)
def test_a_map_of_other_values_is_refused(data: Any, message: str) -> None:
    pattern = re.escape(message).replace(re.escape("[...]"), r"\[.*\]")
    with pytest.raises(ProgramError, match=f"^{pattern}$"):
        MemoryMap.from_json(data)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"code": Range(-1, 4)}, "Region code must start at line 0 or later and have at least 0 lines, not (-1, 4)"),
        ({"tables": Range(3, 1)}, "Region tables must start at line 4 or later and have at least 0 lines, not (3, 1)"),
        ({"kv": Range(21, -1)}, "Region kv must start at line 21 or later and have at least 0 lines, not (21, -1)"),
        ({"ids": Range(0, 2)}, "Region ids must start at line 19 or later and have at least 0 lines, not (0, 2)"),
        ({"logits": Range(21, 1 << 40)}, f"Memory must be at most {SMALL.memory_lines} lines, not {21 + (1 << 40)}"),
        ({"code": Range(0, 5)}, "Region code must have the 4 lines of its contents, not 5"),
        ({"tables": Range(8, 0)}, "Region tables must have the 1 lines of its contents, not 0"),
    ],
)
def test_a_map_of_unsound_regions_is_refused(changed: dict[str, Range], message: str) -> None:
    with pytest.raises(ProgramError, match=f"^{re.escape(message)}$"):
        replace(MAP, **changed).check(SMALL, CONTENTS)
