# SPDX-License-Identifier: Apache-2.0
"""The watchdog."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.isa.registers import register_map

PATIENCE_BITS = register_map()["WATCHDOG"].register.fields["cycles"].width


class Watchdog(wiring.Component):
    """Counts cycles without progress.

    Members:
        patience: so many in a row are too many; 0 is endless.
        running: a run is going on.
        progress: an instruction has been dispatched or has finished, or a line has moved.
        expired: pulses.
    """

    def __init__(self):
        super().__init__(
            {
                "patience": In(PATIENCE_BITS),
                "running": In(1),
                "progress": In(1),
                "expired": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        idle = Signal(PATIENCE_BITS)
        with m.If(self.running & ~self.progress & ~self.expired):
            m.d.sync += idle.eq(idle + 1)
        with m.Else():
            m.d.sync += idle.eq(0)
        m.d.comb += self.expired.eq(self.running & ~self.progress & (self.patience != 0) & (idle + 1 >= self.patience))
        return m
