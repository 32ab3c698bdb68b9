# SPDX-License-Identifier: Apache-2.0
"""The schedule: a stage's nodes grouped into the steps that the accelerator carries out one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from catenary.isa.errors import CompileError
from catenary.isa.graph import (
    Apply,
    Attention,
    Combine,
    Embed,
    Graph,
    Linear,
    Node,
    Norm,
    Quantize,
    Stage,
    tensor_inputs,
    value_inputs,
)


@dataclass(frozen=True)
class LinearStep:
    """Linear layers that read the same quantised rows: one behind the other in the stream, their outputs side by side.

    Attributes:
        x: the q8 value.
        nodes: in stream order.
    """

    x: str
    nodes: tuple[Linear, ...]


@dataclass(frozen=True)
class LogitsStep:
    """The last linear layer and the elementwise functions behind it, computed tile by tile and stored to memory."""

    x: str
    linear: Linear
    tail: tuple[Apply, ...]


@dataclass(frozen=True)
class NodeStep:
    """Any other node by itself."""

    node: Embed | Norm | Quantize | Attention | Apply | Combine


Step = LinearStep | LogitsStep | NodeStep


@dataclass(frozen=True)
class StageSchedule:
    """Steps of one stage, in execution order.

    Attributes:
        stage: the stage of the graph.
        steps: every node of the stage occurs in exactly one step.
    """

    stage: Stage
    steps: tuple[Step, ...]

    def linears(self) -> tuple[tuple[Linear, ...], ...]:
        """Linear layers by stream segment: a segment ends where an attention node loads the KV cache."""
        segments: list[list[Linear]] = [[]]
        for step in self.steps:
            match step:
                case LinearStep():
                    segments[-1] += step.nodes
                case LogitsStep():
                    if segments[-1]:
                        segments.append([])
                    segments[-1].append(step.linear)
                case NodeStep(node=Attention()):
                    segments.append([])
        return tuple(tuple(segment) for segment in segments)

    def tensor_names(self) -> tuple[str, ...]:
        """Templates of all tensors that the stage reads."""
        return tuple(name for node in self.stage.nodes for name in tensor_inputs(node))

    def attentions(self) -> tuple[Attention, ...]:
        """Attention nodes, in order."""
        return tuple(s.node for s in self.steps if isinstance(s, NodeStep) and isinstance(s.node, Attention))


def outputs(step: Step) -> tuple[str, ...]:
    """Values that ``step`` defines on chip."""
    match step:
        case LinearStep():
            return tuple(node.out for node in step.nodes)
        case LogitsStep():
            return ()
        case NodeStep():
            return (step.node.out,)


def inputs(step: Step) -> tuple[str, ...]:
    """Values that ``step`` reads."""
    return value_inputs(step.node) if isinstance(step, NodeStep) else (step.x,)


def schedule(graph: Graph) -> tuple[StageSchedule, ...]:
    """Group the nodes of every stage into steps: siblings fuse, the head becomes a :class:`LogitsStep`.

    Raises:
        CompileError: the graph does not end with a linear layer and elementwise functions, or a stage's output is not
            its last value.
    """
    result = []
    for index, stage in enumerate(graph.stages):
        last = index == len(graph.stages) - 1
        nodes = list(stage.nodes)
        steps: list[Step] = []
        head: LogitsStep | None = None
        if last:
            head, nodes = _split_head(stage)
        elif stage.output != nodes[-1].out:
            raise CompileError(f"Output of stage {stage.name!r} must be its last value, not {stage.output!r}")
        siblings = _siblings(nodes)
        for node in nodes:
            if not isinstance(node, Linear):
                steps.append(NodeStep(node))
            elif siblings[node.x][0] is node:
                steps.append(LinearStep(node.x, tuple(siblings[node.x])))
        if head is not None:
            steps.append(head)
        result.append(StageSchedule(stage, tuple(steps)))
    return tuple(result)


def _siblings(nodes: list[Node]) -> Mapping[str, list[Linear]]:
    groups: dict[str, list[Linear]] = {}
    for node in nodes:
        if isinstance(node, Linear):
            groups.setdefault(node.x, []).append(node)
    return groups


def _split_head(stage: Stage) -> tuple[LogitsStep, list[Node]]:
    nodes = list(stage.nodes)
    tail: list[Apply] = []
    value = stage.output
    while nodes and isinstance(nodes[-1], Apply) and nodes[-1].out == value:
        node = nodes.pop()
        assert isinstance(node, Apply)
        tail.insert(0, node)
        value = node.x
    if not nodes or not isinstance(nodes[-1], Linear) or nodes[-1].out != value:
        raise CompileError(
            f"Stage {stage.name!r} must end with a linear layer and elementwise functions of it, not {stage.nodes[-1]}"
        )
    linear = nodes.pop()
    assert isinstance(linear, Linear)
    if any(linear.out in value_inputs(node) for node in nodes):
        raise CompileError(f"Logits {linear.out!r} must be read by elementwise functions only, not by other nodes")
    return LogitsStep(linear.x, linear, tuple(tail)), nodes


def live_ranges(plan: StageSchedule) -> dict[str, tuple[int, int]]:
    """First and last step of every value; the stage's input is live from -1, its output to the end."""
    ranges: dict[str, tuple[int, int]] = {}
    if plan.stage.input is not None:
        ranges[plan.stage.input] = (-1, -1)
    for index, step in enumerate(plan.steps):
        for name in inputs(step):
            ranges[name] = (ranges[name][0], index)
        for name in outputs(step):
            ranges[name] = (index, index)
    if plan.stage.output in ranges:
        ranges[plan.stage.output] = (ranges[plan.stage.output][0], len(plan.steps))
    return ranges
