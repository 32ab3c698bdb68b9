# SPDX-License-Identifier: Apache-2.0
"""A segment of a DSP chain: up to 8 multipliers whose products are added up along a cascade."""

from __future__ import annotations

from enum import Enum

from amaranth.hdl import Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from catenary.hw.dsp.dsp48e2 import Dsp48e2Segment
from catenary.hw.dsp.ecp5 import REGISTERS, Ecp5Multiplier

OPERAND_BITS = 8
SEGMENT = 8
"""Multipliers of a segment at most. Of two tokens in one DSP slice the lower one has 18 bits, which hold 8 products of
-128 and -127, and not one more; a chain of another kind needs no border there, but has it so that all are the same."""
PRODUCT_BITS = 2 * OPERAND_BITS
TOTAL_BITS = PRODUCT_BITS + SEGMENT.bit_length() - 1


class Primitive(Enum):
    """What multiplies and adds."""

    BEHAVIOURAL = "behavioural"
    """``*`` and ``+``: synthesis chooses."""
    DSP48E2 = "dsp48e2"
    """AMD UltraScale and UltraScale+, products and sums."""
    ECP5 = "ecp5"
    """Lattice ECP5, products only; not packed."""


class SegmentSignature(wiring.Signature):
    """A segment, seen from outside. Each position is a multiplier, one step behind the one before it.

    Parameters:
        length: positions, 1 to ``SEGMENT``.
        tokens: activations that share a weight, 1 or 2.

    Members:
        take: by position, stage 1: the activations become ``a``.
        load: by position, stage 1: the weight becomes ``w``.
        a, w: operands by position (activations by token, too). Activations are -127 to 127.
        multiply: by position, stage 2: products of what the registers hold.
        cut: by position, with ``multiply``: the sum starts with this product; else it goes on from the position before.
            Always at position 0.
        add: by position, stage 3: products are added to the sums of the position before, which that position must
            have added up one cycle earlier.
        sums: by position and token, of the last ``add`` at a position where a sum ends: the last one, or before a cut.
        carries: to be added to the sums of token 1.
    """

    def __init__(self, length: int, tokens: int):
        super().__init__(
            {
                "take": Out(length),
                "load": Out(length),
                "a": Out(signed(OPERAND_BITS)).array(length, tokens),
                "w": Out(signed(OPERAND_BITS)).array(length),
                "multiply": Out(length),
                "cut": Out(length),
                "add": Out(length),
                "sums": In(signed(TOTAL_BITS)).array(length, tokens),
                "carries": In(length),
            }
        )


class DspSegment(wiring.Component):
    """A cascade. All primitives have the same ports, the same latency and the same results.

    Parameters:
        length: positions, 1 to ``SEGMENT``.
        packed: two tokens share each multiplication.
        primitive: what multiplies and adds.

    Members:
        see :class:`SegmentSignature`.
    """

    latency = 3
    """Cycles from operands to sums, of one position."""

    def __init__(self, length: int, packed: bool, primitive: Primitive = Primitive.BEHAVIOURAL):
        if not 1 <= length <= SEGMENT:
            raise ValueError(f"length must be in 1..{SEGMENT}, not {length}")
        if packed and primitive is Primitive.ECP5:
            raise ValueError("packed must be False on ECP5: a MULT18X18D does not hold a pair of products")
        self._length, self._tokens, self._primitive = length, 2 if packed else 1, primitive
        super().__init__(SegmentSignature(length, self._tokens).flip())

    def elaborate(self, platform):
        m = Module()
        if self._primitive is Primitive.DSP48E2:
            m.submodules.cascade = cascade = Dsp48e2Segment(self.signature.flip(), self._length, self._tokens)
            connect(m, flipped(self), cascade)
            return m

        products = self._products(m)
        for token in range(self._tokens):
            before = Const(0, signed(1))
            for i in range(self._length):
                sum_bits, product = PRODUCT_BITS + i.bit_length(), products[i][token]
                total = Signal(signed(sum_bits), name=f"total_{i}_{token}", reset_less=True)
                passed = Signal(signed(sum_bits), name=f"passed_{i}_{token}", reset_less=True)
                # What the next position adds to is a register of its own: the cut is its reset, and takes no logic.
                ends = self.cut[i + 1] if i + 1 < self._length else Const(1)
                with m.If(self.add[i]):
                    m.d.sync += passed.eq(Mux(ends, 0, before + product))
                    with m.If(ends):
                        m.d.sync += total.eq(before + product)
                m.d.comb += self.sums[i][token].eq(total)
                before = passed
        return m

    def _products(self, m: Module) -> list[list[Signal]]:
        """Registers of products, by position and token, behind registers of their operands."""
        products = []
        for i in range(self._length):
            if self._primitive is Primitive.ECP5:
                m.submodules[f"multiplier_{i}"] = multiplier = Ecp5Multiplier(OPERAND_BITS)
                m.d.comb += [getattr(multiplier, name).eq(getattr(self, name)[i]) for name in REGISTERS.values()]
                m.d.comb += [multiplier.a.eq(self.a[i][0]), multiplier.w.eq(self.w[i])]
                products.append([multiplier.product])
                continue
            w = Signal(signed(OPERAND_BITS), name=f"w_{i}", reset_less=True)
            with m.If(self.load[i]):
                m.d.sync += w.eq(self.w[i])
            products.append([])
            for token in range(self._tokens):
                a = Signal(signed(OPERAND_BITS), name=f"a_{i}_{token}", reset_less=True)
                product = Signal(signed(PRODUCT_BITS), name=f"product_{i}_{token}", reset_less=True)
                with m.If(self.take[i]):
                    m.d.sync += a.eq(self.a[i][token])
                with m.If(self.multiply[i]):
                    m.d.sync += product.eq(a * w)
                products[i].append(product)
        return products
