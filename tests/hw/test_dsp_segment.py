# SPDX-License-Identifier: Apache-2.0
"""Segments of every primitive against the definition of their sums, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from catenary.hw.dsp.segment import SEGMENT, DspSegment, Primitive
from tests.hw.compiled import Compiled
from tests.hw.dsp_models import use_models
from tests.hw.fp_support import refusal

KINDS = [
    pytest.param(primitive, packed, id=f"{primitive.value}-{'packed' if packed else 'plain'}")
    for primitive in Primitive
    for packed in (False, True)
    if not (packed and primitive is Primitive.ECP5)
]


def bits(flags: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Rows of flags as integers, the first flag lowest."""
    return (flags.astype(np.uint64) << np.arange(flags.shape[1], dtype=np.uint64)).sum(1, dtype=np.uint64)


def staggered(values: NDArray[np.int64], position: int, cycles: int) -> NDArray[np.int64]:
    """``values`` of the items as position ``position`` gets them: an item a cycle, each position a cycle later."""
    late = np.zeros((cycles, *values.shape[1:]), values.dtype)
    late[position : position + len(values)] = values
    return late


def run(
    segment: Compiled, a: NDArray[np.int64], w: NDArray[np.int64], cut: NDArray[np.bool_], there: NDArray[np.bool_]
) -> None:
    """Items a [item, position, token] and w [item, position] with ``cut`` [item, position], where ``there``.

    At random, a position keeps the weight of the item before, as it does for all tokens of a step but the first.
    """
    items, length, tokens = a.shape
    cut = cut.copy()
    cut[:, 0] = True
    cycles = items + length + DspSegment.latency
    rng = np.random.default_rng(items)
    fresh = there[:, None] & (rng.random((items, length)) < rng.choice([0.1, 0.5, 1]))
    fresh[np.argmax(there)] = True
    latest = np.maximum.accumulate(np.where(fresh, np.arange(items)[:, None], 0), axis=0)
    inputs = {}
    flags = {name: np.zeros((cycles, length), bool) for name in ("take", "load", "multiply", "cut", "add")}
    for i in range(length):
        # What no item needs is noise: operands where nothing is taken, cuts where nothing is multiplied.
        noise = rng.integers(-128, 128, (cycles, tokens + 1))
        live, loads = staggered(there, i, cycles), staggered(fresh[:, i], i, cycles)
        for token in range(tokens):
            inputs[f"a.{i}.{token}"] = np.where(live, staggered(a[:, i, token], i, cycles), noise[:, token])
        inputs[f"w.{i}"] = np.where(loads, staggered(w[:, i], i, cycles), noise[:, tokens])
        flags["take"][:, i], flags["load"][:, i] = live, loads
        flags["multiply"][1:, i] = live[:-1]
        flags["add"][2:, i] = live[:-2]
        flags["cut"][:, i] = rng.random(cycles) < 0.5
        flags["cut"][1:, i] = np.where(live[:-1], staggered(cut[:, i], i, cycles)[:-1], flags["cut"][1:, i])
    inputs |= {name: bits(values) for name, values in flags.items()}
    names = [f"sums.{i}.{token}" for i in range(length) for token in range(tokens)]
    got = segment.run(inputs, [*names, "carries"])
    products = a * np.take_along_axis(w, latest, axis=0)[:, :, None]
    total = np.zeros((items, tokens), np.int64)
    for i in range(length):
        total = np.where(cut[:, i, None], 0, total) + products[:, i]
        ends = there & (cut[:, i + 1] if i + 1 < length else True)
        for token in range(tokens):
            at = np.arange(items) + i + DspSegment.latency
            found = got[f"sums.{i}.{token}"][at]
            if token == 1:
                found = found + (got["carries"][at] >> np.uint64(i) & np.uint64(1)).astype(np.int64)
            wrong = np.flatnonzero(ends & (found != total[:, token]))
            assert not len(wrong), f"item {wrong[0]}, position {i}, token {token}: {total[wrong[0], token]} expected"


def random_items(
    rng: np.random.Generator, items: int, length: int, tokens: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Operands of which many are extreme, and cuts of which all densities occur."""
    a = rng.integers(-127, 128, (items, length, tokens))
    w = rng.integers(-128, 128, (items, length))
    extreme = rng.random(items) < 0.3
    a[extreme] = rng.choice([-127, 127], (extreme.sum(), length, tokens))
    w[extreme] = rng.choice([-128, 127], (extreme.sum(), length))
    one_way = rng.random(items) < 0.1  # all products as large as they can be, of either sign for each token
    a[one_way] = rng.choice([-127, 127], (one_way.sum(), 1, tokens))
    w[one_way] = -128
    cut = rng.random((items, length)) < rng.choice([0, 0.1, 0.5, 0.9, 1], (items, 1))
    return a, w, cut, rng.random(items) < 0.9


@pytest.fixture(name="segment")
def fixture_segment(primitive: Primitive, packed: bool, monkeypatch: pytest.MonkeyPatch) -> Compiled:
    use_models(monkeypatch)
    return Compiled(DspSegment(SEGMENT, packed, primitive))


@pytest.mark.parametrize(("primitive", "packed"), KINDS)
@pytest.mark.parametrize("items", [20_000, pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_random(segment: Compiled, packed: bool, items: int) -> None:
    """Random operands and cuts, which change each cycle, with gaps between items."""
    rng = np.random.default_rng(items)
    for _ in range(-(-items // 100_000)):
        run(segment, *random_items(rng, min(items, 100_000), SEGMENT, 1 + packed))


@pytest.mark.parametrize(("primitive", "packed"), KINDS)
def test_every_cut_at_the_extremes(segment: Compiled, packed: bool) -> None:
    """All 128 cuts with all products at their extremes, for each pair of signs of the tokens."""
    cuts = (np.arange(1 << SEGMENT)[:, None] >> np.arange(SEGMENT) & 1).astype(bool)
    for weight in (-128, 127):
        for signs in [(-127, -127), (-127, 127), (127, -127), (127, 127), (0, -127), (-127, 0)]:
            a = np.broadcast_to(np.array(signs[: 1 + packed]), (len(cuts), SEGMENT, 1 + packed)).astype(np.int64)
            w = np.full((len(cuts), SEGMENT), weight, np.int64)
            run(segment, a, w, cuts, np.ones(len(cuts), bool))


@pytest.mark.slow
@pytest.mark.parametrize(("primitive", "packed"), KINDS)
@pytest.mark.parametrize("length", [1, 3])
def test_short_segments(primitive: Primitive, packed: bool, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use_models(monkeypatch)
    rng = np.random.default_rng(length)
    run(Compiled(DspSegment(length, packed, primitive)), *random_items(rng, 2000, length, 1 + packed))


def test_lengths_and_kinds() -> None:
    """What no segment can be is refused."""
    for length in (0, SEGMENT + 1):
        assert "length must be" in refusal(DspSegment, length, False)
    assert "packed must be" in refusal(DspSegment, SEGMENT, True, Primitive.ECP5)
