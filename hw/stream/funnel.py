# SPDX-License-Identifier: Apache-2.0
"""The funnel: takes any number of bits off the front of the stream, and aligns them."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.hdl import Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.buffers.signatures import CODE_BITS
from catenary.hw.stream.cell import key_shifts, wide_groups
from catenary.hw.stream.gearbox import UNIT_BITS, HeadSignature, atom_units, drop_units, take_bits, window_units
from catenary.isa.config import AcceleratorConfig
from catenary.isa.memory import key_pack
from catenary.isa.tensors import BLOCK

ROW_BITS = BLOCK * CODE_BITS
"""Bits of 16 codes of a row of keys or values."""


class FunnelSignature(wiring.Signature):
    """Access to the stream, from the point of view of who takes from it.

    At most one of ``take`` and ``skip`` is used in a cycle.

    Members:
        size: bits that are wanted next, at least 1, unless ``skip`` is set.
        pads: what is left of the last atom that they lie in, counted from the last ``begin``, is wanted, too.
        begin: they are the first of a row block, or of all rows of an instruction, so a load may end before them.
        ready: what ``size``, ``pads`` or ``skip`` asks for is there; for a take, that the one before it is aligned.
        truncated: a load ends in the midst of it or, unless ``begin`` is set, before it.
        take: remove the bits and align them; only when ``ready``.
        line: of rows, ``take`` removes what is left of the line, too.
        shift: of rows, which of :func:`~catenary.hw.stream.cell.key_shifts` the words that are wanted take.
        units: units, whole or not, that what is wanted lies in.
        dropped: whole units that are used up.
        skip: go on to the next line when the rest of this one is there.
        mid_line: the next bit is not the first of its line.
        settled: ``mid_line`` is valid.
        padding: the next bit lies inside the last line of a load and the byte that it begins is 0; valid if ``begun``.
        begun: something of the current line is here.
    """

    def __init__(self, config: AcceleratorConfig):
        units = range(drop_units(config) + 1)
        super().__init__(
            {
                "size": Out(range(take_bits(config) + 1)),
                "pads": Out(1),
                "begin": Out(1),
                "ready": In(1),
                "truncated": In(1),
                "take": Out(1),
                "line": Out(1),
                "shift": Out(range(len(key_shifts(config)))),
                "units": In(units),
                "dropped": In(units),
                "skip": Out(1),
                "mid_line": In(1),
                "settled": In(1),
                "padding": In(1),
            }
        )


class Aligner(wiring.Component):
    """Holds what was taken, and shifts it by the bits of its first unit that belong to the take before.

    Full row blocks, and rows of an even number of bytes, never need that, so a bit a cycle is fast enough.

    Parameters:
        config: the accelerator.

    Members:
        load: take ``window``.
        window: of the gearbox.
        skew: bits to shift it by.
        shift: see :class:`FunnelSignature`.
        load_word: take ``word``, which is aligned.
        word: 16 codes of a row.
        data: aligned bits.
        valid: ``data`` is what was taken last, for one cycle.
        busy: it is not aligned yet.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "load": In(1),
                "window": In(window_units(config) * UNIT_BITS),
                "skew": In(range(UNIT_BITS)),
                "shift": In(range(len(key_shifts(config)))),
                "load_word": In(1),
                "word": In(ROW_BITS),
                "data": Out(take_bits(config)),
                "valid": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        held = Signal(take_bits(self._config) + UNIT_BITS - 1, reset_less=True)
        left, full = Signal(range(UNIT_BITS)), Signal()
        skewed = left != 0
        m.d.comb += [
            self.data.eq(held),
            self.busy.eq(full & skewed),
            self.valid.eq(full & ~skewed),
        ]
        with m.If(self.load | self.load_word):
            m.d.sync += full.eq(1)
        with m.Elif(~skewed):
            m.d.sync += full.eq(0)
        with m.If(self.load):
            m.d.sync += [held.eq(self.window), left.eq(self.skew)]
            wide, keys = wide_groups(self._config), 1 << key_pack(self._config)
            for number, shift in enumerate(key_shifts(self._config)[1:], 1):
                with m.If(self.shift == number):
                    for word in range(keys):
                        place = (word + shift) % wide
                        m.d.sync += held.word_select(place, ROW_BITS).eq(self.window.word_select(word, ROW_BITS))
        with m.Elif(self.load_word):
            m.d.sync += held[:ROW_BITS].eq(self.word)
        with m.Elif(skewed):
            m.d.sync += [held.eq(held >> 1), left.eq(left - 1)]
        return m


