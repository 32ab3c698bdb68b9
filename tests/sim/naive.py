# SPDX-License-Identifier: Apache-2.0
"""A second, independent executor of quantised graphs: one number at a time, in the order that the rules give.

It shares nothing with the reference but functions of *one* number (exp, reciprocal, tanh ...), which have tests of
their own. Sums, scales, quantisation, attention and the order of every operation are spelled out anew here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from catenary.isa.graph import Apply, Attention, Binary, Combine, Embed, Graph, Linear, Norm, NormKind, Quantize, Unary
from catenary.sim import arith

F = np.float32
Row = list[np.float32]


def flush(x: np.float32) -> np.float32:
    """Results below 2**-126 become a zero of their sign."""
    return F(math.copysign(0.0, x)) if abs(float(x)) < 2.0**-126 else x


def mul(a: np.float32, b: np.float32) -> np.float32:
    return flush(F(a) * F(b))


def add(a: np.float32, b: np.float32) -> np.float32:
    return flush(F(a) + F(b))


def one(function, *args) -> np.float32:
    """``function`` of :mod:`catenary.sim.arith` for one number."""
    return F(function(np.array([args[0]], np.float32), *args[1:])[0])


def canonical_sum(terms: Sequence[np.float32]) -> np.float32:
    """128 partial sums from -0.0, element i into partial i mod 128, then halves added until one is left."""
    partials = [F(-0.0)] * 128
    for i, term in enumerate(terms):
        partials[i % 128] = add(partials[i % 128], term)
    while len(partials) > 1:
        half = len(partials) // 2
        partials = [add(partials[i], partials[half + i]) for i in range(half)]
    return partials[0]


def quantize(row: Row) -> tuple[list[int], np.float32]:
    """(codes, scale): scale = absmax * FP32(1/127), code = rint(x * (127 * (1 / absmax)))."""
    absmax = max([abs(x) for x in row] + [F(2.0**-64)])
    factor = mul(F(127), one(arith.reciprocal, absmax))
    codes = [max(-127, min(127, round(float(mul(x, factor))))) for x in row]
    return codes, mul(absmax, F(1 / 127))


def norm(node: Norm, x: Row, weight: Row, bias: Row | None) -> Row:
    inverse_n = F(1 / len(x))
    if node.kind is NormKind.LAYER:
        mean = mul(canonical_sum(x), inverse_n)
        x = [add(value, -mean) for value in x]
    mean_square = mul(canonical_sum([mul(value, value) for value in x]), inverse_n)
    factor = one(arith.rsqrt, add(mean_square, F(node.eps)))
    out = [mul(mul(value, factor), w) for value, w in zip(x, weight, strict=True)]
    return out if bias is None else [add(value, b) for value, b in zip(out, bias, strict=True)]


def linear(codes: list[int], scale: np.float32, weight, bias: Row | None) -> Row:
    """((float(sum of w * a) * s_w) * s_a) + bias, w = (T[q] - z) * s where kept, and the outliers."""
    table = list(range(-128, 128)) if weight.table is None else [int(entry) for entry in weight.table]
    first = -128 if weight.table is None else 0
    extra = []
    if weight.outliers is not None:
        extra = list(zip(*(array.tolist() for array in vars(weight.outliers).values()), strict=True))
    out = []
    for row in range(weight.rows):
        total = 0
        for k in range(weight.columns):
            if weight.mask[row, k]:
                group = k // weight.group
                entry = table[int(weight.codes[row, k]) - first]
                w = (entry - int(weight.zeros[row, group])) * int(weight.scales[row, group])
                total += w * codes[k]
        total += sum(value * codes[k] for owner, k, value in extra if owner == row)
        y = mul(mul(F(total), weight.channel_scales[row]), scale)
        out.append(y if bias is None else add(y, bias[row]))
    return out


def apply(node: Apply, x: np.float32) -> np.float32:
    match node.function:
        case Unary.SILU:
            return mul(x, one(arith.sigmoid, x))
        case Unary.RELU:
            return x if x > 0 else F(0.0)
        case Unary.SOFT_CAP:
            return one(arith.soft_cap, x, node.parameter)
        case Unary.TANH:
            return one(arith.tanh, x)
        case Unary.GELU_ERF:
            return one(arith.gelu_erf, x)
        case Unary.GELU_TANH:
            return one(arith.gelu_tanh, x)


def rotate(x: Row, table: Row, rotary_dim: int) -> Row:
    """Half-split order: pair (i, i + half) turns by angle i; channels from rotary_dim on stay."""
    half = rotary_dim // 2
    out = list(x)
    for i in range(half):
        c, s = table[i], table[half + i]
        out[i] = add(mul(x[i], c), -mul(x[half + i], s))
        out[half + i] = add(mul(x[half + i], c), mul(x[i], s))
    return out


@dataclass
class History:
    """Per KV head: quantised keys and values (codes, scale) of every position so far."""

    keys: list[list[tuple[list[int], np.float32]]] = field(default_factory=list)
    values: list[list[tuple[list[int], np.float32]]] = field(default_factory=list)


def attention(node: Attention, q: Row, k: Row, v: Row, table: Row | None, history: History) -> Row:
    """Attention of one token, which sees itself and everything before it."""

    def heads(x: Row, count: int, turn: bool) -> list[Row]:
        rows = [x[h * node.head_dim : (h + 1) * node.head_dim] for h in range(count)]
        return rows if table is None or not turn else [rotate(row, table, node.rotary_dim) for row in rows]

    history.keys.append([quantize(row) for row in heads(k, node.kv_heads, True)])
    history.values.append([quantize(row) for row in heads(v, node.kv_heads, False)])
    out: Row = []
    for h, row in enumerate(heads(q, node.heads, True)):
        kv = h // (node.heads // node.kv_heads)
        codes, s_q = quantize(row)
        scores = []
        for key in history.keys:
            k_codes, s_k = key[kv]
            total = sum(a * b for a, b in zip(codes, k_codes, strict=True))
            score = mul(mul(F(total), s_k), mul(s_q, F(node.scale)))
            scores.append(score if node.soft_cap is None else one(arith.soft_cap, score, node.soft_cap))
        top = max(scores)
        u = [one(arith.exp, add(score, -top)) for score in scores]
        den = canonical_sum(u)
        e = [mul(x, value[kv][1]) for x, value in zip(u, history.values, strict=True)]
        largest = max([*e, F(2.0**-64)])
        factor = mul(F(16383), one(arith.reciprocal, largest))
        p = [round(float(mul(x, factor))) for x in e]
        for channel in range(node.head_dim):
            column = [value[kv][0][channel] for value in history.values]
            high = sum((x >> 7) * c for x, c in zip(p, column, strict=True))
            low = sum((x & 127) * c for x, c in zip(p, column, strict=True))
            acc = add(mul(F(high), F(128)), F(low))
            out.append(mul(mul(acc, mul(largest, F(1 / 16383))), one(arith.reciprocal, den)))
    return out


def run(graph: Graph, ids: Sequence[int]) -> np.ndarray:
    """Logits [len(ids), vocab] of ``ids`` from position 0, each token on its own as in decoding."""
    histories: dict[tuple[str, str, int], History] = {}
    logits = []
    for position, token in enumerate(ids):
        flowing = None
        for stage, layer in graph.runs():
            values = {stage.input: flowing}

            def tensor(template, stage=stage, layer=layer):
                return graph.tensors[stage.tensor(template, layer)]

            def floats(template, tensor=tensor):
                return None if template is None else list(tensor(template).to_float32())

            for node in stage.nodes:
                match node:
                    case Embed():
                        result = list(tensor(node.table).to_float32()[token])
                    case Norm():
                        result = norm(node, values[node.x], floats(node.weight), floats(node.bias))
                    case Quantize():
                        result = quantize(values[node.x])
                    case Linear():
                        result = linear(*values[node.x], tensor(node.weight), floats(node.bias))
                    case Attention():
                        table = None if node.rope is None else list(tensor(node.rope).to_float32()[position])
                        history = histories.setdefault((stage.name, node.out, layer), History())
                        result = attention(node, values[node.q], values[node.k], values[node.v], table, history)
                    case Apply():
                        result = [apply(node, x) for x in values[node.x]]
                    case Combine():
                        pick = add if node.function is Binary.ADD else mul
                        result = [pick(a, b) for a, b in zip(values[node.a], values[node.b], strict=True)]
                values[node.out] = result
            flowing = values[stage.output]
        logits.append(flowing)
    return np.array(logits, np.float32)
