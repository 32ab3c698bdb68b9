# SPDX-License-Identifier: Apache-2.0
"""The typed graph as JSON, with its tensors left to the caller: the file stores where each one lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from catenary.isa.errors import GraphError
from catenary.isa.graph import NODE_TYPES, Graph, Node, Stage, Tensor

_NODES = {cls.__name__: cls for cls in NODE_TYPES}


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON is dynamically typed
    return value.value if isinstance(value, Enum) else value


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
                "nodes": [
                    {"node": type(node).__name__, **{f.name: _plain(getattr(node, f.name)) for f in fields(node)}}
                    for node in stage.nodes
                ],
            }
            for stage in graph.stages
        ],
    }


def from_json(data: Any, tensors: Mapping[str, Tensor]) -> Graph:  # noqa: ANN401
    """Inverse of :func:`to_json`.

    Raises:
        GraphError: a key is missing or unknown, or a value has the wrong type.
    """
    top = _checked(data, "graph", {"vocab": int, "max_context": int, "bos_id": int | None, "eos_ids": list, "stages": list})
    stages = []
    for item in top["stages"]:
        kinds = {"name": str, "repeat": int, "input": str | None, "output": str, "nodes": list}
        values = _checked(item, "stage", kinds)
        stages.append(Stage(**{**values, "nodes": tuple(_node(node) for node in values["nodes"])}))
    if any(type(item) is not int for item in top["eos_ids"]):
        raise GraphError(f"eos_ids must be integers, not {top['eos_ids']!r}")
    return Graph(
        tuple(stages), tensors, top["vocab"], top["max_context"], top["bos_id"], tuple(top["eos_ids"])
    )


def _node(data: Any) -> Node:  # noqa: ANN401
    name = data.get("node") if isinstance(data, dict) else None
    if name not in _NODES:
        raise GraphError(f"Node must be one of {sorted(_NODES)}, not {name!r}")
    cls = _NODES[name]
    hints = get_type_hints(cls)
    values = _checked({k: v for k, v in data.items() if k != "node"}, name, {f.name: hints[f.name] for f in fields(cls)})
    return cls(**values)


def _checked(data: Any, where: str, kinds: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(data, dict) or set(data) != set(kinds):
        found = sorted(data) if isinstance(data, dict) else data
        raise GraphError(f"Keys of {where} must be {sorted(kinds)}, not {found!r}")
    return {key: _value(data[key], kind, f"{where}.{key}") for key, kind in kinds.items()}


def _value(value: Any, kind: Any, where: str) -> Any:  # noqa: ANN401
    if isinstance(kind, UnionType):
        if value is None and type(None) in get_args(kind):
            return None
        kind = next(option for option in get_args(kind) if option is not type(None))
    if get_origin(kind) is Literal:
        kind = str
    if isinstance(kind, type) and issubclass(kind, Enum):
        if value not in {member.value for member in kind}:
            raise GraphError(f"{where} must be one of {[member.value for member in kind]}, not {value!r}")
        return kind(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise GraphError(f"{where} must be of type {kind.__name__}, not {value!r}")
    return value
