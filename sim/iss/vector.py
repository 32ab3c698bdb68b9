# SPDX-License-Identifier: Apache-2.0
"""What vector instructions do; the arithmetic is the definition in :mod:`catenary.sim.arith`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from catenary.isa.instructions import (
    Apply,
    ApplyFunction,
    Argmax,
    Combine,
    CombineFunction,
    Norm,
    NormFunction,
    Quant,
    Rope,
    Softmax,
)
from catenary.sim import arith
from catenary.sim.iss.units import Storage

Floats = NDArray[np.float32]

_APPLY: dict[ApplyFunction, Callable[[Floats, float], Floats]] = {
    ApplyFunction.SILU: lambda x, _: arith.silu(x),
    ApplyFunction.GELU_ERF: lambda x, _: arith.gelu_erf(x),
    ApplyFunction.GELU_TANH: lambda x, _: arith.gelu_tanh(x),
    ApplyFunction.RELU: lambda x, _: arith.relu(x),
    ApplyFunction.TANH: lambda x, _: arith.tanh(x),
    ApplyFunction.SOFT_CAP: arith.soft_cap,
}

_COMBINE: dict[CombineFunction, Callable[[Floats, Floats], Floats]] = {
    CombineFunction.ADD: arith.add,
    CombineFunction.MUL: arith.mul,
}


def norm(s: Storage, insn: Norm) -> None:
    """NORM."""
    value = s.scalars.value
    rows, n = value(insn.rows), insn.elements
    if not rows:
        return
    x = s.read_v(value(insn.x), insn.x_stride, rows, n)
    weight = s.read_v(value(insn.weight), n, 1, n)[0]
    bias = s.read_v(value(insn.bias), n, 1, n)[0] if insn.has_bias else None
    if insn.function is NormFunction.RMS:
        result = arith.rms_norm(x, weight, insn.eps)
        result = result if bias is None else arith.add(result, bias)
    else:
        result = arith.layer_norm(x, weight, bias, insn.eps)
    s.write_v(value(insn.dst), insn.dst_stride, rows, n)[...] = result


def apply(s: Storage, insn: Apply) -> None:
    """APPLY."""
    value = s.scalars.value
    rows, n = value(insn.rows), value(insn.elements)
    if not rows or not n:
        return
    x = s.read_v(value(insn.x), insn.x_stride, rows, n)
    result = _APPLY[insn.function](x, insn.parameter)
    s.write_v(value(insn.dst), insn.dst_stride, rows, n)[...] = result


def combine(s: Storage, insn: Combine) -> None:
    """COMBINE."""
    value = s.scalars.value
    rows, n = value(insn.rows), value(insn.elements)
    if not rows or not n:
        return
    a = s.read_v(value(insn.a), insn.a_stride, rows, n)
    b = s.read_v(value(insn.b), insn.b_stride, rows, n)
    result = _COMBINE[insn.function](a, b)
    s.write_v(value(insn.dst), insn.dst_stride, rows, n)[...] = result


def rope(s: Storage, insn: Rope) -> None:
    """ROPE."""
    value = s.scalars.value
    rows, half = value(insn.rows), insn.rotary // 2
    if not rows:
        return
    start, width = value(insn.x), insn.parts * insn.elements
    x = s.read_v(start, insn.x_stride, rows, width).reshape(rows, insn.parts, insn.elements)
    table = s.read_v(value(insn.table), insn.table_stride, rows, insn.rotary)[:, None]
    rotated = arith.rope(x, table[..., :half], table[..., half:])
    s.write_v(start, insn.x_stride, rows, width)[...] = rotated.reshape(rows, width)


def quant(s: Storage, insn: Quant) -> bool:
    """QUANT; returns whether a NaN was replaced."""
    value = s.scalars.value
    rows, n, parts = value(insn.rows), insn.elements, insn.parts
    if not rows:
        return False
    x = s.read_v(value(insn.x), insn.x_stride, rows, parts * n).reshape(rows, parts, n)
    result = arith.quantize(x)
    s.write_a(value(insn.dst), insn.dst_stride, result.codes.reshape(rows * parts, n))
    scales = arith.mul(result.scale, np.float32(insn.multiplier))
    start = value(insn.scales)
    if insn.scale_step == 1:
        s.write_v(start, insn.scale_stride, rows, parts)[...] = scales
    else:
        for part in range(parts):
            s.write_v(start + part * insn.scale_step, insn.scale_stride, rows, 1)[...] = scales[:, part, None]
    return bool(result.nan.any())


def softmax(s: Storage, insn: Softmax) -> None:
    """SOFTMAX."""
    value = s.scalars.value
    rows, total = value(insn.rows), value(insn.total)
    if not rows:
        return
    start = value(insn.x)
    lengths = value(insn.length) + np.arange(rows) // insn.every
    scores = np.zeros((rows, total), np.float32)
    # Rows see different numbers of positions, and what lies behind them may never have been written.
    for first in range(0, rows, insn.every):
        last = min(rows, first + insn.every)
        n = int(lengths[first])
        scores[first:last, :n] = s.read_v(start + first * insn.x_stride, insn.x_stride, last - first, n)
    s.hazards.write("V", start, insn.x_stride, rows, total)
    scales = s.read_v(value(insn.value_scales), total, 1, total)[0]
    result = arith.softmax_weights(scores, scales, lengths)
    parts = np.empty((rows, 2, total), np.int8)
    parts[:, 0], parts[:, 1] = result.hi, result.lo
    s.write_a(value(insn.dst), insn.dst_stride, parts.reshape(2 * rows, total))
    out = s.write_v(value(insn.scales), 2, rows, 2)
    out[:, 0], out[:, 1] = result.c1, result.c2


class RunningArgmax:
    """The state of ARGMAX between instructions."""

    def __init__(self) -> None:
        self._best = np.float32(-np.inf)
        self._where = 0

    def run(self, s: Storage, insn: Argmax) -> None:
        """ARGMAX."""
        value = s.scalars.value
        base, n = value(insn.base), value(insn.elements)
        if insn.first:
            self._best, self._where = np.float32(-np.inf), base
        if n:
            x = s.read_v(value(insn.x), n, 1, n)[0]
            index = int(arith.argmax(x))
            if x[index] > self._best:
                self._best, self._where = x[index], base + index
        s.scalars.set(insn.rd, self._where)
