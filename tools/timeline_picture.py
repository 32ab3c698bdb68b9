# SPDX-License-Identifier: Apache-2.0
"""Draw what the units of a core did during one layer of one decode step, as SVG.

    catenary run --device rtl --prompt "Once upon a time" --max-new-tokens 40 --timeline build/story.json
    python -m tools.timeline_picture build/story.json docs/timeline.svg --step 20 --layer 2

A layer is one pass of the step's first loop that runs more than once. It is cut out where the vector unit begins the
loop's body, so the other units show what they already do for the next layer, or still for this one.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT = 960, 72, 16
TRACK, BAR, TOP = 40, 30, 42
MIN_WIDTH = 0.6
LABEL_WIDTH = 7.0
"""Pixels that one letter of a label takes; a block too narrow for its label has none."""

# Colours that people who see colours differently can tell apart: Okabe and Ito, "Color Universal Design", 2008.
KINDS: tuple[tuple[str, str, str], ...] = (
    ("weights and KV cache", "#0072b2", r"ld buffer=w"),
    ("other loads and stores", "#56b4e9", r"ld|st"),
    ("linear layers", "#d55e00", r"mm|mv"),
    ("attention", "#cc79a7", r"score|context|softmax"),
    ("vector arithmetic", "#009e73", r"norm|rope|apply|combine"),
    ("quantise", "#e69f00", r"quant"),
    ("scalars", "#666666", r"\w+"),
)
"""Name, colour and pattern of the instructions of a kind; the first that matches counts."""
_DARK = {"#0072b2", "#d55e00", "#666666"}


@dataclass(frozen=True)
class Block:
    """One instruction in a unit.

    Attributes:
        unit: index of the track.
        begin: first cycle.
        end: cycle behind the last.
        pc: address of the instruction.
        text: its disassembly.
    """

    unit: int
    begin: int
    end: int
    pc: int
    text: str

    @property
    def mnemonic(self) -> str:
        """First word of the disassembly."""
        return self.text.partition(" ")[0]


class TimelineError(ValueError):
    """The timeline does not hold what is to be drawn."""


def read(path: Path) -> tuple[dict[int, str], list[Block]]:
    """Read what ``--timeline`` wrote: names of the tracks, and blocks ordered by their begin.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON.
    """
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    units = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    blocks = [
        Block(event["tid"], event["ts"], event["ts"] + event["dur"], event["args"]["pc"], event["args"]["instruction"])
        for event in events
        if event["ph"] == "X"
    ]
    return units, sorted(blocks, key=lambda block: (block.begin, block.unit))


def find_layer(units: dict[int, str], blocks: Sequence[Block], step: int, layer: int) -> tuple[int, int]:
    """The cycles of one layer.

    Args:
        units: names of the tracks.
        blocks: of the whole timeline.
        step: run of the core, counted from 0; with a prompt of several tokens, run 0 is the prefill.
        layer: counted from 0.

    Returns:
        First cycle, and the cycle behind the last.

    Raises:
        TimelineError: there is no such step or layer.
    """
    ends = [block.end for block in blocks if block.mnemonic == "end"]
    if not 0 <= step < len(ends):
        raise TimelineError(f"Step must be in 0..{len(ends) - 1}, not {step}")
    first = ends[step - 1] if step else 0
    inside = [block for block in blocks if first <= block.begin < ends[step]]
    loops = [re.match(r"loop count=(\d+) length=(\d+)", block.text) for block in inside]
    found = [(block.pc, loop) for block, loop in zip(inside, loops, strict=True) if loop and int(loop[1]) > 1]
    if not found:
        raise TimelineError(f"Step {step} must have a loop over layers, not none")
    start, loop = found[0]
    body = range(start + 1, start + 1 + int(loop[2]))
    vector = [block for block in inside if units[block.unit] == "vector" and block.pc in body]
    begins = [block.begin for block in vector if block.pc == min(block.pc for block in vector)]
    if not 0 <= layer < len(begins):
        raise TimelineError(f"Layer must be in 0..{len(begins) - 1}, not {layer}")
    behind = max(block.end for block in vector)
    return begins[layer], begins[layer + 1] if layer + 1 < len(begins) else behind


def draw(units: dict[int, str], blocks: Sequence[Block], begin: int, end: int) -> str:
    """The SVG of the cycles ``begin .. end - 1``; on a card of its own, since pages may be light or dark."""
    scale = (WIDTH - LEFT - RIGHT) / (end - begin)
    bottom = TOP + TRACK * len(units)
    height = bottom + 44
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"',
        'font-family="system-ui, sans-serif" font-size="13" fill="#24292f">',
        "<title>What each unit executes during one decoder layer of a decode step</title>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="6" fill="#ffffff" stroke="#d0d7de"/>',
        *_legend(),
    ]
    tick = _tick(end - begin)
    for cycle in range(0, end - begin + 1, tick):
        x = LEFT + cycle * scale
        lines.append(f'<path d="M{x:.1f} {TOP - 4}V{bottom}" stroke="#e4e7eb"/>')
        lines.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{cycle:,}</text>')
    lines.append(f'<text x="{middle}" y="{bottom + 35}" text-anchor="middle">cycles</text>')
    for row, unit in enumerate(sorted(units)):
        y = TOP + TRACK * row + (TRACK - BAR) / 2
        lines.append(f'<text x="{LEFT - 10}" y="{y + BAR / 2 + 4.5:g}" text-anchor="end">{escape(units[unit])}</text>')
        for block in blocks:
            if block.unit == unit and block.end > begin and block.begin < end:
                lines += _bar(block, begin, end, scale, y)
    return "\n".join([*lines, "</svg>", ""])


def _bar(block: Block, begin: int, end: int, scale: float, y: float) -> list[str]:
    left, right = max(block.begin, begin), min(block.end, end)
    x, width = LEFT + (left - begin) * scale, max((right - left) * scale, MIN_WIDTH)
    colour = next(colour for _, colour, pattern in KINDS if re.match(rf"(?:{pattern})\b", block.text))
    title = escape(f"{block.text}, {block.end - block.begin:,} cycles")
    lines = [
        f'<rect x="{x:.2f}" y="{y:g}" width="{width:.2f}" height="{BAR}" fill="{colour}">',
        f"<title>{title}</title></rect>",
    ]
    if width > LABEL_WIDTH * len(block.mnemonic) + 6:
        fill = "#ffffff" if colour in _DARK else "#24292f"
        where = f'x="{x + width / 2:.1f}" y="{y + BAR / 2 + 4:g}" text-anchor="middle" font-size="12"'
        lines.append(f'<text {where} fill="{fill}" pointer-events="none">{block.mnemonic}</text>')
    return lines


def _legend() -> list[str]:
    lines, x, y = [], 16.0, 12
    for name, colour, _ in KINDS:
        width = 22 + 6.9 * len(name)
        if x + width > WIDTH - RIGHT:
            x, y = 16.0, y + 20
        lines.append(f'<rect x="{x:.1f}" y="{y}" width="12" height="12" rx="2" fill="{colour}"/>')
        lines.append(f'<text x="{x + 17:.1f}" y="{y + 10.5}">{escape(name)}</text>')
        x += width + 14
    return lines


def _tick(cycles: int) -> int:
    """A round number of cycles that divides ``cycles`` into 5 to 12 parts."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if cycles / (step * factor) <= 12:
                return step * factor
        step *= 10


def main(arguments: Sequence[str] | None = None) -> None:
    """Read a timeline, write a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("timeline", type=Path, help="JSON that --timeline wrote")
    parser.add_argument("picture", type=Path, help="SVG to write")
    parser.add_argument("--step", type=int, default=1, help="run of the core, from 0 (the prefill of a prompt)")
    parser.add_argument("--layer", type=int, default=0, help="decoder layer, from 0")
    options = parser.parse_args(arguments)
    units, blocks = read(options.timeline)
    try:
        begin, end = find_layer(units, blocks, options.step, options.layer)
    except TimelineError as error:
        parser.error(str(error))
    options.picture.write_text(draw(units, blocks, begin, end), encoding="utf-8")


if __name__ == "__main__":
    main()
