# SPDX-License-Identifier: Apache-2.0
"""FpMax and the order that ARGMAX needs against their definition, bit for bit."""

import numpy as np
import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.fp.compare import FpMax, greater, rank_key
from catenary.sim.arith import fp32, select
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

pytestmark = pytest.mark.slow  # vector and matrix tests use the same blocks in quick runs


class Order(wiring.Component):
    """The functions of compare.py as a component."""

    a: In(32)
    b: In(32)
    greater: Out(1)
    rank: Out(32)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [
            self.greater.eq(greater(self.a, self.b)),
            self.rank.eq(rank_key(self.a)),
        ]
        return m


BENCH = Bench(lambda: {"max": FpMax(), "order": Order()})


def check(a, b):
    (got,) = BENCH.cycles("max", {"a": a, "b": b}, ("o",))
    wrong = disagreement(got, words(fp32.maximum(floats(a), floats(b))), a=a, b=b)
    assert wrong is None, wrong
    got, rank = BENCH.cycles("order", {"a": a, "b": b}, ("greater", "rank"))
    left, right = fp32.read(floats(a)), fp32.read(floats(b))
    want = np.where(np.isnan(left), False, np.isnan(right) | (left > right))
    wrong = disagreement(got, want, a=a, b=b)
    assert wrong is None, wrong
    keys = fp32.order_key(fp32.add(left, np.float32(0.0))).astype(np.int64) + (1 << 31)  # -0.0 + 0.0 is +0.0
    assert not disagreement(rank, keys, a=a)


def test_special_pairs():
    check(*all_pairs(special_words(), special_words()))


def test_specials_with_every_exponent():
    check(*all_pairs(special_words(), every_exponent()))
    check(*all_pairs(every_exponent(), special_words()))


@pytest.mark.parametrize("seed", [1])
def test_a_million_random_pairs(seed):
    a = random_words(seed, 1_000_000)
    b = random_words(seed + 1, a.size)
    check(a, b)
    check(a, np.where(b & 1, a + (b >> np.uint32(1)) % np.uint32(5), a ^ np.uint32(1 << 31)))


@pytest.mark.parametrize("seed", range(20))
def test_replacing_the_winner_by_what_is_greater_is_argmax(seed):
    rng = np.random.default_rng(seed)
    row = rng.choice(special_words(), 12) if seed % 2 else words(rng.integers(-3, 3, 12) * rng.choice([0.0, 1.0], 12))
    (got,) = BENCH.cycles("order", dict(zip("ab", all_pairs(row, row), strict=True)), ("greater",))
    beats = got.reshape(12, 12)
    winner = 0
    for index in range(1, 12):
        if beats[index, winner]:
            winner = index
    assert winner == int(select.argmax(floats(row))), seed
