# SPDX-License-Identifier: Apache-2.0
"""Random Llamas in every weight format: the same tokens and logits, bit for bit, on the reference and the simulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from catenary.boards.loader import load_accelerator
from catenary.compiler import buffers
from catenary.isa.encoding import decode_all
from catenary.isa.opcodes import Opcode
from catenary.runtime.devices.reference import ReferenceEngine
from tests.graphs import random_llama_graph
from tests.programs.support import FORMS, UNEVEN, compiled, iss, outcome, prompt

FAST = 4
SEEDS = [pytest.param(seed, marks=() if seed < FAST else pytest.mark.slow) for seed in range(20)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", SEEDS)
def test_devices_agree(seed, form):
    """Prompts of one token, of two, of a pass and one more, and of the whole context."""
    program = compiled(random_llama_graph(seed), form)
    reference = ReferenceEngine(program)
    with iss(program) as plain, iss(program, check_hazards=True) as checked:
        for length in (1, 2, 17, program.graph.max_context):
            ids = prompt(program, length, seed)
            expected = outcome(reference, ids, 3)
            simulator = checked if length == 17 else plain
            assert outcome(simulator, ids, 3) == expected, f"{length} tokens, seed {seed}"


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_left_over_from_run_to_run(form):
    """From position 0 again without a reset, and once more after one: an engine gives what a new one gives."""
    seed = 11
    program = compiled(random_llama_graph(seed), form)
    first, second = prompt(program, 18, seed), prompt(program, 5, seed)

    def rows(engine, ids):
        prefilled = engine.run(ids, 0)
        return np.concatenate([prefilled, *(engine.run([token], len(ids) + i) for i, token in enumerate((3, 1, 4)))])

    with iss(program) as engine, iss(program) as other:
        expected, short = rows(engine, first), rows(engine, second)
        assert (rows(engine, first) == expected).all()
        engine.reset()
        assert (rows(engine, first) == expected).all()
        assert (rows(other, second) == short).all(), f"seed {seed}"


def test_all_logits_are_those_of_each_prefix():
    """``all_logits`` in batches: row t is what decoding gives at t."""
    seed = 12
    program = compiled(random_llama_graph(seed), "w4")
    ids = prompt(program, 37, seed)
    with iss(program) as engine, ReferenceEngine(program) as reference:
        rows = engine.run(ids, 0, all_logits=True)
        assert (rows == reference.run(ids, 0, all_logits=True)).all()
        engine.reset()
        single = np.concatenate([engine.run([token], position) for position, token in enumerate(ids)])
        assert (rows == single).all(), f"seed {seed}"


@pytest.mark.parametrize("kv_heads", [1, 2, 3, 4])
def test_heads_that_overlap(kv_heads):
    """Whatever the number of heads is, all are there, and none reads what belongs to another."""
    program = compiled(random_llama_graph(21, heads=2 * kv_heads, kv_heads=kv_heads), "w4", UNEVEN)
    decode = decode_all(program.code)[program.entries["decode"] :]
    scores = sum(insn.opcode is Opcode.SCORE for insn in decode)
    assert scores == {1: 2, 2: 4, 3: 6, 4: 8}[kv_heads], "from the stream and from A, for each head that is written out"
    reference, ids = ReferenceEngine(program), prompt(program, 19, kv_heads)
    with iss(program, check_hazards=True) as simulator:
        assert outcome(simulator, ids, 6) == outcome(reference, ids, 6)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("kv_heads", [2, 3, 4])
def test_heads_that_overlap_in_prefill(kv_heads, group, monkeypatch):
    """Passes of a few tokens, the last of them with fewer, on a core whose buffers hold no more."""
    monkeypatch.setattr(buffers, "LONGEST_USUAL_CONTEXT", 64)
    config = replace(load_accelerator("small"), vector_words=3584 if group == 2 else 2560)
    program = compiled(random_llama_graph(21, heads=group * kv_heads, kv_heads=kv_heads), "w4", config)
    prefill = decode_all(program.code)[program.entries["prefill"] : program.entries["decode"]]
    assert sum(insn.opcode is Opcode.SCORE for insn in prefill) == {2: 4, 3: 6, 4: 8}[kv_heads]
    assert program.counts.tile_tokens > 1
    reference = ReferenceEngine(program)
    with iss(program, check_hazards=True) as simulator:
        for length in (1, program.counts.tile_tokens + 1, 31):
            ids = prompt(program, length, kv_heads)
            assert outcome(simulator, ids, 2) == outcome(reference, ids, 2)
