# SPDX-License-Identifier: Apache-2.0
"""The function unit and its parts against their definition, bit for bit."""

import numpy as np
import pytest
from amaranth.hdl import Const, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.fp.evaluator import Evaluator
from catenary.hw.fp.exponential import Exponential
from catenary.hw.fp.function import ODD, Function, FunctionUnit
from catenary.hw.fp.tables import ENTRY_BITS, Tables, entry_of
from catenary.isa import functions as isa
from catenary.sim import arith
from catenary.sim.arith.functions import exp_negated
from tests.hw.fp_support import Bench, disagreement, every_exponent, floats, random_words, special_words, words


class Looked(wiring.Component):
    """A part with the tables that it reads."""

    def __init__(self, part, members):
        self._part = part
        self.latency = part.latency
        super().__init__({"enable": In(1), "x": In(part.x.shape()), **members})

    def elaborate(self, platform):
        m = Module()
        m.submodules.part = part = self._part
        m.submodules.tables = tables = Tables()
        inputs = [name for name, member in self.signature.members.items() if member.flow is In and name != "entry"]
        m.d.comb += [getattr(part, name).eq(getattr(self, name)) for name in inputs]
        m.d.comb += [
            getattr(self, name).eq(getattr(part, name))
            for name in self.signature.members
            if name not in inputs and name != "entry"
        ]
        m.d.comb += [
            tables.enable.eq(self.enable),
            tables.entries[0].eq(self.entry if hasattr(self, "entry") else part.entry),
            part.coefficients.eq(tables.rows[0]),
        ]
        return m


def parts():
    """The function unit, and its parts with their tables."""
    exponential = Exponential()
    results = {name: Out(getattr(exponential, name).shape()) for name in ("power", "mantissa")}
    return {
        "function": FunctionUnit(),
        "exponential": Looked(exponential, results),
        "evaluator": Looked(Evaluator(), {"entry": In(ENTRY_BITS), "value": Out(isa.VALUE_BITS + 1)}),
    }


BENCH = Bench(parts)
functions = pytest.mark.parametrize("function", Function, ids=lambda function: function.name)


def definition(function, x):
    return words(getattr(arith, function.name.lower())(floats(x)))


def check(function, x, seed=None):
    selected = np.full(x.size, function.value)
    (got,) = BENCH.results("function", {"function": selected, "x": x}, seed=seed)
    wrong = disagreement(got, definition(function, x), x=x)
    assert wrong is None, (function, seed, wrong)


def neighbours(x, steps=2):
    """Words around each of ``x``, both signs."""
    magnitudes = np.concatenate([words(x) + np.uint32(step & 0xFFFFFFFF) for step in range(-steps, steps + 1)])
    return np.concatenate([magnitudes & np.uint32(0x7FFFFFFF), magnitudes | np.uint32(1 << 31)])


@functions
def test_special_numbers(function):
    check(function, special_words())


@functions
def test_every_exponent(function):
    check(function, every_exponent())


@functions
def test_edges_of_intervals(function):
    """Ends of all intervals and of the ranges, clamped and others."""
    edges = [np.arange(1, 16 * 128 + 3) / 128, np.arange(1, 256) / 256 + 1, np.arange(1, 257) / 128 + 2]
    edges += [[-isa.EXP_LOWEST, isa.EXP_HIGHEST, 87.33654, 88.72284, 103.97, 103.28, 17.5, 16.0, 2.0**-25, 2.0**-26]]
    edges += [2.0 ** np.arange(-30, 8), 2.0**-24 * np.arange(1, 40)]
    check(function, neighbours(np.concatenate(edges).astype(np.float32)))


@pytest.mark.parametrize("function", [Function.EXP, Function.SIGMOID], ids=lambda function: function.name)
def test_edges_of_powers_of_two(function):
    edges = np.arange(1, 151 * 256) / 256 / np.log2(np.e)
    check(function, neighbours(edges.astype(np.float32), steps=1))


@functions
@pytest.mark.parametrize("seed", [1])
def test_a_million_random_numbers(function, seed):
    check(function, random_words(seed, 1_000_000))


