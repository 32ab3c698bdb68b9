# SPDX-License-Identifier: Apache-2.0
"""The typed graph as JSON, with its tensors left to the caller: the file stores where each one lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from typing import Any, get_type_hints

from catenary.isa.errors import GraphError
from catenary.isa.graph import NODE_TYPES, Graph, Node, Stage, Tensor
from catenary.isa.json_values import checked, shown

_GRAPH = {"vocab": int, "max_context": int, "bos_id": int | None, "eos_ids": list[int], "stages": list}
_STAGE = {"name": str, "repeat": int, "input": str | None, "output": str, "nodes": list}
_NODES = {cls.__name__: (cls, {"node": str, **get_type_hints(cls)}) for cls in NODE_TYPES}


def to_json(graph: Graph) -> dict[str, Any]:
    """Everything of ``graph`` but its tensors, as JSON values."""
    return {
        "vocab": graph.vocab,
        "max_context": graph.max_context,
        "bos_id": graph.bos_id,
        "eos_ids": list(graph.eos_ids),
        "stages": [
            {
                "name": stage.name,
                "repeat": stage.repeat,
                "input": stage.input,
                "output": stage.output,
                "nodes": [_node_to_json(node) for node in stage.nodes],
            }
            for stage in graph.stages
        ],
    }


def from_json(data: Any, tensors: Mapping[str, Tensor]) -> Graph:  # noqa: ANN401 - JSON is dynamically typed
    """Inverse of :func:`to_json`. Whether the graph is well formed is for :func:`~catenary.isa.graph.verify` to say.

    Raises:
        GraphError: a key is missing or unknown, or a value has the wrong type.
    """
    top = checked(data, "Graph", _GRAPH, GraphError)
    stages = []
    for item in top["stages"]:
        values = checked(item, "Stage", _STAGE, GraphError)
        stages.append(Stage(**{**values, "nodes": tuple(_node_from_json(node) for node in values["nodes"])}))
    return Graph(tuple(stages), tensors, top["vocab"], top["max_context"], top["bos_id"], tuple(top["eos_ids"]))


def _node_to_json(node: Node) -> dict[str, Any]:
    values = {field.name: getattr(node, field.name) for field in fields(node)}
    plain = {key: value.value if isinstance(value, Enum) else value for key, value in values.items()}
    return {"node": type(node).__name__, **plain}


def _node_from_json(data: Any) -> Node:  # noqa: ANN401
    name = data.get("node") if isinstance(data, dict) else data
    if not isinstance(name, str) or name not in _NODES:
        raise GraphError(f"Node must be one of {sorted(_NODES)}, not {shown(name)}")
    cls, kinds = _NODES[name]
    values = checked(data, name, kinds, GraphError)
    del values["node"]
    return cls(**values)
