# SPDX-License-Identifier: Apache-2.0
"""Programs for the corners that random ones seldom reach: extreme sums, and edges of every vector function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from catenary.compiler.builder import Region
from catenary.isa.config import AcceleratorConfig
from catenary.isa.fields import Operand
from catenary.isa.instructions import (
    Apply,
    Argmax,
    Combine,
    Context,
    End,
    Instruction,
    Load,
    MatrixMatrix,
    MatrixVector,
    Norm,
    Quant,
    Rope,
    Score,
    Softmax,
)
from catenary.isa.opcodes import KEY_LIMIT, ApplyFunction, Buffer, CombineFunction, MemoryFormat, NormFunction, Source
from catenary.isa.outliers import Outliers
from catenary.isa.stream import pack
from catenary.isa.tensors import BLOCK, KEPT_CHOICES, QuantTensor
from tests.programs.cases import Case
from tests.programs.draft import Draft, code_words
from tests.programs.random_programs import finished
from tests.weights import random_weights

EDGES = np.array(
    [
        *(0.0, 1.0, 0.5, 2.0, 3.0, 0.1, 127.0, 4.0, 15.99, 16.0, 17.0, 88.72, 89.0, 103.9, 104.0, 105.0, 1e10),
        *(2.0**-126, 2.0**-127, 1e-45, 2.0**-64, 2.0**-65, 1.0000001, 0.99999994, 2.0**126, 1.5 * 2.0**126),
        *(3.4028235e38, np.inf, np.nan, 8388609.0, 2.0**-12, 0.044715),
    ],
    np.float32,
)  # fmt: skip
"""Magnitudes that matter somewhere: zeros, subnormals, borders of tables and clamps, overflow, NaN."""


class Bench:
    """A straight program: fill buffers, run a few instructions, store what they wrote."""

    def __init__(self, config: AcceleratorConfig, name: str) -> None:
        self.d = Draft(config, 0)
        self.d.b.set(self.d.total, 1)
        self._name = name
        self._words = 0

    def numbers(self, values: NDArray[np.float32]) -> int:
        """Words of V that hold ``values``; their address."""
        start = self._words
        self._words += values.size
        self.d.fill(Buffer.V, MemoryFormat.F32, start, np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8))
        return start

    def space(self, words: int) -> int:
        """Words of V that hold zeros."""
        return self.numbers(np.zeros(words, np.float32))

    def codes(self, address: int, values: NDArray[np.int8]) -> None:
        """Codes from word ``address`` of A on."""
        self.d.fill(Buffer.A, MemoryFormat.I8, address, values.reshape(-1).view(np.uint8))

    def stream(self, data: NDArray[np.uint8]) -> None:
        """LD of bytes into W."""
        line = self.d.keep(data)
        rows = Operand(0, self.d.lines - line)
        self.d.b.emit(Load(buffer=Buffer.W, format=MemoryFormat.LINES, memory=Operand(0, line), rows=rows))

    def run(self, insn: Instruction) -> None:
        """An instruction that is ordered with everything."""
        words = [Region(space, 0, 1 << 20) for space in "VA"]
        self.d.b.emit(insn, words, words)

    def done(self, code_words_used: int = 0) -> Case:
        """The program that also stores all of V that is in use, and so many words of A."""
        if self._words:
            self.d.dump(Buffer.V, 0, self._words)
        if code_words_used:
            self.d.dump(Buffer.A, 0, code_words_used)
        self.d.b.emit(End(result=self.d.total))
        return finished(self.d, self._name, [tuple(self.d.b.code)])


def _all_equal(rows: int, columns: int, bits: int, negative: bool) -> QuantTensor:
    """Dense weights of the largest magnitude that files allow, all of one sign."""
    width = code_words(columns) * BLOCK
    real = np.arange(width) < columns
    if bits == 8:
        group, groups, scale, zero = width, 1, 1, 0
        codes = np.where(real, -127 if negative else 127, 0)
    else:  # (q - z) * s with s = 127
        group, scale, zero = 8 * BLOCK, 127, 1
        groups = -(-columns // group)
        codes = np.where(real, 0 if negative else 2, zero)
    tensor = QuantTensor(
        columns=columns, bits=bits, group=group, codes=np.tile(codes.astype(np.int16), (rows, 1)),
        mask=np.ones((rows, width), bool), kept=np.full(rows, BLOCK, np.uint8),
        scales=np.full((rows, groups), scale, np.uint8), zeros=np.full((rows, groups), zero, np.uint8),
        channel_scales=np.ones(rows, np.float32),
    )  # fmt: skip
    tensor.check("extreme weights")
    return tensor


def longest_sums(config: AcceleratorConfig, bits: int, negative: bool) -> Case:
    """MV over as many columns as A holds: the largest sum of a linear layer."""
    b = Bench(config, f"longest sums of {bits} bits, negative {negative}")
    columns = min(config.act_bytes, (1 << 20) - 1)
    scales, out = b.numbers(np.float32([1.0])), b.space(2)
    b.codes(0, np.full(columns, 127, np.int8))
    b.stream(pack(_all_equal(2, columns, bits, negative), np.float32([0.5, -1.0]), config))
    b.run(
        MatrixVector(
            act=Operand(), act_stride=0, tokens=Operand(0, 1), depth=columns, rows=Operand(0, 2), out=Operand(0, out),
            out_stride=2, scales=Operand(0, scales),
        )
    )  # fmt: skip
    return b.done()


def outlier_slots(config: AcceleratorConfig, kept: int) -> Case:
    """MM with crowded blocks, which take many slots, with gaps that only fillers cross, and with the longest lanes."""
    b = Bench(config, f"slots of outliers, {kept}:{BLOCK}")
    rows = config.block_rows(kept) + 1
    columns = min(300 * BLOCK + 3, config.act_bytes // 2)
    numbers = np.random.default_rng(kept)
    tensor = random_weights(numbers, rows, columns, 8, kept=kept)
    last = rows - 2, columns - 1  # the last lane of a full row block, and the last column
    crowd = [(row, column, 5 - 3 * column) for row in (0, rows // 2, rows - 1) for column in range(BLOCK)]
    alone = [(*last, -126), (0, columns // 2, 30_000), (rows - 1, 0, -127), (rows - 1, columns - 1, 127)]
    outliers = Outliers.of_entries(*np.array([*crowd, *alone], np.int64).T)
    tensor = replace(tensor, outliers=outliers)
    tensor.check("slots")
    words, tokens = code_words(columns), 2
    scales, out = b.numbers(np.float32([0.5, -1.0])), b.space(tokens * rows)
    acts = numbers.integers(-127, 128, (tokens, words * BLOCK)).astype(np.int8)
    b.codes(0, acts)
    b.stream(pack(tensor, None, config))
    b.run(
        MatrixMatrix(
            act=Operand(), act_stride=words, tokens=Operand(0, tokens), depth=columns, rows=Operand(0, rows),
            out=Operand(0, out), out_stride=rows, scales=Operand(0, scales),
        )
    )  # fmt: skip
    return b.done()


def table_edges(config: AcceleratorConfig, bits: int) -> Case:
    """MV with the extremes of tables, zeros and scales, of whose products some are legal and all are needed."""
    b = Bench(config, f"edges of tables of {bits} bits")
    edges = [-128, 127, 0, 1, -127, 126, -1, 64, -64, 2, -2, 63, 100, -100, 50, 3]
    table = np.array(edges[: 1 << bits], np.int8)
    kinds = [(1, 0), (1, 127), (127, 127), (127, 1), (1, 200), (0, 255), (2, 64), (255, 0), (42, 129)]
    rows, columns = len(kinds), 10 * BLOCK
    numbers = np.random.default_rng(bits)
    weights = [(table.astype(int) - zero) * scale for scale, zero in kinds]
    legal = [np.flatnonzero(np.abs(row) <= 127) for row in weights]
    kept = np.array([index for index, codes in enumerate(legal) if len(codes)])
    rows = len(kept)
    pairs = np.array(kinds, np.uint8)[kept]
    tensor = QuantTensor(
        columns=columns, bits=bits, group=columns, mask=np.ones((rows, columns), bool),
        codes=np.stack([numbers.choice(legal[index], columns) for index in kept]).astype(np.int16),
        kept=np.full(rows, BLOCK, np.uint8), scales=pairs[:, :1], zeros=pairs[:, 1:],
        channel_scales=np.ones(rows, np.float32), table=table,
    )  # fmt: skip
    tensor.check("edges of tables")
    scales, out = b.numbers(np.float32([1.0])), b.space(rows)
    b.codes(0, numbers.integers(-127, 128, columns).astype(np.int8))
    b.stream(pack(tensor, None, config))
    b.run(
        MatrixVector(
            act=Operand(), act_stride=0, tokens=Operand(0, 1), depth=columns, rows=Operand(0, rows),
            out=Operand(0, out), out_stride=rows, scales=Operand(0, scales),
        )
    )  # fmt: skip
    return b.done()


def extreme_tokens(config: AcceleratorConfig) -> Case:
    """MM with the most tokens, activations of -128, 127 and 0, weights of -127 and 127."""
    b = Bench(config, "extreme tokens")
    columns, tokens = 100, config.mm_tokens
    rows = config.block_rows(BLOCK) + 1
    scales = b.numbers(np.linspace(-1, 1, tokens, dtype=np.float32))
    out = b.space(2 * rows * tokens)
    words = code_words(columns)
    acts = np.random.default_rng(1).choice(np.int8([-128, 127, 0, 127]), (tokens, words * BLOCK))
    b.codes(0, acts)
    for index, negative in enumerate((False, True)):
        b.stream(pack(_all_equal(rows, columns, 8, negative), None, config))
        b.run(
            MatrixMatrix(
                act=Operand(), act_stride=words, tokens=Operand(0, tokens), depth=columns, rows=Operand(0, rows),
                out=Operand(0, out + index * rows * tokens), out_stride=rows, scales=Operand(0, scales),
            )
        )  # fmt: skip
    return b.done()


def extreme_attention(config: AcceleratorConfig) -> Case:
    """SCORE over the longest keys and CONTEXT over many rows, all codes -128."""
    b = Bench(config, "extreme attention")
    words = KEY_LIMIT // BLOCK
    scales, row_scales = b.numbers(np.float32([1.0])), b.numbers(np.float32([1.0, -2.0, 3e38]))
    merge = b.numbers(np.float32([1.0, 0.25]))
    scores, out = b.space(3), b.space(KEY_LIMIT)
    b.codes(0, np.full(4 * KEY_LIMIT, -128, np.int8))
    shared = {"source": Source.BUFFER, "act": Operand(), "tokens": Operand(0, 1), "depth": KEY_LIMIT}
    b.run(
        Score(
            **shared, act_stride=0, rows=Operand(0, 3), out=Operand(0, scores), out_stride=3, scales=Operand(0, scales),
            row_scales=Operand(0, row_scales), rows_at=Operand(0, words), rows_stride=words,
        )
    )  # fmt: skip
    if config.context_rows(KEY_LIMIT):
        rows = min(128, config.act_bytes // KEY_LIMIT)
        b.run(
            Context(
                **shared, clear=True, emit=True, act_stride=0, rows=Operand(0, rows), first=Operand(0, 3),
                out=Operand(0, out), out_stride=KEY_LIMIT, group=1, scales=Operand(0, merge), rows_at=Operand(),
                rows_stride=0,
            )
        )  # fmt: skip
    return b.done()


def apply_edges(config: AcceleratorConfig, function: ApplyFunction) -> Case:
    """APPLY on every edge, on its neighbours and on random bit patterns."""
    b = Bench(config, f"edges of {function.name}")
    bits = np.concatenate([_signed(EDGES).view(np.uint32), _random_bits(100)])
    values = np.concatenate([bits, bits + np.uint32(1), bits - np.uint32(1)]).view(np.float32)
    x = b.numbers(values)
    for parameter in (50.0, 3e-39) if function is ApplyFunction.SOFT_CAP else (0.0,):
        out = b.space(values.size)
        b.run(
            Apply(
                function=function, dst=Operand(0, out), dst_stride=0, x=Operand(0, x), x_stride=0, rows=Operand(0, 1),
                elements=Operand(0, values.size), parameter=parameter,
            )
        )  # fmt: skip
    return b.done()


def _signed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([values, -values])


def _random_bits(count: int) -> NDArray[np.uint32]:
    return np.random.default_rng(2).integers(0, 1 << 32, count, dtype=np.uint32)


def combine_edges(config: AcceleratorConfig, function: CombineFunction) -> Case:
    """COMBINE of edges with edges: each element of a row with all of another."""
    b = Bench(config, f"edges of {function.name}")
    values = _signed(EDGES[[0, 1, 17, 18, 20, 22, 23, 24, 26, 27, 28, 29]])
    a, other = b.numbers(np.repeat(values, values.size)), b.numbers(np.tile(values, values.size))
    out, count = b.space(values.size**2), values.size**2
    b.run(
        Combine(
            function=function, dst=Operand(0, out), dst_stride=0, a=Operand(0, a), a_stride=0, b=Operand(0, other),
            b_stride=0, rows=Operand(0, 1), elements=Operand(0, count),
        )
    )  # fmt: skip
    return b.done()


def _edge_rows(width: int) -> NDArray[np.float32]:
    """Rows of each kind that reductions find hard, float32 [rows, width]."""
    rng = np.random.default_rng(3)
    plain = rng.normal(size=width).astype(np.float32)
    kinds = [plain, plain * np.float32(1e-40), plain * np.float32(1e38), np.full(width, -0.0), np.full(width, np.nan)]
    kinds += [np.full(width, -np.inf), np.full(width, 3.4e38), np.full(width, 2.0**-70), rng.permutation(plain)]
    for odd in (np.nan, np.inf, -np.inf):
        kinds.append(np.where(np.arange(width) == width // 2, np.float32(odd), plain))
    return np.array(kinds, np.float32)


def norm_edges(config: AcceleratorConfig, function: NormFunction, width: int) -> Case:
    """NORM of hard rows."""
    b = Bench(config, f"edges of {function.name} over {width}")
    rows = _edge_rows(width)
    x, weight, bias = b.numbers(rows), b.numbers(rows[0]), b.numbers(rows[8])
    out = b.space(rows.size)
    b.run(
        Norm(
            function=function, dst=Operand(0, out), dst_stride=width, x=Operand(0, x), x_stride=width,
            rows=Operand(0, len(rows)), elements=width, weight=Operand(0, weight), has_bias=True, bias=Operand(0, bias),
            eps=1e-6,
        )
    )  # fmt: skip
    return b.done()


def quant_edges(config: AcceleratorConfig, width: int) -> Case:
    """QUANT of hard rows: among them those that set the numeric flag."""
    b = Bench(config, f"edges of QUANT over {width}")
    rows = _edge_rows(width)
    x, scales, words = b.numbers(rows), b.space(len(rows)), code_words(width)
    b.run(
        Quant(
            dst=Operand(), dst_stride=words, x=Operand(0, x), x_stride=width, rows=Operand(0, len(rows)), parts=1,
            elements=width, scales=Operand(0, scales), scale_stride=1, scale_step=1, multiplier=0.125,
        )
    )  # fmt: skip
    return b.done(words * len(rows))


def softmax_edges(config: AcceleratorConfig, width: int) -> Case:
    """SOFTMAX of hard rows, and of plain ones with hard scales of values."""
    b = Bench(config, f"edges of SOFTMAX over {width}")
    rows = _edge_rows(width)
    value_scales = [b.numbers(np.abs(row)) for row in (rows[0], rows[1], rows[9], np.zeros(width, np.float32))]
    words, tall = code_words(width), 2 * len(rows) * code_words(width)
    for index, value_scale in enumerate(value_scales):
        x, scales = b.numbers(rows), b.space(2 * len(rows))
        b.run(
            Softmax(
                x=Operand(0, x), x_stride=width, rows=Operand(0, len(rows)), length=Operand(0, width), every=99,
                total=Operand(0, width), value_scales=Operand(0, value_scale), dst=Operand(0, index * tall),
                dst_stride=words, scales=Operand(0, scales),
            )
        )  # fmt: skip
        b.d.fill(Buffer.V, MemoryFormat.F32, x, np.zeros(4 * rows.size, np.uint8))  # undefined until now
    return b.done(len(value_scales) * tall)


def rope_edges(config: AcceleratorConfig) -> Case:
    """ROPE of hard rows; what lies behind the rotated part keeps its bits, whatever they are."""
    b = Bench(config, "edges of ROPE")
    rows = _edge_rows(20)
    rows[:, 16:] = _random_bits(rows[:, 16:].size).view(np.float32).reshape(-1, 4)
    x, table = b.numbers(rows), b.numbers(_edge_rows(16)[::-1])
    b.run(
        Rope(
            x=Operand(0, x), x_stride=20, rows=Operand(0, len(rows)), parts=1, elements=20, rotary=16,
            table=Operand(0, table), table_stride=16,
        )
    )  # fmt: skip
    return b.done()


def argmax_edges(config: AcceleratorConfig) -> Case:
    """ARGMAX of hard rows, one after the other, then running over all of them; ties and NaN."""
    b = Bench(config, "edges of ARGMAX")
    rows = _edge_rows(130)
    rows[8, [5, 77]] = 9.0
    x = b.numbers(rows)
    with b.d.b.scope(1) as (reg,):
        for first in (True, False):
            for index in range(len(rows)):
                base = Operand(0, 1000 * index)
                at = Operand(0, x + index * 130)
                b.run(Argmax(rd=reg, first=first or not index, x=at, elements=Operand(0, 130), base=base))
                b.d.mix(reg)
    return b.done()


DIRECTED: Mapping[str, Callable[[AcceleratorConfig], Case]] = {
    **{f"sums-{n}-plus": partial(longest_sums, bits=n, negative=False) for n in (4, 8)},
    **{f"sums-{n}-minus": partial(longest_sums, bits=n, negative=True) for n in (4, 8)},
    **{f"outliers-{n}": partial(outlier_slots, kept=n) for n in KEPT_CHOICES},
    **{f"table-{n}": partial(table_edges, bits=n) for n in (2, 3, 4)},
    "tokens": extreme_tokens,
    "attention": extreme_attention,
    **{f"apply-{f.name.lower()}": partial(apply_edges, function=f) for f in ApplyFunction},
    **{f"combine-{f.name.lower()}": partial(combine_edges, function=f) for f in CombineFunction},
    **{f"norm-{f.name.lower()}-{n}": partial(norm_edges, function=f, width=n) for f in NormFunction for n in (1, 50)},
    **{f"quant-{n}": partial(quant_edges, width=n) for n in (1, 50)},
    **{f"softmax-{n}": partial(softmax_edges, width=n) for n in (1, 30)},
    "rope": rope_edges,
    "argmax": argmax_edges,
}  # fmt: skip
"""Makers of cases by name; all run to END."""
