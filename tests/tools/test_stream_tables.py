# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/weight-stream.md are what the definition of the format gives."""

from __future__ import annotations

from tools.stream_tables import PAGE, TABLES, main, rewritten


def test_page_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == rewritten(page)
    assert main(["--check"]) == 0
    for name in TABLES:
        assert f"<!-- stream:begin {name} -->\n" in page


def test_stale_table_is_rewritten() -> None:
    page = "before\n<!-- stream:begin header -->\nstale\n<!-- stream:end -->\nafter\n"
    new = rewritten(page)
    assert new == f"before\n<!-- stream:begin header -->\n{TABLES['header']()}<!-- stream:end -->\nafter\n"
