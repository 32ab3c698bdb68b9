# SPDX-License-Identifier: Apache-2.0
"""What every pass makes of two small graphs, as text that people read in reviews.

``CATENARY_UPDATE_GOLDEN=1 python -m pytest tests/compiler/test_golden.py`` writes the texts anew.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from catenary.compiler.dump import DUMPS
from catenary.compiler.pipeline import lowering_passes, run_pass
from catenary.compiler.state import Compilation
from catenary.isa.config import AcceleratorConfig
from catenary.isa.graph import NormKind, Unary
from tests.graphs import Recipe, build_graph, quantised_form

GOLDEN = Path(__file__).parent / "golden"
UPDATE = os.environ.get("CATENARY_UPDATE_GOLDEN") == "1"
SEED = 1

LLAMA = Recipe(
    hidden=32, ffn=44, heads=4, kv_heads=2, head_dim=8, layers=2, vocab=70, context=48, rotary_dim=8, bias=False,
    tied=True,
)  # fmt: skip
# What a Llama has not: LayerNorm, biases, no gate, a parallel residual, soft caps; unequal ports and many tiles too.
OTHER = replace(
    LLAMA, heads=3, kv_heads=1, layers=1, vocab=300, rotary_dim=4, norm=NormKind.LAYER, norm_bias=True, bias=True,
    gated=False, activation=Unary.GELU_TANH, parallel=True, attention_cap=4.0, logits_cap=8.0,
)  # fmt: skip
PLAIN = AcceleratorConfig(
    name="plain", port_bytes=(8,), memory_bytes=1 << 25, chains=8, chain_length=16, mm_tokens=16, packed=False,
    stream_atom=8, stream_bytes=16384, vector_words=1 << 16, vector_lanes=4, act_bytes=65536, desc_words=512,
    instruction_words=1024, queue_depth=8,
)  # fmt: skip
CASES = {
    "llama": (LLAMA, PLAIN),
    "other": (OTHER, replace(PLAIN, name="odd", port_bytes=(16, 8, 4), chains=3, mm_tokens=4, vector_words=2560)),
}


@pytest.fixture(scope="module", params=CASES)
def dumps(request) -> tuple[str, dict[str, str]]:
    """The name of a case, and what each pass made of it."""
    recipe, config = CASES[request.param]
    state = Compilation(config, quantised_form(build_graph(recipe, SEED), SEED, bits=4))
    made = {}
    for step in lowering_passes():
        state = run_pass(step, state, lambda name, share: None)
        made[step.name] = DUMPS[step.name](state)
    return request.param, made


def test_every_pass_has_a_dump():
    assert list(DUMPS) == [step.name for step in lowering_passes()]


@pytest.mark.parametrize("step", DUMPS)
def test_pass(dumps, step):
    case, made = dumps
    path = GOLDEN / f"{case}.{step}.txt"
    if UPDATE:
        path.write_text(made[step])
    assert made[step] == path.read_text(), f"seed {SEED}: see the module's docstring if this change is meant"
