# SPDX-License-Identifier: Apache-2.0
"""Memory plan: where code, tables, constants, weights, KV cache, ids and logits lie, in lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from catenary.compiler.schedule import LogitsStep, NodeStep, StageSchedule, schedule
from catenary.isa import stream
from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import CompileError
from catenary.isa.graph import Attention, Embed, Graph, Linear, Norm
from catenary.isa.memory import MemoryMap, Range, RowLayout, key_layout, row_layout
from catenary.isa.opcodes import WORD_BYTES
from catenary.isa.stream_layout import stream_layouts
from catenary.isa.tensor_store import TensorRef
from catenary.isa.tensors import BLOCK, FloatTensor, QuantTensor

LOGIT_BYTES = 4 << 20
"""Logits of several rows are returned in batches of about this size."""
ID_BYTES = 8
"""A token id in the mailbox is one 64-bit word."""


@dataclass(frozen=True)
class KvLayout:
    """The KV cache of one attention node, in lines.

    Attributes:
        keys: layout of the keys' codes of one KV head.
        values: layout of the values' codes of one KV head.
        scales: layout of the scales (rows of one float) of one KV head.
        head_keys: lines of one KV head's keys, which is the step from head to head.
        head_values: lines of one KV head's values.
        head_scales: lines of one KV head's scales.
        heads: KV heads.
    """

    keys: RowLayout
    values: RowLayout
    scales: RowLayout
    head_keys: int
    head_values: int
    head_scales: int
    heads: int

    def starts(self, line: int) -> list[int]:
        """Lines of K codes, K scales, V codes and V scales of a layer that begins at ``line``, and of its end."""
        sizes = (self.head_keys, self.head_scales, self.head_values, self.head_scales)
        return list(accumulate((self.heads * size for size in sizes), initial=line))

    @property
    def layer(self) -> int:
        """Lines of one layer, keys and values together."""
        return self.starts(0)[-1]


@dataclass(frozen=True)
class StageTable:
    """What one descriptor row of a stage holds, 64-bit words in this order.

    For each stream segment its line and its number of lines; the line of the constants; for each attention node the
    lines of K codes, K scales, V codes and V scales of KV head 0.

    Attributes:
        first: word index of the stage's first row in the descriptor table.
        segments: number of stream segments.
        attentions: number of attention nodes.
    """

    first: int
    segments: int
    attentions: int

    @property
    def words(self) -> int:
        """Words of one row."""
        return 2 * self.segments + 1 + 4 * self.attentions

    def segment(self, index: int) -> int:
        """Word offset of a segment's (line, lines) pair in the row."""
        return 2 * index

    @property
    def constants(self) -> int:
        """Word offset of the line of the constants."""
        return 2 * self.segments

    def kv(self, index: int) -> int:
        """Word offset of the four KV lines of an attention node."""
        return 2 * self.segments + 1 + 4 * index


@dataclass(frozen=True)
class Constants:
    """Norm weights and biases of a stage; those of a node begin a line, so that they are loaded by themselves.

    Attributes:
        offsets: word offset by tensor template.
        parts: word offsets and number of words of those of each node, where an earlier node has not the same.
        words: floats in all.
    """

    offsets: Mapping[str, int]
    parts: Sequence[tuple[int, int]]
    words: int

    def part(self, template: str) -> tuple[int, int]:
        """The part that has a tensor."""
        return next((at, size) for at, size in self.parts if at <= self.offsets[template] < at + size)


@dataclass(frozen=True)
class MemoryPlan:
    """Everything that the emitter and the program file need to know about memory.

    Attributes:
        map: the named regions; ``code`` has the size of the instruction buffer until the code is known.
        image: initial contents of region ``image``, uint8 [lines, line_bytes].
        tables: the descriptor table's words, uint64.
        rows: what a descriptor row holds, by stage name.
        constants: constants by stage name.
        kv: KV cache layouts by (stage name, attention output).
        floats: first line and row layout of each embedding and rotary table, by tensor name.
        refs: where each tensor of the graph lies in the image.
        weight_bytes: bytes of all weight streams, padding included.
        logit_rows: rows that region ``logits`` holds.
        logits: layout of a row of logits.
        ids: layout of a token id in the mailbox.
    """

    map: MemoryMap
    image: NDArray[np.uint8]
    tables: NDArray[np.uint64]
    rows: Mapping[str, StageTable]
    constants: Mapping[str, Constants]
    kv: Mapping[tuple[str, str], KvLayout]
    floats: Mapping[str, tuple[int, RowLayout]]
    refs: Mapping[str, TensorRef]
    weight_bytes: int
    logit_rows: int
    logits: RowLayout
    ids: RowLayout