class Funnel(wiring.Component):
    """Keeps the place in the stream to the bit, and in its atom.

    Parameters:
        config: the accelerator.

    Members:
        head: the next units.
        port: who takes.
        load, skew: to the aligner.
        busy: the aligner is.
    """

    def __init__(self, config: AcceleratorConfig):
        self._atom = atom_units(config)
        super().__init__(
            {
                "head": In(HeadSignature(config)),
                "port": In(FunnelSignature(config)),
                "load": Out(1),
                "skew": Out(range(UNIT_BITS)),
                "busy": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        head, port = self.head, self.port
        skew = Signal(range(UNIT_BITS))
        phase = Signal(range(self._atom))  # place of the first unit in its atom

        end, touched, dropped = Signal(len(port.size) + 1), Signal.like(head.need), Signal.like(head.drop)
        begun = Signal.like(phase)  # where the take begins in its atom
        padded = Signal.like(head.need)
        m.d.comb += [
            end.eq(skew + port.size),
            touched.eq((port.size + (skew + (UNIT_BITS - 1))) // UNIT_BITS),
            begun.eq(Mux(port.begin, 0, phase)),
            padded.eq(self._padded(port.size, skew, begun, touched)),
            head.need.eq(touched),
            dropped.eq(Mux(port.line, head.rest, end // UNIT_BITS)),
        ]
        with m.If(port.pads):
            m.d.comb += [head.need.eq(padded), dropped.eq(padded)]
        with m.If(port.skip):
            m.d.comb += [head.need.eq(head.rest), dropped.eq(head.rest)]
        at_load = ~head.mid_line & head.load_over & (skew == 0)
        acts = port.take | (port.ready & port.skip)
        m.d.comb += [
            port.units.eq(head.need),
            port.dropped.eq(dropped),
            port.ready.eq(head.there & ~self.busy),
            port.truncated.eq(head.settled & ((at_load & ~port.begin) | head.load_ends)),
            port.mid_line.eq(head.mid_line | (skew != 0)),
            port.settled.eq(head.settled),
            port.padding.eq(head.line_last & (head.window[:8] == 0)),
            self.load.eq(port.take),
            self.skew.eq(skew),
            head.drop.eq(dropped),
            head.drops.eq(acts),
        ]
        with m.If(acts):
            m.d.sync += [skew.eq(Mux(port.pads | port.skip, 0, end)), phase.eq(self._in_atom(begun + dropped))]
        return m

    def _padded(self, size: Value, skew: Value, begun: Value, touched: Value) -> Value:
        """Units up to the end of the atom in which ``size`` bits end that begin at bit ``skew`` of unit ``begun``."""
        power = exact_log2(self._atom) if self._atom & (self._atom - 1) == 0 else None
        if power is None:
            reached = self._in_atom(begun + touched)
            return touched + Mux(reached == 0, 0, self._atom - reached)
        # With begun = 0 that is size + skew, rounded up. Else the first atom is shorter by `begun`, and what it adds to
        # the sum is one less than what it lacks. So one addition does for both, of what is known early.
        atom_bits = UNIT_BITS << power
        before = Mux(begun == 0, skew + (atom_bits - 1), Cat(skew, begun) - 1)[: atom_bits.bit_length()]
        return Cat((-begun)[:power], (size + before) >> atom_bits.bit_length() - 1)

    def _in_atom(self, units: Value) -> Value:
        """``units`` modulo an atom."""
        power = self._atom & (self._atom - 1) == 0
        return units[: exact_log2(self._atom)] if power else units % self._atom
