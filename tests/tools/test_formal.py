# SPDX-License-Identifier: Apache-2.0
"""The table of proofs."""

from __future__ import annotations

import re

import pytest

from tools.formal import PAGE, FormalError, rewritten, table

ROW = {
    "group": "fifos",
    "component": "Fifo(2)",
    "claim": "a | b",
    "method": "induction over 1 cycle",
    "seconds": 1.25,
    "controls": {"reads twice": 3, "takes too much": 4},
}
TEXT = """| component | what holds | how | seconds | found in controls (cycles) |
|---|---|---|---:|---|
| `Fifo(2)` | a \\| b | induction over 1 cycle | 1.2 | reads twice (3); takes too much (4) |
"""


def test_table() -> None:
    assert table([ROW]) == TEXT


def test_rows_are_sorted() -> None:
    rows = [{**ROW, "group": "b"}, {**ROW, "component": "Z"}, ROW]
    assert table(rows) == table([ROW, rows[1], rows[0]])


def test_page() -> None:
    page = "text\n<!-- formal:begin -->\nold\n<!-- formal:end -->\nmore\n"
    new = rewritten(page, [ROW])
    assert new == f"text\n<!-- formal:begin -->\n\n{TEXT}\n<!-- formal:end -->\nmore\n"
    assert rewritten(new, [ROW]) == new


def test_page_without_a_place() -> None:
    with pytest.raises(FormalError, match=r"^Page must have one pair of formal:begin and formal:end$"):
        rewritten("text\n", [ROW])


def test_the_page_has_a_table_of_proofs_that_all_have_controls() -> None:
    rows = re.findall(r"^\| `.*\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows
    assert all(re.search(r"\(\d+\) \|$", row) for row in rows)
