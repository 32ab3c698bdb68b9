# SPDX-License-Identifier: Apache-2.0
"""Same tokens everywhere: random models in every weight format, on the reference and on the simulator, bit for bit."""

from __future__ import annotations

import pytest

from catenary.compiler import compile_graph
from catenary.isa.config import AcceleratorConfig
from catenary.isa.program import Program
from tests.graphs import FEATURES, quantised_form, random_graph, random_llama_graph
from tests.programs.suite import FORMATS, ODD, SMALL, Result, compiled, iss, prompt_of, reference, run

SEEDS = range(20)
NEW = 4


def check_program(program: Program, seed: int) -> None:
    """Prompts of 1, 2, 17 and the longest length; everything twice on one device without reset."""
    lengths = (1, 2, 17, program.graph.max_context - NEW)
    prompts = [prompt_of(program, length, seed + length) for length in lengths]
    with reference(program) as engine:
        expected = [run(engine, prompt, NEW) for prompt in prompts]
    with iss(program) as engine:
        for attempt in (1, 2):
            for prompt, wanted in zip(prompts, expected, strict=True):
                assert run(engine, prompt, NEW) == wanted, f"seed {seed}, attempt {attempt}, {len(prompt)} tokens"
    with iss(program, check_hazards=True) as engine:
        assert run(engine, prompts[2], 2) == run_shorter(program, prompts[2], 2), f"seed {seed}, race detector"


def run_shorter(program: Program, prompt: list[int], new_tokens: int) -> Result:
    """The reference's result for fewer new tokens."""
    with reference(program) as engine:
        return run(engine, prompt, new_tokens)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("seed", [pytest.param(s, marks=[pytest.mark.slow] if s >= 6 else []) for s in SEEDS])
def test_random_llamas(seed: int, form: str) -> None:
    check_program(compiled(random_llama_graph(seed), form), seed)


@pytest.mark.parametrize("feature", FEATURES)
def test_every_node_and_option(feature: str) -> None:
    graph = random_graph(7, **FEATURES[feature])
    check_program(compile_graph(quantised_form(graph, seed=7, bits=4), SMALL), 7)


@pytest.mark.parametrize("form", ["w8", "w4-mixed"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_unequal_ports_and_tiny_buffers(seed: int, form: str) -> None:
    check_program(compiled(random_llama_graph(seed, hidden=40, ffn=37, context=32), form, ODD), seed)


@pytest.mark.parametrize("config", [SMALL, ODD], ids=lambda config: config.name)
@pytest.mark.parametrize("heads", [(12, 1), (9, 3), (20, 1)], ids=lambda heads: f"{heads[0]}to{heads[1]}")
def test_more_heads_in_a_group_than_fit_a_tile(heads: tuple[int, int], config: AcceleratorConfig) -> None:
    graph = random_llama_graph(3, heads=heads[0], kv_heads=heads[1], head_dim=8, hidden=24, context=32)
    check_program(compiled(graph, "w4", config), 3)


@pytest.mark.parametrize("head_dim", [8, 10, 20, 40, 80, 128])
def test_head_dimensions(head_dim: int) -> None:
    graph = random_llama_graph(5, heads=2, kv_heads=1, head_dim=head_dim, layers=1, context=48)
    check_program(compiled(graph, "w8"), 5)


@pytest.mark.parametrize("vocab", [3, 8, 97, 300])
def test_vocabularies(vocab: int) -> None:
    check_program(compiled(random_llama_graph(6, vocab=vocab, layers=1, context=32), "w4"), 6)


@pytest.mark.parametrize("form", ["w8", "w4-8of16"])
def test_chunks_do_not_matter(form: str) -> None:
    program = compiled(random_llama_graph(11), form)
    prompt = prompt_of(program, 40, 11)
    results = set()
    for open_device in (reference, iss):
        with open_device(program) as engine:
            for chunk in (1, 7, 16, 40):
                engine.reset()
                results.add(run(engine, prompt, 6, chunk))
    assert len(results) == 1, results
