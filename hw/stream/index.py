# SPDX-License-Identifier: Apache-2.0
"""The index of a sparse group: held until the codes come, then decoded into columns."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.hdl import Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from catenary.hw.matrix.signatures import COLUMN_BITS, fill_groups
from catenary.isa.config import AcceleratorConfig
from catenary.isa.stream_layout import SPARSE_GROUP_BLOCKS, IndexKind, index_bits, index_kind
from catenary.isa.tensors import BLOCK, KEPT_CHOICES

INDEX_WORD_BITS = BLOCK * COLUMN_BITS
"""Column numbers of 16 lanes, or four bitmaps: the index of 16 lanes or more."""

HALF_BITS = INDEX_WORD_BITS // 2

SPARSE_KEPT = [kept for kept in KEPT_CHOICES if index_kind(kept) is not IndexKind.NONE]
"""Each N that has an index."""

HALVED = BLOCK // 2
"""The N whose index of 16 lanes is half an index word."""


def index_rows(kept: int) -> int:
    """Rows whose index of one block fits an index word."""
    return INDEX_WORD_BITS // index_bits(kept)


def is_bitmap(kept: Value) -> Value:
    """Whether the index of N = 2 ** ``kept`` is made of bitmaps."""
    return Cat(kept == code for code, n in enumerate(KEPT_CHOICES) if index_kind(n) is IndexKind.BITMAP).any()


class ColumnDecoder(wiring.Component):
    """Columns of the lanes of a tile write.

    A word of the index line belongs to each group of lanes. It holds four bitmaps of four set bits each, or 16 column
    numbers, which are taken as they are, as is any other word that a cell brings instead. Of 8:16, half a word does.

    A bitmap is gone through from bit 0 on, and for each of four places it is known whether so many set bits were seen.
    After how many bits this was so first is the column. Of 8:16, two rows of four places follow one another. All
    bitmaps are worked on at once, bit by bit.

    Parameters:
        groups: of lanes.

    Members:
        valid: decode; the rest is as it is in this cycle.
        bitmaps: the line holds bitmaps, and they count.
        line: of the index.
        halved: N is 8.
        half: for 8:16, which half of the line.
        word: for every group, what counts if ``bitmaps`` is not set.
        joins: ``latency`` - 1 cycles after ``valid``: only the lanes in ``places`` get a new column.
        places: see ``joins``.
        columns: for every lane, ``latency`` cycles after ``valid``, and only then.
    """

    latency = 3

    def __init__(self, groups: int):
        self._groups = groups
        line = groups * INDEX_WORD_BITS
        super().__init__(
            {
                "valid": In(1),
                "bitmaps": In(1),
                "line": In(line),
                "halved": In(1),
                "half": In(1),
                "word": In(line),
                "joins": In(1),
                "places": In(groups * BLOCK),
                "columns": Out(line),
            }
        )

    def elaborate(self, platform):
        m = Module()
        groups, half_line = self._groups, self._groups * HALF_BITS
        valid, bitmaps = Signal(2), Signal(2)
        m.d.sync += [valid.eq(Cat(self.valid, valid[0])), bitmaps.eq(Cat(self.bitmaps, bitmaps[0]))]
        words = [Signal(len(self.word), name=f"word_{i}", reset_less=True) for i in range(2)]
        with m.If(self.valid & ~self.bitmaps):
            m.d.sync += words[0].eq(self.word)
        with m.If(valid[0] & ~bitmaps[0]):
            m.d.sync += words[1].eq(words[0])

        # Bit i of all even bitmaps, and of all odd ones: 2 x groups each. Of 8:16, both are the same bitmap.
        bits = [[Signal(2 * groups, name=f"bits_{odd}_{i}", reset_less=True) for i in range(BLOCK)] for odd in (0, 1)]
        halved = Signal(reset_less=True)
        pairs, chosen = Signal(half_line), [Signal(half_line, name=f"chosen_{odd}") for odd in (0, 1)]
        m.d.comb += pairs.eq(Mux(self.half, self.line[half_line:], self.line[:half_line]))
        for odd in (0, 1):
            of_word = Cat(self.line.word_select(2 * number + odd, BLOCK) for number in range(2 * groups))
            m.d.comb += chosen[odd].eq(Mux(self.halved, pairs, of_word))
        with m.If(self.valid & self.bitmaps):
            m.d.sync += halved.eq(self.halved)
            for odd in (0, 1):
                for i in range(BLOCK):
                    of_words = Cat(chosen[odd][number * BLOCK + i] for number in range(2 * groups))
                    m.d.sync += bits[odd][i].eq(of_words)

        # The lower half of the bits.
        seen, low = self._walk(m, "low", bits, [[Const(0, 2 * groups)] * 4] * 2, halved)
        held = [[Signal(2 * groups, name=f"seen_{odd}_{i}", reset_less=True) for i in range(4)] for odd in (0, 1)]
        kept = [
            [[Signal(2 * groups, name=f"low_{odd}_{i}_{b}", reset_less=True) for b in range(3)] for i in range(4)]
            for odd in (0, 1)
        ]
        above = [[Signal.like(bits[odd][i], name=f"above_{odd}_{i}") for i in range(8, BLOCK)] for odd in (0, 1)]
        still_halved = Signal(reset_less=True)
        with m.If(valid[0] & bitmaps[0]):
            m.d.sync += still_halved.eq(halved)
            for odd in (0, 1):
                m.d.sync += [register.eq(bit) for bit, register in zip(bits[odd][8:], above[odd], strict=True)]
                for place in range(4):
                    m.d.sync += held[odd][place].eq(seen[odd][place])
                    m.d.sync += [to.eq(bit) for bit, to in zip(low[odd][place], kept[odd][place], strict=True)]

        # The upper half, where the lower one did not have enough of them.
        _, high = self._walk(m, "high", above, held, still_halved)
        found = []
        for odd in (0, 1):
            for place in range(4):
                early = held[odd][place]
                for b in range(COLUMN_BITS):
                    column = Signal(2 * groups, name=f"column_{odd}_{place}_{b}")
                    if b < 3:
                        m.d.comb += column.eq((early & kept[odd][place][b]) | (~early & high[odd][place][b]))
                    else:
                        m.d.comb += column.eq(~early)
                    found.append(column)
        columns = [column[number] for number in range(2 * groups) for column in found]
        with m.If(valid[1] & ~self.joins):
            m.d.sync += self.columns.eq(Mux(bitmaps[1], Cat(columns), words[1]))
        with m.Elif(valid[1]):
            for lane in range(groups * BLOCK):
                with m.If(self.places[lane]):
                    after, before = (value.word_select(lane, COLUMN_BITS) for value in (self.columns, words[1]))
                    m.d.sync += after.eq(before)
        return m

    def _walk(self, m: Module, name: str, bits, before, halved):
        """Go through 8 bits; returns by place whether it has been seen then, and after how many bits, modulo 8."""
        width = 2 * self._groups
        seen = [before]
        for at in range(8):
            now, then = seen[-1], [[], []]
            for odd in (0, 1):
                bit = bits[odd][at]
                for place in range(4):
                    enough = now[odd][place - 1] if place else now[0][3] | ~halved.replicate(width) if odd else ~0
                    following = Signal(width, name=f"{name}_{odd}_{place}_{at}")
                    m.d.comb += following.eq(now[odd][place] | (bit & enough))
                    then[odd].append(following)
            seen.append(then)

        def bit_of(odd: int, place: int, b: int, first: int, size: int):
            """Bit ``b`` of the number of bits from ``first`` on, among ``size``, after which it has been seen."""
            middle = seen[first + size // 2][odd][place]
            if size == 2 << b:
                return ~middle
            lower, upper = (bit_of(odd, place, b, start, size // 2) for start in (first, first + size // 2))
            return (middle & lower) | (~middle & upper)

        numbers = [[[bit_of(odd, place, b, 0, 8) for b in range(3)] for place in range(4)] for odd in (0, 1)]
        return seen[-1], numbers


class IndexBuffer(wiring.Component):
    """Index words of one group, as many in a line as a tile write has groups of lanes.

    Lines are written whole and read in order; each block of columns begins a line.

    Parameters:
        config: the accelerator.

    Members:
        clear: a new group begins.
        write: append ``data``.
        data: a line.
        read: put the current line out in the next cycle ...
        following: ... and go on to the following one.
        line: what was read in the cycle before.
    """

    def __init__(self, config: AcceleratorConfig):
        words = fill_groups(config)
        self.depth = SPARSE_GROUP_BLOCKS * max(
            -(-config.block_rows(kept) // (words * index_rows(kept))) for kept in SPARSE_KEPT
        )
        super().__init__(
            {
                "clear": In(1),
                "write": In(1),
                "data": In(words * INDEX_WORD_BITS),
                "read": In(1),
                "following": In(1),
                "line": Out(words * INDEX_WORD_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=len(self.data), depth=self.depth, init=[])
        writer, reader = memory.write_port(), memory.read_port()
        m.d.comb += [
            writer.en.eq(self.write),
            writer.data.eq(self.data),
            reader.en.eq(self.read),
            self.line.eq(reader.data),
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
