# SPDX-License-Identifier: Apache-2.0
"""Formats of floats in memory, widened to FP32 exactly."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class WidenHalf(wiring.Component):
    """Widens binary16 to binary32 without rounding; combinational.

    Subnormals become normal numbers of the same value. NaNs keep their sign, payload and quiet bit.

    Members:
        half: binary16.
        single: the same number as binary32.
    """

    def __init__(self):
        super().__init__({"half": In(16), "single": Out(32)})

    def elaborate(self, platform):
        m = Module()
        fraction, exponent = self.half[:10], self.half[10:15]
        # A subnormal is its fraction times 2^-24: move its leading one in front of the binary point.
        shifted, shifts = fraction, []
        for step in (8, 4, 2, 1):
            move = Signal(name=f"move_{step}")
            m.d.comb += move.eq(~shifted[10 - step :].any())
            moved = Signal(10, name=f"moved_{step}")
            m.d.comb += moved.eq(Mux(move, shifted << step, shifted))
            shifted, shifts = moved, [move, *shifts]
        zeros = Cat(shifts)  # in front of the leading one

        wide_fraction, wide_exponent = Signal(10), Signal(8)
        m.d.comb += self.single.eq(Cat(Const(0, 13), wide_fraction, wide_exponent, self.half[15]))
        with m.If(exponent == 0):
            m.d.comb += wide_fraction.eq(shifted << 1)
            with m.If(shifted[9]):
                m.d.comb += wide_exponent.eq(127 - 15 - zeros)
        with m.Else():
            m.d.comb += wide_fraction.eq(fraction)
            with m.If(exponent == 31):
                m.d.comb += wide_exponent.eq(255)
            with m.Else():
                m.d.comb += wide_exponent.eq(exponent + (127 - 15))
        return m
