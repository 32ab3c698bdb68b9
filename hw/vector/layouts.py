# SPDX-License-Identifier: Apache-2.0
"""Micro-operations and beats of the vector unit.

Every micro-operation is one formula for each element of a strip, ``f(p * q + c)`` with two roundings before ``f``: with
q = 1 it is an addition, with c = -0.0 a multiplication, bit for bit. So all of them take the same way, in order.
"""

from __future__ import annotations

from amaranth.lib import data, enum

from catenary.hw.buffers.signatures import V_ADDRESS_BITS
from catenary.hw.fp.function import Function
from catenary.isa.config import AcceleratorConfig
from catenary.isa.numbers import PARTIALS

STRIP = PARTIALS
"""Elements of a vector register, which is the number of partial sums of the canonical sum."""
REGISTERS = 4
"""Vector registers."""
POINTERS = 4
"""Address registers for V."""

POINTER_BITS = V_ADDRESS_BITS + 1
"""An address register has one bit more than an address: it is set, and stays set, once the address has overflowed."""

PC_BITS = 7
"""Bits of an address in the microprogram."""

QUEUE_DEPTH = 16
"""Beats that wait for their operands, and beats on their way, at most."""


class P(enum.Enum, shape=2):
    """First factor: V, a register through port A, or, for a single element, the scalar that else is the summand (which
    then is -0.0)."""

    V = 0
    REGISTER = 1
    SCALAR = 2


class Q(enum.Enum, shape=2):
    """Second factor: a scalar, V, or a register through port A."""

    SCALAR = 0
    V = 1
    REGISTER = 2


class C(enum.Enum, shape=2):
    """Summand: a scalar, a register through port B, one that holds -0.0 until the first strip is through, or -0.0."""

    SCALAR = 0
    REGISTER = 1
    PARTIAL = 2
    MINUS_ZERO = 3


class Scalar(enum.Enum, shape=4):
    """Scalars: constants, the instruction's own number, FP32(1/length), and three registers."""

    ONE = 0
    MINUS_ZERO = 1
    HALF = 2
    SQRT_HALF = 3
    SQRT_2_OVER_PI = 4
    GELU_CUBIC = 5
    CODE_LIMIT = 6
    PROBABILITY_LIMIT = 7
    INVERSE_CODE_LIMIT = 8
    INVERSE_PROBABILITY_LIMIT = 9
    PARAMETER = 10
    INVERSE_LENGTH = 11
    S0 = 12
    S1 = 13
    S2 = 14
    ROUND = 15


SCALAR_REGISTERS = (Scalar.S0, Scalar.S1, Scalar.S2)


class Shape(enum.Enum, shape=3):
    """Beats of a micro-operation.

    STRIP: the elements of the strip. PADDED: as STRIP, but elements that are missing are -0.0, up to a power of two of
    beats in the first strip. BLOCK: the first block of the strip. ONE: one element. FOLD: one level of the tree that
    ends a canonical sum. NONE: no beat.
    """

    STRIP = 0
    PADDED = 1
    BLOCK = 2
    ONE = 3
    FOLD = 4
    NONE = 5


class Order(enum.Enum, shape=2):
    """What a micro-operation waits for.

    FREE: nothing. AFTER: beat i waits for beat i of the micro-operation before. FENCE: for all that is on its way to V.
    """

    FREE = 0
    AFTER = 1
    FENCE = 2


class Flow(enum.Enum, shape=3):
    """What comes next: the target if there is more of something, else the next micro-operation, or the end.

    STRIPS: of the row's strips. LEVELS: of the tree's levels. PARTS: of the row's parts. ROWS: of parts or of rows,
    else it is the end. EACH: of strips, parts or rows, else it is the end. LAST: the target if there are neither more
    parts nor more rows, else the next micro-operation, which can look ahead.
    """

    NEXT = 0
    STRIPS = 1
    LEVELS = 2
    PARTS = 3
    ROWS = 4
    EACH = 5
    LAST = 6


ComputeLayout = data.StructLayout(
    {
        "p": P,
        "q": Q,
        "c": C,
        "subtract": 1,  # c is subtracted
        "scalar_q": Scalar,
        "scalar_c": Scalar,
        "a": range(REGISTERS),
        "b": range(REGISTERS),
        "apply": 1,  # the function unit's function of the result
        "function": Function,
    }
)
"""How a beat is computed."""

SinkLayout = data.StructLayout(
    {
        "to_register": 1,
        "to_v": 1,
        "to_scalar": 1,
        "to_extreme": 1,
        "to_codes": 1,
        "target": 2,  # number of the vector register or of the scalar register
        "magnitude": 1,  # an extreme is that of magnitudes
        "floor": 1,  # an extreme is at least 2**-64
        "relu": 1,
    }
)
"""Where a beat's result goes."""

PlanLayout = data.StructLayout(
    {
        "read": range(POINTERS),
        "ahead": 1,  # the first pointer is that of the next part or row
        "write": range(POINTERS),
        "beats": Shape,
        "order": Order,
        "wrap": 1,  # register A holds one block, for all blocks of the strip
        "flow": Flow,
        "target": PC_BITS,
    }
)
"""Which beats there are, and what comes after them."""

MicroLayout = data.StructLayout({"compute": ComputeLayout, "sink": SinkLayout, "plan": PlanLayout})
"""A micro-operation."""


class Geometry:
    """Sizes that follow from the number of lanes.

    Attributes:
        lanes: elements of a beat.
        beats: beats of a vector register.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.lanes = config.vector_lanes
        self.beats = STRIP // self.lanes


def ticket_layout(config: AcceleratorConfig) -> data.StructLayout:
    """What is kept of a beat while it is computed."""
    g = Geometry(config)
    return data.StructLayout(
        {
            "sink": SinkLayout,
            "count": range(g.lanes + 1),  # lanes that hold an element
            "beat": range(g.beats),  # of the target register
            "address": POINTER_BITS,  # in V, of the result
            "first": 1,  # the first beat of a row
            "final": 1,  # the last one
        }
    )


def beat_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A beat on its way to the lanes."""
    g = Geometry(config)
    return data.StructLayout(
        {
            "compute": ComputeLayout,
            "ticket": ticket_layout(config),
            "a_beat": range(g.beats),
            "b_beat": range(g.beats),
            "fold": range(g.lanes),  # lane i of c is lane i + fold of the register
            "fresh": 1,  # partial sums are still -0.0
            "masked": 1,  # lanes without an element add -0.0
            "reads_v": 1,  # an answer from V belongs to it
            "limit": range(QUEUE_DEPTH + 1),  # it starts when at most so many beats are on their way,
            "limits_slow": 1,  # of those to the function unit, or else of the others
        }
    )
