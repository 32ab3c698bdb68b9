# SPDX-License-Identifier: Apache-2.0
"""A cell: what becomes the weights of the groups of lanes that one tile write holds."""

from __future__ import annotations

from amaranth.lib import data, enum

from catenary.hw.matrix.signatures import COLUMN_BITS, StepLayout, fill_groups, fill_rows
from catenary.isa.config import AcceleratorConfig
from catenary.isa.memory import key_pack
from catenary.isa.stream_layout import BITS_CODES
from catenary.isa.tensors import BLOCK


class Select(enum.Enum, shape=2):
    """Which byte of an activation word a lane multiplies."""

    OWN = 0
    """Lane l takes byte l % 16: dense rows and keys."""
    COLUMN = 1
    """All lanes take the byte ``column``: value rows."""
    INDEX = 2
    """What the index says: sparse rows."""


def wide_groups(config: AcceleratorConfig) -> int:
    """Groups of 8-bit codes in a cell; a *turn* of them. As many turns as it takes make a tile write."""
    return max(1, fill_groups(config) // 2)


def wide_turns(config: AcceleratorConfig) -> int:
    """Turns of 8-bit codes that fill all groups of a tile write; the last may be shorter."""
    return -(-fill_groups(config) // wide_groups(config))


def key_shifts(config: AcceleratorConfig) -> list[int]:
    """By how many groups words of interleaved keys are shifted on, round a turn, to the groups that they fill.

    The keys of a line begin at a multiple of their number in a tile write; 0 comes first.
    """
    keys = 1 << key_pack(config)
    places = range(0, fill_groups(config) - keys + 1, keys)
    return sorted({place % wide_groups(config) for place in places})


class CellLayout(data.StructLayout):
    """Groups of lanes, without their codes, which travel beside them.

    Members:
        row: which tile write of the slot.
        mask: groups that are written.
        count: lanes that have a code; the others get weight 0.
        each: they are ``count`` in each group.
        single: the only lane that has a code is number ``count``.
        joins: lanes that have no code keep the weight and the column that they had in the cell before.
        repeat: every group has the same codes, the first 16.
        bits: width of a code, as headers encode it; codes of 8 bits are weights, others have scales and zeros.
        select: how lanes choose activations.
        column: for ``Select.COLUMN``.
        half: for the index of 8:16, which half of an index word.
        following: the cell is the last one that uses its index word.
        push: the slot is complete with this cell, and ``step`` tells how to use it.
        step: of the slot; without ``push`` only ``slot`` and ``kept`` count.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "row": range(fill_rows(config)),
                "mask": fill_groups(config),
                "count": range(fill_groups(config) * BLOCK + 1),
                "each": 1,
                "single": 1,
                "joins": 1,
                "repeat": 1,
                "bits": range(len(BITS_CODES)),
                "select": Select,
                "column": COLUMN_BITS,
                "half": 1,
                "following": 1,
                "push": 1,
                "step": StepLayout(config),
            }
        )
