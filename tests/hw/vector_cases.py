# SPDX-License-Identifier: Apache-2.0
"""Random vector instructions with operands that do not overlap, and words that are hard to compute with."""

from __future__ import annotations

import numpy as np

from catenary.isa.fields import Operand
from catenary.isa.instructions import Apply, Argmax, Combine, Instruction, Norm, Quant, Rope, Softmax
from catenary.isa.opcodes import ApplyFunction, CombineFunction, NormFunction
from catenary.sim import arith
from tests.hw.vector_bench import A_WORDS, V_WORDS

SIZES = (1, 2, 3, 5, 15, 16, 17, 20, 31, 33, 64, 100, 120, 127, 128, 129, 200, 256, 257, 320)
WORK = V_WORDS - 256
"""Words that instructions may use; the bench's noise writes behind them."""


def at(value: int) -> Operand:
    return Operand(0, int(value))


def words(rng: np.random.Generator, count: int) -> np.ndarray:
    """FP32 words: ordinary ones, and sometimes any bits, infinities, NaN, zeros, subnormal numbers, or equal ones."""
    kind = rng.integers(0, 6)
    x = (rng.normal(size=count) * 2.0 ** rng.integers(-20, 20)).astype(np.float32)
    if kind == 0:
        x = rng.integers(0, 1 << 32, count, np.uint64).astype(np.uint32).view(np.float32)
    elif kind == 1:
        special = np.array([0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 1, 0x80000001], np.uint32)
        where = rng.random(count) < rng.choice([0.005, 0.05, 0.5])
        x = np.where(where, rng.choice(special, count).view(np.float32), x)
    elif kind == 2:
        x = rng.choice(np.array([0.0, -0.0, 1.0, -1.0, 2.0], np.float32), count)
    elif kind == 3:
        x = np.full(count, rng.choice(np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 3.5], np.float32)), np.float32)
    return x


class Places:
    """Gives out rows of V that do not overlap, at any alignment."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.next = rng, 0

    def rows(self, rows: int, count: int) -> tuple[Operand, int]:
        """Start and stride of ``rows`` rows of ``count`` words."""
        stride = count + int(self.rng.choice([0, 0, 1, 7]))
        start = self.next + int(self.rng.integers(0, 9))
        self.next = start + max(rows - 1, 0) * stride + count
        assert self.next <= WORK
        return at(start), stride


def random_case(rng: np.random.Generator, kind: str) -> Instruction:
    """A random instruction; ``kind`` is its class's name in lower case."""
    return globals()[f"_{kind}"](rng, Places(rng), int(rng.choice(SIZES)), int(rng.integers(1, 4)))


def _norm(rng: np.random.Generator, places: Places, n: int, rows: int) -> Instruction:
    x, x_stride = places.rows(rows, n)
    dst, dst_stride = (x, x_stride) if rng.random() < 0.3 else places.rows(rows, n)
    return Norm(
        function=rng.choice(list(NormFunction)), dst=dst, dst_stride=dst_stride, x=x, x_stride=x_stride, rows=at(rows),
        elements=n, weight=places.rows(1, n)[0], has_bias=bool(rng.integers(2)), bias=places.rows(1, n)[0],
        eps=float(np.float32(rng.choice([0.0, 1e-6, 1e-5, 1.0]))),
    )  # fmt: skip


def _apply(rng: np.random.Generator, places: Places, n: int, rows: int) -> Instruction:
    x, x_stride = places.rows(rows, n)
    dst, dst_stride = (x, x_stride) if rng.random() < 0.3 else places.rows(rows, n)
    return Apply(
        function=rng.choice(list(ApplyFunction)), dst=dst, dst_stride=dst_stride, x=x, x_stride=x_stride, rows=at(rows),
        elements=at(n), parameter=float(np.float32(rng.choice([0.0, 1.0, 30.0, 50.0]))),
    )  # fmt: skip


def _combine(rng: np.random.Generator, places: Places, n: int, rows: int) -> Instruction:
    a, b = places.rows(rows, n), places.rows(rows, n)
    dst, dst_stride = [a, b, places.rows(rows, n)][rng.integers(3)]
    return Combine(
        function=rng.choice(list(CombineFunction)), dst=dst, dst_stride=dst_stride, a=a[0], a_stride=a[1], b=b[0],
        b_stride=b[1], rows=at(rows), elements=at(n),
    )  # fmt: skip


def _rope(rng: np.random.Generator, places: Places, n: int, rows: int) -> Instruction:
    parts = int(rng.integers(1, max(2, min(40, 800 // n))))
    rotary = 2 * (n // 2) if rng.random() < 0.5 else 2 * int(rng.integers(0, n // 2 + 1))
    x, x_stride = places.rows(rows, parts * n)
    table, table_stride = places.rows(rows, rotary)
    return Rope(
        x=x, x_stride=x_stride, rows=at(rows), parts=parts, elements=n, rotary=rotary, table=table,
        table_stride=table_stride if rng.random() < 0.7 else 0,
    )  # fmt: skip


def _quant(rng: np.random.Generator, places: Places, n: int, rows: int) -> Instruction:
    parts = int(rng.integers(1, max(2, min(10, 400 // n))))
    blocks = -(-n // 16)
    stride = blocks + int(rng.integers(0, 3))
    x, x_stride = places.rows(rows, parts * n)
    step = int(rng.integers(1, 4))
    scales, scale_stride = places.rows(rows, parts * step)
    dst = rng.integers(0, A_WORDS - rows * parts * stride + 1)
    return Quant(
        dst=at(dst), dst_stride=stride, x=x, x_stride=x_stride, rows=at(rows), parts=parts, elements=n, scales=scales,
        scale_stride=scale_stride, scale_step=step, multiplier=float(np.float32(rng.choice([1.0, 0.22360679, -3.0]))),
    )  # fmt: skip


def _softmax(rng: np.random.Generator, places: Places, n: int, rows: int) -> Instruction:
    every = int(rng.integers(1, rows + 1))
    total = n + (rows - 1) // every + int(rng.choice([0, 0, 3, 40]))
    x, x_stride = places.rows(rows, total)
    stride = -(-total // 16) + int(rng.integers(0, 3))
    dst = rng.integers(0, A_WORDS - 2 * rows * stride + 1)
    return Softmax(
        x=x, x_stride=x_stride, rows=at(rows), length=at(n), every=every, total=at(total),
        value_scales=places.rows(1, total)[0], dst=at(dst), dst_stride=stride, scales=places.rows(1, 2 * rows)[0],
    )  # fmt: skip


def _argmax(rng: np.random.Generator, places: Places, n: int, rows: int) -> Instruction:
    return Argmax(
        rd=int(rng.integers(1, 32)), first=bool(rng.integers(3) > 0), x=places.rows(1, n)[0],
        elements=at(n if rng.random() < 0.9 else 0), base=at(rng.integers(0, 1 << 32)),
    )  # fmt: skip


def random_words(rng: np.random.Generator, kind: str) -> np.ndarray:
    """Contents of V for an instruction of this kind."""
    pieces = [words(rng, size) for size in rng.integers(1, 600, 60)]
    v = np.concatenate(pieces)
    v = np.resize(v, WORK)
    # Between two pieces of a search, the simulator compares subnormal numbers as they are.
    return arith.flush(v) if kind == "argmax" else v
