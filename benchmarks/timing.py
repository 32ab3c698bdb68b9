# SPDX-License-Identifier: Apache-2.0
"""What nextpnr's report says: clock rate, cells, and the paths that bound the rate.

The report is JSON: ``fmax`` by clock, ``utilization`` by type of cell, ``critical_paths`` with a list of hops
(``delay`` in ns, ``type``: clk-to-q, logic, routing or setup), and, if it is detailed, when each register's input
arrives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Report = Mapping[str, Any]

_CELL = re.compile(r"_(?:TRELLIS_FF|LUT4|PFUMX|L6MUX21|CCU2C|MULT18X18D|DP16KD)_.*$")
"""What yosys appends to the name of the net that a cell drives, or is driven by."""


class Path(NamedTuple):
    """A path from one register to another.

    Attributes:
        source, sink: names of the two registers, as in the hardware's source.
        logic, routing: ns in cells, clock-to-output and setup included, and in wires.
        cells: cells between the registers.
    """

    source: str
    sink: str
    logic: float
    routing: float
    cells: int

    def __str__(self) -> str:
        total = self.logic + self.routing
        parts = f"{self.logic:.1f} ns in {self.cells} cells, {self.routing:.1f} ns in wires"
        return f"{total:.1f} ns from {self.source} to {self.sink}: {parts}"


def register(cell: str) -> str:
    """The register that a cell is a bit of: its name without that of the cell and the bit's number."""
    return re.sub(r"\[\d+\]$", "", _CELL.sub("", cell)).replace("$", "")


def fmax(report: Report) -> float:
    """MHz that the slowest clock reaches; paths from and to pins count for no clock."""
    return min(clock["achieved"] for clock in report["fmax"].values())


def used(report: Report, cell: str) -> int:
    """Cells of a type that the design takes."""
    return int(report["utilization"][cell]["used"])


def critical_path(report: Report) -> Path:
    """The path that bounds the clock rate.

    Raises:
        ValueError: there is no path between registers.
    """
    paths = [_path(entry["path"]) for entry in report["critical_paths"] if _clocked(entry)]
    if not paths:
        raise ValueError("Report must have a path between registers")
    return max(paths, key=lambda path: path.logic + path.routing)


def late_inputs(report: Report) -> Iterator[tuple[float, str]]:
    """Registers of a detailed report with the time at which the last of their bits arrives, in ns; latest first."""
    latest: dict[str, float] = {}
    for net in report["detailed_net_timings"]:
        for end in net["endpoints"]:
            if end["event"] != "async":
                name = register(end["cell"])
                latest[name] = max(latest.get(name, 0.0), end["delay"][1])
    return iter(sorted(((delay, name) for name, delay in latest.items()), reverse=True))


def _clocked(entry: Mapping[str, Any]) -> bool:
    return all(entry[end] != "<async>" and "async" not in entry[end] for end in ("from", "to"))


def _path(hops: list[Mapping[str, Any]]) -> Path:
    routing = sum(hop["delay"] for hop in hops if hop["type"] == "routing")
    return Path(
        register(hops[0]["from"]["cell"]),
        register(hops[-1]["to"]["cell"]),
        sum(hop["delay"] for hop in hops) - routing,
        routing,
        sum(hop["type"] == "logic" for hop in hops),
    )
