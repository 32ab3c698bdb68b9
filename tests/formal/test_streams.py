# SPDX-License-Identifier: Apache-2.0
"""The rule of streams: what is offered stays, and stays as it is, until it is taken.

Whoever is at the other end of an input keeps it, too. Behind an abort or a fault nothing is claimed: it ends the run.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType

import pytest

from catenary.boards.loader import load_accelerator
from catenary.hw.control import runs, shell
from catenary.hw.memory import gather, load_plan, walk
from catenary.isa.opcodes import Unit
from tests.formal.harness import Harness
from tests.formal.proofs import Record, mutant, prove

SMALL = load_accelerator("small")


def walker(module: ModuleType = walk) -> Harness:
    """Steps of a walk that is begun when there is none."""
    h = Harness()
    dut = module.RowWalker(SMALL, gather.store_words(SMALL))
    h.add(dut, "dut")
    h.assume(~dut.start | dut.idle)
    h.holds(dut.steps, "steps")
    return h


def planner(module: ModuleType = load_plan) -> Harness:
    """Requests and plans; neither taker goes back on being ready before it has taken something."""
    h = Harness()
    dut = module.LoadPlanner(SMALL)
    h.add(dut, "dut")
    h.keeps(dut.insn, "insn")
    h.keeps(dut.fetch, "fetch")
    for name in ("lines", "plans"):
        taker = getattr(dut, name)
        h.assume(~h.past(taker.ready & ~taker.valid, f"{name}_ready") | taker.ready)
    h.holds(dut.lines, "lines")
    h.holds(dut.plans, "plans")
    return h


def fetches(module: ModuleType = runs) -> Harness:
    """The order to fetch code. The host does not change settings while a run goes on."""
    h = Harness()
    dut = module.RunControl(SMALL)
    h.add(dut, "dut")
    h.assume(~(dut.failed | dut.soft_reset))
    h.assume(~h.past(dut.running, "running") | (dut.line == h.past(dut.line, "line")))
    h.holds(dut.fetch, "fetch")
    return h


def commands(unit: Unit, module: ModuleType = shell) -> Harness:
    """A command for the core: once granted, tokens stay until they are taken."""
    h = Harness()
    dut = module.Shell(unit, SMALL)
    h.add(dut, "dut")
    h.keeps(dut.queue, "queue")
    h.assume(~h.past(dut.enable, "enable") | dut.enable)
    h.assume(~h.past(dut.granted & ~dut.taken, "granted") | dut.granted)
    h.holds(dut.core.insn, "insn")
    return h


CASES = {
    "RowWalker": (walker, "steps", walk, ("active & (~self.steps.valid | self.steps.ready)", "active")),
    "LoadPlanner": (
        planner,
        "lines and plans",
        load_plan,
        ("self.plans.valid.eq(1)", "self.plans.valid.eq(~self.insn.valid)"),
    ),
    "RunControl": (fetches, "fetch", runs, ("self.fetch.valid.eq(1)", "self.fetch.valid.eq(~self.start)")),
    "Shell(load)": (partial(commands, Unit.LOAD), "insn", shell, ("fifo.r_en.eq(self.taken)", "fifo.r_en.eq(1)")),
    "Shell(matrix)": (partial(commands, Unit.MATRIX), "insn", shell, ("fifo.r_en.eq(self.taken)", "fifo.r_en.eq(1)")),
}
"""Components: the harness, streams, and a change that breaks the rule."""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CASES)
def test_offers_stay(record: Record, name: str) -> None:
    build, streams, module, change = CASES[name]
    prove(
        record,
        name,
        f"offers stay as they are until they are taken: {streams}",
        build,
        controls={change[1]: lambda: build(module=mutant(module, change))},
    )
