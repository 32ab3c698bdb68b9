# SPDX-License-Identifier: Apache-2.0
"""benchmarks.record: rows are complete and legal, and an illegal one is never written."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

import benchmarks.record as recording
from benchmarks.record import KEYS, SOURCES, FigureError, check, commit, machine_kind, record

ROW = {
    "name": "iss.decode",
    "value": 1.5,
    "unit": "tokens/s",
    "source": "wall",
    "command": "make bench",
    "commit": "0123456789ab",
    "machine": "2 x somebody's processor",
    "date": "2025-01-31T12:00:00Z",
}


@pytest.mark.parametrize("source", SOURCES)
def test_record_appends_a_complete_row(tmp_path: Path, source: str) -> None:
    path = tmp_path / "build" / "bench.jsonl"
    first = record("a.b", 1, "count", source, "make bench", path=path)
    second = record("a.c", 0.25, "fraction", source, "make bench", path=path)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [first, second]
    assert tuple(first) == KEYS
    assert first["commit"] == commit()
    assert first["machine"] == machine_kind()


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("name", "", "Name of a figure must match"),
        ("name", "two words", "not 'two words'"),
        ("value", float("nan"), "Value of iss.decode must be a finite number, not nan"),
        ("value", float("inf"), "not inf"),
        ("value", True, "not True"),
        ("value", "3", "not '3'"),
        ("source", "guess", "Source of iss.decode must be one of board, rtl, model, wall, tool, count, not 'guess'"),
        ("unit", " ", "Field unit of iss.decode must be one line of text, not ' '"),
        ("command", "a\nb", "Field command"),
        ("machine", None, "Field machine"),
        ("date", "2025-01-31", "Date of iss.decode must be YYYY-MM-DDTHH:MM:SSZ, not '2025-01-31'"),
    ],
)
def test_check_names_the_rule(key: str, value: object, message: str) -> None:
    check(ROW)
    with pytest.raises(FigureError, match=re.escape(message)):
        check({**ROW, key: value})


def test_check_rejects_missing_and_unknown_keys() -> None:
    with pytest.raises(FigureError, match=r"Keys of a figure must be name, value, .*, not value, unit"):
        check({key: value for key, value in ROW.items() if key != "name"})
    with pytest.raises(FigureError, match=r"not .*, date, note$"):
        check({**ROW, "note": "x"})


def test_an_illegal_figure_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "bench.jsonl"
    with pytest.raises(FigureError):
        record("a", 1, "s", "guess", "make bench", path=path)
    assert not path.exists()


def test_machine_kind_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATENARY_MACHINE", "1 x board")
    assert machine_kind() == "1 x board"


def test_commit_says_when_the_tree_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(recording, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() == "none"
    git("init")
    (tmp_path / "code.py").write_text("1\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "figures.jsonl").write_text("")
    git("add", ".")
    git("commit", "-m", "one")
    clean = commit()
    assert re.fullmatch(r"[0-9a-f]{12}", clean)
    (tmp_path / "docs" / "figures.jsonl").write_text("{}\n")
    assert commit() == clean
    (tmp_path / "code.py").write_text("2\n")
    assert commit() == f"{clean}-dirty"