class _Image:
    """The image under construction."""

    def __init__(self, line_bytes: int) -> None:
        self.line_bytes = line_bytes
        self.parts: list[NDArray[np.uint8]] = []
        self.lines = 0

    def append(self, data: NDArray[np.uint8]) -> int:
        """Add bytes, padded to a line; returns their first line."""
        first = self.lines
        count = -(-data.size // self.line_bytes)
        self.parts.append(data.reshape(-1))
        padding = count * self.line_bytes - data.size
        if padding:
            self.parts.append(np.zeros(padding, np.uint8))
        self.lines += count
        return first

    def finish(self) -> NDArray[np.uint8]:
        """uint8 [lines, line_bytes]."""
        return np.concatenate(self.parts).reshape(self.lines, self.line_bytes)


def plan_memory(
    graph: Graph, plans: Sequence[StageSchedule], config: AcceleratorConfig, progress: Callable[[float], None]
) -> MemoryPlan:
    """Lay out memory and write the image.

    Raises:
        CompileError: the program does not fit the memory; the message lists what needs how much.
    """
    image = _Image(config.line_bytes)
    refs: dict[str, TensorRef] = {}
    floats = _place_matrices(graph, config, image, refs)
    rows: dict[str, StageTable] = {}
    constants: dict[str, Constants] = {}
    kv: dict[tuple[str, str], KvLayout] = {}
    words: list[int] = []
    weight_bytes = first = 0
    kv_lines = sum(
        _kv_layout(a, graph.max_context, config).layer * p.stage.repeat for p in plans for a in p.attentions()
    )
    kv_used = 0
    runs, done = sum(plan.stage.repeat for plan in plans), 0
    # KV lines are relative to their region until its place is known, so remember where they stand in the table.
    kv_words: list[int] = []
    image_words: list[int] = []
    for plan in plans:
        segments = plan.linears()
        table = StageTable(first, len(segments), len(plan.attentions()))
        rows[plan.stage.name] = table
        constants[plan.stage.name] = _constants(graph, plan, config)
        for layer in range(plan.stage.repeat):
            for segment in segments:
                placed, size = _write_segment(graph, plan, layer, segment, config, image, refs)
                image_words.append(len(words))
                words += placed
                weight_bytes += size
            image_words.append(len(words))
            words.append(_write_constants(graph, plan, layer, constants[plan.stage.name], image, refs))
            for node in plan.attentions():
                layout = _kv_layout(node, graph.max_context, config)
                kv[plan.stage.name, node.out] = layout
                kv_words += range(len(words), len(words) + 4)
                *starts, kv_used = layout.starts(kv_used)
                words += starts
            done += 1
            progress(done / runs)
        first += table.words * plan.stage.repeat
    tables = np.array(words, np.uint64)
    logits = row_layout(config, graph.vocab * 4)
    ids = row_layout(config, ID_BYTES)
    logit_rows = min(graph.max_context, max(config.mm_tokens, LOGIT_BYTES // (graph.vocab * 4)))
    sizes = {
        "code": config.lines(config.instruction_words * WORD_BYTES),
        "tables": config.lines(tables.nbytes),
        "image": image.lines,
        "ids": ids.lines(graph.max_context),
        "kv": kv_lines,
        "logits": logits.lines(logit_rows),
    }
    regions, end = {}, 0
    for name, lines in sizes.items():
        regions[name] = Range(end, lines)
        end += lines
    if end > config.memory_lines:
        needs = ", ".join(f"{name} {lines * config.line_bytes}" for name, lines in sizes.items())
        raise CompileError(
            f"Program must need at most the {config.memory_bytes} bytes of memory of {config.name!r}, not "
            f"{end * config.line_bytes} ({needs})"
        )
    tables[image_words] += np.uint64(regions["image"].line)
    tables[kv_words] += np.uint64(regions["kv"].line)
    at = regions["image"].line
    return MemoryPlan(
        map=MemoryMap(**regions),
        image=image.finish(),
        tables=tables,
        rows=rows,
        constants=constants,
        kv=kv,
        floats={name: (line + at, layout) for name, (line, layout) in floats.items()},
        refs=refs,
        weight_bytes=weight_bytes,
        logit_rows=logit_rows,
        logits=logits,
        ids=ids,
    )


def head_unit(config: AcceleratorConfig) -> int:
    """Rows of the head that a tile of logits holds a multiple of: whole dense row blocks and whole lines of logits."""
    return math.lcm(config.block_rows(BLOCK), config.line_bytes // 4)


def round_up(value: int, step: int) -> int:
    """The lowest multiple of ``step`` that is at least ``value``."""
    return -(-value // step) * step


def stream_bytes(graph: Graph, config: AcceleratorConfig, bits: int, group: int) -> int:
    """Bytes of all weight streams of a dense model, padding included; only the shapes of its tensors matter."""
    total = 0
    for plan in schedule(graph):
        for segment in plan.linears():
            size = 0
            for node in segment:
                rows, columns = graph.tensors[plan.stage.tensor(node.weight, 0)].shape
                kept = np.full(rows, BLOCK, np.uint8)
                layouts = stream_layouts(kept, columns, bits, group, node.bias is not None, config)
                size += sum(count * layout.stored_bytes for _, count, layout in layouts)
            total += plan.stage.repeat * config.lines(size) * config.line_bytes
    return total


def kv_bytes(graph: Graph, config: AcceleratorConfig) -> int:
    """Bytes of the KV cache for the whole context, padding included."""
    lines = sum(
        _kv_layout(node, graph.max_context, config).layer
        for stage, _ in graph.runs()
        for node in stage.nodes
        if isinstance(node, Attention)
    )
    return lines * config.line_bytes


def _kv_layout(node: Attention, context: int, config: AcceleratorConfig) -> KvLayout:
    layouts = key_layout(config, node.head_dim), row_layout(config, node.head_dim), row_layout(config, 4)
    keys, values, scales = (layout.lines(context) for layout in layouts)
    return KvLayout(*layouts, keys, values, scales, node.kv_heads)


def _place_matrices(
    graph: Graph, config: AcceleratorConfig, image: _Image, refs: dict[str, TensorRef]
) -> dict[str, tuple[int, RowLayout]]:
    """Embedding and rotary tables, each row laid out for one load."""
    placed: dict[str, tuple[int, RowLayout]] = {}
    for stage in graph.stages:
        for node in stage.nodes:
            match node:
                case Embed(table=name):
                    pass
                case Attention(rope=str(name)):
                    pass
                case _:
                    continue
            if "{layer}" in name:
                raise CompileError(f"Table {name!r} must be one for all layers, not one for each")
            if name in placed:
                continue
            tensor = graph.tensors[name]
            assert isinstance(tensor, FloatTensor)
            raw = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(tensor.shape[0], -1)
            layout = row_layout(config, raw.shape[1])
            placed[name] = (image.append(layout.scatter(raw, config.line_bytes)), layout)
            refs[name] = TensorRef(tensor.format.value, tensor.shape, placed[name][0], 0, 0)
    return placed


def _constants(graph: Graph, plan: StageSchedule, config: AcceleratorConfig) -> Constants:
    offsets: dict[str, int] = {}
    parts: list[tuple[int, int]] = []
    words = 0
    for step in plan.steps:
        if isinstance(step, NodeStep) and isinstance(step.node, Norm):
            start = words
            for template in (step.node.weight, step.node.bias):
                if template is not None and template not in offsets:
                    offsets[template] = words
                    words += graph.tensors[plan.stage.tensor(template, 0)].shape[0]
            if words > start:
                parts.append((start, words - start))
                words = round_up(words, math.lcm(config.line_bytes, 4) // 4)
    return Constants(offsets, parts, words)


def _write_constants(
    graph: Graph, plan: StageSchedule, layer: int, constants: Constants, image: _Image, refs: dict[str, TensorRef]
) -> int:
    block = np.zeros(constants.words, np.float32)
    line = image.lines
    for template, offset in constants.offsets.items():
        name = plan.stage.tensor(template, layer)
        tensor = graph.tensors[name]
        assert isinstance(tensor, FloatTensor)
        block[offset : offset + tensor.shape[0]] = tensor.to_float32()
        refs.setdefault(name, TensorRef("f32", tensor.shape, line, offset * 4, 0))
    return image.append(block.view(np.uint8))


def _write_segment(
    graph: Graph,
    plan: StageSchedule,
    layer: int,
    segment: Sequence[Linear],
    config: AcceleratorConfig,
    image: _Image,
    refs: dict[str, TensorRef],
) -> tuple[tuple[int, int], int]:
    """Append the streams of one segment; returns its (line, lines) and its bytes."""
    stage, last = plan.stage, plan.steps[-1]
    head = last.linear if isinstance(last, LogitsStep) else None
    line = image.lines
    offset = 0
    parts: list[NDArray[np.uint8]] = []
    for node in segment:
        weight, bias = graph.tensors[stage.tensor(node.weight, layer)], None
        assert isinstance(weight, QuantTensor)
        if node.bias is not None:
            vector = graph.tensors[stage.tensor(node.bias, layer)]
            assert isinstance(vector, FloatTensor)
            bias = vector.to_float32()
        pieces = _pack(weight, bias, head_unit(config) if node is head else weight.rows, config)
        ref = TensorRef("weight", weight.shape, line, offset, sum(piece.size for piece in pieces))
        refs.setdefault(stage.tensor(node.weight, layer), ref)
        if node.bias is not None:
            refs.setdefault(stage.tensor(node.bias, layer), replace(ref, kind="bias"))
        parts += pieces
        offset += ref.nbytes
    if parts:
        image.append(np.concatenate(parts))
    lines = image.lines - line
    return (line, lines), lines * config.line_bytes


def _pack(
    weight: QuantTensor, bias: NDArray[np.float32] | None, unit: int, config: AcceleratorConfig
) -> list[NDArray[np.uint8]]:
    """The stream of ``weight`` in pieces; no row block crosses a multiple of ``unit`` rows."""
    if (weight.kept == BLOCK).all():
        return [stream.pack(weight, bias, config)]  # dense row blocks divide every unit
    parts = [slice(first, min(first + unit, weight.rows)) for first in range(0, weight.rows, unit)]
    return [stream.pack(weight.rows_of(part), None if bias is None else bias[part], config) for part in parts]
