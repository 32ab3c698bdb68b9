# SPDX-License-Identifier: Apache-2.0
"""The picture of what units did: a bar as long for every unit, cut where its counters say."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from benchmarks import stall_picture
from catenary.runtime.engine import CoreCounters, UnitCounters

UNITS = {
    "load": UnitCounters(80, 20, {"tokens": 10, "stream": 0, "memory": 5, "buffer": 0}),
    "matrix": UnitCounters(100, 0, {"tokens": 50, "stream": 25, "memory": 0, "buffer": 0}),
}


def test_bars(tmp_path: Path) -> None:
    runs = {"decode <one>": CoreCounters(100, 1, 1, 1, UNITS), "prefill": CoreCounters(100, 1, 1, 1, UNITS)}
    stall_picture.write(tmp_path / "picture.svg", runs)
    text = (tmp_path / "picture.svg").read_text()
    root = ElementTree.fromstring(text)
    bars = [rect for rect in root.iter("{http://www.w3.org/2000/svg}rect") if len(rect)]
    widths = [float(bar.attrib["width"]) for bar in bars]
    parts = len(stall_picture.COLOURS)
    assert len(bars) == len(runs) * len(UNITS) * parts
    room = stall_picture.WIDTH - stall_picture.LEFT - stall_picture.RIGHT
    for first in range(0, len(bars), parts):
        assert abs(sum(widths[first : first + parts]) - room) < 0.1
    assert [round(width / room, 2) for width in widths[:parts]] == [0.65, 0.1, 0, 0.05, 0, 0.2]
    assert re.findall(r"matrix: works, (\d+) cycles", text) == ["25", "25"]
    assert "decode &lt;one&gt;" in text
