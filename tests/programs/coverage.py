# SPDX-License-Identifier: Apache-2.0
"""Functional coverage: which combinations the programs that ran had in them, and which of those that could be not.

A *cross* is a set of points, each a combination of a few properties. What a cross wants is derived from the tables of
the instruction set and from the accelerators (:mod:`tests.programs.coverage_crosses`), not written down.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from catenary.isa.config import AcceleratorConfig
from tests.programs.traced import Trace

Point = tuple[str, ...]
"""Values of a cross's axes."""

MOST_HOLES = 40
"""Lines of a list of holes; the rest is counted."""
MOST_PARTS = 8
"""Values in one of these lines."""


@dataclass(frozen=True)
class Cross:
    """A set of points.

    Attributes:
        name: short, part of a figure's name.
        axes: what the parts of a point are; the last one is ``memory`` if the kind of memory is one of them.
        wanted: the points of one accelerator, without the kind of memory.
        hits: the points of one program, without the kind of memory; ``None`` if :meth:`Coverage.hit` is told them.
    """

    name: str
    axes: tuple[str, ...]
    wanted: Callable[[AcceleratorConfig], Iterable[Point]]
    hits: Callable[[Trace], Iterable[Point]] | None = None

    @property
    def with_memory(self) -> bool:
        """Whether every point is wanted with every kind of memory."""
        return self.axes[-1] == "memory"


@dataclass(frozen=True)
class Row:
    """What came of one cross.

    Attributes:
        cross: the cross.
        covered, total: points that occurred, and that are wanted.
        holes: those that did not occur, in order.
        beyond: points that occurred and are not wanted: the cross is declared wrongly.
    """

    cross: Cross
    covered: int
    total: int
    holes: tuple[Point, ...]
    beyond: tuple[Point, ...]


@dataclass
class Coverage:
    """How often each point of each cross occurred.

    Args:
        crosses: what is counted.
    """

    crosses: Sequence[Cross]
    counts: dict[str, Counter[Point]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start every cross."""
        for cross in self.crosses:
            self.counts.setdefault(cross.name, Counter())

    def observe(self, trace: Trace, memory: str) -> None:
        """Count what a program executed with a kind of memory."""
        for cross in self.crosses:
            if cross.hits is not None:
                last = (memory,) if cross.with_memory else ()
                self.counts[cross.name].update((*point, *last) for point in cross.hits(trace))

    def hit(self, name: str, *point: str) -> None:
        """Count a point of the cross ``name``, with all its axes."""
        self.counts[name][point] += 1

    def merge(self, counts: Mapping[str, Counter[Point]]) -> None:
        """Add what another collector has counted."""
        for name, found in counts.items():
            self.counts[name].update(found)

    def rows(self, configs: Iterable[AcceleratorConfig], memories: Sequence[str]) -> list[Row]:
        """What came of every cross, of the points that some accelerator wants."""
        configs = list(configs)
        found = []
        for cross in self.crosses:
            plain = {point for config in configs for point in cross.wanted(config)}
            wanted = {(*point, memory) for point in plain for memory in memories} if cross.with_memory else plain
            seen = self.counts[cross.name]
            holes = tuple(sorted(point for point in wanted if not seen[point]))
            beyond = tuple(sorted(point for point, count in seen.items() if count and point not in wanted))
            found.append(Row(cross, len(wanted) - len(holes), len(wanted), holes, beyond))
        return found


def to_json(rows: Sequence[Row], coverage: Coverage) -> dict[str, Any]:
    """All points with their counts, and all holes."""
    return {
        row.cross.name: {
            "axes": row.cross.axes,
            "covered": row.covered,
            "total": row.total,
            "holes": row.holes,
            "beyond": row.beyond,
            "counts": [[*point, count] for point, count in sorted(coverage.counts[row.cross.name].items())],
        }
        for row in rows
    }


def summary(rows: Sequence[Row]) -> list[str]:
    """A Markdown table: of each cross its axes, and how many of its points occurred."""
    lines = ["| cross | axes | occurred | of | holes |", "|---|---|---:|---:|---:|"]
    for row in rows:
        axes = " x ".join(row.cross.axes)
        lines.append(f"| {row.cross.name} | {axes} | {row.covered:,} | {row.total:,} | {row.total - row.covered:,} |")
    return lines


def holes(rows: Sequence[Row], memories: Sequence[str], most: int = MOST_HOLES) -> list[str]:
    """The points that did not occur, a line for those that differ in their last part alone."""
    lines = []
    for row in rows:
        whole = set(memories) if row.cross.with_memory else set()
        found = list(_grouped(row.holes, whole))
        lines += [f"- {row.cross.name}: {text}" for text in found[:most]]
        if len(found) > most:
            lines.append(f"- {row.cross.name}: and {len(found) - most} more lines like these")
    return lines


def _grouped(points: Iterable[Point], whole: set[str]) -> Iterator[str]:
    groups: dict[Point, list[str]] = {}
    for point in points:
        groups.setdefault(point[:-1], []).append(point[-1])
    for first, last in groups.items():
        text = "any" if set(last) == whole else ", ".join(last[:MOST_PARTS])
        more = f" and {len(last) - MOST_PARTS} more" if len(last) > MOST_PARTS else ""
        yield " · ".join([*first, text + more])
