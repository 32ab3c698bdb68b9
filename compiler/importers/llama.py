# SPDX-License-Identifier: Apache-2.0
"""The Llama block as a graph: pre-norm attention and gated feed-forward, one body for every layer.

Models of this shape differ in numbers (:class:`LlamaShape`) and in how their files name the tensors; both are the
business of the file-format importers. Here are only the shape of the graph and the names that the graph uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from catenary.compiler.importers.rotary import Rotary, table
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
    Stage,
    Unary,
    verify,
)
from catenary.isa.tensors import FloatTensor

ROPE = "rope"
EMBED = "embed.weight"
HEAD = "head.weight"


@dataclass(frozen=True)
class LlamaShape:
    """Everything about a model of the Llama shape but its weights. Widths are in elements, context in tokens."""

    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_context: int
    norm: NormKind
    eps: float
    activation: Unary
    rotary: Rotary
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    tied: bool

    def dims(self) -> dict[str, int]:
        """The dimensions by name, for people and reports."""
        names = ("hidden", "layers", "heads", "kv_heads", "head_dim", "ffn", "vocab", "max_context")
        return {name: getattr(self, name) for name in names}


def layer_shapes(shape: LlamaShape) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of one layer, by its name after ``layers.{layer}.``."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    linears = (
        ("attn.q", queries, shape.hidden, shape.qkv_bias),
        ("attn.k", keys, shape.hidden, shape.qkv_bias),
        ("attn.v", keys, shape.hidden, shape.qkv_bias),
        ("attn.o", shape.hidden, queries, shape.out_bias),
        ("mlp.gate", shape.ffn, shape.hidden, shape.mlp_bias),
        ("mlp.up", shape.ffn, shape.hidden, shape.mlp_bias),
        ("mlp.down", shape.hidden, shape.ffn, shape.mlp_bias),
    )
    shapes: dict[str, tuple[int, ...]] = {}
    for norm in ("attn.norm", "mlp.norm"):
        shapes |= norm_shapes(norm, shape)
    for name, rows, columns, bias in linears:
        shapes[f"{name}.weight"] = (rows, columns)
        if bias:
            shapes[f"{name}.bias"] = (rows,)
    return shapes


def norm_shapes(name: str, shape: LlamaShape) -> dict[str, tuple[int, ...]]:
    """Shape of the tensors of the norm called ``name``: LayerNorm has a bias, RMSNorm has none."""
    parts = ("weight", "bias") if shape.norm is NormKind.LAYER else ("weight",)
    return {f"{name}.{part}": (shape.hidden,) for part in parts}


def tensor_shapes(shape: LlamaShape) -> dict[str, tuple[int, ...]]:
    """Shape of every weight tensor of the graph by its full name; the rotary table is no weight and not among them."""
    one = layer_shapes(shape)
    shapes: dict[str, tuple[int, ...]] = {EMBED: (shape.vocab, shape.hidden)}
    shapes |= {f"layers.{layer}.{name}": size for layer in range(shape.layers) for name, size in one.items()}
    shapes |= norm_shapes("head.norm", shape)
    shapes[HEAD] = (shape.vocab, shape.hidden)
    return shapes


def build(shape: LlamaShape, tensors: Mapping[str, FloatTensor], bos_id: int | None, eos_ids: tuple[int, ...]) -> Graph:
    """The verified float graph of ``shape`` around ``tensors`` (named and shaped as :func:`tensor_shapes` says).

    Raises:
        GraphError: a tensor is missing or has another shape.
    """
    stages = (
        Stage("embed", 1, None, "x", (Embed("x", EMBED),)),
        Stage("layers", shape.layers, "x", "y", _layer(shape)),
        Stage("head", 1, "y", "logits", (_norm(shape, "n", "y", "head.norm"), Linear("logits", "n", HEAD, None))),
    )
    held = dict(tensors)
    if shape.rotary.dim:
        held[ROPE] = table(shape.rotary, shape.max_context)
    graph = Graph(stages, held, shape.vocab, shape.max_context, bos_id, eos_ids)
    verify(graph, "float")
    return graph


def _layer(shape: LlamaShape) -> tuple[Node, ...]:
    def linear(out: str, x: str, name: str, bias: bool) -> Linear:
        return Linear(out, x, f"layers.{{layer}}.{name}.weight", f"layers.{{layer}}.{name}.bias" if bias else None)

    return (
        _norm(shape, "attn_in", "x", "layers.{layer}.attn.norm"),
        linear("q", "attn_in", "attn.q", shape.qkv_bias),
        linear("k", "attn_in", "attn.k", shape.qkv_bias),
        linear("v", "attn_in", "attn.v", shape.qkv_bias),
        Attention(
            out="mixed",
            q="q",
            k="k",
            v="v",
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            rope=ROPE if shape.rotary.dim else None,
            rotary_dim=shape.rotary.dim,
            scale=shape.head_dim**-0.5,
            soft_cap=None,
        ),
        linear("attn_out", "mixed", "attn.o", shape.out_bias),
        Combine("h", "x", "attn_out", Binary.ADD),
        _norm(shape, "mlp_in", "h", "layers.{layer}.mlp.norm"),
        linear("gate", "mlp_in", "mlp.gate", shape.mlp_bias),
        linear("up", "mlp_in", "mlp.up", shape.mlp_bias),
        Apply("act", "gate", shape.activation, 0.0),
        Combine("gated", "act", "up", Binary.MUL),
        linear("mlp_out", "gated", "mlp.down", shape.mlp_bias),
        Combine("y", "h", "mlp_out", Binary.ADD),
    )


def _norm(shape: LlamaShape, out: str, x: str, name: str) -> Norm:
    bias = f"{name}.bias" if shape.norm is NormKind.LAYER else None
    return Norm(out, x, shape.norm, f"{name}.weight", bias, shape.eps)
