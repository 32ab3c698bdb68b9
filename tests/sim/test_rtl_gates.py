# SPDX-License-Identifier: Apache-2.0
"""Registers clocked in groups: the same values in every cycle as without, and groups that do rest."""

from __future__ import annotations

import ctypes
import re
from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Array, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from catenary.sim.rtl import gates
from catenary.sim.rtl.build import build
from catenary.sim.rtl.gates import with_gated_clocks
from catenary.sim.rtl.registers import with_clocked_conditions
from catenary.sim.rtl.verilog import design_of

CYCLES = 20_000
SHIM = """
#include "ports.h"
extern "C" __attribute__((visibility("default")))
void run(const uint32_t* inputs, uint32_t cycles, bool fast, uint64_t* outputs) {
    Vtop model;
    std::vector<catenary::Field> fields = catenary::fields(model);
    catenary::set_clock(model, false);
    model.eval();
    bool clock = false;
    for (uint32_t cycle = 0; cycle < cycles; cycle++) {
        const uint32_t word = inputs[cycle];
        catenary::set_reset(model, word >> 31);
        for (const catenary::Field& field : fields) {
            if (field.path == "go") field.set(word & 1);
            if (field.path == "kind") field.set(word >> 1 & 7);
            if (field.path == "data") field.set(word >> 4 & 255);
        }
        clock = !clock || !fast;
        catenary::set_clock(model, clock);
        model.eval();
        if (!fast) {
            catenary::set_clock(model, false);
            model.eval();
        }
        uint64_t seen = 0;
        for (const catenary::Field& field : fields) {
            if (field.output) seen = seen * 0x9e3779b97f4a7c15 + field.get() + 1;
        }
        outputs[cycle] = seen;
    }
}
"""


class Stage(wiring.Component):
    """A pipeline with an enable, one without, a memory, and a register that is cleared while idle."""

    def __init__(self) -> None:
        super().__init__({"valid": In(1), "x": In(8), "enable": In(1), "y": Out(8), "full": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=8, depth=16, init=[])
        write, read = memory.write_port(), memory.read_port()
        taken, again, free, wide = Signal(8), Signal(8), Signal(8), Signal(100)
        m.d.comb += [write.addr.eq(self.x), write.data.eq(self.x ^ again), write.en.eq(self.valid)]
        m.d.comb += [read.addr.eq(taken), read.en.eq(self.enable)]
        with m.If(self.enable):
            m.d.sync += [taken.eq(self.x), again.eq(taken + 3), self.full.eq(self.valid)]
        with m.Elif(~self.valid):
            m.d.sync += again.eq(0)
        m.d.sync += [free.eq(again), wide.eq(wide ^ read.data)]
        m.d.comb += self.y.eq(free ^ read.data ^ wide[92:])
        return m


class Sequence(wiring.Component):
    """A state machine, a register that is assigned twice, one of which a part is assigned, and four stages."""

    def __init__(self) -> None:
        inputs = {"go": In(1), "kind": In(3), "data": In(8)}
        super().__init__({**inputs, "result": Out(8), "state": Out(4), "parts": Out(16), "pair": Out(8)})

    def elaborate(self, platform):
        m = Module()
        stages = [Stage(), Stage()]
        m.submodules.first, m.submodules.second = stages
        alike = [Stage(), Stage()]
        m.submodules.one, m.submodules.other = alike
        for index, stage in enumerate(alike):
            m.d.comb += [stage.valid.eq(self.go), stage.x.eq(self.data), stage.enable.eq(self.kind[index])]
        m.d.comb += self.pair.eq(alike[0].y + 3 * alike[1].y)
        pulse, count = Signal(), Signal(5)
        table = Array(Signal(4, name=f"entry_{index}") for index in range(4))
        m.d.sync += pulse.eq(0)
        with m.FSM():
            with m.State("idle"), m.If(self.go):
                m.d.sync += [count.eq(self.data), pulse.eq(self.data[0])]
                m.next = "count"
            with m.State("count"):
                m.d.comb += self.state[0].eq(1)
                m.d.sync += count.eq(count - 1)
                with m.Switch(self.kind):
                    with m.Case("1--"):
                        m.d.sync += self.parts[4:9].eq(self.data)
                    with m.Case(1, 2):
                        m.d.sync += [self.parts[:4].eq(count), table[count[:2]].eq(self.data)]
                with m.If(count == 0):
                    m.d.sync += pulse.eq(1)
                    m.next = "idle"
        m.d.comb += [
            stages[0].valid.eq(pulse),
            stages[0].x.eq(self.data + count),
            stages[0].enable.eq(self.kind != 0),
            stages[1].valid.eq(stages[0].full),
            stages[1].x.eq(stages[0].y),
            stages[1].enable.eq(self.kind[0]),
            self.result.eq(stages[1].y ^ table[self.data[:2]]),
            self.state[1:].eq(count),
        ]
        return m


@pytest.mark.parametrize(("limit", "copies"), [(1, 8), (1000, 8), (1, 2), (1000, 2)])
def test_equal_in_every_cycle(limit: int, copies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs that change seldom, so that everything comes to rest in between; resets at times."""
    monkeypatch.setattr(gates, "GROUP", limit)
    monkeypatch.setattr(gates, "COPIES", copies)
    plain = design_of(Sequence())
    gated = replace(plain, text=f"{plain.text}// {limit}, {copies}\n")  # the cache does not see the limits
    random = np.random.default_rng(limit)
    words = random.integers(0, 1 << 12, CYCLES, dtype=np.uint32)
    words |= (random.random(CYCLES) < 0.003).astype(np.uint32) << 31
    held = np.maximum.accumulate(np.where(random.random(CYCLES) < 0.15, np.arange(CYCLES), 0))
    words = np.ascontiguousarray(words[held])
    found = []
    for design, fast in ((plain, False), (gated, True)):
        library = ctypes.CDLL(str(build(design, {"shim.cpp": SHIM}, fast=fast)))
        outputs = np.zeros(CYCLES, np.uint64)
        library.run(ctypes.c_void_p(words.ctypes.data), CYCLES, fast, ctypes.c_void_p(outputs.ctypes.data))
        found.append(outputs)
    assert len(np.unique(found[0])) > 1000
    assert (found[0] == found[1]).all()


def test_groups_and_what_wakes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "GROUP", 4)
    text = with_gated_clocks(with_clocked_conditions(design_of(Sequence()).text))
    assert "@(posedge clk)" not in text
    modules = {match[1]: match[0] for match in re.finditer(r"^module \\?(\S+).*?^endmodule", text, re.DOTALL | re.M)}
    assert len(modules) == 4
    assert all(module.count("wire gate_run") == 1 for module in modules.values())
    assert text.count(".gate_run(") == 0  # the stages are groups of their own
    assert text.count("<= \\$signature__data ;") == 3  # written in the clocked process and nowhere else


def test_modules_with_many_instances_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "COPIES", 2)
    text = with_gated_clocks(with_clocked_conditions(design_of(Sequence()).text))
    [apart] = re.findall(r"^module (\S+).*\); /\*verilator no_inline_module\*/", text, re.MULTILINE)
    assert "other" in apart


def test_small_modules_join_the_one_around_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "GROUP", 1000)
    text = with_gated_clocks(with_clocked_conditions(design_of(Sequence()).text))
    assert text.count("wire gate_run") == 1
    assert text.count("input gate_run;") == 3
    assert text.count(".gate_run(gate_run)") == 4
    assert "assign gate_run = gate_own | gate_moved_1 | gate_moved_2 | gate_moved_3 | gate_moved_4;" in text
