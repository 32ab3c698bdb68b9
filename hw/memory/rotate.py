# SPDX-License-Identifier: Apache-2.0
"""Rotation of bytes."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal


def rotated(m: Module, value: Signal, amount: Signal, name: str) -> Signal:
    """``value`` with byte ``(i + amount) % n`` of its n bytes at byte i, for any n: a multiplexer for each bit of
    ``amount``, the longest steps first. Where only low bytes of the result are used, later ones then have less to move.
    """
    size = len(value) // 8
    for bit in reversed(range(len(amount))):
        step = (1 << bit) % size
        if step:
            turned = Signal(len(value), name=f"{name}_{bit}")
            m.d.comb += turned.eq(Mux(amount[bit], Cat(value[8 * step :], value[: 8 * step]), value))
            value = turned
    return value
