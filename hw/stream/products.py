# SPDX-License-Identifier: Apache-2.0
"""Products made of additions, which stay in LUTs on devices whose multipliers are all spoken for."""

from __future__ import annotations

from amaranth import Mux
from amaranth.hdl import ValueLike


def times(value: ValueLike, factor: int) -> ValueLike:
    """``value * factor``."""
    return sum(value << place for place in range(factor.bit_length()) if factor >> place & 1)


def gated_product(bits: ValueLike, factor: ValueLike) -> ValueLike:
    """``bits * factor`` modulo 256, as a tree of gated additions; ``bits`` has a power of two of them."""
    terms = [Mux(bit, (factor << place)[:8], 0) for place, bit in enumerate(bits)]
    while len(terms) > 1:
        terms = [(a + b)[:8] for a, b in zip(terms[::2], terms[1::2], strict=True)]
    return terms[0]
