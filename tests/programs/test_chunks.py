# SPDX-License-Identifier: Apache-2.0
"""A prompt may be cut into chunks anywhere: one hash on both devices."""

from __future__ import annotations

import pytest

from catenary.isa.encoding import decode_all
from catenary.isa.instructions import Store
from catenary.isa.rules import interleaves
from catenary.runtime.devices.reference import ReferenceEngine
from tests.graphs import random_llama_graph
from tests.programs.support import ACCELERATORS, compiled, iss, outcome, prompt

CHUNKS = (1, 7, 16, 40)


@pytest.mark.parametrize("accelerator", ["small", "hbm-slice", "ports-16-8-4"])
@pytest.mark.parametrize("form", ["w8", "w4-8:16"])
def test_chunks_do_not_matter(form, accelerator):
    seed = 3
    program = compiled(random_llama_graph(seed), form, ACCELERATORS[accelerator])
    ids = prompt(program, 40, seed)
    with iss(program, check_hazards=True) as simulator:
        seen = {outcome(engine, ids, 4, chunk) for engine in (ReferenceEngine(program), simulator) for chunk in CHUNKS}
    assert len(seen) == 1, f"seed {seed}"


@pytest.mark.parametrize("accelerator", ["hbm-slice", "ports-16-16-8-4"])
def test_chunks_may_begin_inside_a_block_of_interleaved_keys(accelerator):
    seed = 4
    program = compiled(random_llama_graph(seed, head_dim=48), "w8", ACCELERATORS[accelerator])
    stores = [insn for insn in decode_all(program.code) if isinstance(insn, Store)]
    assert any(interleaves(insn) for insn in stores)
    ids = prompt(program, 40, seed)
    with iss(program, check_hazards=True) as simulator:
        chunks = (1, 3, 16, 21, 40)
        seen = {outcome(engine, ids, 4, chunk) for engine in (ReferenceEngine(program), simulator) for chunk in chunks}
    assert len(seen) == 1, f"seed {seed}"
