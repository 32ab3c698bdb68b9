# SPDX-License-Identifier: Apache-2.0
"""Imported models against transformers, which is what checkpoints of these families are made for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from catenary.compiler import importers
from catenary.compiler.random_models import llama_config, write_model
from catenary.sim.float_graph import FloatGraph

PROMPT, STEPS = 16, 8
torch.set_num_threads(1)  # the models are tiny: threads only wait for one another


def random_llama(seed: int) -> dict:
    """Options of a random LlamaConfig; every ratio of heads and every kind of width comes up."""
    rng = np.random.default_rng(seed)
    kv_heads, shared = int(rng.choice([1, 2, 3])), int(rng.choice([1, 2, 4]))
    heads = kv_heads * shared
    head_dim = int(rng.choice([8, 10, 16, 24, 64, 128]))
    return {
        "hidden_size": heads * int(rng.choice([8, 10, 24])),
        "intermediate_size": int(rng.choice([37, 96, 172])),
        "num_hidden_layers": int(rng.integers(1, 4)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": int(rng.integers(40, 200)),
        "hidden_act": str(rng.choice(["silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "tanh"])),
        "tie_word_embeddings": bool(rng.integers(2)),
        "attention_bias": bool(rng.integers(2)),
        "mlp_bias": bool(rng.integers(2)),
        "rms_norm_eps": float(rng.choice([1e-6, 1e-5, 1e-3])),
    }


BASE = {
    "hidden_size": 40,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "max_position_embeddings": 64,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES = {
    **{f"llama-{seed}": ("Llama", random_llama(seed)) for seed in range(24)},
    "llama-derived-head_dim": ("Llama", {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3}),
    "llama-one-kv-head": ("Llama", {"num_key_value_heads": 1}),
    "llama-as-many-kv-heads": ("Llama", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "llama-theta": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1234.5}}),
    "llama-linear-rope": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}},
    ),
    "llama-llama3-rope": (
        "Llama",
        {"head_dim": 64, "rope_parameters": LLAMA3 | {"original_max_position_embeddings": 32}},
    ),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-inactive-window": ("Mistral", {"sliding_window": 64, "head_dim": 24}),
    "qwen2": ("Qwen2", {}),
    "qwen2-tied": ("Qwen2", {"tie_word_embeddings": True, "hidden_size": 72, "num_key_value_heads": 1}),
    "stablelm": ("StableLm", {"hidden_size": 64}),
    "stablelm-half-rotary": (
        "StableLm",
        {
            "use_qkv_bias": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.4},
        },
    ),
}


def make(family: str, options: dict, seed: int) -> torch.nn.Module:
    """A transformers model with weights large enough that every part of it shows in the logits."""
    config = getattr(transformers, f"{family}Config")(**{**BASE, **options, "initializer_range": 0.2})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # biases start as zeros and norm weights as ones, which would hide mistakes
                parameter.copy_(torch.randn_like(parameter) * 0.3 + ("norm.weight" in name or "norm_weight" in name))
    return model.eval()


def assert_close(ours: np.ndarray, theirs: torch.Tensor, what: str) -> None:
    wanted = theirs.detach().numpy()
    assert ours.shape == wanted.shape
    assert ours.dtype == np.float32
    error, limit = np.abs(ours - wanted).max(), 1e-4 * max(1, np.abs(wanted).max())
    assert error <= limit, f"{what}: logits differ by {error}, more than {limit}"


def compare(directory, model: torch.nn.Module, vocab: int, seed: int) -> None:
    """Prefill and cached decode of the model in ``directory`` against ``model``."""
    graph = FloatGraph(importers.load(directory).graph)
    ids = np.random.default_rng(seed).integers(0, vocab, PROMPT + STEPS).tolist()
    with torch.no_grad():
        theirs = model(torch.tensor([ids[:PROMPT]]), use_cache=True)
        assert_close(graph.run(ids[:PROMPT], 0, all_logits=True), theirs.logits[0], f"prefill, seed {seed}")
        for position in range(PROMPT, PROMPT + STEPS):
            theirs = model(torch.tensor([[ids[position]]]), past_key_values=theirs.past_key_values, use_cache=True)
            assert_close(graph.run([ids[position]], position), theirs.logits[0], f"position {position}, seed {seed}")


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_transformers(case, tmp_path):
    family, options = CASES[case]
    seed = list(CASES).index(case)
    model = make(family, options, seed)
    model.save_pretrained(tmp_path)
    compare(tmp_path, model, model.config.vocab_size, seed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_keep_their_format(dtype, tmp_path):
    make("Llama", {}, 3).to(dtype).save_pretrained(tmp_path)
    graph = importers.load(tmp_path).graph
    format_name = {torch.float16: "f16", torch.bfloat16: "bf16"}[dtype]
    assert {t.format.value for name, t in graph.tensors.items() if name != "rope"} == {format_name}
    # Read again as FP32: a converted model would have halved its rotary frequencies too.
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    compare(tmp_path, model, 97, 3)


def test_shards_are_one_checkpoint(tmp_path):
    model = make("Llama", {}, 4)
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    compare(tmp_path, model, 97, 4)


def test_the_writer_of_random_models_agrees_with_transformers(tmp_path):
    write_model(tmp_path, llama_config(attention_bias=True), seed=5, shards=2)
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    compare(tmp_path, model, 288, 5)
