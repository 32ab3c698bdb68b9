# SPDX-License-Identifier: Apache-2.0
"""A netlist whose every port but the clock has a register of its own, so that no path begins or ends at a pin.

A core has hundreds of ports and stands beside other logic of its part, not at the pins. nextpnr has an option for parts
of a design, ``--out-of-context``, but with it the clock gets no global net and goes through general routing. With
registers around the core two pins are enough, and paths through a port count as what they are on a board: paths between
registers, of which one is the core's neighbour.
"""

from __future__ import annotations

from itertools import count
from typing import Any

CLOCK = "clk"
PIN = "pin"
"""What the registers of the inputs begin with: each takes what the one before it holds."""

REGISTER = {
    "GSR": "DISABLED",
    "CEMUX": "1 ",
    "CLKMUX": "CLK",
    "LSRMUX": "LSR",
    "REGSET": "RESET",
    "SRMODE": "LSR_OVER_CE",
}
"""Parameters of a TRELLIS_FF that takes its input in every cycle and has no reset. Text that could be a number has a
blank behind it."""


def with_registers(netlist: dict[str, Any], top: str) -> dict[str, Any]:
    """``netlist``, in the JSON that yosys writes, of one flat module ``top`` for an ECP5, with registers at its ports.

    The registers are cells ``ports.NAME_BIT``.
    """
    module = netlist["modules"][top]
    ports, cells = module["ports"], dict(module["cells"])
    used = [bit for net in module["netnames"].values() for bit in net["bits"] if isinstance(bit, int)]
    used += [bit for cell in cells.values() for port in cell["connections"].values() for bit in port]
    fresh = count(max(bit for bit in used if isinstance(bit, int)) + 1)
    [clock] = ports[CLOCK]["bits"]
    first = latest = next(fresh)

    def register(name: str, data: int, output: int) -> None:
        cells[f"ports.{name}"] = {
            "hide_name": 0,
            "type": "TRELLIS_FF",
            "parameters": REGISTER,
            "attributes": {},
            "port_directions": {"CLK": "input", "DI": "input", "LSR": "input", "Q": "output"},
            "connections": {"CLK": [clock], "DI": [data], "LSR": ["0"], "Q": [output]},
        }

    for name, port in ports.items():
        if name == CLOCK:
            continue
        for index, bit in enumerate(port["bits"]):
            if isinstance(bit, str):  # a constant
                continue
            if port["direction"] == "input":
                register(f"{name}_{index}", latest, bit)
                latest = bit
            else:
                register(f"{name}_{index}", bit, next(fresh))
    kept = {CLOCK: ports[CLOCK], PIN: {"direction": "input", "bits": [first]}}
    return {**netlist, "modules": {top: {**module, "ports": kept, "cells": cells}}}
