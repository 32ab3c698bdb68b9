# SPDX-License-Identifier: Apache-2.0
"""Made-up weights for a configuration without a checkpoint: for sizes and speeds, not for text.

Every matrix is a strided view of one seeded block of nearly normal FP16 values: row ``r`` starts ``r * ROW_STEP``
elements into it. So a model of any size takes a few megabytes, no two rows of a matrix are equal, and a seed gives the
same weights on every machine.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from catenary.isa.errors import UsageError
from catenary.isa.tensors import FloatFormat, FloatTensor

ROW_STEP = 61
"""Elements between the starts of two rows; odd, and no multiple of any group or block size."""

SCALE = 0.02
"""Standard deviation of the values, the usual initialisation of language models."""

_OFFSETS = 4096


def dummy_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> tuple[dict[str, FloatTensor], str]:
    """FP16 tensors of ``shapes`` (name to shape), all read-only views of one block, and the SHA-256 of that block.

    Norm weights are 1, as untrained ones are, so that values keep their size from layer to layer.

    Raises:
        UsageError: the seed is negative or needs more than 32 bits.
    """
    if not 0 <= seed < 1 << 32:
        raise UsageError(f"Seed of dummy weights must be from 0 to {(1 << 32) - 1}, not {seed}")
    block = _normal_block(max(_span(shape) for shape in shapes.values()) + _OFFSETS, seed)
    tensors: dict[str, FloatTensor] = {}
    for index, (name, shape) in enumerate(shapes.items()):
        data: NDArray[np.generic]
        if name.endswith("norm.weight"):
            data = np.broadcast_to(np.float16(1), shape)
        else:
            start = index * 89 % _OFFSETS
            strides = tuple(2 * step for step in ((ROW_STEP, 1) if len(shape) == 2 else (1,)))
            data = np.lib.stride_tricks.as_strided(block[start:], shape, strides, writeable=False)
        tensors[name] = FloatTensor(FloatFormat.F16, data)
    return tensors, hashlib.sha256(block.tobytes()).hexdigest()


def _span(shape: tuple[int, ...]) -> int:
    return (shape[0] - 1) * ROW_STEP + shape[1] if len(shape) == 2 else math.prod(shape)


def _normal_block(size: int, seed: int) -> NDArray[np.float16]:
    """The eight bytes of each raw PCG64 word, added up: nearly normal, and integers until the last step.

    numpy guarantees the raw stream for ever, but not that of its own normal distribution.
    """
    words = np.random.PCG64(seed).random_raw(size).astype("<u8")
    sums = words.view(np.uint8).reshape(size, 8).sum(axis=1, dtype=np.int64)
    mean, deviation = 8 * 255 / 2, math.sqrt(8 * (256**2 - 1) / 12)
    block: NDArray[np.float16] = ((sums - mean) * (SCALE / deviation)).astype(np.float16)
    return block
