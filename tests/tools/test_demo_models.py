# SPDX-License-Identifier: Apache-2.0
"""The committed demo models: what their card and logs say is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from catenary.compiler import importers
from catenary.compiler.prune import prune_mask
from tools.demo_training.data import read_corpus
from tools.demo_training.files import MAX_BYTES, model_config, read_checkpoint
from tools.demo_training.model import parameter_count
from tools.demo_training.numbers import set_numbers
from tools.demo_training.recipe import RECIPES, SHAPES
from tools.demo_training.scoring import bits_per_byte, router_statistics

MODELS = Path(__file__).resolve().parents[2] / "models"
KINDS = ("dense", "sparse", "moe")
CPU = torch.device("cpu")
torch.set_num_threads(1)  # the models are tiny: threads only wait for one another


def log(kind: str) -> dict:
    return json.loads((MODELS / f"demo-{kind}" / "training.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_checkpoint_is_what_its_log_and_the_recipe_say(kind):
    directory, said = MODELS / f"demo-{kind}", log(kind)
    model, tokenizer = read_checkpoint(directory, CPU)
    assert model.shape == SHAPES["moe" if kind == "moe" else "dense"]
    assert json.loads((directory / "config.json").read_text()) == model_config(model.shape)
    assert tokenizer.get_vocab_size() == model.shape.vocab
    assert parameter_count(model) == said["parameters"]
    assert said["recipe"] == RECIPES[kind].__dict__
    assert (directory / "model.safetensors").stat().st_size == said["weight_file_bytes"] <= MAX_BYTES


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_says_what_the_logs_say(kind):
    card = (MODELS / "README.md").read_text(encoding="utf-8")
    row = next(
        line for line in card.splitlines() if line.startswith(f"| `demo-{kind}`") and re.search(r"\d\.\d{4}", line)
    )
    assert re.findall(r"\d\.\d{4}", row) == [f"{value:.4f}" for value in log(kind)["held_out_bits_per_byte"].values()]


def test_the_models_are_as_good_as_promised():
    dense, sparse = (log(kind)["held_out_bits_per_byte"] for kind in ("dense", "sparse"))
    assert dense["fp32"] <= 1.07
    assert sparse["w4a8kv8_8:16"] <= 1.10 * dense["fp32"]


def test_the_sparse_model_is_exactly_sparse():
    tensors = importers.load(MODELS / "demo-sparse").graph.tensors
    matrices = {
        name: tensor.to_float32()
        for name, tensor in tensors.items()
        if name.startswith("layers.") and len(tensor.shape) == 2
    }
    assert len(matrices) == 7 * 5
    for name, weights in matrices.items():
        kept = prune_mask(weights, np.full(len(weights), 8, np.uint8))[:, : weights.shape[1]]
        assert np.array_equal(weights != 0, kept), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_held_out_stories_score_what_the_log_says(data_dir, kind):
    said = log(kind)
    corpus = read_corpus(data_dir / "text" / "tinystories_train_2MiB.txt")
    assert corpus.sha256 == said["text"]["sha256"]
    model, tokenizer = read_checkpoint(MODELS / f"demo-{kind}", CPU)
    found = {"fp32": bits_per_byte(model, tokenizer, corpus.held_out)}
    if kind == "moe":
        router = json.loads((MODELS / "demo-moe" / "router.json").read_text())
        own = router_statistics(model, tokenizer, corpus.held_out)
        assert own["tokens"] == router["tokens"]
        # FP32 sums differ a little between machines, and with them a few close choices.
        apart = np.abs(np.subtract(own["tokens_per_expert"], router["tokens_per_expert"]))
        assert apart.max() <= 0.001 * router["tokens"]
    else:
        name = "w4a8kv8" if kind == "dense" else "w4a8kv8_8:16"
        set_numbers(model, 4, "none" if kind == "dense" else "8:16")
        found[name] = bits_per_byte(model, tokenizer, corpus.held_out, quantised=True)
    assert found == pytest.approx({name: said["held_out_bits_per_byte"][name] for name in found}, abs=5e-4)
