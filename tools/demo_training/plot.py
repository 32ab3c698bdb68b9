# SPDX-License-Identifier: Apache-2.0
"""A line chart as SVG text, enough for a loss curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 32, 40, 48  # on the right half of the last tick's label is beyond the plot
_FONT = 'font-family="sans-serif" font-size="12"'
_COLOURS = ("#5b7196", "#c4442d", "#2d7a3e")
_SAMPLE = 24  # length of a line in the legend


@dataclass(frozen=True)
class Curve:
    """A named sequence of points (x, y)."""

    name: str
    points: Sequence[tuple[float, float]]


def line_chart(title: str, x_label: str, y_label: str, curves: Sequence[Curve], y_top: float) -> str:
    """The SVG document; points above ``y_top`` are left out, so that the steep start does not flatten the rest."""
    shown = [Curve(curve.name, [(x, y) for x, y in curve.points if y <= y_top]) for curve in curves]
    xs = [x for curve in shown for x, _ in curve.points] or [0.0]
    ys = [y for curve in shown for _, y in curve.points] or [0.0]
    x_ticks, y_ticks = ticks(0.0, max(xs)), ticks(min(ys), max(ys))
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    middle = _TOP + plot_height / 2

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return _LEFT + across * plot_width, _TOP + (1 - up) * plot_height

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" {_FONT}>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(_LEFT, 20, title, "start", 'font-size="14" font-weight="bold"'),
        _text(_LEFT + plot_width / 2, _HEIGHT - 10, x_label, "middle"),
        _text(16, middle, y_label, "middle", f'transform="rotate(-90 16 {middle:.0f})"'),
    ]
    for tick in x_ticks:
        x, y = place(tick, y_ticks[0])
        parts.append(f'<path d="M{x:.1f} {y:.1f}v5" stroke="#888888"/>')
        parts.append(_text(x, y + 18, f"{tick:,g}", "middle"))
    for tick in y_ticks:
        x, y = place(0, tick)
        parts.append(f'<path d="M{x:.1f} {y:.1f}h{plot_width}" stroke="#dddddd"/>')
        parts.append(_text(x - 8, y + 4, f"{tick:g}", "end"))
    for index, curve in enumerate(shown):
        colour = _COLOURS[index % len(_COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve.points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        right, down = _WIDTH - _RIGHT, _TOP + 16 * (index + 1)
        parts.append(f'<path d="M{right} {down - 4}h-{_SAMPLE}" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(right - _SAMPLE - 6, down, curve.name, "end"))
    return "\n".join([*parts, "</svg>", ""])


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most ``low`` to at least ``high``, 1, 2 or 5 times a power of ten apart; at least two."""
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * 6 >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 10) for index in range(first, max(last, first + 1) + 1)]


def _text(x: float, y: float, content: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(content)}</text>'
