# SPDX-License-Identifier: Apache-2.0
"""Which of several faults is reported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import data

from catenary.hw.control.dispatch import Dispatch
from catenary.hw.control.shell import Shell
from catenary.isa.opcodes import Unit
from catenary.isa.registers import ErrorCause, register_map

_WIDTHS = {name: field.width for name, field in register_map()["ERROR"].register.fields.items()}

FaultLayout = data.StructLayout({"valid": 1, **_WIDTHS})
"""A fault, if ``valid``: cause, unit and pc as register ERROR has them."""


class Fault(NamedTuple):
    """A possible fault of a unit: whether it is there, and what it is."""

    valid: Value
    cause: Value | ErrorCause
    unit: Unit


def first_fault(
    m: Module, fault: data.View, faults: Iterable[Fault], clients: Mapping[Unit, Shell | Dispatch], enable: Value
) -> None:
    """Drive ``fault``, of :data:`FaultLayout`, with the first of ``faults`` that was valid in the cycle before.

    Its pc is that of the unit's instruction in that cycle, which ``clients`` know. What units say is late in a cycle,
    and to choose takes the better part of one; hence the registers. Nothing counts while ``enable`` is low.
    """

    def kept(value: Value, name: str) -> Value:
        register = Signal.like(value, name=name)
        m.d.sync += register.eq(value)
        return register

    pcs = {unit: kept(client.pc, f"pc_of_{unit.name.lower()}") for unit, client in clients.items()}
    for number, item in reversed(list(enumerate(faults))):
        cause = item.cause if isinstance(item.cause, ErrorCause) else kept(item.cause, f"cause_{number}")
        with m.If(kept(item.valid & enable, f"fault_{number}")):
            m.d.comb += [fault.valid.eq(1), fault.cause.eq(cause), fault.unit.eq(item.unit)]
    with m.Switch(fault.unit):
        for unit, pc in pcs.items():
            with m.Case(unit):
                m.d.comb += fault.pc.eq(pc)


def watchdog_faults(expired: Value, fetching: Value, shells: Mapping[Unit, Shell]) -> Iterator[Fault]:
    """Suspects for a run without progress, most likely ones first.

    That is the load unit while it fetches code, else a unit that executes an instruction and does not just wait for
    another one through the stream FIFO; else one that does; else one that waits for tokens; else dispatch.
    """
    cause = ErrorCause.WATCHDOG
    yield Fault(expired & fetching, cause, Unit.LOAD)
    for suspects in (
        lambda shell: shell.running & ~shell.stalls.stream,
        lambda shell: shell.running,
        lambda shell: shell.busy,
    ):
        for unit, shell in shells.items():
            yield Fault(expired & suspects(shell), cause, unit)
    yield Fault(expired, cause, Unit.CONTROL)
