# SPDX-License-Identifier: Apache-2.0
"""Append one measured figure to ``build/bench.jsonl``, with everything needed to judge it later.

Every benchmark calls :func:`record`; ``make figures`` then merges the rows into ``docs/figures.jsonl``.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "build" / "bench.jsonl"

KEYS = ("name", "value", "unit", "source", "command", "commit", "machine", "date")
SOURCES = ("board", "rtl", "model", "wall", "tool", "count")
_NAME = re.compile(r"[a-z0-9][a-zA-Z0-9_.:/-]*")
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class FigureError(ValueError):
    """A row of figures breaks a rule."""


def check(row: dict[str, Any]) -> None:
    """Raise FigureError unless ``row`` has exactly KEYS, each with a legal value."""
    if tuple(row) != KEYS:
        raise FigureError(f"Keys of a figure must be {', '.join(KEYS)}, not {', '.join(row)}")
    if not isinstance(row["name"], str) or not _NAME.fullmatch(row["name"]):
        raise FigureError(f"Name of a figure must match {_NAME.pattern}, not {row['name']!r}")
    value = row["value"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise FigureError(f"Value of {row['name']} must be a finite number, not {value!r}")
    if row["source"] not in SOURCES:
        raise FigureError(f"Source of {row['name']} must be one of {', '.join(SOURCES)}, not {row['source']!r}")
    for key in ("unit", "command", "commit", "machine"):
        text = row[key]
        if not isinstance(text, str) or not text.strip() or "\n" in text:
            raise FigureError(f"Field {key} of {row['name']} must be one line of text, not {text!r}")
    if not isinstance(row["date"], str) or not _DATE.fullmatch(row["date"]):
        raise FigureError(f"Date of {row['name']} must be YYYY-MM-DDTHH:MM:SSZ, not {row['date']!r}")


def machine_kind() -> str:
    """Name the kind of machine: logical processors and processor model, no host name.

    The environment variable CATENARY_MACHINE overrides it, for a figure whose machine is an accelerator or a board.
    """
    if named := os.environ.get("CATENARY_MACHINE"):
        return named
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)):
        model = found[1].strip()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} x {model} ({platform.system()} {platform.machine()})"


def commit() -> str:
    """Return the short commit of the repository, with ``-dirty`` where tracked files differ, ``none`` without one."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

    head = git("rev-parse", "--short=12", "HEAD")
    if head.returncode != 0:
        return "none"
    # Figures themselves change between a measurement and its commit, and change nothing that is measured.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs", ":!README.md").stdout
    return head.stdout.strip() + ("-dirty" if changed.strip() else "")


def record(
    name: str, value: float, unit: str, source: str, command: str, *, machine: str | None = None, path: Path = BENCH
) -> dict[str, Any]:
    """Append one figure and return the row.

    Arguments:
        name: dotted name, stable over time, e.g. ``iss.stories260k.decode``; figures of one table share a prefix.
        value: finite number; shares and errors are fractions, not per cent.
        unit: e.g. ``tokens/s``, ``bytes``, ``cycles``, ``fraction``.
        source: one of SOURCES: where the value comes from.
        command: what to type in the repository to measure it again.
        machine: what measured it, where that is not this one.
        path: the file to append to.

    Raises:
        FigureError: a field breaks its rule; nothing is written then.
    """
    row = {
        "name": name,
        "value": value,
        "unit": unit,
        "source": source,
        "command": command,
        "commit": commit(),
        "machine": machine or machine_kind(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    check(row)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return row
