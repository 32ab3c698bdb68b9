# SPDX-License-Identifier: Apache-2.0
"""Token counters: what is given can be taken once and no more, and a counter that is full says so."""

from __future__ import annotations

from functools import partial
from types import ModuleType

import pytest
from amaranth.hdl import Cat, Signal
from amaranth.lib import data

from catenary.hw.control import tokens
from catenary.isa.opcodes import Unit
from tests.formal.harness import Harness
from tests.formal.proofs import Record, mutant, prove

PAIRS = tokens.PAIRS


def harness(module: ModuleType = tokens, *, heedless: bool = False) -> Harness:
    """Count the tokens of each pair beside the counters, with a number that has room for one too many.

    A shell takes tokens only when they have been granted. A run stops at the first overflow, so nothing is claimed
    about cycles behind it.

    Args:
        module: where the counters come from.
        heedless: whoever takes does not wait until he may.
    """
    h = Harness()
    m, dut = h.m, module.Tokens()
    inside = h.add(dut, "dut")
    counters, there = data.View(module.CountsLayout, inside["counts"]), data.View(tokens.UnitSets, inside["there"])
    for unit in Unit:
        h.assume(~dut.wanted[unit][unit])  # such a word is not legal
        h.claim(f"{unit.name}: none to itself", ~there[unit][unit])
    if not heedless:
        h.assume((dut.taken & ~dut.granted) == 0)
    over = Signal()
    m.d.sync += over.eq(over | dut.overflow.any())
    h.assume(~over)

    counts = {}
    limit = module.TOKEN_LIMIT
    for source, target in PAIRS:
        name = f"{source.name}_to_{target.name}".lower()
        count = counts[source, target] = Signal(range(limit + 2), name=f"count_{name}")
        wants = dut.wanted[target][source]
        give, take = dut.given[source][target], dut.taken[target] & wants
        m.d.sync += count.eq(count + give - take)
        h.claim(f"{name}: a token that is taken is there", ~take | (count != 0))
        h.claim(f"{name}: an empty counter grants nothing", ~(wants & (count == 0) & dut.granted[target]))
        h.claim(f"{name}: never more than the limit", over | (count <= limit))
        h.claim(f"{name}: counter", over | (counters[name] == count))
        h.claim(f"{name}: flag", over | (there[target][source] == (count != 0)))
    for unit in Unit:
        mine = [count for (_, target), count in counts.items() if target is unit]
        wanted = [dut.wanted[unit][source] for source, target in counts if target is unit]
        full = [
            dut.given[unit][target] & ~(dut.taken[target] & dut.wanted[target][unit]) & (count == limit)
            for (source, target), count in counts.items()
            if source is unit
        ]
        lacking = Cat(want & (count == 0) for want, count in zip(wanted, mine, strict=True)).any()
        h.claim(f"{unit.name}: exactly what is there is granted", dut.granted[unit] == ~lacking)
        h.claim(f"{unit.name}: exactly one too many is an overflow", dut.overflow[unit] == Cat(full).any())
    h.claim("empty means that no token is there", dut.empty == (Cat(counts.values()) == 0))
    first, second = (count for count in list(counts.values())[:2])
    h.cover("several tokens of two pairs", (first == 3) & (second == 2))
    h.cover("full", first == limit)
    h.cover("taken and given in one cycle", dut.taken.all() & dut.given.as_value().any() & (first == 1))
    return h


SMALL = ("import TOKEN_LIMIT, Unit", "import Unit\n\nTOKEN_LIMIT = 3")
"""Counters that are full after 3 tokens, so that it does not take long to get there."""

CONTROLS = {
    "taken and given at once counts as taken": ("with m.If(give ^ take):", "with m.If(give | take):"),
    "the flag is late by one token": ("give | (count != 1)", "give | (count != 0)"),
    "no overflow": ("self.overflow[source].eq(1)", "self.overflow[source].eq(0)"),
}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_tokens(record: Record) -> None:
    controls = {name: partial(harness, mutant(tokens, SMALL, change)) for name, change in CONTROLS.items()}
    prove(
        record,
        "Tokens",
        "for all 20 pairs: granted is what is there, nothing is taken twice or lost, one too many is an overflow",
        harness,
        steps=1,
        reached=partial(harness, mutant(tokens, SMALL)),
        controls={**controls, "whoever takes does not wait": partial(harness, heedless=True)},
    )
