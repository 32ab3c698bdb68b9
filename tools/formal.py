# SPDX-License-Identifier: Apache-2.0
"""Run every proof of tests/formal, and write the table of docs/formal.md from what they report.

    python -m tools.formal          run the proofs, rewrite the table if all hold
    python -m tools.formal --rows   write the rows to standard output instead, one JSON object a line

The table stands between ``<!-- formal:begin -->`` and ``<!-- formal:end -->``; the text around it is written by hand.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "formal.md"

Row = dict[str, Any]

_PART = re.compile(r"(?<=<!-- formal:begin -->\n).*?(?=<!-- formal:end -->)", re.DOTALL)


class FormalError(Exception):
    """The page has no place for the table, or a proof failed."""


def run() -> list[Row]:
    """Run all proofs; what each reports.

    Raises:
        FormalError: one of them failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        rows.touch()
        command = [sys.executable, "-m", "pytest", "-q", "tests/formal"]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "CATENARY_PROOFS": str(rows)})
        if done.returncode:
            raise FormalError("Proofs must all hold before their table is written")
        return [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]


def table(rows: list[Row]) -> str:
    """The Markdown table of ``rows``, sorted by group and component."""
    columns = ("component", "what holds", "how", "seconds", "found in controls (cycles)")
    lines = [f"| {' | '.join(columns)} |", "|---|---|---|---:|---|"]
    for row in sorted(rows, key=lambda row: (row["group"], row["component"], row["claim"])):
        controls = "; ".join(f"{name} ({cycles})" for name, cycles in row["controls"].items())
        cells = (f"`{row['component']}`", row["claim"], row["method"], f"{row['seconds']:.1f}", controls)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def rewritten(page: str, rows: list[Row]) -> str:
    """``page`` with the table of ``rows``.

    Raises:
        FormalError: the page does not have one place for it.
    """
    if len(_PART.findall(page)) != 1:
        raise FormalError("Page must have one pair of formal:begin and formal:end")
    return _PART.sub(lambda _: f"\n{table(rows)}\n", page)


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    try:
        rows = run()
        if "--rows" in arguments:
            print("\n".join(json.dumps(row) for row in rows))
        else:
            PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8"), rows), encoding="utf-8")
    except FormalError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
