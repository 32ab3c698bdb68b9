# SPDX-License-Identifier: Apache-2.0
"""Registers of pipelines that stand still together."""

from amaranth import Module, Signal, Value


def delay(m: Module, enable: Value, value: Value, cycles: int, name: str) -> Value:
    """``value`` of ``cycles`` enabled cycles ago; registers without a reset, since they hold data alone."""
    for cycle in range(1, cycles + 1):
        register = Signal.like(value, name=f"{name}_{cycle}", reset_less=True)
        with m.If(enable):
            m.d.sync += register.eq(value)
        value = register
    return value
