# SPDX-License-Identifier: Apache-2.0
"""Accelerators of all shapes: unequal ports, odd tiles, tiny buffers and FIFOs, queues of one entry."""

from __future__ import annotations

import pytest

import catenary
from catenary.compiler.pipeline import compile_graph
from tests.graphs import quantised_form, random_graph, random_llama_graph
from tests.programs.support import ACCELERATORS, assert_agree

GRAPHS = {
    "llama": {},
    "narrow_heads": {"head_dim": 8, "heads": 4, "kv_heads": 2},
    "large_vocab": {"vocab": 1001},
    "wide_heads": {"heads": 4, "kv_heads": 2, "head_dim": 48},
    "large_group": {"heads": 12, "kv_heads": 1, "head_dim": 16},
    "three_layers": {"layers": 3},
}


PRESETS = ("small", "hbm-slice", "uneven")


@pytest.mark.parametrize("accelerator", ACCELERATORS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_devices_agree(graph, accelerator):
    seed = 5
    program = compile_graph(quantised_form(random_llama_graph(seed, **GRAPHS[graph]), seed), ACCELERATORS[accelerator])
    assert_agree(program, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("accelerator", ACCELERATORS)
@pytest.mark.parametrize("seed", range(12))
def test_random_decoder(seed, accelerator):
    program = compile_graph(quantised_form(random_graph(seed), seed, (8, 4, 3, 2)[seed % 4]), ACCELERATORS[accelerator])
    assert_agree(program, (1, 2, 17, 40), seed=seed)


@pytest.mark.parametrize("accelerator", PRESETS)
def test_stories260k_begins_alike(data_dir, accelerator):
    program = catenary.compile(data_dir / "stories260K", accel=accelerator, weight_bits=4)
    assert_agree(program, (40,), 3)


@pytest.mark.slow
@pytest.mark.parametrize("accelerator", PRESETS)
@pytest.mark.parametrize("bits", [8, 4])
def test_stories260k(data_dir, bits, accelerator):
    program = catenary.compile(data_dir / "stories260K", accel=accelerator, weight_bits=bits)
    assert_agree(program, (1, 5, 130), 64)


def test_tiny_buffers_take_several_passes_and_tiles():
    """What the name `tiny` promises: fewer tokens a pass, and logits in many tiles."""
    seed = 5
    program = compile_graph(quantised_form(random_llama_graph(seed), seed), ACCELERATORS["tiny"])
    assert program.counts.tile_tokens <= 2
    assert_agree(program, (1, 2, 3, 31, 64), seed=seed)
