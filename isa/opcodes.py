# SPDX-License-Identifier: Apache-2.0
"""Names and numbers of the instruction set: units, opcodes, and what fields of instructions choose from."""

from __future__ import annotations

from enum import Enum, IntEnum, IntFlag

ISA_VERSION = 1
WORD_BITS = 256
WORD_BYTES = WORD_BITS // 8
LOOP_DEPTH = 4
"""How deep hardware loops nest."""
TOKEN_LIMIT = 255
"""Most tokens that the counter of a pair of units holds."""


KEY_LIMIT = 256
"""Longest key of SCORE: the matrix unit holds whole keys, in tiles of 16 columns, while it goes over the queries."""


class Unit(IntEnum):
    """The five in-order units; each has its own instruction queue."""

    LOAD = 0
    STORE = 1
    MATRIX = 2
    VECTOR = 3
    CONTROL = 4


class Units(IntFlag):
    """A set of units, as the wait and release fields hold it."""

    NONE = 0
    LOAD = 1 << Unit.LOAD
    STORE = 1 << Unit.STORE
    MATRIX = 1 << Unit.MATRIX
    VECTOR = 1 << Unit.VECTOR
    CONTROL = 1 << Unit.CONTROL


class Opcode(IntEnum):
    """Opcodes. The high three bits are the class: 1 LD, 2 ST, 3 MM/MV, 4 MISC, 7 SYS; all other words are illegal."""

    LD = 0x08
    ST = 0x10
    MM = 0x18
    MV = 0x19
    SCORE = 0x1A
    CONTEXT = 0x1B
    NORM = 0x20
    APPLY = 0x21
    COMBINE = 0x22
    ROPE = 0x23
    QUANT = 0x24
    SOFTMAX = 0x25
    ARGMAX = 0x26
    LI = 0x38
    ALU = 0x39
    LDS = 0x3A
    LOOP = 0x3B
    NOP = 0x3C
    END = 0x3D


class Buffer(Enum):
    """On-chip buffers that loads and stores reach."""

    V = 0
    """Vector buffer, addressed in FP32 words."""
    A = 1
    """Activation buffer, addressed in 16-byte words of INT8 codes."""
    D = 2
    """Descriptor buffer, addressed in 64-bit words."""
    W = 3
    """Weight stream FIFO; takes whole lines, has no address."""


class MemoryFormat(Enum):
    """Element formats in memory."""

    I8 = 0
    F32 = 1
    F16 = 2
    BF16 = 3
    U64 = 4
    LINES = 5

    @property
    def bytes(self) -> int:
        """Bytes per element; 0 for raw lines."""
        return (1, 4, 2, 2, 8, 0)[self.value]


class Source(Enum):
    """Where attention instructions take rows of keys and values from."""

    STREAM = 0
    BUFFER = 1


class NormFunction(Enum):
    """Functions of NORM."""

    RMS = 0
    LAYER = 1


class ApplyFunction(Enum):
    """Functions of APPLY; the arithmetic is in the numerics chapter."""

    SILU = 0
    GELU_ERF = 1
    GELU_TANH = 2
    RELU = 3
    TANH = 4
    SOFT_CAP = 5


class CombineFunction(Enum):
    """Functions of COMBINE."""

    ADD = 0
    MUL = 1


class AluFunction(Enum):
    """Functions of ALU on unsigned 40-bit scalars; results wrap."""

    ADD = 0
    SUB = 1
    MUL = 2
    SHL = 3
    SHR = 4
    AND = 5
    MIN = 6
    MAX = 7
    LESS = 8
