# SPDX-License-Identifier: Apache-2.0
"""Modules that are there once for all their instances: which, and that every instance keeps its own state."""

from __future__ import annotations

import re

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from catenary.sim.rtl.shared import with_shared_modules
from catenary.sim.rtl.verilog import design_of
from tests.hw.compiled import Compiled

CELLS = 9
ODD = 0
"""Number of the cell that is not like the others; its input is also a port of the row."""


class Delay(wiring.Component):
    """A register."""

    def __init__(self) -> None:
        super().__init__({"enable": In(1), "x": In(8), "y": Out(8)})

    def elaborate(self, platform):
        m = Module()
        with m.If(self.enable):
            m.d.sync += self.y.eq(self.x)
        return m


class Cell(wiring.Component):
    """``y`` is ``x`` plus a word of a table and ``step``, a cycle later; the word is then replaced by ``x``."""

    def __init__(self, step: int) -> None:
        self._step = step
        super().__init__({"enable": In(1), "address": In(2), "x": In(8), "y": Out(8)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = Memory(shape=8, depth=4, init=[1, 2, 3, 4])
        m.submodules.delay = delay = Delay()
        read, write = table.read_port(domain="comb"), table.write_port()
        m.d.comb += [read.addr.eq(self.address), write.addr.eq(self.address), write.data.eq(self.x)]
        m.d.comb += [write.en.eq(self.enable), delay.enable.eq(self.enable), self.y.eq(delay.y)]
        m.d.comb += delay.x.eq(self.x + read.data + self._step)
        return m


class Row(wiring.Component):
    """Cells one behind the other. Each takes part of what the row gets, and one of them is another kind."""

    def __init__(self) -> None:
        super().__init__({"enable": In(CELLS), "address": In(2).array(CELLS), "x": In(8), "y": Out(8).array(CELLS)})

    def elaborate(self, platform):
        m = Module()
        before = Signal(8)
        m.d.comb += before.eq(self.x)
        for i in range(CELLS):
            m.submodules[f"cell_{i}"] = cell = Cell(7 if i == ODD else 1)
            m.d.comb += [cell.enable.eq(self.enable[i]), cell.address.eq(self.address[i]), cell.x.eq(before)]
            m.d.comb += self.y[i].eq(cell.y)
            before = cell.y
        return m


def modules(text: str) -> list[str]:
    return re.findall(r"^module \\?(\S+)", text, re.MULTILINE)


def test_one_module_for_all_that_are_alike() -> None:
    text = rtlil.convert(Row(), name="top", emit_src=False)
    assert len(modules(text)) == 1 + 2 * CELLS
    shared = modules(with_shared_modules(text))
    assert len(shared) == 4  # the row, two kinds of cells, the register in both
    assert shared[0] == "top"
    assert sum("delay" in name for name in shared) == 1


def test_nothing_alike_stays_as_it_is() -> None:
    text = rtlil.convert(Cell(1), name="top", emit_src=False)
    assert modules(with_shared_modules(text)) == modules(text)


def test_numbered_ports_are_those_of_the_instance() -> None:
    """The numbers count through the design, and the module around may have a port of the same name."""
    inner = "module \\inner{0}\n  wire input 0 \\port${1}$0\n  wire output 1 \\y\n  connect \\y \\port${1}$0\nend\n"
    cell = "  cell \\inner{0} \\inner{0}\n    connect \\port${1}$0 {2}\n    connect \\y \\y{0}\n  end\n"
    outer = "module \\outer\n  wire input 0 \\port$20$0\n  wire input 1 \\port$10$0\n"
    text = outer + cell.format(1, 10, "\\port$20$0") + cell.format(2, 20, "\\port$10$0") + "end\n"
    text += inner.format(1, 10) + inner.format(2, 20)
    shared = with_shared_modules(text)
    assert modules(shared) == ["outer", "inner2"]
    assert "wire input 0 \\port$0\n  wire input 1 \\port$1\n" in shared
    first, second = re.findall(r"cell \\inner2 \\(\S+)\n    connect \\port\$0 (\S+)\n", shared)
    assert (first, second) == (("inner1", "\\port$0"), ("inner2", "\\port$1"))


@pytest.mark.parametrize("seed", range(3))
def test_instances_have_their_own_state(seed: int) -> None:
    cycles = 3000
    random = np.random.default_rng(seed)
    enable = random.integers(0, 1 << CELLS, cycles)
    address = random.integers(0, 4, (CELLS, cycles))
    x = random.integers(0, 256, cycles)
    inputs = {"enable": enable, "x": x} | {f"address.{i}": address[i] for i in range(CELLS)}
    found = Compiled(Row()).run(inputs, [f"y.{i}" for i in range(CELLS)])
    tables, y = [[1, 2, 3, 4] for _ in range(CELLS)], [0] * CELLS
    for t in range(cycles):
        assert [found[f"y.{i}"][t] for i in range(CELLS)] == y, f"cycle {t}"
        arriving = [int(x[t]), *y[:-1]]
        for i in range(CELLS):
            if enable[t] >> i & 1:
                y[i] = arriving[i] + tables[i][address[i][t]] + (7 if i == ODD else 1) & 255
                tables[i][address[i][t]] = arriving[i]


def test_memories_of_one_value_are_filled_by_a_loop() -> None:
    class Words(wiring.Component):
        """A memory whose first words differ, and one whose words are all alike."""

        def __init__(self) -> None:
            super().__init__({"address": In(4), "x": Out(8), "y": Out(8)})

        def elaborate(self, platform):
            m = Module()
            for name, init, out in (("one", [1, 2, 3], self.x), ("other", [5] * 16, self.y)):
                m.submodules[name] = memory = Memory(shape=8, depth=16, init=init)
                read = memory.read_port(domain="comb")
                m.d.comb += [read.addr.eq(self.address), out.eq(read.data)]
            return m

    assert design_of(Words()).text.count("for (int word = 0; word < 16; word++)") == 1
    found = Compiled(Words()).run({"address": np.arange(16)}, ["x", "y"])
    assert found["x"].tolist() == [1, 2, 3] + [0] * 13
    assert found["y"].tolist() == [5] * 16
