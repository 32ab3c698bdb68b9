# SPDX-License-Identifier: Apache-2.0
"""Memory behind the ports, and the count of what crosses them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import DeviceError, ExecutionError
from catenary.isa.memory import MemoryMap, Range, RowLayout


@dataclass
class Traffic:
    """Bytes that crossed the ports, by region of the memory map and by what they were for.

    Attributes:
        read: bytes read by kind: ``code``, ``tables``, ``constants``, ``weights``, ``kv``, ``ids``, ``logits``.
        written: bytes written by kind.
    """

    read: dict[str, int] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)

    def add(self, into: dict[str, int], kind: str, nbytes: int) -> None:
        """Count ``nbytes`` more of ``kind``."""
        into[kind] = into.get(kind, 0) + nbytes


class Memory:
    """Lines of all ports side by side, as the accelerator addresses them.

    Args:
        config: the accelerator.
        lines: lines that exist.
    """

    def __init__(self, config: AcceleratorConfig, lines: int) -> None:
        self.line_bytes = config.line_bytes
        self.data = np.zeros((lines, config.line_bytes), np.uint8)
        self._bytes = self.data.reshape(-1)
        self._starts: list[int] = []
        self._regions: list[tuple[str, Range]] = []
        self.traffic = Traffic()
        self.on_write: Callable[[int, int], None] = lambda line, lines: None

    @property
    def lines(self) -> int:
        """Lines that exist."""
        return self.data.shape[0]

    def map_regions(self, memory: MemoryMap) -> None:
        """Name the regions, so that traffic is counted by kind."""
        self._regions = sorted(memory.regions().items(), key=lambda region: region[1])
        self._starts = [region.line for _, region in self._regions]

    def host_write(self, line: int, data: bytes | bytearray | memoryview | NDArray[np.uint8]) -> None:
        """Copy bytes from the host; not counted as traffic of the ports.

        Raises:
            DeviceError: outside memory.
        """
        raw = np.frombuffer(data, np.uint8) if not isinstance(data, np.ndarray) else data.reshape(-1)
        count = -(-raw.size // self.line_bytes)
        self._inside(line, count)
        self.data[line : line + count].reshape(-1)[: raw.size] = raw
        self.on_write(line, count)

    def host_read(self, line: int, nbytes: int) -> bytes:
        """Copy bytes to the host.

        Raises:
            DeviceError: outside memory.
        """
        count = -(-nbytes // self.line_bytes)
        self._inside(line, count)
        return self.data[line : line + count].reshape(-1)[:nbytes].tobytes()

    def _inside(self, line: int, count: int) -> None:
        if line < 0 or line + count > self.lines:
            raise DeviceError(f"Memory access must end at line {self.lines} at most, not {line + count}")

    def fetch(self, line: int, count: int, stream: bool) -> NDArray[np.uint8]:
        """Lines ``line .. line + count - 1``, counted; a view.

        Raises:
            ExecutionError: outside memory.
        """
        self._check(line, count)
        if count:
            kind = self.kind(line)
            kind = ("weights" if stream else "constants") if kind == "image" else kind
            self.traffic.add(self.traffic.read, kind, count * self.line_bytes)
        return self.data[line : line + count]

    def store(self, line: int, layout: RowLayout, first: int, rows: NDArray[np.uint8]) -> None:
        """Write rows ``first ..`` of a region that starts at ``line``; other bytes of their lines stay.

        Raises:
            ExecutionError: outside memory.
        """
        if not rows.shape[0]:
            return
        low = line + layout.locate(first)[0]
        last, _ = layout.locate(first + rows.shape[0] - 1)
        count = line + last + layout.row_lines - low
        self._check(low, count)
        mask = (1 << layout.pack) - 1
        skip = first & mask
        whole = layout.row_lines == 1 or not layout.pack  # a row's bytes lie side by side
        if whole and (rows.shape[0] == 1 or layout.row_bytes << layout.pack == layout.row_lines * self.line_bytes):
            start = low * self.line_bytes + skip * layout.row_bytes  # no gaps between rows
            self._bytes[start : start + rows.size] = rows.ravel()
        elif layout.pack:
            index = np.arange(skip, skip + rows.shape[0])
            pieces = rows.reshape(rows.shape[0], layout.row_lines, layout.piece_bytes)
            layout.pieces(self.data[low : low + count])[index >> layout.pack, :, index & mask] = pieces
        else:
            self.data[low : low + count].reshape(rows.shape[0], -1)[:, : layout.row_bytes] = rows
        self.traffic.add(self.traffic.written, self.kind(low), rows.size)
        self.on_write(low, count)

    def kind(self, line: int) -> str:
        """Name of the region that ``line`` lies in, ``other`` if none."""
        index = bisect_right(self._starts, line) - 1
        if index < 0:
            return "other"
        name, region = self._regions[index]
        return name if line < region.line + region.lines else "other"

    def _check(self, line: int, count: int) -> None:
        if line + count > self.lines:
            raise ExecutionError(f"Memory access must end at line {self.lines} at most, not {line + count}")
