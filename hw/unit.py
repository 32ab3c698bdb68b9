# SPDX-License-Identifier: Apache-2.0
"""The interface of a unit's core: one instruction in, done or a fault out.

Everything that is the same for all units (queue, tokens, NOP, counters) is in the shell around the core, in
:mod:`catenary.hw.control.shell`.
"""

from __future__ import annotations

from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out, Signature

from catenary.hw.words import command_layout
from catenary.isa.fields import REGISTER_BITS, SCALAR_BITS
from catenary.isa.opcodes import Unit
from catenary.isa.registers import Stall, register_map

CAUSE_BITS = register_map()["ERROR"].register.fields["cause"].width
"""Bits of an :class:`~catenary.isa.registers.ErrorCause`."""

StallLayout = data.StructLayout({stall.name.lower(): 1 for stall in Stall if stall is not Stall.TOKENS})
"""What a unit waits for in this cycle: ``stream``, ``memory`` or ``buffer``, at most one of them set."""

ResultLayout = data.StructLayout({"valid": 1, "register": REGISTER_BITS, "value": SCALAR_BITS})
"""A scalar register that a unit writes in this cycle, if ``valid``: what ARGMAX found."""


_STARTED = {Unit.LOAD: 8}


def started_limit(unit: Unit) -> int:
    """How many instructions ``unit`` may have started and not finished."""
    return _STARTED.get(unit, 1)


class UnitSignature(Signature):
    """What the core of ``unit`` offers its shell, from the core's point of view.

    A core merges the members into its own ports: ``super().__init__({**UnitSignature(Unit.STORE).members, ...})``.

    Args:
        unit: one of the four units with a core; control has none.

    Members:
        insn: the instruction, operands resolved; a transfer starts execution. Never NOP. No more are started than
            :func:`started_limit` before the first of them has finished, and they finish in order.
        done: the first unfinished instruction has finished: everything that it wrote is visible and every store is
            acknowledged. Pulses for one cycle, at least one cycle after the instruction's transfer.
        fault: pulse or level: the first unfinished instruction cannot go on. Then the unit may do anything legal on its
            buses until it is reset; no ``done`` is needed.
        cause: an :class:`~catenary.isa.registers.ErrorCause`, valid while ``fault`` is high.
        stall: what the unit waits for in this cycle.
    """

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        super().__init__(
            {
                "insn": In(stream.Signature(command_layout(unit))),
                "done": Out(1),
                "fault": Out(1),
                "cause": Out(CAUSE_BITS),
                "stall": Out(StallLayout),
            }
        )

    def __eq__(self, other: object) -> bool:
        """Interfaces of the same unit."""
        return isinstance(other, UnitSignature) and self.unit is other.unit

    def __repr__(self) -> str:
        """As it is written."""
        return f"UnitSignature({self.unit!s})"
