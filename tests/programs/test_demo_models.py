# SPDX-License-Identifier: Apache-2.0
"""The project's own models, compiled as the demo compiles them: the same tokens on the reference and the simulator."""

from __future__ import annotations

from pathlib import Path

import pytest

import catenary
from catenary.isa.program import Program
from catenary.runtime.devices.reference import ReferenceEngine
from tests.programs.support import iss, outcome

MODELS = Path(__file__).resolve().parents[2] / "models"
PROGRAMS = {
    "dense-w8": ("demo-dense", 8, "none"),
    "dense-w4": ("demo-dense", 4, "none"),
    "sparse-w4-8:16": ("demo-sparse", 4, "8:16"),
}
PROMPTS = (
    "Once upon a time",
    "One day, a little girl named Lily",
    "Tom and his dog",
    "The sun was hot and",
    '"Mom, can we go to the park?" asked Ben.',
    "There was a big red ball in the tree. The bird",
    "Sara liked to draw. She drew a cat, a house and a",
    "It was raining. The little frog was happy because",
)


def compiled(name: str) -> Program:
    model, bits, sparsity = PROGRAMS[name]
    return catenary.compile(MODELS / model, weight_bits=bits, sparsity=sparsity)


def check(program: Program, prompts: tuple[str, ...], new: int) -> None:
    tokenizer = catenary.tokenizer(program)
    assert tokenizer is not None
    with iss(program) as simulator, ReferenceEngine(program) as reference:
        for text in prompts:
            ids = tokenizer.encode(text)
            assert outcome(simulator, ids, new) == outcome(reference, ids, new), text


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_story_begins_alike(name: str) -> None:
    check(compiled(name), PROMPTS[:1], 12)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_eight_stories_of_64_tokens_are_equal(name: str) -> None:
    check(compiled(name), PROMPTS, 64)
