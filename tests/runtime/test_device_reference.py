# SPDX-License-Identifier: Apache-2.0
"""The device ``reference``: a thin engine around the executor, which has its own tests."""

from __future__ import annotations

from types import SimpleNamespace

from catenary.runtime.devices import device_info
from catenary.runtime.engine import Counters
from catenary.sim.reference import Reference
from tests.graphs import quantised_form, random_llama_graph


def test_runs_the_graph_of_a_program():
    graph = quantised_form(random_llama_graph(0), seed=0)
    expected = Reference(graph).run([3, 1, 4], 0, all_logits=True)
    info = device_info("reference")
    assert info.available()[0]
    with info.open(SimpleNamespace(graph=graph)) as engine:
        assert (engine.device, engine.source) == ("reference", info.source)
        assert (engine.vocab, engine.max_context) == (graph.vocab, graph.max_context)
        assert engine.run([3, 1, 4], 0, all_logits=True).tobytes() == expected.tobytes()
        engine.reset()
        assert engine.run([3, 1, 4], 0).tobytes() == expected[-1:].tobytes()
        assert engine.counters() == Counters()
