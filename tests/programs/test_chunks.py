# SPDX-License-Identifier: Apache-2.0
"""A prompt may be cut into chunks anywhere: one hash on both devices."""

from __future__ import annotations

import pytest

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
