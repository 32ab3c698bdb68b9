# SPDX-License-Identifier: Apache-2.0
"""tools.figures: merging keeps the newest row, and tables come from the figures alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.record import ROOT, FigureError
from tools.figures import format_value, load, main, merge, rewrite, table


def figure(name: str, value: float = 1, **fields: str) -> dict[str, Any]:
    defaults = {
        "unit": "tokens/s",
        "source": "count",
        "command": "make bench",
        "commit": "0123456789ab",
        "machine": "m1",
        "date": "2025-01-31T12:00:00Z",
    }
    return {"name": name, "value": value, **defaults, **fields}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_merge_keeps_the_newest_row_per_name_and_machine() -> None:
    old = figure("a", 1, date="2025-01-01T00:00:00Z")
    new = figure("a", 2, date="2025-01-02T00:00:00Z")
    elsewhere = figure("a", 3, machine="m2", date="2024-01-01T00:00:00Z")
    assert merge([old], [new, elsewhere]) == [new, elsewhere]
    assert merge([new, elsewhere], [old]) == [new, elsewhere]
    assert merge([], []) == []


def test_merge_takes_the_later_of_two_rows_with_one_date_and_sorts_by_name() -> None:
    assert merge([figure("b", 1)], [figure("b", 2), figure("a")]) == [figure("a"), figure("b", 2)]


def test_merge_twice_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path / "build" / "bench.jsonl", [figure("b"), figure("a"), figure("a", 7)])
    assert main(["merge"], root=tmp_path) == 0
    once = (tmp_path / "docs" / "figures.jsonl").read_text()
    assert load(tmp_path / "docs" / "figures.jsonl") == [figure("a", 7), figure("b")]
    assert main(["merge"], root=tmp_path) == 0
    assert (tmp_path / "docs" / "figures.jsonl").read_text() == once


@pytest.mark.parametrize("line", ["{", "[1]", '{"name": "a"}', json.dumps(figure("a", source="guess"))])
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    path = tmp_path / "build" / "bench.jsonl"
    write(path, [figure("a")])
    path.write_text(path.read_text() + "\n" + line + "\n")
    with pytest.raises(FigureError, match=r"^bench\.jsonl:3: "):
        load(path)
    assert main(["merge"], root=tmp_path) == 2
    assert capsys.readouterr().err.startswith("bench.jsonl:3: ")
    assert not (tmp_path / "docs").exists()


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (1234567, "1,234,567"), (0.00012345, "0.0001234"), (3.64912, "3.649"), (12345.6, "12,346")],
)
def test_values_are_formatted_for_a_reader(value: float, text: str) -> None:
    assert format_value(value) == text


def test_table_follows_the_globs_and_escapes_pipes() -> None:
    rows = [figure("a.one"), figure("a.two", command="catenary run M | head"), figure("b.one", 0.5, unit="fraction")]
    assert table(rows, ["b.*", "a.*", "*.one"]) == (
        "| name | value | unit | source | command |\n"
        "|---|---:|---|---|---|\n"
        "| `b.one` | 0.5 | fraction | count | `make bench` |\n"
        "| `a.one` | 1 | tokens/s | count | `make bench` |\n"
        "| `a.two` | 1 | tokens/s | count | `catenary run M \\| head` |\n"
    )


def test_table_names_the_machine_behind_seconds() -> None:
    one = [figure("a", source="wall"), figure("b", machine="m3")]
    assert table(one, ["*"]).endswith("|\n\n`wall` was measured on m1.\n")
    two = [figure("a", source="wall"), figure("a", source="wall", machine="m2")]
    assert table(two, ["*"]).splitlines()[0] == "| name | value | unit | source | command | machine |"
    assert table(two, ["*"]).splitlines()[3].endswith("| m2 |")


@pytest.mark.parametrize(
    "page, message",
    [
        ("<!-- figures:begin none.* -->\n<!-- figures:end -->\n", "Glob must match the name of a figure, not 'none.*'"),
        ("<!-- figures:begin -->\n<!-- figures:end -->\n", "must have its partner"),
        ("<!-- figures:begin  -->\n<!-- figures:end -->\n", "must name at least one glob"),
        ("<!-- figures:begin a -->\n", "Marker figures:begin must have its partner"),
        ("<!-- figures:end -->\n", "Marker figures:end must have its partner"),
    ],
)
def test_a_bad_marker_names_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], page: str, message: str
) -> None:
    write(tmp_path / "docs" / "figures.jsonl", [figure("a")])
    (tmp_path / "docs" / "speed.md").write_text(page)
    assert main(["tables"], root=tmp_path) == 2
    assert re.match(rf"docs/speed\.md: .*{re.escape(message)}", capsys.readouterr().err)


def test_tables_are_rewritten_and_nothing_else_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "docs" / "figures.jsonl", [figure("a", 1), figure("b", 2)])
    readme = tmp_path / "README.md"
    block = "<!-- figures:begin {0} -->\nstale\n<!-- figures:end -->\n"
    readme.write_text("before\n" + block.format("a") + "between\n" + block.format("b") + "after\n")
    assert main(["tables", "--check"], root=tmp_path) == 1
    assert capsys.readouterr().err == "README.md: tables must match docs/figures.jsonl; run `make docs-tables`\n"
    assert "stale" in readme.read_text()

    assert main(["tables"], root=tmp_path) == 0
    text = readme.read_text()
    pieces = re.split(r"<!-- figures:.*? -->\n", text)
    assert [pieces[0], pieces[2], pieces[4]] == ["before\n", "between\n", "after\n"]
    assert "`a`" in pieces[1]
    assert "`b`" in pieces[3]
    assert rewrite(text, [figure("a", 1), figure("b", 2)]) == text
    assert main(["tables", "--check"], root=tmp_path) == 0


def test_committed_tables_match_the_committed_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables", "--check"], root=ROOT) == 0, capsys.readouterr().err
