# SPDX-License-Identifier: Apache-2.0
"""A segment of DSP48E2 slices (AMD UG579, "UltraScale Architecture DSP Slice"), PCOUT to PCIN."""

from __future__ import annotations

from amaranth.hdl import ClockSignal, Const, Instance, Module, Mux, Signal, signed
from amaranth.lib import wiring

A_BITS, B_BITS, D_BITS, P_BITS = 30, 18, 27, 48
LOW_BITS = 18
"""Of P, for token 0."""
INMODE_AD = 0b00100
"""The multiplier's first operand is D + A2, the second one B2."""
INMODE_A = 0b00000
"""A2 and B2."""
OPMODE_M = 0b00_000_0101
"""W = 0, Z = 0, X and Y = the product."""
OPMODE_PCIN = 0b00_001_0000
"""Z = PCIN, to be ORed in."""
UNUSED = {
    "ACIN": A_BITS,
    "BCIN": B_BITS,
    "C": P_BITS,
    "CARRYCASCIN": 1,
    "CARRYIN": 1,
    "CARRYINSEL": 3,
    "ALUMODE": 4,  # Z + W + X + Y + CIN
    "MULTSIGNIN": 1,
    **{f"CE{name}": 1 for name in ("A1", "B1", "C", "CARRYIN", "ALUMODE", "INMODE")},
    **{f"RST{name}": 1 for name in ("A", "B", "C", "D", "M", "P", "CTRL", "INMODE", "ALUMODE", "ALLCARRYIN")},
}


class Dsp48e2Segment(wiring.Component):
    """See :class:`catenary.hw.dsp.segment.SegmentSignature`.

    With two tokens the slice multiplies ``(a1 << 18) + a0`` by the weight: the pre-adder, whose register is that of the
    activations, makes the pair. The lower 18 bits of P are the sum of token 0. If that is negative, it has borrowed
    from the upper ones, which are then one less than the sum of token 1; whoever adds them on has a carry input.

    Parameters:
        signature: from outside.
        length: positions.
        tokens: 1 or 2.
    """

    def __init__(self, signature: wiring.Signature, length: int, tokens: int):
        self._length, self._tokens = length, tokens
        super().__init__(signature.flip())

    def elaborate(self, platform):
        m = Module()
        packed = self._tokens == 2
        cascade = Const(0, P_BITS)
        for i in range(self._length):
            p, pcout = Signal(P_BITS, name=f"p_{i}"), Signal(P_BITS, name=f"pcout_{i}")
            a, b, d = Signal(signed(A_BITS)), Signal(signed(B_BITS)), Signal(signed(D_BITS))
            m.d.comb += [a.eq(self.a[i][0]), b.eq(self.w[i])]
            if packed:
                m.d.comb += d.eq(self.a[i][1] << LOW_BITS)
            goes_on = Const(0) if i == 0 else ~self.cut[i]
            m.submodules[f"dsp_{i}"] = Instance(
                "DSP48E2",
                p_USE_MULT="MULTIPLY",
                p_AMULTSEL="AD" if packed else "A",
                p_AREG=int(not packed),
                p_ACASCREG=int(not packed),
                p_DREG=0,
                p_ADREG=int(packed),
                p_BREG=1,
                p_BCASCREG=1,
                p_CREG=0,
                p_MREG=1,
                p_PREG=1,
                p_OPMODEREG=1,
                p_INMODEREG=0,
                p_ALUMODEREG=0,
                p_CARRYINREG=0,
                p_CARRYINSELREG=0,
                i_CLK=ClockSignal(),
                i_A=a,
                i_B=b,
                i_D=d,
                i_PCIN=cascade,
                i_INMODE=Const(INMODE_AD if packed else INMODE_A, 5),
                i_OPMODE=Mux(goes_on, Const(OPMODE_M | OPMODE_PCIN, 9), Const(OPMODE_M, 9)),
                i_CEA2=Const(0) if packed else self.take[i],
                i_CEAD=self.take[i] if packed else Const(0),
                i_CED=Const(0),
                i_CEB2=self.load[i],
                i_CEM=self.multiply[i],
                i_CECTRL=self.multiply[i],
                i_CEP=self.add[i],
                **{f"i_{name}": Const(0, width) for name, width in UNUSED.items()},
                o_P=p,
                o_PCOUT=pcout,
            )
            cascade = pcout
            if packed:
                low, high = p[:LOW_BITS].as_signed(), p[LOW_BITS:].as_signed()
                m.d.comb += [self.sums[i][0].eq(low), self.sums[i][1].eq(high), self.carries[i].eq(low[-1])]
            else:
                m.d.comb += self.sums[i][0].eq(p.as_signed())
        return m
