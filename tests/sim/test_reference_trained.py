# SPDX-License-Identifier: Apache-2.0
"""The reference on a trained model: what 8 bits cost on real text."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

from catenary.compiler import importers
from catenary.sim.float_graph import FloatGraph
from catenary.sim.reference import Reference
from tests.graphs import quantised_form


def test_8_bit_rounding_of_a_trained_model_keeps_its_perplexity(data_dir):
    graph = importers.load(data_dir / "stories260K").graph
    tokenizer = Tokenizer.from_file(str(data_dir / "stories260K" / "tokenizer.json"))
    text = (data_dir / "text" / "tinystories_train_2MiB.txt").read_text(encoding="utf-8")
    stories = [
        tokenizer.encode(story.strip(), add_special_tokens=False).ids for story in text.split("<|endoftext|>")[:4]
    ]

    def loss(executor):
        total, count = 0.0, 0
        for ids in stories:
            executor.reset()
            logits = executor.run([graph.bos_id, *ids[:-1]], 0, all_logits=True).astype(np.float64)
            total += float(np.sum(np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(ids)), ids]))
            count += len(ids)
        return total / count

    assert abs(loss(Reference(quantised_form(graph))) - loss(FloatGraph(graph))) < 0.01
