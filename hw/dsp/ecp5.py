# SPDX-License-Identifier: Apache-2.0
"""A multiplier of the ECP5 (Lattice FPGA-TN-02205, "ECP5 and ECP5-5G sysDSP Usage Guide") with its own registers.

Products are added up in the fabric. The slice's adder, ALU54B, adds the products of two multipliers to what comes along
its cascade and gives one sum, so it could not cut between the two; one multiplier for each ALU54B would use half of
them.
"""

from __future__ import annotations

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

PORT_BITS = 18
REGISTERS = {"INPUTA": "take", "INPUTB": "load", "OUTPUT": "multiply"}
"""Registers in use, all on CLK0, and what enables them: CE0, CE1 and CE2. The slice's others are bypassed."""


class Ecp5Multiplier(wiring.Component):
    """``product = a * w``, each in a register of the slice.

    Parameters:
        bits: of an operand.

    Members:
        take: the register of the first operand becomes ``a``.
        load: that of the second one becomes ``w``.
        multiply: that of the product becomes the product of these two.
        a, w, product: signed.
    """

    def __init__(self, bits: int):
        self._bits = bits
        super().__init__(
            {
                **{name: In(1) for name in REGISTERS.values()},
                "a": In(signed(bits)),
                "w": In(signed(bits)),
                "product": Out(signed(2 * bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        a, b = Signal(signed(PORT_BITS)), Signal(signed(PORT_BITS))
        bits = [Signal(name=f"p_{bit}") for bit in range(2 * self._bits)]
        m.d.comb += [a.eq(self.a), b.eq(self.w), self.product.eq(Cat(bits))]
        registers = {}
        for number, (register, enable) in enumerate(REGISTERS.items()):
            registers[f"p_REG_{register}_CLK"] = "CLK0"
            registers[f"p_REG_{register}_CE"] = f"CE{number}"
            registers[f"i_CE{number}"] = getattr(self, enable)
        m.submodules.dsp = Instance(
            "MULT18X18D",
            **registers,
            p_GSR="DISABLED",
            i_CLK0=ClockSignal(),
            i_RST0=Const(0),
            i_SIGNEDA=Const(1),
            i_SIGNEDB=Const(1),
            i_SOURCEA=Const(0),
            i_SOURCEB=Const(0),
            **{f"i_A{bit}": a[bit] for bit in range(PORT_BITS)},
            **{f"i_B{bit}": b[bit] for bit in range(PORT_BITS)},
            **{f"i_C{bit}": Const(0) for bit in range(PORT_BITS)},
            **{f"o_P{number}": bit for number, bit in enumerate(bits)},
        )
        return m
