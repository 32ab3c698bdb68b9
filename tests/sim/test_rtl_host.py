# SPDX-License-Identifier: Apache-2.0
"""Memory model, register port, trace and timeline around a core that copies lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import ConfigError, DeviceError
from catenary.isa.registers import MAGIC, register_map
from catenary.sim.rtl.memory_model import MemoryModel
from catenary.sim.rtl.simulator import SLICE, Simulator, find_interface, trace_kind
from catenary.sim.rtl.timeline import write_timeline
from catenary.sim.rtl.verilog import design_of
from tests.sim.dummy_core import LINES, DummyCore, Mode, dummy_config

PORTS: dict[str, tuple[int, ...]] = {"one": (8,), "unequal": (8, 4, 32), "narrow": (4, 4)}


@dataclass
class Bench:
    config: AcceleratorConfig
    simulator: Simulator

    def write(self, name: str, value: int) -> None:
        place = register_map(self.config)[name]
        for word in range(place.register.width // 32):
            self.simulator.write_register(place.address + 4 * word, value >> 32 * word & 0xFFFF_FFFF)

    def read(self, name: str) -> int:
        place = register_map(self.config)[name]
        words = range(place.register.width // 32)
        return sum(self.simulator.read_register(place.address + 4 * word) << 32 * word for word in words)

    def run(self, source: int, target: int, lines: int, mode: Mode = Mode.COPY, cycles: int = 200_000) -> bool:
        for index, value in enumerate((source, target, lines, mode)):
            self.write(f"ARGUMENT{index}", value)
        self.write("CONTROL", 1)
        return self.simulator.wait(register_map(self.config)["STATUS"].address, 6, 60.0, cycles)

    def fill(self, seed: int) -> list[np.ndarray]:
        random = np.random.default_rng(seed)
        for memory in self.simulator.memory:
            memory[:] = random.integers(0, 256, memory.size)
        return [memory.copy() for memory in self.simulator.memory]


Make = Callable[..., Bench]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Simulator] = []

    def make_one(ports: str = "one", model: MemoryModel | None = None, trace: Path | None = None) -> Bench:
        config = dummy_config(*PORTS[ports])
        design = design_of(DummyCore(config))
        simulator = Simulator(design, [LINES * width for width in PORTS[ports]], model, trace)
        made.append(simulator)
        return Bench(config, simulator)

    yield make_one
    for simulator in made:
        simulator.close()


@pytest.mark.parametrize("ports", ["unequal", *(pytest.param(n, marks=pytest.mark.slow) for n in ("one", "narrow"))])
@pytest.mark.parametrize(
    "model",
    [
        MemoryModel(seed=1),
        MemoryModel.unthrottled(),
        MemoryModel(stall=0.4, seed=2),
        MemoryModel(share=0.3, outstanding=1, latency=3, stall=0.1, seed=3),
    ],
    ids=lambda model: f"latency{model.latency}-share{model.share}-stall{model.stall}-seed{model.seed}",
)
def test_copies(make: Make, ports: str, model: MemoryModel) -> None:
    bench = make(ports, model)
    assert bench.read("IDENTITY") == MAGIC
    before = bench.fill(model.seed)
    assert bench.run(5, 1001, 333)
    assert bench.read("STATUS") == 2
    assert bench.read("RESULT") == 333
    for index, (memory, old, width) in enumerate(zip(bench.simulator.memory, before, PORTS[ports], strict=True)):
        expected = old.copy()
        expected[1001 * width : 1334 * width] = old[5 * width : 338 * width]
        assert (memory == expected).all()
        statistics = bench.simulator.statistics()[index]
        assert statistics.read_bytes == statistics.written_bytes == 333 * width
        assert bench.read(f"PORT_READ{index}") == bench.read(f"PORT_WRITTEN{index}") == 333 * width


def rate(bench: Bench, lines: int = 12_000) -> float:
    """Beats per cycle of a run that only reads, its first data awaited."""
    assert bench.run(0, 0, lines, Mode.READ)
    return lines / bench.read("CYCLES")


@pytest.mark.parametrize(
    "model, expected",
    [
        (MemoryModel(seed=1), 730 / 790),
        (MemoryModel.unthrottled(), 1.0),
        (MemoryModel(blocked=0, period=0, share=0.25), 0.25),
        (MemoryModel(blocked=100, period=200, share=0.5, seed=4), 0.25),
    ],
)
def test_bandwidth_is_the_model_s(make: Make, model: MemoryModel, expected: float) -> None:
    assert rate(make("one", model)) == pytest.approx(expected, rel=0.03)


def test_latency_is_the_model_s(make: Make) -> None:
    cycles = []
    for latency in (1, 120):
        bench = make("one", MemoryModel.unthrottled(latency))
        assert bench.run(0, 0, 1, Mode.READ)
        cycles.append(bench.read("CYCLES"))
    assert cycles[1] - cycles[0] == 119


def test_ports_block_apart(make: Make) -> None:
    bench = make("unequal", MemoryModel(seed=5))
    bench.simulator.run(1000)
    offered = []
    for _ in range(79):
        before = [port.offered_cycles for port in bench.simulator.statistics()]
        bench.simulator.run(10)
        offered.append(
            [now.offered_cycles - old for now, old in zip(bench.simulator.statistics(), before, strict=True)]
        )
    totals = np.array(offered).sum(0)
    assert (totals == 730).all()
    assert len({tuple(column) for column in np.array(offered).T}) == 3


def test_runs_repeat_exactly(make: Make) -> None:
    cycles = []
    for _ in range(2):
        bench = make("unequal", MemoryModel(stall=0.2, seed=6))
        bench.run(0, 500, 100)
        cycles.append(bench.read("CYCLES"))
    assert cycles[0] == cycles[1]


@pytest.mark.parametrize("kind, fails", [("reads", True), ("writes", True), ("both", True), (None, False)])
def test_ordered_error_responses(make: Make, kind, fails: bool) -> None:
    bench = make("unequal")
    before = bench.fill(7)
    if kind is not None:
        first, end = (100 * 4, 101 * 4) if kind != "writes" else (600 * 4, 601 * 4)
        bench.simulator.fail_accesses(1, first, end, kind)
    assert bench.run(90, 590, 32)
    assert bench.read("STATUS") == (4 if fails else 2)
    if kind == "writes":
        assert (bench.simulator.memory[1][600 * 4 : 601 * 4] == before[1][600 * 4 : 601 * 4]).all()
    bench.simulator.clear_failures()
    bench.write("CONTROL", 2)
    assert bench.run(90, 590, 32)
    assert bench.read("STATUS") == 2


@pytest.mark.parametrize("source, target", [(LINES - 3, 0), (0, LINES - 3)])
def test_behind_the_end_of_memory(make: Make, source: int, target: int) -> None:
    bench = make("one")
    assert bench.run(source, target, 4)
    assert bench.read("STATUS") == 4


def test_broken_rule_is_named(make: Make) -> None:
    bench = make("one")
    with pytest.raises(DeviceError, match=r"AXI4.*memory\.port0: ar burst crosses 4 KB"):
        bench.run(500, 0, 16, Mode.CROSS)


def test_wait_has_limits(make: Make) -> None:
    bench = make("one")
    assert not bench.run(0, 0, 4, Mode.HANG, cycles=1000)
    assert 1000 < bench.simulator.cycles < 2000
    assert not bench.simulator.wait(register_map(bench.config)["STATUS"].address, 6, 0.01)


def test_unknown_register_is_refused(make: Make) -> None:
    with pytest.raises(DeviceError, match="Register at 0xff8 must exist"):
        make("one").simulator.read_register(0xFF8)


def test_timeline(make: Make, tmp_path: Path) -> None:
    bench = make("one", MemoryModel.unthrottled())
    bench.simulator.record(True)
    bench.run(0, 100, 40)
    slices = bench.simulator.slices()
    assert slices.dtype == SLICE
    assert slices["unit"].tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert set(slices["pc"].tolist()) == {3, 4}
    assert (slices["begin"][1:] == slices["end"][:-1]).all()
    busy = {name: bench.read(f"BUSY_{name}") for name in ("LOAD", "STORE")}
    lengths = slices["end"] - slices["begin"]
    assert busy == {"LOAD": lengths[slices["unit"] == 0].sum(), "STORE": lengths[slices["unit"] == 1].sum()}
    path = tmp_path / "timeline.json"
    write_timeline(path, slices, bench.simulator.interface.unit_names, {3: "ld buffer=v", 4: "st"}, "dummy")
    events = json.loads(path.read_text())["traceEvents"]
    tracks = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert tracks == {0: "load", 1: "store"}
    spans = [event for event in events if event["ph"] == "X"]
    assert [span["name"] for span in spans] == ["ld @3", "st @4"] * 3 + ["ld @3"]
    assert spans[0]["args"]["instruction"] == "ld buffer=v"
    assert [span["dur"] for span in spans] == lengths.tolist()


def test_no_timeline_unless_asked(make: Make) -> None:
    bench = make("one")
    bench.run(0, 100, 4)
    assert len(bench.simulator.slices()) == 0


def test_waveform(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "core.vcd"
    bench = make("one", MemoryModel.unthrottled(), path)
    bench.run(0, 100, 4)
    cycles = bench.simulator.cycles
    bench.simulator.close()
    text = path.read_text()
    for name in ("control__awaddr", "memory__port0__rdata", "trace__load__pc"):
        assert f" {name} " in text
    assert int(text.rpartition("#")[2].split()[0]) == 2 * cycles - 1


def test_trace_that_cannot_be_written(make: Make, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="Trace must be a file that can be written"):
        make("one", trace=tmp_path / "absent" / "core.vcd")


def test_trace_of_another_kind() -> None:
    with pytest.raises(DeviceError, match=r"Trace must be a \.vcd or \.fst file, not 'core.txt'"):
        trace_kind(Path("core.txt"))


@pytest.mark.parametrize(
    "values, message",
    [
        ({"latency": 0}, "latency must be at least 1, not 0"),
        ({"blocked": 790}, "blocked must be below the period of 790, not 790"),
        ({"share": 0.0}, "share must be above 0"),
        ({"stall": 1.0}, "stall must be at least 0 and below 1"),
        ({"outstanding": 0}, "outstanding must be at least 1"),
    ],
)
def test_model_rules(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MemoryModel(**values)


def test_a_component_without_interfaces_is_refused() -> None:
    with pytest.raises(DeviceError, match="one AXI4-Lite port"):
        find_interface(())
