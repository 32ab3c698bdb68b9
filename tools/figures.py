# SPDX-License-Identifier: Apache-2.0
"""Keep docs/figures.jsonl, and generate every table of numbers in README.md and docs/ from it.

    python -m tools.figures merge           build/bench.jsonl into docs/figures.jsonl, newest row per name and machine
    python -m tools.figures tables          rewrite the tables
    python -m tools.figures tables --check  exit 1 where a table is not what it would be rewritten to

A table stands between two lines of a page, each alone on its line, and shows the figures whose names match the globs:

    <!-- figures:begin iss.* rtl.small.* -->
    <!-- figures:end -->
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.record import BENCH, ROOT, FigureError, check

Row = dict[str, Any]

_TABLE = re.compile(
    r"^(?P<begin><!-- figures:begin (?P<globs>[^\n]*?) -->\n)(?P<body>.*?)(?P<end>^<!-- figures:end -->)$",
    re.MULTILINE | re.DOTALL,
)


def load(path: Path) -> list[Row]:
    """Read and check a file of figures, one JSON object a line; an absent file holds none.

    Raises:
        FigureError: a line is no JSON object or breaks a rule; the message names the file and line.
    """
    rows: list[Row] = []
    if not path.exists():
        return rows
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise FigureError(f"Row must be a JSON object, not {line.strip()}")
            check(row)
        except ValueError as error:  # FigureError and JSONDecodeError both are
            raise FigureError(f"{path.name}:{number}: {error}") from error
        rows.append(row)
    return rows


def merge(committed: list[Row], measured: list[Row]) -> list[Row]:
    """Keep the newest row per name and machine; of two with one date the later in order. Sorted by name and machine."""
    newest: dict[tuple[str, str], Row] = {}
    for row in [*committed, *measured]:
        key = (row["name"], row["machine"])
        if key not in newest or row["date"] >= newest[key]["date"]:
            newest[key] = row
    return [newest[key] for key in sorted(newest)]


def format_value(value: float) -> str:
    """Format for a reader: integers exactly, others with four significant digits; thousands get a comma."""
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def table(rows: list[Row], globs: list[str]) -> str:
    """Return the Markdown table of the figures that match, in the order of the globs, then by name.

    Seconds mean nothing without a machine: a table with ``wall`` rows names it below, or in a column where there are
    several.

    Raises:
        FigureError: there is no glob, or one that matches nothing.
    """
    if not globs:
        raise FigureError("Marker figures:begin must name at least one glob, not none")
    chosen: list[Row] = []
    for glob in globs:
        matching = [row for row in rows if fnmatchcase(row["name"], glob)]
        if not matching:
            raise FigureError(f"Glob must match the name of a figure, not {glob!r}")
        chosen += [row for row in matching if row not in chosen]
    machines = sorted({row["machine"] for row in chosen if row["source"] == "wall"})
    columns = ["name", "value", "unit", "source", "command"]
    if len(machines) > 1:
        columns.append("machine")
    rules = ["---:" if column == "value" else "---" for column in columns]
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join(rules)}|"]
    for row in chosen:
        code = {key: f"`{row[key]}`" for key in ("name", "command")}
        cells = {**row, **code, "value": format_value(row["value"])}
        lines.append("| " + " | ".join(cells[column].replace("|", "\\|") for column in columns) + " |")
    if len(machines) == 1:
        lines += ["", f"`wall` was measured on {machines[0]}."]
    return "\n".join(lines) + "\n"


def rewrite(text: str, rows: list[Row]) -> str:
    """Return a page with every table between markers made anew.

    Raises:
        FigureError: a marker has no partner, or a table cannot be made.
    """
    found = list(_TABLE.finditer(text))
    for marker in ("begin", "end"):
        if len(re.findall(rf"^<!-- figures:{marker}\b", text, re.MULTILINE)) != len(found):
            raise FigureError(f"Marker figures:{marker} must have its partner, each alone on its line")
    return _TABLE.sub(lambda m: m["begin"] + "\n" + table(rows, m["globs"].split()) + "\n" + m["end"], text)


def pages(root: Path) -> list[Path]:
    """Return the pages that may hold tables: README.md and every page under docs/."""
    return [path for path in [root / "README.md", *sorted((root / "docs").glob("**/*.md"))] if path.exists()]


def main(arguments: list[str] | None = None, *, root: Path = ROOT) -> int:
    """Run one verb; return the exit status: 0 done, 1 a table is out of date, 2 a figure or a marker breaks a rule."""
    parser = argparse.ArgumentParser(prog="python -m tools.figures", description=(__doc__ or "").partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("merge", help="merge build/bench.jsonl into docs/figures.jsonl")
    tables = verbs.add_parser("tables", help="rewrite the tables")
    tables.add_argument("--check", action="store_true", help="only compare")
    options = parser.parse_args(arguments)
    figures = root / "docs" / "figures.jsonl"
    stale = False
    try:
        if options.verb == "merge":
            rows = merge(load(figures), load(root / BENCH.relative_to(ROOT)))
            figures.parent.mkdir(exist_ok=True)
            figures.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            return 0
        rows = load(figures)
        for page in pages(root):
            text = page.read_text(encoding="utf-8")
            try:
                wanted = rewrite(text, rows)
            except FigureError as error:
                raise FigureError(f"{page.relative_to(root)}: {error}") from error
            if wanted == text:
                continue
            if options.check:
                stale = True
                where = page.relative_to(root)
                print(f"{where}: tables must match docs/figures.jsonl; run `make docs-tables`", file=sys.stderr)
            else:
                page.write_text(wanted, encoding="utf-8")
    except FigureError as error:
        print(error, file=sys.stderr)
        return 2
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
