# SPDX-License-Identifier: Apache-2.0
"""What asks for a place on chip, for which steps, and the lowest places that keep those alive together apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from catenary.compiler.schedule import LinearStep, LogitsStep, NodeStep, StageSchedule, inputs, live_ranges, outputs
from catenary.isa.graph import Apply, Attention, Combine, Graph, Norm, ValueType
from catenary.isa.tensors import BLOCK


class Request(NamedTuple):
    """What one value or scratch area needs.

    Attributes:
        name: of the value, or of the node and its area.
        space: ``"V"`` or ``"A"``.
        words: size.
        first, last: steps of the stage between which it lives, both included.
        grows: the size depends on the context.
    """

    name: str
    space: str
    words: int
    first: int
    last: int
    grows: bool = False


def words16(nbytes: int) -> int:
    """16-byte words of the activation buffer that hold ``nbytes`` codes."""
    return -(-nbytes // BLOCK)


def requests_of(
    graph: Graph,
    plan: StageSchedule,
    types: Mapping[str, ValueType],
    tokens: int,
    tile_rows: int,
    tile: int,
    *,
    overlap: bool = False,
) -> list[Request]:
    """Everything that one stage needs a place for, but the residual stream and the constants.

    Args:
        graph: for the context that it is compiled for.
        plan: the stage.
        types: of its values.
        tokens: of one pass.
        tile_rows: query rows of one score tile.
        tile: vocabulary rows of one tile of logits.
        overlap: heads of attention overlap: there is scratch for two.
    """
    live = live_ranges(plan)
    steps = len(plan.steps)
    found: list[Request] = []
    aliases = aliases_of(plan, live, types)
    for index, step in enumerate(plan.steps):
        if isinstance(step, LinearStep):
            names = outputs(step)
            last = max(_root_end(name, live, aliases) for name in names)
            width = sum(types[name].width for name in names)
            found.append(Request(slot_name(step), "V", tokens * width, index, last))
        elif isinstance(step, LogitsStep):
            found.append(Request(":logits", "V", 2 * tokens * tile, index, steps))
        else:
            name = step.node.out
            if types[name].kind == "q8":
                words = tokens * words16(types[name].width)
                found.append(Request(name, "A", words, index, live[name][1]))
                found.append(Request(f"{name}:scales", "V", tokens, index, live[name][1]))
            elif name not in aliases and name != plan.stage.output:
                last = _root_end(name, live, aliases)
                found.append(Request(name, "V", tokens * types[name].width, index, last))
            if isinstance(step.node, Attention):
                areas = _attention_requests(step.node, index, graph.max_context, tokens, tile_rows)
                found += areas
                if overlap and step.node.kv_heads > 1:
                    found += [area._replace(name=f"{area.name}:ahead") for area in areas]
    return found


def _attention_requests(node: Attention, step: int, context: int, tokens: int, rows: int) -> list[Request]:
    group = node.heads // node.kv_heads
    code_words = words16(node.head_dim)
    sizes = {
        "scores": ("V", rows * context),
        "key_scales": ("V", context),
        "value_scales": ("V", context),
        "query_scales": ("V", tokens * group),
        "row_constants": ("V", 2 * rows),
        "queries": ("A", tokens * group * code_words),
        "keys": ("A", tokens * code_words),
        "values": ("A", tokens * code_words),
        "parts": ("A", 2 * rows * words16(context)),
    }
    grows = {"scores", "key_scales", "value_scales", "row_constants", "parts"}
    return [
        Request(f"{node.out}:{name}", space, words, step, step, name in grows) for name, (space, words) in sizes.items()
    ]


def slot_name(step: LinearStep) -> str:
    """Name of the one place that all results of ``step`` share."""
    return "|".join(node.out for node in step.nodes)


def aliases_of(
    plan: StageSchedule, live: Mapping[str, tuple[int, int]], types: Mapping[str, ValueType]
) -> dict[str, str]:
    """Values of elementwise nodes that take the place of an operand which nobody reads afterwards."""
    taken: dict[str, str] = {}
    pinned = {plan.stage.input, plan.stage.output}
    for index, step in enumerate(plan.steps):
        if not isinstance(step, NodeStep) or not isinstance(step.node, Apply | Combine | Norm):
            continue
        if step.node.out == plan.stage.output:
            continue
        for name in inputs(step):
            dies = live[name][1] == index and name not in taken.values()
            if dies and name not in pinned and types[name].width == types[step.node.out].width:
                taken[step.node.out] = name
                break
    return taken


def _root_end(name: str, live: Mapping[str, tuple[int, int]], aliases: Mapping[str, str]) -> int:
    """Last step at which the place of ``name`` is in use, by itself or by a value that took it over."""
    end = live[name][1]
    for heir, source in aliases.items():
        if source == name:
            end = max(end, _root_end(heir, live, aliases))
    return end


def first_fit(requests: Sequence[Request], base: Mapping[str, int]) -> dict[str, int]:
    """Lowest start for each request that overlaps none alive at the same time; large ones first."""
    starts: dict[str, int] = {}
    for request in sorted(requests, key=lambda r: (-r.words, r.first, r.name)):
        taken = sorted(
            (starts[other.name], starts[other.name] + other.words)
            for other in requests
            if other.name in starts
            and other.space == request.space
            and other.first <= request.last
            and request.first <= other.last
        )
        start = base[request.space]
        for low, high in taken:
            if start + request.words <= low:
                break
            start = max(start, high)
        starts[request.name] = start
    return starts
