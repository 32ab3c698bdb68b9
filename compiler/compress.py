# SPDX-License-Identifier: Apache-2.0
"""The compression pass: a float graph in, the quantised graph out (N:16 pruning, then 8- or 4-bit weights)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from catenary.compiler.prune import prune_mask
from catenary.compiler.quantise import round_8bit, round_grouped
from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import GraphError, UsageError
from catenary.isa.graph import Graph, Linear, Node, Norm, Quantize, Stage, Tensor, tensor_inputs, verify
from catenary.isa.stream import packed_bytes
from catenary.isa.stream_layout import SPARSE_GROUP_BLOCKS
from catenary.isa.tensors import BLOCK, KEPT_CHOICES, FloatFormat, FloatTensor, QuantTensor, widen

GROUP = 128
"""Default columns per scale and zero ..."""

NARROW_GROUP = 16
"""... and for matrices of fewer columns than that."""

SPARSITIES = ("none", *(f"{n}:{BLOCK}" for n in reversed(KEPT_CHOICES) if n != BLOCK))
"""Sparsities by name."""

RowsKept = int | NDArray[np.integer]
"""N of every row, or N of each row [rows]; constant over rows of one row block, or blocks are cut short."""

SparsityChoice = str | Mapping[str, RowsKept] | Callable[[str, FloatTensor], RowsKept]
"""One of :data:`SPARSITIES` for all block linears; N by tensor name (dense where absent); or a function of name and
weights that returns N."""

Progress = Callable[[str, int, int], None]
"""Called as ``progress(tensor name, weights done, weights in all)``."""

_CHUNK = 1 << 18
"""Weights that are rounded at a time; the work arrays of one chunk stay in the cache."""


@dataclass(frozen=True)
class Compress:
    """Prune and quantise every linear layer.

    One :class:`Quantize` node is inserted for each distinct value that linear layers read. Norms, embedding and rotary
    table stay as they are, biases are widened to FP32. The head (the last linear of the last stage) follows
    ``weight_bits`` but is never pruned.

    Attributes:
        weight_bits: 8 (one scale per row) or 4 (two levels of scales).
        group_size: columns that share a 4-bit scale and zero, a multiple of 16; ``None`` means 128, or 16 for matrices
            of fewer than 128 columns. 8-bit codes have no such scales; there it only shapes the stream.
        sparsity: see :data:`SparsityChoice`.
    """

    name: ClassVar[str] = "compress"

    weight_bits: int = 8
    group_size: int | None = None
    sparsity: SparsityChoice = "none"

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UsageError: names the option, the rule and the value.
        """
        if self.weight_bits not in (4, 8):
            raise UsageError(f"Weight bits must be 4 or 8, not {self.weight_bits}")
        if self.group_size is not None and (self.group_size < BLOCK or self.group_size % BLOCK):
            raise UsageError(f"Group size must be a positive multiple of {BLOCK}, not {self.group_size}")
        longest = SPARSE_GROUP_BLOCKS * BLOCK
        if self.sparsity != "none" and self.group_size is not None and self.group_size > longest:
            raise UsageError(f"Group size of sparse weights must be at most {longest}, not {self.group_size}")
        if isinstance(self.sparsity, str) and self.sparsity not in SPARSITIES:
            raise UsageError(f"Sparsity must be one of {', '.join(SPARSITIES)}, not {self.sparsity!r}")

    def apply(self, graph: Graph, progress: Progress | None = None) -> Graph:
        """The quantised form of ``graph``, which must be in float form.

        Raises:
            GraphError: a graph that is not well formed, a weight that is not finite or that is also read as floats, or
                an N that is not one of 1, 2, 4, 8 and 16 for every row.
        """
        verify(graph, "float")
        jobs = list(_jobs(graph))
        total = sum(job.source.data.size for job in jobs)
        tensors = _float_tensors(graph)
        done = 0
        for job in jobs:
            if job.name in tensors:
                raise GraphError(f"Weight {job.name!r} must have a name of its own, not one that is read as floats too")
            tensors[job.name] = quantised = self._compress(job)
            quantised.check(job.name)
            done += job.source.data.size
            if progress is not None:
                progress(job.name, done, total)
        result = replace(graph, stages=tuple(map(_with_quantize, graph.stages)), tensors=tensors)
        verify(result, "quantised")
        return result

    def _compress(self, job: _Job) -> QuantTensor:
        """Prune and quantise one matrix, a chunk of rows at a time."""
        rows, columns = job.source.data.shape
        width = -(-columns // BLOCK) * BLOCK
        group = self.group_size or (GROUP if columns >= GROUP or self.weight_bits == 8 else NARROW_GROUP)
        groups = -(-columns // group)
        result = QuantTensor(
            columns=columns,
            bits=self.weight_bits,
            group=group,
            codes=np.empty((rows, width), np.int16),
            mask=np.empty((rows, width), np.bool_),
            kept=np.full(rows, BLOCK, np.uint8) if job.head else self._rows_kept(job),
            scales=np.empty((rows, groups), np.uint8),
            zeros=np.empty((rows, groups), np.uint8),
            channel_scales=np.empty(rows, np.float32),
        )
        step = max(1, _CHUNK // width)
        for start in range(0, rows, step):
            part = slice(start, min(rows, start + step))
            weights = np.zeros((part.stop - start, width), np.float32)
            weights[:, :columns] = widen(job.source.data[part], job.source.format)
            finite = np.isfinite(weights)
            if not finite.all():
                row, column = np.argwhere(~finite)[0]
                value = weights[row, column]
                raise GraphError(f"Weight [{start + row}, {column}] of {job.name} must be finite, not {value}")
            if (result.kept[part] == BLOCK).all():
                result.mask[part] = True
            else:
                result.mask[part] = prune_mask(weights[:, :columns], result.kept[part])
                weights *= result.mask[part]
            if self.weight_bits == 8:
                rounded = round_8bit(weights, groups)
            else:
                rounded = round_grouped(weights, self.weight_bits, group, job.importance)
            result.codes[part] = rounded.codes
            result.scales[part] = rounded.scales
            result.zeros[part] = rounded.zeros
            result.channel_scales[part] = rounded.channel_scales
        return result

    def _rows_kept(self, job: _Job) -> NDArray[np.uint8]:
        """N of each row of a matrix that may be pruned."""
        chosen: RowsKept
        if isinstance(self.sparsity, str):
            chosen = BLOCK if self.sparsity == "none" else int(self.sparsity.partition(":")[0])
        elif isinstance(self.sparsity, Mapping):
            chosen = self.sparsity.get(job.name, BLOCK)
        else:
            chosen = self.sparsity(job.name, job.source)
        rows = job.source.data.shape[0]
        kept = np.asarray(chosen)
        if kept.shape not in ((), (rows,)):
            raise GraphError(f"N of {job.name} must be one number or one for each of {rows} rows, not {kept.shape}")
        if not np.isin(kept, KEPT_CHOICES).all():
            raise GraphError(f"N of {job.name} must be one of {KEPT_CHOICES}, not {sorted(set(kept.ravel().tolist()))}")
        return np.broadcast_to(kept, rows).astype(np.uint8)


def bits_per_weight(graph: Graph, config: AcceleratorConfig) -> float:
    """Bits stored per original weight of the quantised ``graph``'s linear layers, head included.

    Counts every byte of their weight streams: headers, codes, indices, scales, zeros, biases, and padding of sections
    and of each stream to a line.

    Raises:
        GraphError: a graph without quantised linear layers.
    """
    stored, weights = 0, 0
    seen: set[str] = set()
    for stage, layer, node in _linears(graph):
        name = stage.tensor(node.weight, layer)
        tensor = graph.tensors[name]
        if name in seen or not isinstance(tensor, QuantTensor):
            continue
        seen.add(name)
        stored += config.lines(packed_bytes(tensor, node.bias is not None, config)) * config.line_bytes
        weights += tensor.rows * tensor.columns
    if not weights:
        raise GraphError("Graph must be in quantised form and have linear layers, not neither")
    return 8 * stored / weights


@dataclass(frozen=True)
class _Job:
    """One matrix to compress.

    Attributes:
        name: full name in the graph.
        source: the weights.
        head: never pruned.
        importance: what a squared error in a column counts, float32 [columns], or ``None``.
    """

    name: str
    source: FloatTensor
    head: bool
    importance: NDArray[np.float32] | None


def _linears(graph: Graph) -> Iterator[tuple[Stage, int, Linear]]:
    for stage, layer in graph.runs():
        for node in stage.nodes:
            if isinstance(node, Linear):
                yield stage, layer, node


def _jobs(graph: Graph) -> Iterator[_Job]:
    """Every matrix once, in execution order."""
    linears = list(_linears(graph))
    heads = {stage.tensor(node.weight, layer) for stage, layer, node in linears[-1:] if stage is graph.stages[-1]}
    seen: set[str] = set()
    for stage, layer, node in linears:
        name = stage.tensor(node.weight, layer)
        source = graph.tensors[name]
        if name not in seen and isinstance(source, FloatTensor):
            seen.add(name)
            yield _Job(name, source, name in heads, _importance(graph, stage, layer, node))


def _float_tensors(graph: Graph) -> dict[str, Tensor]:
    """All tensors that stay floats; biases of linear layers widened to FP32."""
    tensors: dict[str, Tensor] = {}
    for stage, layer in graph.runs():
        for node in stage.nodes:
            for template in tensor_inputs(node):
                name = stage.tensor(template, layer)
                tensor = graph.tensors[name]
                if not isinstance(node, Linear):
                    tensors[name] = tensor
                elif template == node.bias and isinstance(tensor, FloatTensor):
                    tensors[name] = FloatTensor(FloatFormat.F32, tensor.to_float32())
    return tensors


def _importance(graph: Graph, stage: Stage, layer: int, node: Linear) -> NDArray[np.float32] | None:
    """Squared gain of each input column where ``node`` reads a norm: after it, ``x[k]`` is about as large as its gain.

    A stand-in for the mean square activations of calibration data, which needs no data. Scaled to at most 1, and
    floored so that no column may be rounded at will.
    """
    for producer in stage.nodes:
        if isinstance(producer, Norm) and producer.out == node.x:
            weight = graph.tensors[stage.tensor(producer.weight, layer)]
            if isinstance(weight, FloatTensor):
                gain = np.abs(weight.to_float32())
                largest = gain.max()
                if np.isfinite(largest) and largest > 0:
                    squared: NDArray[np.float32] = np.square(gain / largest)
                    return np.maximum(squared, np.float32(1e-4))
    return None


def _with_quantize(stage: Stage) -> Stage:
    """``stage`` with a Quantize node before the first linear layer that reads each value."""
    taken = {node.out for node in stage.nodes} | {stage.input}
    quantised: dict[str, str] = {}
    nodes: list[Node] = []
    for node in stage.nodes:
        if isinstance(node, Linear):
            if node.x not in quantised:
                out = f"{node.x}.q8"
                while out in taken:
                    out += "_"
                taken.add(out)
                quantised[node.x] = out
                nodes.append(Quantize(out, node.x))
            node = replace(node, x=quantised[node.x])
        nodes.append(node)
    return replace(stage, nodes=tuple(nodes))
