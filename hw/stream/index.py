# SPDX-License-Identifier: Apache-2.0
"""The index of a sparse group: held until the codes come, then decoded into columns."""

from amaranth import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from catenary.isa.config import AcceleratorConfig
from catenary.isa.stream_layout import SPARSE_GROUP_BLOCKS, IndexKind, index_bits, index_kind
from catenary.isa.tensors import BLOCK, KEPT_CHOICES

COLUMN_BITS = 4
"""A column number inside a block of 16."""

INDEX_WORD_BITS = BLOCK * COLUMN_BITS
"""Column numbers of 16 lanes, or four bitmaps: the index of 16 lanes or more."""

SPARSE_KEPT = [kept for kept in KEPT_CHOICES if index_kind(kept) is not IndexKind.NONE]
"""Each N that has an index."""

Columns = data.ArrayLayout(COLUMN_BITS, BLOCK)
"""A column number for each of 16 lanes."""


def index_rows(kept: int) -> int:
    """Rows whose index of one block fits an index word."""
    return INDEX_WORD_BITS // index_bits(kept)


class SetBits(wiring.Component):
    """Positions of four consecutive set bits of a bitmap. Combinational.

    Members:
        bitmap: of 16 columns, with at most 8 bits set.
        upper: the 5th to 8th set bit, instead of the 1st to 4th.
        positions: of these bits, ascending; 0 for bits that are not there.
    """

    bitmap: In(BLOCK)
    upper: In(1)
    positions: Out(data.ArrayLayout(COLUMN_BITS, 4))

    def elaborate(self, platform):
        m = Module()
        # Bits below each bit, modulo 8: a short sum in each quarter, on top of the sums of the quarters before it.
        base = 0
        ranks = []
        for quarter in range(4):
            bits = self.bitmap[4 * quarter : 4 * quarter + 4]
            below = 0
            for index in range(4):
                rank = Signal(3, name=f"rank_{4 * quarter + index}")
                m.d.comb += rank.eq(base + below)
                ranks.append(rank)
                below = below + bits[index]
            total = Signal(3, name=f"total_{quarter}")
            m.d.comb += total.eq(base + below)
            base = total
        for place in range(4):
            hits = [
                bit & (rank[:2] == place) & (rank[2] == self.upper)
                for bit, rank in zip(self.bitmap, ranks, strict=True)
            ]
            for bit in range(COLUMN_BITS):
                with_bit = Cat(hit for at, hit in enumerate(hits) if at >> bit & 1)
                m.d.comb += self.positions[place][bit].eq(with_bit.any())
        return m


class ColumnDecoder(wiring.Component):
    """Column numbers of 16 lanes from an index word. Combinational.

    8:16 uses two of the word's four bitmaps, 4:16 all of them; 2:16 and 1:16 have column numbers.

    Members:
        word: of the index.
        kept: log2 N, below 4.
        half: for 8:16, which half of the word.
        columns: for each lane.
    """

    word: In(INDEX_WORD_BITS)
    kept: In(range(len(KEPT_CHOICES)))
    half: In(1)
    columns: Out(Columns)

    def elaborate(self, platform):
        m = Module()
        dense = KEPT_CHOICES.index(BLOCK // 2)
        two_rows = self.kept == dense
        bitmaps = [self.word.word_select(i, BLOCK) for i in range(4)]
        halves = [Mux(self.half, bitmaps[2 + i], bitmaps[i]) for i in range(2)]
        found = []
        for quarter in range(4):
            m.submodules[f"set_bits_{quarter}"] = bits = SetBits()
            m.d.comb += [
                bits.bitmap.eq(Mux(two_rows, halves[quarter // 2], bitmaps[quarter])),
                bits.upper.eq(two_rows & (quarter % 2)),
            ]
            found.append(bits.positions)
        bitmap = Array(index_kind(kept) is IndexKind.BITMAP for kept in KEPT_CHOICES)[self.kept]
        m.d.comb += self.columns.eq(Mux(bitmap, Cat(found), self.word))
        return m


class IndexBuffer(wiring.Component):
    """Index words of one group. They are written whole and read in order; each block of columns begins a word.

    Parameters:
        config: the accelerator.

    Members:
        clear: a new group begins.
        write: append ``data``.
        data: an index word.
        read: put the current word out in the next cycle ...
        following: ... and go on to the following one.
        word: what was read in the cycle before.
    """

    def __init__(self, config: AcceleratorConfig):
        self.depth = SPARSE_GROUP_BLOCKS * max(-(-config.block_rows(kept) // index_rows(kept)) for kept in SPARSE_KEPT)
        super().__init__(
            {
                "clear": In(1),
                "write": In(1),
                "data": In(INDEX_WORD_BITS),
                "read": In(1),
                "following": In(1),
                "word": Out(INDEX_WORD_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=INDEX_WORD_BITS, depth=self.depth, init=[])
        writer, reader = memory.write_port(), memory.read_port()
        m.d.comb += [
            writer.en.eq(self.write),
            writer.data.eq(self.data),
            reader.en.eq(self.read),
            self.word.eq(reader.data),
        ]
        end, at = Signal.like(writer.addr), Signal.like(reader.addr)
        m.d.comb += [writer.addr.eq(end), reader.addr.eq(at)]
        with m.If(self.write):
            m.d.sync += end.eq(end + 1)
        with m.If(self.read & self.following):
            m.d.sync += at.eq(at + 1)
        with m.If(self.clear):
            m.d.sync += [end.eq(0), at.eq(0)]
        return m
