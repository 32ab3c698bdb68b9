# SPDX-License-Identifier: Apache-2.0
"""The function unit and its parts against their definition, bit for bit."""

from itertools import pairwise

import numpy as np
import pytest
from amaranth.hdl import Fragment

from catenary.hw.fp.evaluator import Evaluator
from catenary.hw.fp.exponential import Exponential, signed_digits
from catenary.hw.fp.function import ODD, Function, FunctionUnit
from catenary.isa import functions as isa
from catenary.sim import arith
from catenary.sim.arith.functions import exp_negated
from tests.hw.fp_support import Bench, disagreement, every_exponent, floats, random_words, special_words, words

TABLES = (isa.EXP2, isa.ERF.small, isa.TANH.small)
BENCH = Bench(
    lambda: {
        "function": FunctionUnit(),
        "exponential": Exponential(),
        "evaluator": Evaluator(TABLES),
    }
)
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
def test_evaluator_of_every_entry(seed):
    rng = np.random.default_rng(seed)
    entries = sum(table.entries for table in TABLES)
    entry = np.concatenate([np.repeat(np.arange(entries), 4), rng.integers(0, entries, 20_000)])
    x = np.concatenate([np.tile([0, 1, (1 << 17) - 1, 1 << 16], entries), rng.integers(0, 1 << 17, 20_000)])
    c0, c1, c2 = (np.concatenate([getattr(table, name) for table in TABLES])[entry] for name in ("c0", "c1", "c2"))
    (got,) = BENCH.results("evaluator", {"entry": entry, "x": x}, ("value",), seed)
    wrong = disagreement(got, c0 + ((c1 + (c2 * x >> isa.SHIFT2)) * x >> isa.SHIFT1), entry=entry, x=x)
    assert wrong is None, (seed, wrong)


def test_evaluator_knows_where_tables_begin():
    evaluator = Evaluator(list(isa.TABLES.values()))
    Fragment.get(evaluator, None)  # used, as far as Amaranth is concerned
    assert [evaluator.base(table) for table in isa.TABLES.values()] == [isa.rom_base(name) for name in isa.TABLES]


@pytest.mark.parametrize("value", [1, 2, 3, 5, 7, 0x5555, 0x7FFF, isa.LOG2E])
def test_signed_digits(value):
    digits = signed_digits(value)
    assert sum(sign << exponent for exponent, sign in digits) == value
    assert all(later - earlier > 1 for (earlier, _), (later, _) in pairwise(digits))


def test_odd_functions_are_all_of_their_kind():
    assert list(ODD.values()) == [isa.TANH, isa.ERF]


def test_latency_is_what_its_parts_add_up_to():
    assert FunctionUnit.latency == 14
