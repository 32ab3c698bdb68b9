# SPDX-License-Identifier: Apache-2.0
"""On-chip buffer allocation: every value and scratch area gets a place in V or A for the steps in which it lives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from catenary.compiler.buffer_requests import Request, aliases_of, first_fit, requests_of, slot_name
from catenary.compiler.builder import Region
from catenary.compiler.legalise import ACT_REACH, VECTOR_REACH
from catenary.compiler.memory_plan import MemoryPlan, head_unit, round_up
from catenary.compiler.schedule import LinearStep, NodeStep, StageSchedule, inputs, live_ranges
from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import CompileError
from catenary.isa.graph import Apply, Attention, Combine, Graph, Norm, ValueType
from catenary.isa.tensors import BLOCK

LONGEST_USUAL_CONTEXT = 4096
"""Positions that programs are compiled for at most unless more are asked for."""


class Slot(NamedTuple):
    """A place in a buffer for rows of a value, one row per token.

    Attributes:
        space: ``"V"`` (FP32 words) or ``"A"`` (16-byte words).
        start: first word of the value's first row.
        stride: words from row to row.
        region: everything that the value's rows may touch.
        scales: for q8 values the slot of the FP32 scales in V, one word per token.
    """

    space: str
    start: int
    stride: int
    region: Region
    scales: Region | None = None


@dataclass(frozen=True)
class AttentionScratch:
    """Scratch of one attention node; regions of V in FP32 words and of A in 16-byte words."""

    scores: Region
    key_scales: Region
    value_scales: Region
    query_scales: Region
    row_constants: Region
    queries: Region
    keys: Region
    values: Region
    parts: Region


@dataclass(frozen=True)
class StageBuffers:
    """Places of one stage: values by name, constants, scratch by attention output, and a tile of logits.

    ``logits`` is (first word of both halves, words of one half): tiles alternate between the halves. If heads of
    attention overlap, scores of a head are computed while the head before is still at work, and ``ahead`` is the
    scratch of every other head, else it is empty.
    """

    values: Mapping[str, Slot]
    constants: Region
    attention: Mapping[str, AttentionScratch]
    ahead: Mapping[str, AttentionScratch]
    logits: tuple[Region, Region] | None


@dataclass(frozen=True)
class BufferPlan:
    """Places for one entry point.

    Attributes:
        tokens: token rows that one pass handles.
        tile_rows: query rows (tokens x heads of a KV group) that one score tile handles.
        logit_tile: vocabulary rows of one tile of logits.
        whole_groups: a score tile takes all heads of a KV group for one token, with any context that is likely.
        carry: slot of the residual stream.
        rope: places of the rotary rows, by tensor name.
        stages: by stage name.
        vector_words, act_words: high-water marks.
    """

    tokens: int
    tile_rows: int
    logit_tile: int
    whole_groups: bool
    carry: Slot
    rope: Mapping[str, Region]
    stages: Mapping[str, StageBuffers]
    vector_words: int
    act_words: int


class _DoesNotFitError(CompileError):
    """An attempt at a tile size failed; a smaller one may work."""


def plan_buffers(
    graph: Graph,
    plans: Sequence[StageSchedule],
    types: Mapping[str, Mapping[str, ValueType]],
    memory: MemoryPlan,
    config: AcceleratorConfig,
    most_tokens: int,
) -> BufferPlan:
    """Allocate for the largest number of tokens, at most ``most_tokens``, that fits; an even one if they go in pairs.

    Raises:
        CompileError: not even one token fits; the message says how many words it would take.
    """
    search = _Search(graph, plans, types, memory, config, min(most_tokens, config.mm_tokens))
    plan = search.plain()
    longest = search.with_context(max(graph.max_context, LONGEST_USUAL_CONTEXT))
    whole = plan.tile_rows >= search.group and longest.whole_groups_fit()
    return replace(longest.overlapping(search) or plan if whole else plan, whole_groups=whole)


@dataclass(frozen=True)
class _Search:
    """Looks for the largest number of tokens of a pass that fits.

    Code must not depend on the context that a model is compiled for, so what code depends on is looked for with the
    longest usual context.
    """

    graph: Graph
    plans: Sequence[StageSchedule]
    types: Mapping[str, Mapping[str, ValueType]]
    memory: MemoryPlan
    config: AcceleratorConfig
    most_tokens: int

    def with_context(self, context: int) -> _Search:
        """The same with another context."""
        return replace(self, graph=replace(self.graph, max_context=context))

    @property
    def group(self) -> int:
        """Query heads that share a key."""
        return max((a.heads // a.kv_heads for plan in self.plans for a in plan.attentions()), default=1)

    @property
    def most_rows(self) -> int:
        """Query rows that a tile may have."""
        return _tile_limit(self.plans, self.config)

    def _tokens(self, most: int, least: int = 1) -> Iterator[int]:
        for tokens in range(min(most, self.most_tokens), least - 1, -1):
            if tokens == 1 or not (self.config.packed and tokens % 2):  # or one pair of each pass would be half empty
                yield tokens

    def _plan(self, tokens: int, rows: int, *, overlap: bool = False) -> BufferPlan:
        return _plan(self.graph, self.plans, self.types, self.memory, self.config, tokens, rows, overlap=overlap)

    def plain(self) -> BufferPlan:
        """Heads one after the other.

        Raises:
            CompileError: not even one token fits.
        """
        failure: CompileError | None = None
        # Rather fewer tokens than tiles that split the heads of a KV group, which read keys again and take code.
        for least in (min(self.group, self.most_rows), 1):
            for tokens in self._tokens(self.most_tokens):
                rows = min(tokens * self.group, self.most_rows)
                while rows >= least:
                    try:
                        return self._plan(tokens, rows)
                    except _DoesNotFitError as error:
                        failure = error
                    rows //= 2
        raise CompileError(str(failure))

    def whole_groups_fit(self) -> bool:
        """Whether tiles of whole groups fit, or else none fits. Tiles of whole groups take less code."""
        for rows in range(self.group, 0, -1):
            with suppress(_DoesNotFitError):
                return self._plan(1, rows).tile_rows == self.group
        return True

    def overlapping(self, actual: _Search) -> BufferPlan | None:
        """A plan for ``actual`` whose heads overlap, if there are several and passes keep over half of their tokens."""
        if all(a.kv_heads == 1 for plan in self.plans for a in plan.attentions()):
            return None
        try:
            least = self.plain().tokens // 2 + 1
        except CompileError:
            return None
        return actual.overlapped(least) if self.overlapped(least) else None

    def overlapped(self, least: int) -> BufferPlan | None:
        """The plan whose heads overlap with the most tokens, from ``least`` on."""
        for tokens in self._tokens(self.most_rows // self.group, least):
            with suppress(_DoesNotFitError):
                return self._plan(tokens, tokens * self.group, overlap=True)
        return None


def _tile_limit(plans: Sequence[StageSchedule], config: AcceleratorConfig) -> int:
    """Query rows that the accumulators of CONTEXT hold for the widest head.

    Raises:
        CompileError: they do not hold even one.
    """
    widest = max((a.head_dim for plan in plans for a in plan.attentions()), default=1)
    rows = config.context_rows(widest)
    if not rows:
        raise CompileError(f"Head dimension must fit the accumulators of {config.name!r}, not be {widest}")
    return rows


def _plan(
    graph: Graph,
    plans: Sequence[StageSchedule],
    types: Mapping[str, Mapping[str, ValueType]],
    memory: MemoryPlan,
    config: AcceleratorConfig,
    tokens: int,
    tile_rows: int,
    *,
    overlap: bool = False,
) -> BufferPlan:
    # The residual stream keeps one place through all stages: every layer reads it where the last one left it.
    width = max(types[plan.stage.name][plan.stage.output].width for plan in plans[:-1])
    carry = Slot("V", 0, width, Region("V", 0, tokens * width))
    base = carry.region.size
    rope: dict[str, Region] = {}
    for plan in plans:
        for node in plan.attentions():
            if node.rope is not None and node.rope not in rope:
                rope[node.rope] = Region("V", base, tokens * node.rotary_dim)
                base += tokens * node.rotary_dim
    # Constants share words with nothing: loads of the next stage's must not wait for what this one computes.
    constants: dict[str, Region] = {}
    for plan in plans:
        constants[plan.stage.name] = Region("V", base, memory.constants[plan.stage.name].words)
        base += constants[plan.stage.name].size
    tile = _logit_tile(graph, config, tokens)
    requests = {
        plan.stage.name: requests_of(graph, plan, types[plan.stage.name], tokens, tile_rows, tile, overlap=overlap)
        for plan in plans
    }
    # What grows with the context lies behind everything else. Shared words mean tokens, so which areas share words must
    # not depend on the context: then neither does the code.
    floor = {"V": base, "A": 0}
    starts: dict[str, dict[str, int]] = {name: {} for name in requests}
    for grows in (False, True):
        top = dict(floor)
        for name, wanted in requests.items():
            chosen = [request for request in wanted if request.grows is grows]
            starts[name] |= first_fit(chosen, floor)
            for request in chosen:
                top[request.space] = max(top[request.space], starts[name][request.name] + request.words)
        floor = top
    stages = {
        plan.stage.name: _bind(
            plan,
            types[plan.stage.name],
            starts[plan.stage.name],
            requests[plan.stage.name],
            carry,
            constants[plan.stage.name],
            tokens,
        )
        for plan in plans
    }
    limits = {"V": min(config.vector_words, VECTOR_REACH), "A": min(config.act_bytes // BLOCK, ACT_REACH)}
    for space, limit in limits.items():
        if top[space] > limit:
            raise _DoesNotFitError(
                f"Buffer {space} must hold {top[space]} words for {tokens} tokens and {tile_rows} score rows of "
                f"{graph.max_context} positions, not the {limit} of {config.name!r}"
            )
    return BufferPlan(tokens, tile_rows, tile, False, carry, rope, stages, top["V"], top["A"])


def _logit_tile(graph: Graph, config: AcceleratorConfig, tokens: int) -> int:
    """Vocabulary rows of one tile: whole units, about an eighth of V for both halves together."""
    unit = head_unit(config)
    most = max(1, config.vector_words // (16 * tokens * unit))
    return min(unit * most, round_up(graph.vocab, config.block_rows(BLOCK)))


def _bind(
    plan: StageSchedule,
    types: Mapping[str, ValueType],
    starts: Mapping[str, int],
    requests: Sequence[Request],
    carry: Slot,
    constants: Region,
    tokens: int,
) -> StageBuffers:
    regions = {r.name: Region(r.space, starts[r.name], r.words) for r in requests}
    aliases = aliases_of(plan, live_ranges(plan), types)
    values: dict[str, Slot] = {}
    attention: dict[str, AttentionScratch] = {}
    ahead: dict[str, AttentionScratch] = {}
    if plan.stage.input is not None:
        values[plan.stage.input] = carry
    for step in plan.steps:
        if isinstance(step, LinearStep):
            region = regions[slot_name(step)]
            stride, offset = region.size // tokens, region.start
            for node in step.nodes:
                values[node.out] = Slot("V", offset, stride, region)
                offset += types[node.out].width
        elif isinstance(step, NodeStep):
            name = step.node.out
            if name in aliases:
                values[name] = values[aliases[name]]
            elif types[name].kind == "q8":
                region, scales = regions[name], regions[f"{name}:scales"]
                values[name] = Slot("A", region.start, region.size // tokens, region, scales)
            elif name == plan.stage.output:
                values[name] = carry
            else:
                values[name] = Slot("V", regions[name].start, types[name].width, regions[name])
            if isinstance(step.node, Attention):
                areas = [f"{name}:{area.name}" for area in fields(AttentionScratch)]
                attention[name] = AttentionScratch(*(regions[area] for area in areas))
                if f"{areas[0]}:ahead" in regions:
                    ahead[name] = AttentionScratch(*(regions[f"{area}:ahead"] for area in areas))
    logits = None
    if ":logits" in regions:
        both = regions[":logits"]
        half = both.size // 2
        logits = Region("V", both.start, half), Region("V", both.start + half, half)
    _check_output(plan)
    return StageBuffers(values, constants, attention, ahead, logits)


def _check_output(plan: StageSchedule) -> None:
    """The stage's output overwrites its input in place: only an elementwise last step may do both."""
    last = plan.steps[-1]
    if (
        isinstance(last, NodeStep)
        and plan.stage.input in inputs(last)
        and not isinstance(last.node, Apply | Combine | Norm)
    ):
        raise CompileError(
            f"Last step of stage {plan.stage.name!r} must be elementwise if it reads the input, not {last.node}"
        )
