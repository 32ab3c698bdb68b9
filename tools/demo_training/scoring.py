# SPDX-License-Identifier: Apache-2.0
"""How well a model predicts stories, how its router spreads them, and what it writes itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from tools.demo_training.data import BOS_ID, EOS_ID, NO_TARGET, encode
from tools.demo_training.model import TOP, DemoModel

PROMPTS = ("Once upon a time", "One day, a little girl named Lily", "Tom and his dog")
_BATCH = 64


class RouterStatistics(TypedDict):
    """Routing of the scored tokens, by layer.

    Attributes:
        tokens: scored; each is routed to ``experts_per_token`` experts in every layer.
        tokens_per_expert: [layer][expert].
        load_entropy_bits: entropy of that spread; log2 of the number of experts if it is even.
        token_entropy_bits: mean entropy of the router's probabilities of one token.
        top_share: mean share of the first expert among the chosen ones.
        load_imbalance: tokens of the busiest expert over the mean.
    """

    tokens: int
    experts_per_token: int
    tokens_per_expert: list[list[int]]
    load_entropy_bits: list[float]
    token_entropy_bits: list[float]
    top_share: list[float]
    load_imbalance: list[float]


@torch.no_grad()
def bits_per_byte(model: DemoModel, tokenizer: Tokenizer, stories: Sequence[str], quantised: bool = False) -> float:
    """Bits per UTF-8 byte of ``stories``, by the rule of ``catenary eval``.

    Every story is scored in windows of context - 1 tokens, each after its own BOS token.
    """
    was_training = model.training
    model.eval()
    cost = torch.zeros((), dtype=torch.float64, device=model.cos.device)
    for inputs, targets in _batches(model, tokenizer, stories):
        logits, _ = model(inputs, quantised)
        flat = logits.double().flatten(0, 1)
        cost += functional.cross_entropy(flat, targets.flatten(), ignore_index=NO_TARGET, reduction="sum")
    model.train(was_training)
    return float(cost) / math.log(2) / sum(len(story.encode()) for story in stories)


@torch.no_grad()
def router_statistics(model: DemoModel, tokenizer: Tokenizer, stories: Sequence[str]) -> RouterStatistics:
    """How the routers of ``model`` (with experts) spread the tokens of ``stories``."""
    was_training = model.training
    model.eval()
    layers, experts = model.shape.layers, model.shape.experts
    load = torch.zeros(layers, experts, dtype=torch.int64)
    entropy, first = torch.zeros(layers, dtype=torch.float64), torch.zeros(layers, dtype=torch.float64)
    tokens = 0
    for inputs, targets in _batches(model, tokenizer, stories):
        counted = targets != NO_TARGET
        tokens += int(counted.sum())
        for layer, odds in enumerate(model(inputs)[1]):
            scored = odds[counted].double().cpu()
            best, who = scored.topk(TOP, -1)
            load[layer] += torch.bincount(who.flatten(), minlength=experts)
            entropy[layer] += float(_entropy(scored).sum())
            first[layer] += float((best[:, 0] / best.sum(-1)).sum())
    model.train(was_training)
    spread = load / load.sum(1, keepdim=True)
    return RouterStatistics(
        tokens=tokens,
        experts_per_token=TOP,
        tokens_per_expert=load.tolist(),
        load_entropy_bits=_rounded(_entropy(spread)),
        token_entropy_bits=_rounded(entropy / tokens),
        top_share=_rounded(first / tokens),
        load_imbalance=_rounded(spread.amax(1) * experts),
    )


@torch.no_grad()
def write_stories(
    model: DemoModel, tokenizer: Tokenizer, seed: int, quantised: bool = False, temperature: float = 0.7
) -> list[str]:
    """One story for each of :data:`PROMPTS`, drawn with ``seed``, up to EOS or a full context."""
    was_training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    stories = []
    for prompt in PROMPTS:
        ids = [BOS_ID, *tokenizer.encode(prompt, add_special_tokens=False).ids]
        while len(ids) < model.shape.context:
            logits, _ = model(torch.tensor([ids], device=model.cos.device), quantised)
            odds = torch.softmax(logits[0, -1].double().cpu() / temperature, -1)
            token = int(torch.multinomial(odds, 1, generator=generator))
            if token == EOS_ID:
                break
            ids.append(token)
        stories.append(tokenizer.decode(ids))
    model.train(was_training)
    return stories


def _batches(model: DemoModel, tokenizer: Tokenizer, stories: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
    """All windows of ``stories``, at most :data:`_BATCH` at a time, padded at their ends."""
    length = model.shape.context - 1
    windows = [ids[at : at + length] for ids in encode(tokenizer, stories) for at in range(0, len(ids), length)]
    batches = []
    for start in range(0, len(windows), _BATCH):
        some = windows[start : start + _BATCH]
        targets = torch.full((len(some), length), NO_TARGET)
        inputs = torch.full((len(some), length), EOS_ID)
        inputs[:, 0] = BOS_ID
        for row, ids in enumerate(some):
            targets[row, : len(ids)] = torch.tensor(ids)
            inputs[row, 1 : len(ids)] = torch.tensor(ids[:-1])
        batches.append((inputs.to(model.cos.device), targets.to(model.cos.device)))
    return batches


def _entropy(odds: Tensor) -> Tensor:
    """Entropy in bits along the last axis."""
    return -(torch.xlogy(odds, odds)).sum(-1) / math.log(2)


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
