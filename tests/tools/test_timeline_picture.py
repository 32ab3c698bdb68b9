# SPDX-License-Identifier: Apache-2.0
"""tools.timeline_picture: the layer is cut out where it begins, and every block inside it is drawn once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.record import ROOT
from tools.timeline_picture import KINDS, Block, TimelineError, draw, find_layer, main, read

UNITS = {0: "load", 1: "store", 2: "matrix", 3: "vector", 4: "control"}
SVG = "{http://www.w3.org/2000/svg}"


def step(start: int, layers: int = 2) -> list[Block]:
    """A run of the core: a loop over layers of 100 cycles, and its end."""
    blocks = [Block(4, start, start + 1, 1, f"loop count={layers} length=4")]
    for layer in range(layers):
        begin = start + 10 + 100 * layer
        blocks += [
            Block(0, begin - 5, begin + 60, 2, "ld buffer=w format=lines"),
            Block(3, begin, begin + 20, 3, "norm function=rms"),
            Block(2, begin + 20, begin + 90, 4, "mv act=0"),
            Block(3, begin + 90, begin + 95, 5, "combine function=add"),
        ]
    return [*blocks, Block(4, start + 10 + 100 * layers, start + 15 + 100 * layers, 6, "end result=r4")]


BLOCKS = sorted([*step(0), *step(1000)], key=lambda block: (block.begin, block.unit))


@pytest.mark.parametrize(
    "run, layer, cycles", [(0, 0, (10, 110)), (0, 1, (110, 205)), (1, 0, (1010, 1110)), (1, 1, (1110, 1205))]
)
def test_a_layer_lasts_until_the_next_begins(run: int, layer: int, cycles: tuple[int, int]) -> None:
    assert find_layer(UNITS, BLOCKS, run, layer) == cycles


@pytest.mark.parametrize(
    "run, layer, message", [(2, 0, "Step must be in 0..1, not 2"), (1, 2, "Layer must be in 0..1, not 2")]
)
def test_what_is_not_there_is_refused(run: int, layer: int, message: str) -> None:
    with pytest.raises(TimelineError, match=f"^{re.escape(message)}$"):
        find_layer(UNITS, BLOCKS, run, layer)


def test_a_step_without_a_loop_is_refused() -> None:
    with pytest.raises(TimelineError, match=r"^Step 0 must have a loop over layers, not none$"):
        find_layer(UNITS, step(0, layers=1), 0, 0)


def test_blocks_are_cut_at_the_borders() -> None:
    root = ElementTree.fromstring(draw(UNITS, BLOCKS, 10, 110))
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    inside = [block for block in BLOCKS if block.begin < 110 and block.end > 10]
    assert len(bars) == len(inside)
    right = {round(float(bar.get("x", "")) + float(bar.get("width", "")), 1) for bar in bars}
    assert min(float(bar.get("x", "")) for bar in bars) == 72
    assert max(right) == 944
    assert sum(text.text in UNITS.values() for text in root.iter(f"{SVG}text")) == len(UNITS)


def timeline(path: Path) -> Path:
    events: list[dict[str, Any]] = [
        {"name": "thread_name", "ph": "M", "pid": 0, "tid": unit, "args": {"name": name}}
        for unit, name in UNITS.items()
    ]
    for block in BLOCKS:
        span = {"ts": block.begin, "dur": block.end - block.begin, "pid": 0, "tid": block.unit}
        about = {"pc": block.pc, "instruction": block.text}
        events.append({"name": f"{block.mnemonic} @{block.pc}", "ph": "X", **span, "args": about})
    path.write_text(json.dumps({"traceEvents": events}))
    return path


def test_reads_what_the_device_writes(tmp_path: Path) -> None:
    assert read(timeline(tmp_path / "t.json")) == (UNITS, BLOCKS)


def test_writes_the_picture(tmp_path: Path) -> None:
    main([str(timeline(tmp_path / "t.json")), str(tmp_path / "t.svg"), "--step", "1", "--layer", "1"])
    assert (tmp_path / "t.svg").read_text() == draw(UNITS, BLOCKS, 1110, 1205)


def test_the_committed_picture_is_small_and_has_a_legend() -> None:
    text = (ROOT / "docs" / "timeline.svg").read_text()
    assert len(text) < 60_000
    assert all(f">{name}<" in text for name, _, _ in KINDS)
