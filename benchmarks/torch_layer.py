# SPDX-License-Identifier: Apache-2.0
"""A Llama decoder in plain torch, FP32: what the simulator's speed is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from catenary.isa.graph import Attention, Graph, Norm
from catenary.isa.tensors import FloatTensor


class TorchDecoder:
    """The decoder of a float graph of the Llama family, with rotary embedding in halves and a KV cache.

    Args:
        graph: float form, as the importer names its tensors.
    """

    def __init__(self, graph: Graph) -> None:
        nodes = [node for stage in graph.stages for node in stage.nodes]
        self._attention = next(node for node in nodes if isinstance(node, Attention))
        self._eps = next(node for node in nodes if isinstance(node, Norm)).eps
        self._layers = next(stage.repeat for stage in graph.stages if stage.name == "layers")
        self._weights = {
            name: torch.from_numpy(tensor.to_float32())
            for name, tensor in graph.tensors.items()
            if isinstance(tensor, FloatTensor)
        }
        width = self._attention.kv_heads * self._attention.head_dim
        self._keys = torch.zeros(self._layers, graph.max_context, width)
        self._values = torch.zeros(self._layers, graph.max_context, width)

    @torch.inference_mode()
    def run(self, ids: Sequence[int], position: int) -> torch.Tensor:
        """Logits [1, vocab] of the last of ``ids``, which stand from ``position`` on."""
        x = self._weights["embed.weight"][torch.tensor(ids)]
        for layer in range(self._layers):
            x = self._layer(x, layer, position)
        return functional.linear(self._norm(x[-1:], "head.norm"), self._weights["head.weight"])

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.rms_norm(x, x.shape[-1:], self._weights[f"{name}.weight"], self._eps)

    def _layer(self, x: torch.Tensor, layer: int, position: int) -> torch.Tensor:
        """One decoder layer: x [n, hidden] of the positions from ``position`` on."""

        def linear(values: torch.Tensor, name: str) -> torch.Tensor:
            return functional.linear(values, self._weights[f"layers.{layer}.{name}.weight"])

        node, end = self._attention, position + len(x)
        normed = self._norm(x, f"layers.{layer}.attn.norm")
        queries = self._rotate(linear(normed, "attn.q"), position)
        self._keys[layer, position:end] = self._rotate(linear(normed, "attn.k"), position)
        self._values[layer, position:end] = linear(normed, "attn.v")
        shape = (-1, node.head_dim)
        q = queries.unflatten(-1, shape).transpose(0, 1)
        k = self._keys[layer, :end].unflatten(-1, shape).transpose(0, 1)
        v = self._values[layer, :end].unflatten(-1, shape).transpose(0, 1)
        visible = torch.ones(len(x), end, dtype=torch.bool).tril(position)
        mixed = functional.scaled_dot_product_attention(
            q[None], k[None], v[None], visible, scale=node.scale, enable_gqa=node.kv_heads < node.heads
        )
        h = x + linear(mixed[0].transpose(0, 1).flatten(1), "attn.o")
        normed = self._norm(h, f"layers.{layer}.mlp.norm")
        gated = functional.silu(linear(normed, "mlp.gate")) * linear(normed, "mlp.up")
        return h + linear(gated, "mlp.down")

    def _rotate(self, x: torch.Tensor, position: int) -> torch.Tensor:
        heads = x.unflatten(-1, (-1, self._attention.head_dim))
        cos, sin = self._weights["rope"][position : position + len(x), None].chunk(2, dim=-1)
        first, second = heads.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(1)
