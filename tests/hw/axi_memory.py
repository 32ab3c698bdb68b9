# SPDX-License-Identifier: Apache-2.0
"""A memory behind one AXI4 port, for the Amaranth simulator: it keeps time as told, and checks the protocol."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

SLVERR = 2

AR = ("arvalid", "araddr", "arlen", "arsize", "arburst", "arid")
AW = ("awvalid", "awaddr", "awlen", "awsize", "awburst", "awid")
W = ("wvalid", "wdata", "wstrb", "wlast")


@dataclass
class Timing:
    """When a port moves. Probabilities are of a pause in a cycle.

    Attributes:
        latency: cycles from address to first data, or from last data to response; (least, most).
        address_pause: before an address is accepted.
        data_pause: before a beat.
        blocked: given a cycle, whether the port gives and takes no data.
    """

    latency: tuple[int, int] = (1, 30)
    address_pause: float = 0.3
    data_pause: float = 0.3
    blocked: Callable[[int], bool] = lambda cycle: False


def refresh(phase: int) -> Timing:
    """The memory model of the timing model: 60 of every 790 cycles blocked, latency 120."""
    return Timing((120, 120), 0.0, 0.0, lambda cycle: (cycle + phase) % 790 < 60)


@dataclass
class Port:
    """One port: the memory behind it and everything that crossed it.

    Attributes:
        data: uint8 [bytes].
        timing: when it moves.
        rng: for pauses.
        bad: byte addresses of beats that are answered with an error.
        reads, writes: beats that crossed.
        written: bytes that strobes wrote.
        bursts: (address, beats) of every burst, reads and writes.
        open: bursts that are under way.
    """

    data: np.ndarray
    timing: Timing
    rng: np.random.Generator
    bad: set[int] = field(default_factory=set)
    reads: int = 0
    writes: int = 0
    written: int = 0
    bursts: list[tuple[int, int]] = field(default_factory=list)
    open: int = 0

    def _pause(self, chance: float) -> bool:
        return chance > 0 and self.rng.random() < chance

    def _when(self, cycle: int) -> int:
        low, high = self.timing.latency
        return cycle + (low if low == high else int(self.rng.integers(low, high + 1)))

    def _burst(self, axi, address: int, length: int, size: int, burst: int) -> int:
        """Check a burst against the rules; its number of beats."""
        width = axi.signature.data_bits // 8
        assert 1 << size == width
        assert burst == 1, "not INCR"
        assert address % width == 0
        beats = length + 1
        assert address // 4096 == (address + beats * width - 1) // 4096, f"{beats} beats at {address} cross 4 KB"
        assert address + beats * width <= self.data.size, "behind the end of memory"
        self.bursts.append((address, beats))
        return beats

    async def serve_reads(self, ctx, axi) -> None:
        """Answer channel AR."""
        width = axi.signature.data_bits // 8
        queue: deque[tuple[int, int, bool]] = deque()  # cycle, address, last
        before = None
        cycle, arready, offered = 0, False, False
        signals = [getattr(axi, name) for name in AR]
        async for _, _, rready, *channel in ctx.tick().sample(axi.rready, *signals):
            cycle += 1
            valid, address, length, size, burst, _id = (int(getattr(value, "value", value)) for value in channel)
            channel = (valid, address, length, size, burst, _id)
            assert before is None or channel == before, f"AR changed while it waited: {before} to {channel}"
            before = channel if valid and not arready else None
            if valid and arready:
                beats = self._burst(axi, address, length, size, burst)
                at = self._when(cycle)
                queue.extend((at, address + beat * width, beat == beats - 1) for beat in range(beats))
                self.open += 1
            if offered and rready:
                self.reads += 1
                self.open -= queue[0][2]
                queue.popleft()
                offered = False
            if not offered and queue and queue[0][0] <= cycle and not self.timing.blocked(cycle):
                offered = not self._pause(self.timing.data_pause)
                if offered:
                    _, address, last = queue[0]
                    value = int.from_bytes(self.data[address : address + width].tobytes(), "little")
                    ctx.set(axi.rdata, value)
                    ctx.set(axi.rresp, SLVERR if address in self.bad else 0)
                    ctx.set(axi.rlast, last)
            ctx.set(axi.rvalid, offered)
            arready = not self._pause(self.timing.address_pause)
            ctx.set(axi.arready, arready)

    async def serve_writes(self, ctx, axi) -> None:
        """Take channels AW and W, in either order, and answer on B."""
        width = axi.signature.data_bits // 8
        addresses: deque[tuple[int, int]] = deque()
        beats: deque[tuple[int, int, int]] = deque()
        answers: deque[tuple[int, int]] = deque()
        before = {"aw": None, "w": None}
        cycle, awready, wready, offered = 0, False, False, False
        signals = [getattr(axi, name) for name in (*AW, *W)]
        async for _, _, bready, *values in ctx.tick().sample(axi.bready, *signals):
            cycle += 1
            values = tuple(int(getattr(value, "value", value)) for value in values)
            aw, w = values[: len(AW)], values[len(AW) :]
            for name, channel, ready in (("aw", aw, awready), ("w", w, wready)):
                assert before[name] is None or channel == before[name], f"{name} changed while it waited"
                before[name] = channel if channel[0] and not ready else None
            if aw[0] and awready:
                addresses.append((aw[1], self._burst(axi, *aw[1:5])))
                self.open += 1
            if w[0] and wready:
                beats.append(w[1:])
                self.writes += 1
            while addresses and len(beats) >= addresses[0][1]:
                address, count = addresses.popleft()
                response = 0
                for beat in range(count):
                    value, strobe, last = beats.popleft()
                    assert last == (beat == count - 1), f"WLAST at beat {beat} of {count}"
                    chosen = np.array([strobe >> byte & 1 for byte in range(width)], bool)
                    line = np.frombuffer(value.to_bytes(width, "little"), np.uint8)
                    self.data[address : address + width][chosen] = line[chosen]
                    self.written += int(chosen.sum())
                    response = SLVERR if address in self.bad else response
                    address += width
                answers.append((self._when(cycle), response))
            if offered and bready:
                answers.popleft()
                self.open -= 1
                offered = False
            if not offered and answers and answers[0][0] <= cycle:
                offered = not self._pause(self.timing.data_pause)
                ctx.set(axi.bresp, answers[0][1])
            ctx.set(axi.bvalid, offered)
            awready = not self._pause(self.timing.address_pause)
            wready = not self.timing.blocked(cycle) and not self._pause(self.timing.data_pause)
            ctx.set(axi.awready, awready)
            ctx.set(axi.wready, wready)
