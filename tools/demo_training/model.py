# SPDX-License-Identifier: Apache-2.0
"""The demo models in torch: Llama blocks, optionally with a mixture of experts, in floats or in the device's numbers.

Parameters have the names that Hugging Face gives them. The experts of a mixture lie side by side in one wide
feed-forward layer, of which a token uses the parts that its router picks: at this size that is faster than sorting
tokens by expert, and the sums are the same.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

TOP = 2
"""Experts that a token uses."""

_SMALLEST = 2.0**-64
"""Floor of the largest magnitude that a scale is taken from, as on the device."""


@dataclass(frozen=True)
class Shape:
    """Widths in elements, context in tokens; ``experts`` of width ``ffn`` each, or 0 for one plain feed-forward."""

    hidden: int = 120
    layers: int = 5
    heads: int = 6
    kv_heads: int = 3
    ffn: int = 320
    vocab: int = 1024
    context: int = 256
    experts: int = 0
    theta: float = 10000.0
    eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads

    def dims(self) -> dict[str, int | float]:
        """All of it by name, for logs."""
        return asdict(self)


class Linear(nn.Module):
    """A weight matrix [rows, columns] that can stand for its pruned and quantised form.

    Each weight has a step, the integers ``low .. high`` that count steps, and a mask (all [rows, columns], buffers that
    :mod:`tools.demo_training.numbers` sets). Gradients pass the rounding as if it were not there (straight-through
    estimator), and pass the mask wherever ``learns`` is 1: everywhere while the mask may still change (SR-STE, arXiv
    2102.04010), at kept weights only once it is settled.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))
        for name, value in (("step", 1.0), ("low", 0.0), ("high", 0.0), ("mask", 1.0), ("learns", 1.0)):
            self.register_buffer(name, torch.full((rows, columns), value))

    def forward(self, x: Tensor, quantised: bool) -> Tensor:
        """``x @ W.T`` for ``x`` [..., columns]; with ``quantised`` both are rounded as the device does."""
        weight = self.weight * self.learns
        value = weight * self.mask
        if quantised:
            x = round_per_row(x)
            value = torch.clamp(torch.round(value / self.step), self.low, self.high) * self.step
        return functional.linear(x, weight + (value - weight).detach())


class Norm(nn.Module):
    """RMSNorm."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of ``x``."""
        wide = x.float()
        return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Attention(nn.Module):
    """Causal attention with grouped keys and values and rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        keys = shape.kv_heads * shape.head_dim
        self.q_proj = Linear(shape.hidden, shape.hidden)
        self.k_proj = Linear(keys, shape.hidden)
        self.v_proj = Linear(keys, shape.hidden)
        self.o_proj = Linear(shape.hidden, shape.hidden)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, quantised: bool) -> Tensor:
        """Mix ``x`` [batch, tokens, hidden] along its tokens; Q, K and V are INT8 values if ``quantised``."""
        batch, tokens, hidden = x.shape

        def heads(linear: Linear) -> Tensor:
            return linear(x, quantised).view(batch, tokens, -1, self.shape.head_dim).transpose(1, 2)

        q, k, v = rotate(heads(self.q_proj), cos, sin), rotate(heads(self.k_proj), cos, sin), heads(self.v_proj)
        if quantised:
            q, k, v = round_per_row(q), round_per_row(k), round_per_row(v)
        q, k = q.to(v.dtype), k.to(v.dtype)
        shared = self.shape.heads // self.shape.kv_heads
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, hidden), quantised)


class FeedForward(nn.Module):
    """SwiGLU, or ``experts`` of them side by side of which each token uses :data:`TOP`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.ffn * max(shape.experts, 1)
        self.gate_proj = Linear(width, shape.hidden)
        self.up_proj = Linear(width, shape.hidden)
        self.down_proj = Linear(shape.hidden, width)
        self.router = Linear(shape.experts, shape.hidden) if shape.experts else None
        self.experts = shape.experts

    def forward(self, x: Tensor, quantised: bool) -> tuple[Tensor, Tensor]:
        """The layer's output and the router's probabilities [batch, tokens, experts], FP32, empty without experts."""
        gated = functional.silu(self.gate_proj(x, quantised)) * self.up_proj(x, quantised)
        if self.router is None:
            return self.down_proj(gated, quantised), x.new_empty(0)
        with torch.autocast(x.device.type, enabled=False):  # whom a token goes to must not hang on bf16
            odds = torch.softmax(self.router(x.float(), False), -1)
        best, who = odds.topk(TOP, -1)
        share = torch.zeros_like(odds).scatter(-1, who, best / best.sum(-1, keepdim=True))
        gated = (gated.unflatten(-1, (self.experts, -1)) * share[..., None].to(gated.dtype)).flatten(-2)
        return self.down_proj(gated, quantised), odds


