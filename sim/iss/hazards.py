# SPDX-License-Identifier: Apache-2.0
"""The race detector: vector clocks over units, so that a missing token is found although the simulator runs in order.

Each unit counts its instructions; a token carries what its giver knew. An access is legal if every conflicting earlier
access by another unit is known to have finished. A sequential simulator would compute the right result without any
tokens at all; this is what makes its agreement with hardware mean something.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catenary.isa.errors import ExecutionError
from catenary.isa.opcodes import Unit
from catenary.sim.iss.buffers import RowBuffer

Clock = list[int]


@dataclass(frozen=True)
class LoadedLines:
    """What a unit knew when it loaded lines: how much of the last ones counts may only be seen when they are taken."""

    unit: Unit
    clock: Clock


@dataclass(frozen=True)
class _Part:
    """Lines of each of which a unit has written the bytes from ``first`` on, at its time ``time``."""

    line: int
    lines: int
    first: int
    unit: Unit
    time: int


class Hazards:
    """Tracks accesses to storage by unit.

    Args:
        sizes: words of each storage; empty turns the detector off.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.enabled = bool(sizes)
        self._sizes = dict(sizes)
        self.reset()

    def reset(self) -> None:
        """Start a run: every unit idle, nothing outstanding."""
        if not self.enabled:
            return
        self._unit = Unit.CONTROL
        self._clocks: list[Clock] = [[0] * len(Unit) for _ in Unit]
        self._writes = {name: self._buffers(name, size) for name, size in self._sizes.items()}
        self._reads = {name: self._buffers(name, size) for name, size in self._sizes.items()}
        self._parts: list[_Part] = []

    @staticmethod
    def _buffers(name: str, size: int) -> list[RowBuffer[np.int64]]:
        return [RowBuffer(name, np.zeros(size, np.int64)) for _ in Unit]

    def begin(self, unit: Unit) -> None:
        """An instruction of ``unit`` starts."""
        if self.enabled:
            self._unit = unit
            self._clocks[unit][unit] += 1

    def give(self, unit: Unit) -> Clock | None:
        """What a token released by ``unit`` carries."""
        return list(self._clocks[unit]) if self.enabled else None

    def take(self, unit: Unit, carried: Clock | None) -> None:
        """``unit`` takes a token."""
        if carried is not None:
            self._clocks[unit] = [max(a, b) for a, b in zip(self._clocks[unit], carried, strict=True)]

    def read(self, name: str, start: int, stride: int, rows: int, words: int) -> None:
        """The current unit reads.

        Raises:
            ExecutionError: another unit's write is not known to have finished.
        """
        if self.enabled and rows and words:
            self._conflict(self._writes[name], name, "read", start, stride, rows, words)
            _view(self._reads[name][self._unit], start, stride, rows, words)[...] = self._now()

    def write(self, name: str, start: int, stride: int, rows: int, words: int) -> None:
        """The current unit writes.

        Raises:
            ExecutionError: another unit's read or write is not known to have finished.
        """
        if self.enabled and rows and words:
            self._conflict(self._writes[name], name, "overwritten", start, stride, rows, words)
            self._conflict(self._reads[name], name, "overwritten", start, stride, rows, words)
            _view(self._writes[name][self._unit], start, stride, rows, words)[...] = self._now()

    def load_lines(self, line: int, lines: int) -> LoadedLines | None:
        """The current unit reads ``lines`` lines of memory, at least one.

        Returns:
            What :meth:`use_lines` needs when it is known how much of them counts; ``None`` if the detector is off.

        Raises:
            ExecutionError: another unit's write is not known to have finished.
        """
        if not self.enabled:
            return None
        self._conflict(self._writes["memory"], "memory", "read", line, lines, 1, lines)
        _view(self._reads["memory"][self._unit], line, lines, 1, lines)[...] = self._now()
        return LoadedLines(self._unit, list(self._clocks[self._unit]))

    def use_lines(self, loaded: LoadedLines | None, line: int, lines: int, tail: int, used: int) -> None:
        """Lines are used as a load found them: all their bytes, but of the last ``tail`` only the first ``used`` each.

        Raises:
            ExecutionError: another unit's write was not known to have finished when they were loaded.
        """
        if loaded is None:
            return
        whole = line + lines - tail
        for part in self._parts:
            if part.line < line + lines and line < part.line + part.lines and part.time > loaded.clock[part.unit]:
                place = max(line, part.line)
                if place < whole or part.first < used:
                    raise _missing("memory", place, "read", loaded.unit, part.unit)

    def store_lines(self, line: int, lines: int, shared: int, first: int) -> None:
        """The current unit writes lines of memory, the first ``shared`` of them from byte ``first`` on.

        Rows of one line may be stored while their neighbours are loaded: they are different bytes.

        Raises:
            ExecutionError: another unit's read or write is not known to have finished.
        """
        if not self.enabled:
            return
        self._conflict(self._writes["memory"], "memory", "overwritten", line, lines, 1, lines)
        if shared:
            self._parts.append(_Part(line, shared, first, self._unit, self._now()))
        if lines > shared:
            start, count = line + shared, lines - shared
            self._conflict(self._reads["memory"], "memory", "overwritten", start, count, 1, count)
            _view(self._writes["memory"][self._unit], start, count, 1, count)[...] = self._now()

    def _now(self) -> int:
        return self._clocks[self._unit][self._unit]

    def _conflict(
        self, log: list[RowBuffer[np.int64]], name: str, verb: str, start: int, stride: int, rows: int, words: int
    ) -> None:
        known = self._clocks[self._unit]
        for other in Unit:
            if other is self._unit:
                continue
            seen = _view(log[other], start, stride, rows, words)
            if seen.max() > known[other]:
                row, word = np.argwhere(seen > known[other])[0]
                raise _missing(name, start + int(row) * stride + int(word), verb, self._unit, other)


def _missing(name: str, word: int, verb: str, unit: Unit, other: Unit) -> ExecutionError:
    return ExecutionError(
        f"Word {word} of {name} must not be {verb} by {unit.name} before {other.name} is known to be done with it: "
        "a token is missing"
    )


def _view(buffer: RowBuffer[np.int64], start: int, stride: int, rows: int, words: int) -> NDArray[np.int64]:
    """A view for bookkeeping: written flags do not matter here."""
    return buffer.write(start, stride, rows, words)
