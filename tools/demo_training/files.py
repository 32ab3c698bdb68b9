# SPDX-License-Identifier: Apache-2.0
"""Hugging Face directories of the demo models, written and read back."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from tools.demo_training.data import BOS, BOS_ID, EOS, EOS_ID, TrainingError
from tools.demo_training.model import TOP, DemoModel, Linear, Shape

MAX_BYTES = 2_000_000
"""Largest checkpoint, header included."""

WEIGHTS = "model.safetensors"
_EXPERT_PARTS = (("w1", "gate_proj", 0), ("w2", "down_proj", 1), ("w3", "up_proj", 0))
"""Mixtral's name of a matrix, ours, and the axis along which the experts lie side by side."""


def model_config(shape: Shape) -> dict[str, object]:
    """``config.json`` of a Llama, or of a Mixtral where there are experts."""
    config: dict[str, object] = {
        "architectures": ["MixtralForCausalLM" if shape.experts else "LlamaForCausalLM"],
        "model_type": "mixtral" if shape.experts else "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.theta,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "torch_dtype": "float16",
    }
    if shape.experts:
        config |= {"num_local_experts": shape.experts, "num_experts_per_tok": TOP, "sliding_window": None}
    else:
        config |= {"attention_bias": False, "mlp_bias": False}
    return config


def checkpoint_tensors(model: DemoModel) -> dict[str, Tensor]:
    """All parameters by their names in a checkpoint, FP16 on the CPU; dropped weights are 0, the tied head absent."""
    masks = {f"{name}.weight": linear.mask for name, linear in model.named_modules() if isinstance(linear, Linear)}
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        value = parameter.detach()
        value = (value * masks[name] if name in masks else value).half().cpu() + 0.0  # no zero is negative
        stem, _, part = name.rpartition(".mlp.")
        if not model.shape.experts or not stem:
            tensors[name] = value.contiguous()
            continue
        if part.startswith("router"):
            tensors[f"{stem}.block_sparse_moe.gate.weight"] = value.contiguous()
        for theirs, ours, axis in _EXPERT_PARTS:
            if part.startswith(ours):
                for expert, piece in enumerate(value.split(model.shape.ffn, axis)):
                    tensors[f"{stem}.block_sparse_moe.experts.{expert}.{theirs}.weight"] = piece.contiguous()
    return tensors


def write_checkpoint(directory: Path, model: DemoModel, tokenizer: Tokenizer) -> int:
    """Write the Hugging Face directory; returns the bytes of its weight file.

    Raises:
        TrainingError: a weight does not fit FP16, or the weight file is larger than :data:`MAX_BYTES`.
    """
    tensors = checkpoint_tensors(model)
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise TrainingError(f"Weights of {name} must be finite in FP16, not beyond its range")
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "config.json", model_config(model.shape))
    special = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID}
    _write_json(directory / "generation_config.json", {**special, "max_length": model.shape.context})
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": model.shape.context,
    }
    _write_json(directory / "tokenizer_config.json", settings)
    tokenizer.save(str(directory / "tokenizer.json"))
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    size = (directory / WEIGHTS).stat().st_size
    if size > MAX_BYTES:
        raise TrainingError(f"{WEIGHTS} must be at most {MAX_BYTES} bytes, not {size}")
    return size


def read_checkpoint(directory: Path, device: torch.device, dropout: float = 0.0) -> tuple[DemoModel, Tokenizer]:
    """The model and tokenizer that :func:`write_checkpoint` wrote, parameters in FP32.

    Raises:
        TrainingError: ``directory`` does not hold such a checkpoint.
    """
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(directory / WEIGHTS)
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        shape = Shape(
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            ffn=config["intermediate_size"],
            vocab=config["vocab_size"],
            context=config["max_position_embeddings"],
            experts=config.get("num_local_experts", 0),
            theta=config["rope_theta"],
            eps=config["rms_norm_eps"],
        )
        model = DemoModel(shape, dropout)
        load_tensors(model, tensors)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise TrainingError(f"{directory} must hold a demo checkpoint, not one with the fault: {error}") from error
    return model.to(device), tokenizer


def load_tensors(model: DemoModel, tensors: dict[str, Tensor]) -> None:
    """Set the parameters of ``model`` from tensors named as :func:`checkpoint_tensors` names them.

    Raises:
        KeyError: a tensor is missing.
        ValueError: a tensor has another shape.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = _joined(name, model.shape.experts, tensors)
            if value.shape != parameter.shape:
                raise ValueError(f"{name} must have shape {tuple(parameter.shape)}, not {tuple(value.shape)}")
            parameter.copy_(value)


def _joined(name: str, experts: int, tensors: dict[str, Tensor]) -> Tensor:
    stem, _, part = name.rpartition(".mlp.")
    if not experts or not stem:
        return tensors[name]
    if part.startswith("router"):
        return tensors[f"{stem}.block_sparse_moe.gate.weight"]
    theirs, _, axis = next(entry for entry in _EXPERT_PARTS if part.startswith(entry[1]))
    pieces = [tensors[f"{stem}.block_sparse_moe.experts.{expert}.{theirs}.weight"] for expert in range(experts)]
    return torch.cat(pieces, axis)


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