@functions
@pytest.mark.parametrize("seed", [2])
def test_a_million_numbers_of_the_working_range(function, seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-106, 106, 500_000)
    check(function, words(np.concatenate([x, rng.choice([0.1, 0.03, 0.01, 1e-3, 1e-5], x.size) * x])))


@pytest.mark.slow
@functions
def test_words_from_all_over(function):
    check(function, np.arange(0, 1 << 32, 499, dtype=np.uint32))


@pytest.mark.parametrize("seed", [3])
def test_any_function_follows_any_other(seed):
    rng = np.random.default_rng(seed)
    selected = rng.integers(0, len(Function), 60_000)
    x = np.where(rng.random(selected.size) < 0.7, words(rng.normal(scale=6, size=selected.size)), 0)
    x = np.where(x == 0, random_words(seed + 1, x.size), x)
    want = np.choose(selected, [definition(function, x) for function in Function])
    (got,) = BENCH.results("function", {"function": selected, "x": x}, seed=seed)
    wrong = disagreement(got, want, function=selected, x=x)
    assert wrong is None, (seed, wrong)


def test_softmax_takes_the_exponential_of_the_negative_difference():
    """``exp_negated(m - s)`` of the definition is EXP of s - m."""
    distance = np.concatenate([every_exponent(), words(np.arange(0, 120, 0.003))])
    distance = distance[(distance < 0x80000000) | (floats(distance) != floats(distance))]
    negated = distance ^ np.uint32(1 << 31)
    (got,) = BENCH.results("function", {"function": np.full(negated.size, Function.EXP.value), "x": negated})
    assert not disagreement(got, words(exp_negated(floats(distance))), x=negated)


def test_parts_of_the_exponential():
    x = every_exponent()
    x = x[~np.isnan(floats(x))]
    power, mantissa = BENCH.results("exponential", {"x": x}, ("power", "mantissa"))
    assert power.min() == -151
    assert power.max() == 128
    assert mantissa.min() == 1 << isa.VALUE_BITS
    assert mantissa.max() < 2 << isa.VALUE_BITS
    with np.errstate(over="ignore", under="ignore"):
        want = np.exp(np.clip(floats(x).astype(np.float64), isa.EXP_LOWEST, isa.EXP_HIGHEST))
    np.testing.assert_allclose(np.ldexp(mantissa.astype(np.float64), power - isa.VALUE_BITS), want, rtol=2.0**-22)


@pytest.mark.parametrize("seed", [5])
@pytest.mark.parametrize("table", isa.TABLES)
def test_evaluator_of_every_entry(table, seed):
    rng = np.random.default_rng(seed)
    entries, columns = isa.TABLES[table].entries, isa.TABLES[table]
    index = np.concatenate([np.repeat(np.arange(entries), 4), rng.integers(0, entries, 5000)])
    x = np.concatenate([np.tile([0, 1, (1 << 17) - 1, 1 << 16], entries), rng.integers(0, 1 << 17, 5000)])
    c0, c1, c2 = (np.array(getattr(columns, name))[index] for name in ("c0", "c1", "c2"))
    entry = index + Const.cast(entry_of(columns, Const(0, exact_log2(entries)))).value
    (got,) = BENCH.results("evaluator", {"entry": entry, "x": x}, ("value",), seed)
    wrong = disagreement(got, c0 + ((c1 + (c2 * x >> isa.SHIFT2)) * x >> isa.SHIFT1), entry=entry, x=x)
    assert wrong is None, (seed, wrong)


def test_tables_do_not_overlap():
    entries = [
        Const.cast(entry_of(table, Const(index, exact_log2(table.entries)))).value
        for table in isa.TABLES.values()
        for index in range(table.entries)
    ]
    assert len(set(entries)) == len(entries) == sum(table.entries for table in isa.TABLES.values())


def test_index_must_be_of_the_table():
    with pytest.raises(ValueError, match="Index must have the bits of 256 entries, not 7"):
        entry_of(isa.RECIPROCAL, Const(0, 7))


def test_odd_functions_are_all_of_their_kind():
    assert list(ODD.values()) == [isa.TANH, isa.ERF]


def test_latency_is_what_its_parts_add_up_to():
    assert FunctionUnit.latency == 15
