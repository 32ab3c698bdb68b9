# SPDX-License-Identifier: Apache-2.0
"""Products with constants."""

from __future__ import annotations

from amaranth.hdl import ValueLike


def times(value: ValueLike, factor: int) -> ValueLike:
    """``value * factor``."""
    return sum(value << place for place in range(factor.bit_length()) if factor >> place & 1)