class Layer(nn.Module):
    """Attention and feed-forward, each behind its norm and added to the residual stream."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.hidden, shape.eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.hidden, shape.eps)
        self.mlp = FeedForward(shape)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, quantised: bool) -> tuple[Tensor, Tensor]:
        """The next residual stream, and what :class:`FeedForward` says of its router."""
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), cos, sin, quantised))
        out, odds = self.mlp(self.post_attention_layernorm(x), quantised)
        return x + self.dropout(out), odds


class Body(nn.Module):
    """Everything below the head."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape, dropout) for _ in range(shape.layers))
        self.norm = Norm(shape.hidden, shape.eps)


class DemoModel(nn.Module):
    """A language model of ``shape`` whose head is its embedding."""

    def __init__(self, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape, dropout)
        self.lm_head = Linear(shape.vocab, shape.hidden)
        self.lm_head.weight = self.model.embed_tokens.weight
        self.dropout = nn.Dropout(dropout)
        cos, sin = rotary_table(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                spread = 0.02 if "embed" in name else parameter.shape[1] ** -0.5
                # What adds to the residual stream starts small, so that depth does not make it grow (GPT-2).
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=spread * ((2 * shape.layers) ** -0.5 if deep else 1.0))

    def forward(self, tokens: Tensor, quantised: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Logits [batch, tokens, vocab] of ``tokens`` [batch, tokens], and each layer's router probabilities."""
        x = self.dropout(self.model.embed_tokens(tokens))
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        routers = []
        for layer in self.model.layers:
            x, odds = layer(x, cos, sin, quantised)
            routers.append(odds)
        return self.lm_head(self.model.norm(x), quantised), routers


def rotary_table(shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosine and sine, FP32 [context, head_dim / 2], rounded from FP64."""
    half = shape.head_dim // 2
    rates = shape.theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.outer(torch.arange(shape.context, dtype=torch.float64), rates)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions in half-split order, for ``x`` [batch, heads, tokens, head_dim]; FP32."""
    first, second = x.float().chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def round_per_row(x: Tensor) -> Tensor:
    """Round the last axis to INT8 values with one symmetric scale per row; gradients pass as if nothing happened."""
    wide = x.float()
    scale = wide.detach().abs().amax(-1, keepdim=True).clamp_min(_SMALLEST) / 127
    return wide + (torch.round(wide / scale) * scale - wide).detach()


def balance_loss(routers: list[Tensor], counts: Tensor) -> Tensor:
    """Switch-style load balancing (arXiv 2101.03961): 1 where experts share the tokens evenly, up to their number.

    Args:
        routers: probabilities [batch, tokens, experts] of each layer.
        counts: bool [batch, tokens], which tokens count.
    """
    weights = counts[..., None] / counts.sum()
    total = torch.zeros((), device=counts.device)
    for odds in routers:
        picked = torch.zeros_like(odds).scatter(-1, odds.topk(TOP, -1).indices, 1 / TOP)
        load, wish = (picked * weights).sum((0, 1)), (odds * weights).sum((0, 1))
        total = total + odds.shape[-1] * (load * wish).sum()
    return total / max(len(routers), 1)


def parameter_count(model: nn.Module) -> int:
    """Parameters, the tied head counted once."""
    return sum(math.prod(parameter.shape) for parameter in model.parameters())
