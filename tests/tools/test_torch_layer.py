# SPDX-License-Identifier: Apache-2.0
"""benchmarks.torch_layer: torch computes the model that the simulator's speed is measured on."""

import numpy as np
import pytest

from benchmarks.torch_layer import TorchDecoder
from catenary.compiler import importers
from catenary.compiler.random_models import llama_config, write_model
from catenary.sim.float_graph import FloatGraph


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_logits_are_those_of_the_fp32_graph(kv_heads, tmp_path):
    config = llama_config(num_key_value_heads=kv_heads)
    graph = importers.load(write_model(tmp_path, config, seed=kv_heads)).graph
    decoder, yardstick = TorchDecoder(graph), FloatGraph(graph)
    ids = np.random.default_rng(kv_heads).integers(0, graph.vocab, 20).tolist()
    for first, end in ((0, 12), (12, 13), (13, 20)):
        want = yardstick.run(ids[first:end], first)[-1]
        np.testing.assert_allclose(decoder.run(ids[first:end], first).numpy()[0], want, rtol=1e-3, atol=1e-4)
