# SPDX-License-Identifier: Apache-2.0
"""FpAdd and FpMul against their definition, bit for bit."""

import numpy as np
import pytest

from catenary.hw.fp.add import FpAdd
from catenary.hw.fp.multiply import FpMul
from catenary.sim.arith import fp32
from tests.hw.fp_support import (
    Bench,
    all_pairs,
    disagreement,
    every_exponent,
    floats,
    random_words,
    special_words,
    words,
)

DEFINITIONS = {"add": fp32.add, "multiply": fp32.mul}
COMPONENTS = {"add": FpAdd, "multiply": FpMul}
BENCH = Bench(lambda: {name: component() for name, component in COMPONENTS.items()})
operations = pytest.mark.parametrize("name", DEFINITIONS)


def check(name, a, b, seed=None):
    (got,) = BENCH.results(name, {"a": a, "b": b}, seed=seed)
    wrong = disagreement(got, words(DEFINITIONS[name](floats(a), floats(b))), a=a, b=b)
    assert wrong is None, (name, seed, wrong)


@operations
def test_special_pairs(name):
    check(name, *all_pairs(special_words(), special_words()))


@operations
def test_pairs_of_exponents(name):
    rng = np.random.default_rng(3)
    exponents = np.arange(256, dtype=np.uint32)
    a, b = all_pairs(exponents, exponents)
    for _ in range(4):
        fractions = rng.integers(0, 1 << 23, (2, a.size), dtype=np.uint32)
        signs = rng.integers(0, 2, (2, a.size), dtype=np.uint32) << np.uint32(31)
        check(name, a << np.uint32(23) | fractions[0] | signs[0], b << np.uint32(23) | fractions[1] | signs[1])


@operations
def test_specials_with_every_exponent(name):
    check(name, *all_pairs(special_words(), every_exponent()))


@operations
@pytest.mark.parametrize("seed", [11, 12])
def test_while_disabled_everything_holds(name, seed):
    check(name, random_words(seed, 5000), random_words(seed + 100, 5000), seed=seed)


@operations
@pytest.mark.parametrize("seed", [21])
def test_a_million_random_pairs(name, seed):
    check(name, random_words(seed, 1_000_000), random_words(seed + 100, 1_000_000))


@pytest.mark.parametrize("seed", [31])
def test_sums_of_numbers_of_similar_size(seed):
    """Alignments of 0 to 30 places, cancellation and ties: what random exponents rarely meet."""
    rng = np.random.default_rng(seed)
    count = 1_000_000
    a = random_words(seed + 1, count)
    gap = rng.integers(-30, 31, count)
    exponent = np.clip((a >> np.uint32(23) & np.uint32(255)).astype(np.int64) + gap, 0, 255).astype(np.uint32)
    # Few bits set, so that ties and long runs of zeros and ones are common.
    fraction = rng.integers(0, 1 << 23, count, dtype=np.uint32) & rng.integers(0, 1 << 23, count, dtype=np.uint32)
    fraction = np.where(rng.random(count) < 0.5, fraction, fraction << np.uint32(17) & np.uint32(0x7FFFFF))
    a = np.where(rng.random(count) < 0.5, a, a & np.uint32(0xFFFE0000))
    b = exponent << np.uint32(23) | fraction | rng.integers(0, 2, count, dtype=np.uint32) << np.uint32(31)
    check("add", a, b)


@pytest.mark.parametrize("seed", [32])
def test_differences_of_neighbours(seed):
    a = random_words(seed, 200_000)
    rng = np.random.default_rng(seed + 1)
    b = a + rng.integers(-4, 5, a.size).astype(np.uint32) ^ np.uint32(1 << 31)
    check("add", a, b)
    check("add", a, a ^ np.uint32(1 << 31))


@pytest.mark.parametrize("seed", [33])
def test_sums_below_the_normal_numbers(seed):
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 30 << 23, 300_000, dtype=np.uint32) for _ in range(2))
    b = np.where(rng.random(b.size) < 0.5, b, a + rng.integers(-1000, 1000, a.size).astype(np.uint32))
    check("add", a & np.uint32(0x7FFFFFFF), b | np.uint32(1 << 31))


@pytest.mark.parametrize("seed", [41])
def test_products_near_the_smallest_normal_number(seed):
    """Every pair of exponents whose product is close to 2**-126, with products just below it made on purpose."""
    rng = np.random.default_rng(seed)
    count = 400_000
    a = rng.integers(1 << 23, 254 << 23, count, dtype=np.uint32)
    # The quotient, rounded: the product is within an ulp or so of 2**-126.
    target = np.float64(2.0**-126) * (1 - rng.integers(0, 6, count) * 2.0**-25)
    with np.errstate(under="ignore", over="ignore"):
        b = words((target / floats(a).astype(np.float64)).astype(np.float32))
    b = b + rng.integers(-2, 3, count).astype(np.uint32) & np.uint32(0x7FFFFFFF)
    check("multiply", a, b)


def test_half_way_to_the_smallest_normal_number_is_that_number():
    """24 ones, exactly: (2**24 - 1) * 2**-150 = (2**12 - 1) * (2**12 + 1) * 2**-150."""
    a, b = words([4095.0 * 2.0**-75, -4095.0 * 2.0**-75]), words([4097.0 * 2.0**-75] * 2)
    (got,) = BENCH.results("multiply", {"a": a, "b": b})
    assert got.tolist() == [0x00800000, 0x80800000]
    check("multiply", a, b)


@pytest.mark.parametrize("seed", [42])
def test_products_near_the_largest_number(seed):
    rng = np.random.default_rng(seed)
    a = rng.integers(1 << 23, 254 << 23, 300_000, dtype=np.uint32)
    with np.errstate(over="ignore", under="ignore"):
        b = words((2.0**128 / floats(a).astype(np.float64)).astype(np.float32))
    b = b + rng.integers(-3, 4, a.size).astype(np.uint32) & np.uint32(0x7FFFFFFF)
    check("multiply", a, b)


@pytest.mark.parametrize("seed", [43])
def test_products_that_tie(seed):
    """Factors of few bits: half of the products with 25 bits or less end in a tie."""
    rng = np.random.default_rng(seed)
    a = rng.integers(1 << 12, 1 << 13, 300_000).astype(np.float32)
    b = rng.integers(1 << 11, 1 << 13, 300_000).astype(np.float32)
    check("multiply", words(a), words(b))


@operations
def test_one_after_the_other_in_the_python_simulator(name):
    """The compiled model is Amaranth's own meaning of the source, too."""
    from amaranth.sim import Simulator

    dut = COMPONENTS[name]()
    a, b = all_pairs(special_words()[::5], special_words()[::3])
    got = []

    async def bench(ctx):
        ctx.set(dut.enable, 1)
        for row in range(a.size + dut.latency):
            ctx.set(dut.a, int(a[min(row, a.size - 1)]))
            ctx.set(dut.b, int(b[min(row, a.size - 1)]))
            got.append(ctx.get(dut.o))
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    wrong = disagreement(got[dut.latency :], words(DEFINITIONS[name](floats(a), floats(b))), a=a, b=b)
    assert wrong is None, wrong
