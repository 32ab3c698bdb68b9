# SPDX-License-Identifier: Apache-2.0
"""The gearbox: lines of any width become a window of 32-bit words."""

from __future__ import annotations

from amaranth import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from catenary.isa.config import AcceleratorConfig

WORD_BITS = 32
"""Ports, lines and sections of a stream are whole numbers of these words."""

TAKE_BITS = 128
"""Most bits that are taken in one cycle: a header, or 16 codes of 8 bits."""

TAKE_WORDS = TAKE_BITS // WORD_BITS
"""Most words that are dropped in one cycle."""

HEAD_WORDS = TAKE_WORDS + 1
"""Words in which any ``TAKE_BITS`` bits that begin in the first of them lie."""


class LineLayout(data.StructLayout):
    """An entry of the stream FIFO.

    Members:
        data: the line.
        last: it is the last of its load.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__({"data": 8 * config.line_bytes, "last": 1})


class HeadSignature(wiring.Signature):
    """The next words of the stream, from the point of view of who supplies them.

    Members:
        words: the next words; those from ``level`` on are undefined.
        level: words that are there (there may be more than are shown).
        load_ends: which of ``words`` are the last of their load.
        rest: how many of the first ``TAKE_WORDS`` words belong to the line of the first one.
        mid_line: the first word is not the first of its line; known even before it is there.
        line_last: the word before the first one was of the last line of its load (at the start: 1).
        drop: words to remove at the end of this cycle; at most ``level``.
    """

    def __init__(self, capacity: int):
        super().__init__(
            {
                "words": Out(data.ArrayLayout(WORD_BITS, HEAD_WORDS)),
                "level": Out(range(capacity + 1)),
                "load_ends": Out(HEAD_WORDS),
                "rest": Out(range(TAKE_WORDS + 1)),
                "mid_line": Out(1),
                "line_last": Out(1),
                "drop": In(range(TAKE_WORDS + 1)),
            }
        )


def chunk_words(line_words: int) -> int:
    """Words that the gearbox accepts at once: a divisor of the line, of at least ``TAKE_WORDS`` words if it can be."""
    return next((n for n in range(TAKE_WORDS, line_words) if line_words % n == 0), line_words)


def capacity_of(config: AcceleratorConfig) -> int:
    """Words that the gearbox holds: whole chunks, with room for one more while all that can be taken is there."""
    chunk = chunk_words(config.line_bytes * 8 // WORD_BITS)
    return chunk * (1 + -(-HEAD_WORDS // chunk))


class Gearbox(wiring.Component):
    """A ring of words. Lines enter in chunks; the words at the head are shown together, and up to four leave at once.

    A line that is wider than a chunk stays at the input until its last chunk is in.

    Parameters:
        config: the accelerator.

    Members:
        lines: from the stream FIFO.
        head: the next words.
        empty: no word is here.
    """

    def __init__(self, config: AcceleratorConfig):
        self.line_words = config.line_bytes * 8 // WORD_BITS
        self.chunk = chunk_words(self.line_words)
        self.capacity = capacity_of(config)
        super().__init__(
            {
                "lines": In(stream.Signature(LineLayout(config))),
                "head": Out(HeadSignature(self.capacity)),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        parts, places = self.line_words // self.chunk, self.capacity // self.chunk
        bits = self.chunk * WORD_BITS

        # Ring: words by place, and of each chunk whether it ends its line, and whether that is the last of its load.
        words = [Signal(WORD_BITS, name=f"word_{i}", reset_less=True) for i in range(self.capacity)]
        ends_line = [Signal(name=f"ends_line_{i}", reset_less=True) for i in range(places)]
        of_last = [Signal(name=f"of_last_{i}", reset_less=True) for i in range(places)]
        level = Signal(range(self.capacity + 1))

        # Entry.
        push, part, place = Signal(), Signal(range(parts)), Signal(range(places))
        final = part == parts - 1
        m.d.comb += [
            push.eq(self.lines.valid & (level <= self.capacity - self.chunk)),
            self.lines.ready.eq(push & final),
        ]
        chunk = Signal(bits)
        with m.Switch(part):
            for index in range(parts):
                with m.Case(index):
                    m.d.comb += chunk.eq(self.lines.payload.data[index * bits : (index + 1) * bits])
        with m.If(push):
            m.d.sync += [
                part.eq(Mux(final, 0, part + 1)),
                place.eq(Mux(place == places - 1, 0, place + 1)),
            ]
            with m.Switch(place):
                for index in range(places):
                    with m.Case(index):
                        first = index * self.chunk
                        m.d.sync += Cat(words[first : first + self.chunk]).eq(chunk)
                        m.d.sync += [ends_line[index].eq(final), of_last[index].eq(self.lines.payload.last)]

        # Exit.
        read = Signal(range(self.capacity))
        head, line_ends, lasts = self.head, Signal(HEAD_WORDS), Signal(HEAD_WORDS)
        with m.Switch(read):
            for start in range(self.capacity):
                with m.Case(start):
                    shown = [(start + i) % self.capacity for i in range(HEAD_WORDS)]
                    is_end = [
                        ends_line[at // self.chunk] if at % self.chunk == self.chunk - 1 else Const(0) for at in shown
                    ]
                    m.d.comb += [
                        Cat(head.words).eq(Cat(words[at] for at in shown)),
                        line_ends.eq(Cat(is_end)),
                        lasts.eq(Cat(of_last[at // self.chunk] for at in shown)),
                    ]
        m.d.comb += [
            head.level.eq(level),
            head.load_ends.eq(line_ends & lasts),
            head.rest.eq(TAKE_WORDS),
            self.empty.eq((level == 0) & (part == 0)),
        ]
        for index in reversed(range(TAKE_WORDS)):
            with m.If(line_ends[index]):
                m.d.comb += head.rest.eq(index + 1)

        mid_line, line_last = Signal(), Signal(init=1)
        m.d.comb += [head.mid_line.eq(mid_line), head.line_last.eq(line_last)]
        with m.If(head.drop != 0):
            following = read + head.drop
            before = head.drop - 1
            m.d.sync += [
                read.eq(Mux(following >= self.capacity, following - self.capacity, following)),
                mid_line.eq(~Array(line_ends[:TAKE_WORDS])[before[:2]]),
                line_last.eq(Array(lasts[:TAKE_WORDS])[before[:2]]),
            ]
        with m.If(push | (head.drop != 0)):
            m.d.sync += level.eq(level + Mux(push, self.chunk, 0) - head.drop)
        return m
