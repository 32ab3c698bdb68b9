# SPDX-License-Identifier: Apache-2.0
"""Rules of AXI4 (ARM IHI 0022) that every manager must keep, checked in every cycle, and what is still open."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge

BOUNDARY = 4096
_PAYLOADS = {
    "aw": ("id", "addr", "len", "size", "burst", "lock", "cache", "prot", "qos", "region"),
    "w": ("data", "strb", "last"),
    "ar": ("id", "addr", "len", "size", "burst", "lock", "cache", "prot", "qos", "region"),
}
_INCR = 1


class AxiRules:
    """Watches one AXI4 port of a manager, from now until the simulation ends.

    Args:
        dut: the design.
        prefix: what its signals' names begin with.
        size: bytes of memory behind the port.

    Attributes:
        open: bursts that have been announced and not ended, reads and writes.
        bursts: bursts that there have been.
    """

    def __init__(self, dut: Any, prefix: str, size: int) -> None:
        self._dut, self._prefix, self._size = dut, prefix, size
        self._width = len(self._signal("wdata")) // 8
        self._reads: deque[int] = deque()  # beats that each read burst still lacks
        self._writes: deque[int] = deque()  # beats of each write burst of which no data have come
        self._beats = 0  # of the write burst whose data are coming, or have come before its address
        self._ahead: deque[int] = deque()  # beats of write bursts whose data came before their addresses
        self._unanswered = 0
        self.bursts = 0
        cocotb.start_soon(self._watch())

    @property
    def open(self) -> int:
        """See the class."""
        return len(self._reads) + self._unanswered + len(self._ahead) + bool(self._beats)

    def _signal(self, name: str) -> Any:
        return getattr(self._dut, self._prefix + name)

    async def _watch(self) -> None:
        """What the manager offers stays until it is taken; what is taken is counted, whoever offers it."""
        channels = {
            name: (self._signal(name + "valid"), self._signal(name + "ready"), payload)
            for name, payload in (*_PAYLOADS.items(), ("r", ()), ("b", ()))
        }
        waiting: dict[str, dict[str, int]] = {}
        reset, clock = self._dut.rst, RisingEdge(self._dut.clk)
        while True:
            await clock
            if reset.value:
                self._forget()
                waiting.clear()
                continue
            for name, (valid, ready, payload) in channels.items():
                if not valid.value:
                    assert name not in waiting, f"{name}valid of {self._prefix} must stay until it is accepted"
                    continue
                values = {part: int(self._signal(name + part).value) for part in payload}
                if payload:
                    assert waiting.get(name, values) == values, f"{name} of {self._prefix} must not change as it waits"
                    waiting[name] = values
                if ready.value:
                    waiting.pop(name, None)
                    self._taken(name, values)

    def _forget(self) -> None:
        self._reads.clear()
        self._writes.clear()
        self._ahead.clear()
        self._beats = self._unanswered = 0

    def _taken(self, channel: str, payload: dict[str, int]) -> None:
        if channel == "b":
            self._unanswered -= 1
        elif channel == "r":
            self._reads[0] -= 1
            if not self._reads[0]:
                self._reads.popleft()
        elif channel == "w":
            self._beats += 1
            if payload["last"]:
                self._ahead.append(self._beats)
                self._beats = 0
        else:
            self._check_burst(payload)
            beats = payload["len"] + 1
            if channel == "ar":
                self._reads.append(beats)
            else:
                self._writes.append(beats)
                self._unanswered += 1
        while self._writes and self._ahead:
            beats, last = self._writes.popleft(), self._ahead.popleft()
            assert beats == last, f"WLAST of {self._prefix} must be at beat {beats}, not {last}"

    def _check_burst(self, payload: dict[str, int]) -> None:
        first, beats = payload["addr"], payload["len"] + 1
        last = first + beats * self._width - 1
        self.bursts += 1
        assert payload["burst"] == _INCR, f"bursts of {self._prefix} must be INCR, not {payload['burst']}"
        assert 1 << payload["size"] == self._width, f"beats of {self._prefix} must be {self._width} bytes"
        assert first % self._width == 0, f"addresses of {self._prefix} must be multiples of {self._width}, not {first}"
        assert first // BOUNDARY == last // BOUNDARY, f"bursts of {self._prefix} must not cross 4 KB: {first}..{last}"
        assert last < self._size, f"bursts of {self._prefix} must end below {self._size}, not at {last}"
