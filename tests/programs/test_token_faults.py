# SPDX-License-Identifier: Apache-2.0
"""Wait and release bits that are missing: the static check, the token counters or the race detector finds them."""

from __future__ import annotations

import random

import pytest

from catenary.isa.code_check import find_problems
from catenary.isa.errors import ExecutionError
from tests.programs.faults import Subject


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.make()


def sampled(items, count, full):
    return items if full else random.Random(count).sample(items, count)


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_a_missing_bit_is_found(subject, full):
    """A wait or a release alone unbalances the counters: the loader's check sees it, and so does the simulator."""
    entries = subject.program.entries.values()
    for bit in sampled(subject.bits(), 24, full):
        code = subject.without([bit])
        assert find_problems(code, entries), bit
        with pytest.raises(ExecutionError, match=r"^Instruction \d+ \(\w+.*\): (Wait for|Tokens must|Word \d+ of)"):
            subject.run(code)


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_a_missing_edge_is_a_race(subject, full):
    """Without an edge the counters stay balanced, so only the race detector can tell; it misses no edge that matters.

    An edge that the judge of token assignment finds idle follows from others, and leaving it out changes nothing.
    """
    every = subject.edges()
    found = missed = 0
    for _, edge, idle in sampled(every, 16, full):
        code = subject.without(edge)
        assert not find_problems(code, subject.program.entries.values())
        error = subject.error(code)
        if error is None:
            assert idle, f"{edge} of {len(every)}"
            assert (subject.run(code) == subject.expected).all()
            missed += 1
        else:
            assert error.startswith("Instruction ")
            assert error.endswith("a token is missing")
            found += 1
    print(f"{found} edges found missing, {missed} idle")
    assert found >= 10 * missed
