# SPDX-License-Identifier: Apache-2.0
"""The header of a row block: its layout, and the rules that hardware checks before it believes one."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.matrix.signatures import lanes_of
from catenary.hw.words import record_layout
from catenary.isa.config import AcceleratorConfig
from catenary.isa.instructions import MatrixMatrix
from catenary.isa.stream_layout import (
    BITS_CODES,
    HEADER_FIELDS,
    MAGIC,
    SPARSE_GROUP_BLOCKS,
    VERSION,
    index_kind,
)
from catenary.isa.tensors import BLOCK, KEPT_CHOICES

HeaderLayout = data.StructLayout({field.name: field.width for field in HEADER_FIELDS})
"""A header; fields follow one another without gaps, as :data:`HEADER_FIELDS` says."""

FIXED = {"magic": MAGIC, "version": VERSION} | dict.fromkeys(("reserved_a", "checksum_row", "reserved_b"), 0)
"""Fields that have only one legal value."""

_RECORD = record_layout(MatrixMatrix)


class HeaderCheck(wiring.Component):
    """Whether a row block can be what the instruction expects. Combinational.

    ``groups`` is not looked at: it is compared when the groups have been counted, which needs no divider.

    Parameters:
        config: the accelerator.

    Members:
        header: as it stands in the stream.
        depth: columns of the instruction.
        rows: rows that the instruction still lacks.
        ok: every rule is kept.
    """

    def __init__(self, config: AcceleratorConfig):
        self._lanes = lanes_of(config)
        super().__init__(
            {
                "header": In(HeaderLayout),
                "depth": In(_RECORD["depth"].shape),
                "rows": In(_RECORD["rows"].shape),
                "ok": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        header = self.header
        rules = [header[name] == value for name, value in FIXED.items()]
        rules += [
            header.rows != 0,
            header.rows <= self.rows,
            header.blocks == (self.depth + (BLOCK - 1)) // BLOCK,
            header.group_blocks != 0,
            (header.table == 0) | ((header.table == 1) & (header.bits != BITS_CODES.index(8))),
        ]
        by_kept = Signal()
        with m.Switch(header.kept):
            for code, kept in enumerate(KEPT_CHOICES):
                with m.Case(code):
                    fits = (header.rows <= self._lanes // kept) & (header.index == index_kind(kept).value)
                    short = Const(1) if kept == BLOCK else header.group_blocks <= SPARSE_GROUP_BLOCKS
                    m.d.comb += by_kept.eq(fits & short)
        m.d.comb += self.ok.eq(Cat(rules).all() & by_kept)
        return m
