# SPDX-License-Identifier: Apache-2.0
"""Legality: what a graph asks for against the widths of instruction fields."""

from __future__ import annotations

from collections.abc import Mapping

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import CompileError
from catenary.isa.fields import Float32
from catenary.isa.graph import Attention, Graph, Linear, ValueType, verify
from catenary.isa.instructions import Context, Instruction, MatrixMatrix, Quant, Rope, Softmax, Store
from catenary.isa.memory import row_layout
from catenary.isa.numbers import MAX_REDUCTION
from catenary.isa.opcodes import KEY_LIMIT
from catenary.isa.tensors import BLOCK, QuantTensor


def largest(cls: type[Instruction], name: str) -> int:
    """The largest value of field ``name``; of an operand, the largest immediate."""
    [kind] = [part.kind for part in cls.body if part.name == name]
    assert not isinstance(kind, Float32)
    return (1 << kind.width) - 1


VECTOR_REACH = largest(Quant, "x") + 1
"""Words of V that instructions can address."""
ACT_REACH = largest(Quant, "dst") + 1
"""16-byte words of A that instructions can address."""


def legalise(graph: Graph, config: AcceleratorConfig) -> Mapping[str, Mapping[str, ValueType]]:
    """The types of all values of a graph in quantised form that instructions can express.

    Raises:
        GraphError: the graph is not well formed, or a weight breaks a rule of its format.
        CompileError: a size that no instruction can express; names the node, the rule and the value.
    """
    types = verify(graph, "quantised")
    _most("Context", graph.max_context, BLOCK * largest(Softmax, "dst_stride"))
    _most("Lines of a row of logits", row_layout(config, graph.vocab * 4).row_lines, largest(Store, "row_lines"))
    for stage in graph.stages:
        for node in stage.nodes:
            where = f"{stage.name}.{node.out}"
            if isinstance(node, Attention):
                _most(f"head_dim of {where}", node.head_dim, KEY_LIMIT)
                _most(f"Heads per KV head of {where}", node.heads // node.kv_heads, largest(Context, "group"))
                _most(f"Heads of {where}", node.heads, largest(Rope, "parts"))
            if isinstance(node, Linear):
                most = min(MAX_REDUCTION, BLOCK * largest(MatrixMatrix, "act_stride"))
                _most(f"Columns of the weight of {where}", types[stage.name][node.x].width, most)
    for name, tensor in graph.tensors.items():
        if isinstance(tensor, QuantTensor):
            tensor.check(name)
    return types


def _most(what: str, value: int, limit: int) -> None:
    if value > limit:
        raise CompileError(f"{what} must be at most {limit}, not {value}")
