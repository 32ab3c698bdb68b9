# SPDX-License-Identifier: Apache-2.0
"""Ranges of beats, cut into legal AXI4 bursts."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.axi import BOUNDARY, MAX_BURST


def range_layout(beats: int) -> data.StructLayout:
    """Beats ``first .. first + count - 1`` of a memory of ``beats`` beats."""
    return data.StructLayout({"first": range(beats), "count": range(beats + 1)})


def check_burst(max_burst: int, data_bytes: int) -> None:
    """Check a limit on bursts.

    Raises:
        ValueError: it is no power of two, AXI4 does not allow it, or such a burst could cross a 4 KB boundary.
    """
    limit = min(MAX_BURST, BOUNDARY // data_bytes)
    if max_burst < 1 or max_burst & (max_burst - 1) or max_burst > limit:
        raise ValueError(f"max_burst must be a power of two of at most {limit}, not {max_burst}")


def check_depth(depth: int, least: int) -> None:
    """Check the depth of a port's FIFO.

    Raises:
        ValueError: it is less than ``least``.
    """
    if depth < least:
        raise ValueError(f"depth must be at least {least} beats, not {depth}")


class BurstSplitter(wiring.Component):
    """Cuts a range of beats into bursts that end at multiples of ``max_burst`` beats.

    As ``max_burst`` beats divide 4 KB, such a burst never crosses a 4 KB boundary; one subtraction of a few bits finds
    its length. Only the first and the last burst of a range are shorter than ``max_burst``.

    Parameters:
        beats: beats of the memory.
        max_burst: most beats of a burst, a power of two.

    Members:
        command: a range of beats; ready when all bursts of the one before have been taken.
        bursts: ``first`` beat and AXI ``length`` (beats - 1) of each burst, one a cycle.
        clear: forget everything.
        idle: no bursts are left.
    """

    def __init__(self, beats: int, max_burst: int):
        self._low = exact_log2(max_burst)
        burst = data.StructLayout({"first": range(beats), "length": range(max(max_burst, 2))})
        super().__init__(
            {
                "command": In(stream.Signature(range_layout(beats))),
                "bursts": Out(stream.Signature(burst)),
                "clear": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        command, bursts, low = self.command, self.bursts, self._low
        first, left = Signal.like(command.payload.first), Signal.like(command.payload.count)
        block = Signal(low + 1)  # beats to the next multiple of max_burst
        final = Signal()
        m.d.comb += [
            block.eq((1 << low) - first[:low]),
            final.eq(left <= block),
            self.idle.eq(~bursts.valid & (left == 0)),
            command.ready.eq(self.idle & ~self.clear),
        ]
        with m.If(bursts.ready):
            m.d.sync += bursts.valid.eq(0)
        with m.If((~bursts.valid | bursts.ready) & (left != 0)):
            m.d.sync += [
                bursts.valid.eq(1),
                bursts.payload.first.eq(first),
                bursts.payload.length.eq(Mux(final, left[: low + 1], block) - 1),
                first.eq(Cat(Const(0, low), first[low:] + 1)),
                left.eq(Mux(final, 0, left - block)),
            ]
        with m.If(command.valid & command.ready):
            m.d.sync += [first.eq(command.payload.first), left.eq(command.payload.count)]
        with m.If(self.clear):
            m.d.sync += [bursts.valid.eq(0), left.eq(0)]
        return m
