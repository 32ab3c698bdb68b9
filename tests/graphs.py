# SPDX-License-Identifier: Apache-2.0
"""Random small graphs for every test suite: transformer decoders in float form, and a plain way to quantise them.

A :class:`Recipe` says which decoder to build, :func:`build_graph` builds it in the float form that importers make, and
:func:`quantised_form` gives a legal quantised form without the compiler: either by rounding to 8 bits, or with random
codes, scales, zeros and masks, which reach corners of the weight format that no sound compressor would produce.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catenary.isa.graph import (
    Apply,
    Attention,
    Binary,
    Combine,
    Embed,
    Graph,
    Linear,
    Node,
    Norm,
    NormKind,
    Quantize,
    Stage,
    Tensor,
    Unary,
    verify,
)
from catenary.isa.tensors import FloatFormat, FloatTensor
from tests.weights import random_weights, rounded_weights


@dataclass(frozen=True)
class Recipe:
    """Everything that tells one random decoder from another; widths in elements."""

    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int
    vocab: int
    context: int
    rotary_dim: int
    norm: NormKind = NormKind.RMS
    norm_bias: bool = False
    activation: Unary = Unary.SILU
    gated: bool = True
    bias: bool = False
    tied: bool = True
    parallel: bool = False
    attention_cap: float | None = None
    logits_cap: float | None = None
    format: FloatFormat = FloatFormat.F32


FEATURES: Mapping[str, Mapping[str, Any]] = {
    "layer_norm": {"norm": NormKind.LAYER, "norm_bias": True, "bias": True},
    "layer_norm_without_bias": {"norm": NormKind.LAYER, "norm_bias": False},
    **{f"gated_{f.value}": {"activation": f, "gated": True} for f in Unary},
    **{f"plain_{f.value}": {"activation": f, "gated": False} for f in Unary},
    "attention_cap": {"attention_cap": 5.0},
    "logits_cap": {"logits_cap": 3.0},
    "partial_rotary": {"head_dim": 16, "rotary_dim": 6},
    "no_rotary": {"rotary_dim": 0},
    "bias_everywhere": {"norm": NormKind.LAYER, "norm_bias": True, "bias": True, "gated": False},
    "parallel_residual": {"parallel": True},
    "one_kv_head": {"heads": 7, "kv_heads": 1},
    "separate_head": {"tied": False},
    "half_floats": {"format": FloatFormat.F16},
    "brain_floats": {"format": FloatFormat.BF16},
}
"""Named overrides of :func:`random_graph`; together they reach every node type, function and option."""

_HEADS = ((1, 1), (2, 1), (4, 2), (6, 2), (4, 4), (4, 1), (7, 1), (3, 1), (8, 4))


def llama_recipe(seed: int, **overrides: Any) -> Recipe:
    """A random Llama: RMSNorm, SwiGLU, full rotary, with biases and a tied head in half of the cases each."""
    rng = np.random.default_rng(seed)
    heads, kv_heads = _HEADS[rng.integers(len(_HEADS))]
    head_dim = int(rng.choice([8, 10, 16, 24, 32, 64]))
    recipe = Recipe(
        hidden=int(rng.choice([24, 40, 56, 64, 72, 100])),
        ffn=int(rng.choice([37, 64, 100, 172])),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        layers=int(rng.integers(1, 4)),
        vocab=int(rng.integers(50, 301)),
        context=64,
        rotary_dim=head_dim,
        bias=bool(rng.integers(2)),
        tied=bool(rng.integers(2)),
    )
    if "head_dim" in overrides:
        overrides = {"rotary_dim": overrides["head_dim"], **overrides}
    return replace(recipe, **overrides)


def random_llama_graph(seed: int, **overrides: Any) -> Graph:
    """A random Llama in float form; ``overrides`` are fields of :class:`Recipe`."""
    return build_graph(llama_recipe(seed, **overrides), seed)


def random_graph(seed: int, **overrides: Any) -> Graph:
    """A random decoder of any family in float form; ``overrides`` are fields of :class:`Recipe` (see FEATURES)."""
    rng = np.random.default_rng([seed, 1])
    llama = llama_recipe(seed, **overrides)
    norm = NormKind(rng.choice([kind.value for kind in NormKind]))
    drawn: dict[str, Any] = {
        "norm": norm,
        "norm_bias": norm is NormKind.LAYER and bool(rng.integers(2)),
        "activation": Unary(rng.choice([function.value for function in Unary])),
        "gated": bool(rng.integers(2)),
        "parallel": bool(rng.integers(2)),
        "attention_cap": float(rng.uniform(2, 30)) if rng.integers(2) else None,
        "logits_cap": float(rng.uniform(2, 30)) if rng.integers(2) else None,
        "rotary_dim": int(rng.choice([0, llama.head_dim // 4 * 2, llama.head_dim])),
        "format": FloatFormat(rng.choice([fmt.value for fmt in FloatFormat])),
    }
    if "norm" in overrides and "norm_bias" not in overrides:
        drawn["norm_bias"] = overrides["norm"] is NormKind.LAYER
    return build_graph(replace(llama, **{**drawn, **overrides}), seed)


def build_graph(recipe: Recipe, seed: int) -> Graph:
    """The decoder that ``recipe`` describes, with random weights, verified in float form."""
    tensors = _tensors(recipe, np.random.default_rng([seed, 2]))
    bias = "layers.{layer}." if recipe.bias else None
    logits = "logits" if recipe.logits_cap is None else "uncapped"
    head: list[Node] = [_norm(recipe, "n", "h", "norm"), Linear(logits, "n", "lm_head.weight", None)]
    if recipe.logits_cap is not None:
        head.append(Apply("logits", logits, Unary.SOFT_CAP, recipe.logits_cap))
    stages = (
        Stage("embedding", 1, None, "h", (Embed("h", "embed.weight"),)),
        Stage("layers", recipe.layers, "h", "h3", (*_attention_half(recipe, bias), *_ffn_half(recipe, bias))),
        Stage("head", 1, "h", "logits", tuple(head)),
    )
    graph = Graph(stages, tensors, recipe.vocab, recipe.context, bos_id=1, eos_ids=(2,))
    verify(graph, "float")
    return graph


def _norm(recipe: Recipe, out: str, x: str, prefix: str) -> Norm:
    eps = 1e-5 if recipe.norm is NormKind.LAYER else 1e-6
    return Norm(out, x, recipe.norm, f"{prefix}.weight", f"{prefix}.bias" if recipe.norm_bias else None, eps)


def _linear(out: str, x: str, name: str, bias: str | None) -> Linear:
    weight = f"layers.{{layer}}.{name}.weight"
    return Linear(out, x, weight, None if bias is None else f"{bias}{name}.bias")


def _attention_half(recipe: Recipe, bias: str | None) -> list[Node]:
    rope = "rope" if recipe.rotary_dim else None
    heads = (recipe.heads, recipe.kv_heads, recipe.head_dim)
    scale = float(recipe.head_dim) ** -0.5
    return [
        _norm(recipe, "n1", "h", "layers.{layer}.norm1"),
        _linear("q", "n1", "q", bias),
        _linear("k", "n1", "k", bias),
        _linear("v", "n1", "v", bias),
        Attention("mixed", "q", "k", "v", *heads, rope, recipe.rotary_dim, scale, recipe.attention_cap),
        _linear("o", "mixed", "o", bias),
        Combine("h2", "h", "o", Binary.ADD),
    ]


def _ffn_half(recipe: Recipe, bias: str | None) -> list[Node]:
    cap = 2.5 if recipe.activation is Unary.SOFT_CAP else 0.0
    source = "n1" if recipe.parallel else "n2"
    nodes: list[Node] = [] if recipe.parallel else [_norm(recipe, "n2", "h2", "layers.{layer}.norm2")]
    if recipe.gated:
        nodes += [
            _linear("gate", source, "gate", bias),
            _linear("up", source, "up", bias),
            Apply("gate_out", "gate", recipe.activation, cap),
            Combine("inner", "gate_out", "up", Binary.MUL),
        ]
    else:
        nodes += [_linear("up", source, "up", bias), Apply("inner", "up", recipe.activation, cap)]
    return [*nodes, _linear("down", "inner", "down", bias), Combine("h3", "h2", "down", Binary.ADD)]


def _tensors(recipe: Recipe, rng: np.random.Generator) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}

    def put(name: str, values: NDArray[np.float64], fmt: FloatFormat = recipe.format) -> None:
        single = values.astype(np.float32)
        raw = single.view(np.uint32) >> np.uint32(16) if fmt is FloatFormat.BF16 else single
        tensors[name] = FloatTensor(fmt, raw.astype(fmt.dtype))

    def matrix(name: str, rows: int, columns: int) -> None:
        put(f"{name}.weight", rng.normal(0, columns**-0.5, (rows, columns)))
        if recipe.bias and name.startswith("layers"):
            put(f"{name}.bias", rng.normal(0, 0.1, rows))

    def norm(name: str) -> None:
        put(f"{name}.weight", rng.uniform(0.5, 1.5, recipe.hidden))
        if recipe.norm_bias:
            put(f"{name}.bias", rng.normal(0, 0.1, recipe.hidden))

    put("embed.weight", rng.normal(0, 1, (recipe.vocab, recipe.hidden)))
    for layer in range(recipe.layers):
        prefix = f"layers.{layer}"
        norm(f"{prefix}.norm1")
        matrix(f"{prefix}.q", recipe.heads * recipe.head_dim, recipe.hidden)
        matrix(f"{prefix}.k", recipe.kv_heads * recipe.head_dim, recipe.hidden)
        matrix(f"{prefix}.v", recipe.kv_heads * recipe.head_dim, recipe.hidden)
        matrix(f"{prefix}.o", recipe.hidden, recipe.heads * recipe.head_dim)
        if not recipe.parallel:
            norm(f"{prefix}.norm2")
        if recipe.gated:
            matrix(f"{prefix}.gate", recipe.ffn, recipe.hidden)
        matrix(f"{prefix}.up", recipe.ffn, recipe.hidden)
        matrix(f"{prefix}.down", recipe.hidden, recipe.ffn)
    norm("norm")
    if recipe.tied:
        tensors["lm_head.weight"] = tensors["embed.weight"]
    else:
        matrix("lm_head", recipe.vocab, recipe.hidden)
    if recipe.rotary_dim:
        put("rope", rope_table(recipe.context, recipe.rotary_dim), FloatFormat.F32)
    return tensors


def rope_table(context: int, rotary_dim: int, theta: float = 10000.0) -> NDArray[np.float64]:
    """Rotary table [context, rotary_dim]: row p holds the cosines, then the sines (RoFormer, arXiv 2104.09864)."""
    angles = np.arange(context)[:, None] * theta ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def quantised_form(graph: Graph, seed: int | None = None, bits: int = 8, corrected: bool = False) -> Graph:
    """``graph`` (float form) in quantised form, verified.

    Without a ``seed``, weights are rounded to 8 bits and the result computes nearly what ``graph`` does. With one, they
    are replaced by random legal tensors of ``bits``-bit codes with N of N:16 mixed between row blocks; ``corrected``
    gives half of them a table each (unless they have 8 bits), and half of them outliers.
    """
    tensors = dict(graph.tensors)
    rng = None if seed is None else np.random.default_rng([seed, 3])
    stages = []
    for stage in graph.stages:
        nodes: list[Node] = []
        for node in stage.nodes:
            if isinstance(node, Linear):
                codes = f"{node.x}.q8"
                if all(earlier.out != codes for earlier in nodes):
                    nodes.append(Quantize(codes, node.x))
                for layer in range(stage.repeat):
                    name = stage.tensor(node.weight, layer)
                    weight = graph.tensors[name]
                    assert isinstance(weight, FloatTensor)
                    rows, columns = weight.shape
                    if rng is None:
                        tensors[name] = rounded_weights(weight.to_float32())
                        continue
                    table = corrected and bits != 8 and bool(rng.integers(2))
                    outliers = rows * columns // 50 + 1 if corrected and rng.integers(2) else 0
                    group = int(rng.choice([16, 32, 128]))
                    tensors[name] = random_weights(rng, rows, columns, bits, group, table=table, outliers=outliers)
                node = replace(node, x=codes)
            nodes.append(node)
        stages.append(replace(stage, nodes=tuple(nodes)))
    quantised = replace(graph, stages=tuple(stages), tensors=tensors)
    verify(quantised, "quantised")
    return quantised
