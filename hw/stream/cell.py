# SPDX-License-Identifier: Apache-2.0
"""A cell: what becomes the weights of one group of 16 lanes in one slot."""

from __future__ import annotations

from amaranth.lib import data, enum

from catenary.hw.matrix.signatures import SLOTS, StepLayout, groups_of
from catenary.isa.config import AcceleratorConfig
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


class CellLayout(data.StructLayout):
    """A group of lanes, without its codes, which travel beside it.

    Members:
        group: which group of lanes.
        count: lanes that have a code; the others get weight 0.
        bits: width of a code, as headers encode it; codes of 8 bits are weights, others have scales and zeros.
        select: how lanes choose activations.
        column: for ``Select.COLUMN``.
        half: for the index of 8:16, which half of an index word.
        push: the slot is complete with this cell, and ``step`` tells how to use it.
        step: of the slot; without ``push`` only ``slot`` and ``kept`` count.
    """

    def __init__(self, config: AcceleratorConfig, slots: int = SLOTS):
        super().__init__(
            {
                "group": range(groups_of(config)),
                "count": range(BLOCK + 1),
                "bits": range(len(BITS_CODES)),
                "select": Select,
                "column": range(BLOCK),
                "half": 1,
                "push": 1,
                "step": StepLayout(config, slots),
            }
        )
