# SPDX-License-Identifier: Apache-2.0
"""The funnel: takes any number of bits, from one to 128, off the front of the stream."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.stream.gearbox import HEAD_WORDS, TAKE_BITS, TAKE_WORDS, WORD_BITS, HeadSignature, capacity_of
from catenary.isa.config import AcceleratorConfig


class FunnelSignature(wiring.Signature):
    """Access to the stream, from the point of view of who takes from it.

    At most one of ``take``, ``align`` and ``skip`` is used in a cycle.

    Members:
        size: bits that are wanted next, at least 1.
        begin: they are the first of a row block, or of all rows of an instruction, so a load may end before them.
        data: the next ``size`` bits, the rest undefined; valid with ``ready``.
        ready: they are there.
        truncated: a load ends in the midst of them or, unless ``begin`` is set, before them.
        take: remove them; only when ``ready``.
        words: words, whole or not, that the ``size`` bits lie in.
        dropped: words that ``take`` uses up.
        aligned: the next bit is the first of an atom, counted from the last ``begin``.
        align: go on to the next atom, or towards it; repeat until ``aligned``.
        skip: whole words to remove; what is left of a begun word counts as one. At most ``level``.
        level: words that are there, the begun one included.
        rest: words of the current line among the next ``TAKE_WORDS``.
        mid_line: the next word is not the first of its line.
        padding: the next word lies inside the last line of a load and its first byte is 0.
    """

    def __init__(self, config: AcceleratorConfig):
        super().__init__(
            {
                "size": Out(range(TAKE_BITS + 1)),
                "begin": Out(1),
                "data": In(TAKE_BITS),
                "ready": In(1),
                "truncated": In(1),
                "take": Out(1),
                "words": In(range(HEAD_WORDS + 1)),
                "dropped": In(range(TAKE_WORDS + 1)),
                "aligned": In(1),
                "align": Out(1),
                "skip": Out(range(TAKE_WORDS + 1)),
                "level": In(range(capacity_of(config) + 1)),
                "rest": In(range(TAKE_WORDS + 1)),
                "mid_line": In(1),
                "padding": In(1),
            }
        )


class Funnel(wiring.Component):
    """Shifts the words at the head of the stream by the bits of the first one that have been taken.

    Parameters:
        config: the accelerator.

    Members:
        head: the words.
        port: who takes.
    """

    def __init__(self, config: AcceleratorConfig):
        self._atom_words = config.stream_atom * 8 // WORD_BITS
        super().__init__({"head": In(HeadSignature(capacity_of(config))), "port": In(FunnelSignature(config))})

    def elaborate(self, platform):
        m = Module()
        head, port = self.head, self.port
        offset = Signal(range(WORD_BITS))
        phase = Signal(range(self._atom_words))  # place of the first word in its atom

        # Word by word, so that no shifter is wider than two words.
        for index in range(TAKE_WORDS):
            pair = Cat(head.words[index], head.words[index + 1])
            m.d.comb += port.data.word_select(index, WORD_BITS).eq(pair >> offset)

        end = Signal(range(WORD_BITS + TAKE_BITS))
        crossed = [head.load_ends[i] & (port.words > i + 1) & (head.level > i) for i in range(TAKE_WORDS)]
        at_load = ~head.mid_line & head.line_last & (offset == 0)
        m.d.comb += [
            end.eq(offset + port.size),
            port.words.eq((end + WORD_BITS - 1) >> 5),
            port.dropped.eq(end >> 5),
            port.ready.eq(head.level >= port.words),
            port.truncated.eq((at_load & ~port.begin) | Cat(crossed).any()),
            port.aligned.eq((offset == 0) & (phase == 0)),
            port.level.eq(head.level),
            port.rest.eq(head.rest),
            port.mid_line.eq(head.mid_line | (offset != 0)),
            port.padding.eq(head.mid_line & head.line_last & (head.words[0][:8] == 0)),
        ]

        to_atom = Signal(range(TAKE_WORDS + 1))
        m.d.comb += to_atom.eq(Mux(self._atom_words - phase > TAKE_WORDS, TAKE_WORDS, self._atom_words - phase))
        with m.If(port.take):
            m.d.comb += head.drop.eq(port.dropped)
            m.d.sync += offset.eq(end)
        with m.Elif(port.align), m.If(head.level >= to_atom):
            m.d.comb += head.drop.eq(to_atom)
            m.d.sync += offset.eq(0)
        with m.Elif(port.skip != 0):
            m.d.comb += head.drop.eq(port.skip)
            m.d.sync += offset.eq(0)
        begins = port.take & port.begin
        with m.If(begins | (head.drop != 0)):
            m.d.sync += phase.eq((Mux(begins, 0, phase) + head.drop) % self._atom_words)
        return m
