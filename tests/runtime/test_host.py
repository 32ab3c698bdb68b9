# SPDX-License-Identifier: Apache-2.0
"""The host side of a program: a sequence moves from one device to another."""

from __future__ import annotations

import numpy as np
import pytest

from catenary.isa.errors import UsageError
from catenary.runtime.host import SequenceState
from tests.graphs import random_llama_graph
from tests.programs.support import UNEVEN, compiled, iss, prompt


def test_a_sequence_goes_on_elsewhere() -> None:
    program = compiled(random_llama_graph(5, context=40), "w4", UNEVEN)
    ids = prompt(program, 20)
    with iss(program) as first, iss(program) as second:
        first.run(ids[:11], 0)
        state = first.state()
        assert state.length == 11
        expected = [first.run(ids[11:19], 11, all_logits=True), first.run(ids[19:], 19)]
        second.run(ids[3:9], 0)  # another sequence, which is forgotten
        for engine in (second, first):
            engine.resume(state)
            assert (engine.run(ids[11:19], 11, all_logits=True) == expected[0]).all()
            assert (engine.run(ids[19:], 19) == expected[1]).all()


def test_a_sequence_of_another_program_is_refused() -> None:
    program, other = (compiled(random_llama_graph(5, context=context), "w4", UNEVEN) for context in (40, 48))
    with iss(program) as engine, iss(other) as stranger:
        stranger.run(prompt(other, 3), 0)
        before = engine.run(prompt(program, 4), 0)
        with pytest.raises(UsageError, match=r"Sequence must have a KV cache of [\d,]+ bytes for at most 40 positions"):
            engine.resume(stranger.state())
        with pytest.raises(UsageError, match="with 41 positions"):
            engine.resume(SequenceState(41, engine.state().kv))
        assert (engine.run(prompt(program, 4), 0) == before).all()
        assert np.isfinite(before).all()
