# SPDX-License-Identifier: Apache-2.0
"""What the units of a core did with their cycles, as SVG: a bar for each unit of each run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.sax.saxutils import escape

from catenary.runtime.engine import CoreCounters, UnitCounters

WIDTH, LEFT, RIGHT = 960, 250, 70
ROW, BAR, GAP = 20, 14, 12
# Colours that people who see colours differently can tell apart: Okabe and Ito, "Color Universal Design", 2008.
COLOURS = {
    "works": "#009e73",
    "tokens": "#d55e00",
    "stream": "#0072b2",
    "memory": "#56b4e9",
    "buffer": "#cc79a7",
    "idle": "#e4e7eb",
}
MEANINGS = {
    "works": "works",
    "tokens": "waits for another unit",
    "stream": "waits for the stream FIFO",
    "memory": "waits for memory",
    "buffer": "waits for a buffer",
    "idle": "has no instruction",
}


def draw(runs: Mapping[str, CoreCounters]) -> str:
    """The SVG of some runs by name; on a card of its own, since pages may be light or dark."""
    rows = sum(len(run.units) for run in runs.values())
    height = 44 + rows * ROW + len(runs) * GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"',
        'font-family="system-ui, sans-serif" font-size="13" fill="#24292f">',
        "<title>What each unit did with its cycles</title>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6" fill="#ffffff" stroke="#d0d7de"/>',
    ]
    x = 16.0
    for part, meaning in MEANINGS.items():
        lines.append(f'<rect x="{x:.1f}" y="12" width="12" height="12" rx="2" fill="{COLOURS[part]}"/>')
        lines.append(f'<text x="{x + 17:.1f}" y="22.5">{meaning}</text>')
        x += 36 + 6.7 * len(meaning)
    y = 40
    for name, run in runs.items():
        lines.append(f'<text x="16" y="{y + 11}" font-weight="600">{escape(name)}</text>')
        lines.append(f'<text x="16" y="{y + 28}">{run.cycles:,} cycles</text>')
        for unit, counts in run.units.items():
            lines += _bar(unit, counts, y)
            y += ROW
        y += GAP
    return "\n".join([*lines, "</svg>", ""])


def _bar(unit: str, counts: UnitCounters, y: int) -> Iterator[str]:
    total, x = counts.busy + counts.idle, float(LEFT)
    parts = {"works": counts.busy - sum(counts.stalled.values()), **counts.stalled, "idle": counts.idle}
    yield f'<text x="{LEFT - 8}" y="{y + 11}" text-anchor="end">{escape(unit)}</text>'
    for part, cycles in parts.items():
        width = cycles / total * (WIDTH - LEFT - RIGHT)
        title = f"{unit}: {MEANINGS[part]}, {cycles:,} cycles"
        yield f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{BAR}" fill="{COLOURS[part]}">'
        yield f"<title>{escape(title)}</title></rect>"
        x += width
    yield f'<text x="{WIDTH - RIGHT + 8}" y="{y + 11}">{parts["works"] / total:.1%}</text>'


def write(path: Path, runs: Mapping[str, CoreCounters]) -> None:
    """Draw into a file."""
    path.write_text(draw(runs), encoding="utf-8")
