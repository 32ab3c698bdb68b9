# SPDX-License-Identifier: Apache-2.0
"""The flow on a component of a few gates: one mutant is noticed, one proved equivalent, one survives."""

from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.sim.rtl.ports import Field, Port
from catenary.sim.rtl.verilog import Design
from tests.hw import compiled
from tests.mutation.core import netlist_source, plain_verilog
from tests.mutation.netlist import CONTROL, CONTROL_BITS, Mutant, choose, mutated, prepare, with_short_sources
from tests.mutation.proof import Prover
from tests.mutation.results import Result, Store, Summary, survivors_table, wilson_bound
from tests.mutation.trial import Verdict

TOP = "small_thing"


class SmallThing(wiring.Component):
    """Some logic of every kind.

    Members:
        a, b: inputs.
        total: a + b, a cycle later.
        both: whether a and b are odd, said in a roundabout way.
        rare: whether a is 200.
        turn: counts 0, 1, 2, 0 ..., and would go on from 3 to 0.
    """

    a: In(8)
    b: In(8)
    total: Out(8)
    both: Out(1)
    rare: Out(1)
    turn: Out(2)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.total.eq(self.a + self.b)
        odd = Signal()
        m.d.comb += [
            odd.eq(self.a[0] & self.b[0]),
            self.both.eq(odd | (odd & self.b[7])),
            self.rare.eq(self.a == 200),
        ]
        with m.Switch(self.turn):
            with m.Case(0):
                m.d.sync += self.turn.eq(1)
            with m.Case(1):
                m.d.sync += self.turn.eq(2)
            with m.Default():
                m.d.sync += self.turn.eq(0)
        return m


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mutants")
    text, _ = netlist_source(SmallThing(), TOP)
    prepare(text, {"thing": [TOP]}, made)
    return made / "thing"


@pytest.fixture(scope="module")
def mutants(folder: Path) -> list[Mutant]:
    return choose(folder, 400, 1)


def only(mutants: list[Mutant], number: int, **wanted: object) -> Mutant:
    """The first mutant that is as wanted, with a number of its own."""
    found = [m for m in mutants if all(getattr(m, key) == value for key, value in wanted.items())]
    assert found, wanted
    return Mutant(**{**found[0].__dict__, "number": number})


@pytest.fixture(scope="module")
def chosen(mutants: list[Mutant]) -> list[Mutant]:
    """A wrong bit of the sum, one of a product that does not count, one of a comparison that is seldom true."""
    [product] = {m.cell for m in mutants if m.kind == "$and" and any(m.signal == "b[7]" for m in [m])}
    [rare] = {m.cell for m in mutants if m.kind == "$eq" and m.port == "Y" and m.signal == "rare"}
    return [
        only(mutants, 1, kind="$add", port="Y", bit=3, mode="inv"),
        only(mutants, 2, cell=product, signal="b[7]", mode="const1"),
        only(mutants, 3, cell=rare, port="Y", mode="const0"),
    ]


def test_a_seed_gives_the_same_mutants_which_have_places_in_the_source(folder, mutants):
    assert choose(folder, 400, 1) == mutants
    assert choose(folder, 10, 2) != choose(folder, 10, 3)
    assert [m.number for m in mutants] == list(range(1, len(mutants) + 1))
    assert [m.number for m in choose(folder, 3, 1, 40)] == [40, 41, 42]
    assert {"$add", "$and", "$or", "$eq"} <= {m.kind for m in mutants}
    assert not [m for m in mutants if m.port == "CLK"]
    assert {place.partition(":")[0] for m in mutants for place in m.sources if "test_flow" in place} == {
        "tests/mutation/test_flow.py"
    }


def test_source_places_do_not_depend_on_the_machine():
    text = (
        '  attribute \\src "/usr/lib/python3.11/site-packages/amaranth/lib/fifo.py:3|/usr/lib/python3.11/enum.py:7"\n'
    )
    assert with_short_sources(text) == '  attribute \\src "amaranth/lib/fifo.py:3|enum.py:7"\n'


def test_one_is_noticed_one_is_proved_equivalent_one_survives(folder, chosen, monkeypatch):
    _, ports = netlist_source(SmallThing(), TOP)
    field = Field(CONTROL, CONTROL, 0, CONTROL_BITS, False)
    ports = (*ports, Port(CONTROL, CONTROL_BITS, False, False, (field,)))
    design = Design(plain_verilog(mutated(folder.parent, chosen)), TOP, ports)
    monkeypatch.setattr(compiled, "design_of", lambda component: design)
    core = compiled.Compiled(None)  # the design is known
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 199, 100), rng.integers(0, 256, 100)

    def run(number: int) -> dict[str, list[int]]:
        core.poke(CONTROL, number)
        core.reset()
        return {
            name: found.tolist()
            for name, found in core.run({"a": a, "b": b}, ["total", "both", "rare", "turn"]).items()
        }

    right = run(0)
    assert right["total"][1:] == ((a + b) % 256)[:-1].tolist()
    assert right["turn"] == [cycle % 3 for cycle in range(100)]
    noticed = [run(number) != right for number in (1, 2, 3)]
    assert noticed == [True, False, False]

    prover = Prover(folder, [TOP], chosen)
    verdicts = [
        Verdict(n, "killed" if seen else "alive", "outcome" if seen else "") for n, seen in enumerate(noticed, 1)
    ]
    results = [
        Result(v, "" if v.kind == "killed" else prover.prove(m).how) for v, m in zip(verdicts, chosen, strict=True)
    ]
    assert [result.proof for result in results] == ["", "cut", "not proved"]
    summary = Summary.of(results)
    assert (summary.killed, summary.equivalent, summary.survivors) == (1, 1, 1)
    [row] = survivors_table("small", chosen, results)
    assert "`rare`" in row and "tests/mutation/test_flow.py" in row  # noqa: PT018


def test_what_only_states_show_that_nothing_leads_to_is_proved_by_induction(folder, mutants):
    """A comparison of the counter with 1 that holds for 3, too."""
    mutant = only(mutants, 1, kind="$eq", port="A", signal="turn[1]", mode="const0")
    assert Prover(folder, [TOP], [mutant]).prove(mutant).how == "induction"


def test_the_bound_is_that_of_wilson():
    assert wilson_bound(0, 0) == 0
    assert wilson_bound(90, 100) == pytest.approx(0.8256, abs=1e-4)
    assert wilson_bound(200, 200) == pytest.approx(0.9812, abs=1e-4)


def test_results_are_kept_as_long_as_they_hold(tmp_path):
    path = tmp_path / "results.jsonl"
    store = Store(path, "netlist", "block", "programs")
    store.put(Result(Verdict(1, "killed", "outcome")))
    store.put(Result(Verdict(2, "alive")))
    store.put(Result(Verdict(3, "alive")))
    store.prove(3, "cut")

    def kept(*hashes: str) -> list[int]:
        return [result.verdict.number for result in Store(path, *hashes).results()]

    assert kept("netlist", "block", "programs") == [1, 2, 3]
    assert kept("netlist", "block", "others") == [1, 3]
    assert kept("elsewhere another", "block", "programs") == [2, 3]
    assert kept("elsewhere another", "block", "others") == [3]
    assert kept("another", "another", "programs") == []


def test_what_was_noticed_in_another_core_may_survive_in_this_one(tmp_path):
    path = tmp_path / "results.jsonl"
    Store(path, "older", "block", "programs").put(Result(Verdict(1, "killed", "outcome")))
    Store(path, "newer", "block", "programs").put(Result(Verdict(1, "alive")))
    assert not Store(path, "newer", "block", "programs").results()[0].killed
