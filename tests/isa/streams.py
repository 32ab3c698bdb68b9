# SPDX-License-Identifier: Apache-2.0
"""What the tests of weight streams share: a small accelerator, comparisons, and a reader of one bit at a time."""

from __future__ import annotations

import numpy as np

from catenary.isa.config import AcceleratorConfig
from catenary.isa.outliers import Outliers
from catenary.isa.stream_layout import HEADER_BYTES, HEADER_FIELDS
from catenary.isa.tensors import QuantTensor


def make_config(chains: int = 4, atom: int = 16, ports: tuple[int, ...] = (16,)) -> AcceleratorConfig:
    return AcceleratorConfig(
        name="test",
        port_bytes=ports,
        memory_bytes=1 << 24,
        chains=chains,
        chain_length=16,
        mm_tokens=4,
        packed=False,
        stream_atom=atom,
        stream_bytes=4096,
        vector_words=4096,
        vector_lanes=4,
        act_bytes=4096,
        desc_words=512,
        instruction_words=512,
        queue_depth=4,
    )


def make_bias(rng: np.random.Generator, rows: int, wanted: bool) -> np.ndarray | None:
    return rng.standard_normal(rows).astype(np.float32) if wanted else None


def assert_same(left: QuantTensor, right: QuantTensor, seed: object) -> None:
    assert (left.columns, left.bits, left.group) == (right.columns, right.bits, right.group), seed
    assert (left.table is None) == (right.table is None), seed
    assert (left.outliers is None) == (right.outliers is None), seed
    names = ["codes", "mask", "kept", "scales", "zeros", "channel_scales", *["table"] * (left.table is not None)]
    pairs = [(name, getattr(left, name), getattr(right, name)) for name in names]
    if left.outliers is not None:
        fields = ("rows", "columns", "values")
        pairs += [(name, getattr(left.outliers, name), getattr(right.outliers, name)) for name in fields]
    for name, a, b in pairs:
        assert a.dtype == b.dtype, (name, seed)
        assert a.tobytes() == b.tobytes(), (name, seed)


def total(weights: np.ndarray, outliers: Outliers | None) -> np.ndarray:
    """``weights`` with the outliers added."""
    result = weights.astype(np.int64)
    if outliers is not None:
        result[outliers.rows, outliers.columns] += outliers.values
    return result


def naive_read(data: bytes, columns: int, atom: int) -> tuple[list[list[int]], list[float], list[float], int]:
    """A reader as the format chapter states it, one bit at a time: all weights, scales, biases, bytes read."""
    weights: list[list[int]] = []
    scales: list[float] = []
    biases: list[float] = []
    at = 0

    def section(length: int) -> bytes:
        nonlocal at
        found = data[at : at + length]
        at += -(-length // atom) * atom
        return found

    def number(octets: bytes, first: int, width: int) -> int:
        return sum((octets[b // 8] >> b % 8 & 1) << (b - first) for b in range(first, first + width))

    while at < len(data) and data[at]:
        header = section(16)
        bits = (2, 3, 4, 8)[number(header, 12, 2)]
        table = list(range(16))
        if number(header, 20, 4):
            table = np.frombuffer(section(16), np.int8).tolist()
        n = 1 << number(header, 16, 3)
        rows, groups, group_blocks, blocks = (number(header, b, 16) for b in (32, 48, 64, 80))
        scales += np.frombuffer(section(4 * rows), "<f4").tolist()
        if number(header, 19, 1):
            biases += np.frombuffer(section(4 * rows), "<f4").tolist()
        block_weights = [[0] * (blocks * 16) for _ in range(rows)]
        entries = np.frombuffer(section(4 * number(header, 96, 16)), "<u4").tolist()
        for group in range(groups):
            here = range(group * group_blocks, min(blocks, (group + 1) * group_blocks))
            params = section(2 * rows) if bits != 8 else b"\x01\x00" * rows
            kind = number(header, 14, 2)
            index_bits = (0, 16, 4 * n)[kind]
            index = section(-(-len(here) * rows * index_bits // 8))
            codes = section(-(-len(here) * rows * n * bits // 8))
            cell = 0
            for block in here:
                for row in range(rows):
                    if kind == 0:
                        positions = list(range(16))
                    elif kind == 1:
                        positions = [i for i in range(16) if number(index, 16 * cell + i, 1)]
                    else:
                        positions = [number(index, 4 * (n * cell + i), 4) for i in range(n)]
                    for i, position in enumerate(positions):
                        code = number(codes, bits * (n * cell + i), bits)
                        if bits == 8 and code >= 128:
                            code -= 256
                        entry = code if bits == 8 else table[code]
                        value = (entry - params[2 * row + 1]) * params[2 * row]
                        block_weights[row][16 * block + position] = value
                    cell += 1
        block = 0
        for entry in entries:
            block += entry >> 12 & 0xFF
            value = entry & 0xFF
            block_weights[(entry >> 20) // n][16 * block + (entry >> 8 & 15)] += value - 256 * (value >> 7)
        assert all(value == 0 for row in block_weights for value in row[columns:])
        weights += [row[:columns] for row in block_weights]
    return weights, scales, biases, at


def changed(data: np.ndarray, name: str, value: int) -> np.ndarray:
    """``data`` with one field of its first header changed."""
    field = next(field for field in HEADER_FIELDS if field.name == name)
    word = int.from_bytes(data[:HEADER_BYTES].tobytes(), "little")
    word &= ~(((1 << field.width) - 1) << field.offset)
    word |= value << field.offset
    damaged = data.copy()
    damaged[:HEADER_BYTES] = np.frombuffer(word.to_bytes(HEADER_BYTES, "little"), np.uint8)
    return damaged
