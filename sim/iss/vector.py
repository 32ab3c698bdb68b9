# SPDX-License-Identifier: Apache-2.0
"""What vector instructions do; the arithmetic is the definition in :mod:`catenary.sim.arith`.

As in :mod:`catenary.sim.iss.units`, each function prepares an instruction and returns what executes it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from catenary.isa.errors import ExecutionError
from catenary.isa.instructions import Apply, Argmax, Combine, Norm, Quant, Rope, Softmax
from catenary.isa.opcodes import ApplyFunction, CombineFunction, NormFunction
from catenary.isa.tensors import BLOCK
from catenary.sim import arith
from catenary.sim.arith.fp32 import read_number
from catenary.sim.iss.units import Executor, Storage

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


def norm(s: Storage, insn: Norm) -> Executor:
    """NORM."""
    values = s.scalars.reader(insn.rows, insn.x, insn.weight, insn.bias, insn.dst)
    n = insn.elements

    def run() -> None:
        rows, x_at, weight_at, bias_at, dst = values()
        if not rows:
            return
        x = s.read_v(x_at, insn.x_stride, rows, n)
        weight = s.read_v(weight_at, n, 1, n)[0]
        bias = s.read_v(bias_at, n, 1, n)[0] if insn.has_bias else None
        if insn.function is NormFunction.RMS:
            result = arith.rms_norm(x, weight, insn.eps)
            result = result if bias is None else arith.add(result, bias)
        else:
            result = arith.layer_norm(x, weight, bias, insn.eps)
        s.write_v(dst, insn.dst_stride, rows, n)[...] = result

    return run


def apply(s: Storage, insn: Apply) -> Executor:
    """APPLY."""
    values = s.scalars.reader(insn.rows, insn.elements, insn.x, insn.dst)
    function = _APPLY[insn.function]

    def run() -> None:
        rows, n, x_at, dst = values()
        if not rows or not n:
            return
        result = function(s.read_v(x_at, insn.x_stride, rows, n), insn.parameter)
        s.write_v(dst, insn.dst_stride, rows, n)[...] = result

    return run


def combine(s: Storage, insn: Combine) -> Executor:
    """COMBINE."""
    values = s.scalars.reader(insn.rows, insn.elements, insn.a, insn.b, insn.dst)
    function = _COMBINE[insn.function]

    def run() -> None:
        rows, n, a_at, b_at, dst = values()
        if not rows or not n:
            return
        a = s.read_v(a_at, insn.a_stride, rows, n)
        b = s.read_v(b_at, insn.b_stride, rows, n)
        s.write_v(dst, insn.dst_stride, rows, n)[...] = function(a, b)

    return run


def rope(s: Storage, insn: Rope) -> Executor:
    """ROPE."""
    values = s.scalars.reader(insn.rows, insn.x, insn.table)
    half, width = insn.rotary // 2, insn.parts * insn.elements

    def run() -> None:
        rows, start, table_at = values()
        if not rows:
            return
        x = s.read_v(start, insn.x_stride, rows, width).reshape(rows, insn.parts, insn.elements)
        table = s.read_v(table_at, insn.table_stride, rows, insn.rotary)[:, None]
        rotated = arith.rope(x, table[..., :half], table[..., half:])
        s.write_v(start, insn.x_stride, rows, width)[...] = rotated.reshape(rows, width)

    return run


def quant(s: Storage, insn: Quant) -> Executor:
    """QUANT."""
    values = s.scalars.reader(insn.rows, insn.x, insn.dst, insn.scales)
    n, parts, multiplier = insn.elements, insn.parts, np.float32(insn.multiplier)

    def run() -> None:
        rows, x_at, dst, scales_at = values()
        if not rows:
            return
        x = s.read_v(x_at, insn.x_stride, rows, parts * n).reshape(rows, parts, n)
        result = arith.quantize(x)
        s.write_a(dst, insn.dst_stride, rows * parts, n)[...] = result.codes.reshape(rows * parts, n)
        scales = result.scale if multiplier == 1 else arith.mul(result.scale, multiplier)
        if insn.scale_step == 1:
            s.write_v(scales_at, insn.scale_stride, rows, parts)[...] = scales
        else:
            for part in range(parts):
                start = scales_at + part * insn.scale_step
                s.write_v(start, insn.scale_stride, rows, 1)[...] = scales[:, part, None]
        if np.count_nonzero(result.nan):
            s.nan_seen = True

    return run


def softmax(s: Storage, insn: Softmax) -> Executor:
    """SOFTMAX."""
    values = s.scalars.reader(insn.rows, insn.total, insn.x, insn.length, insn.value_scales, insn.dst, insn.scales)
    every, stride = insn.every, insn.x_stride

    @cache
    def more(rows: int) -> NDArray[np.int64]:
        """By how many positions each row sees more than the first."""
        return np.arange(rows) // every

    def visible_scores(start: int, rows: int, total: int, length: int) -> Floats:
        # Rows see different numbers of positions, and what lies behind them may never have been written.
        for first in range(0, rows, every):
            s.read_v(start + first * stride, stride, min(every, rows - first), length + first // every)
        return s.v.peek(start, stride, rows, total)

    def run() -> None:
        rows, total, start, length, value_scales_at, dst, scales_at = values()
        if not rows:
            return
        last = length + (rows - 1) // every
        if not 1 <= length <= last <= total:
            raise ExecutionError(f"Visible elements must be in 1..{total}, the total, not {length}..{last}")
        s.a.check(dst, insn.dst_stride, 2 * rows, -(-total // BLOCK))  # before anything of that size is made
        s.v.check(start, stride, rows, total)
        lengths = length + more(rows)
        scores = visible_scores(start, rows, total, length)
        if s.hazards.enabled:
            s.hazards.write("V", start, stride, rows, total)
        value_scales = s.read_v(value_scales_at, total, 1, total)[0]
        result = arith.softmax_weights(scores, value_scales, lengths)
        parts = s.write_a(dst, insn.dst_stride, 2 * rows, total)
        parts[0::2], parts[1::2] = result.hi, result.lo
        out = s.write_v(scales_at, 2, rows, 2)
        out[:, 0], out[:, 1] = result.c1, result.c2

    return run


class RunningArgmax:
    """The state of ARGMAX between instructions."""

    def __init__(self) -> None:
        self._best = np.float32(-np.inf)
        self._where = 0

    def prepare(self, s: Storage, insn: Argmax) -> Executor:
        """ARGMAX."""
        values = s.scalars.reader(insn.base, insn.elements, insn.x)

        def run() -> None:
            base, n, start = values()
            if insn.first:
                self._best, self._where = np.float32(-np.inf), base
            if n:
                x = s.read_v(start, n, 1, n)[0]
                index = int(arith.argmax(x))
                value = read_number(x[index])
                if value > self._best:
                    self._best, self._where = value, base + index
            s.scalars.set(insn.rd, self._where)

        return run
