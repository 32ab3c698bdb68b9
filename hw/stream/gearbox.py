# SPDX-License-Identifier: Apache-2.0
"""The gearbox: lines of any width become a window of 16-bit units."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from catenary.hw.matrix.signatures import fill_groups
from catenary.hw.memory.line_reader import line_layout
from catenary.hw.stream.header import HeaderLayout
from catenary.isa.config import AcceleratorConfig
from catenary.isa.tensors import BLOCK

UNIT_BITS = 16
"""Lines, atoms and full sections of a stream are whole numbers of these units."""

NARROW_BITS = 4
"""Codes of at most so many bits fill as many groups a cycle as a tile write has."""


def take_bits(config: AcceleratorConfig) -> int:
    """Most bits that are taken in one cycle: a header, 16 codes of 8 bits, or 4-bit codes for a whole tile write."""
    return max(HeaderLayout.size, fill_groups(config) * BLOCK * NARROW_BITS)


def line_units(config: AcceleratorConfig) -> int:
    """Units of a line."""
    return 8 * config.line_bytes // UNIT_BITS


def window_units(config: AcceleratorConfig) -> int:
    """Units in which any take lies that begins in the first of them."""
    return take_bits(config) // UNIT_BITS + 1


def atom_units(config: AcceleratorConfig) -> int:
    """Units of an atom."""
    return 8 * config.stream_atom // UNIT_BITS


def drop_units(config: AcceleratorConfig) -> int:
    """Most units that leave in one cycle: a line, or a window and what is left of its last atom."""
    return max(line_units(config), window_units(config) + atom_units(config) - 1)


def leaving_lines(config: AcceleratorConfig) -> int:
    """Lines that leave in one cycle: two if codes for a whole tile write take up more than one, else one."""
    return 2 if window_units(config) > line_units(config) + 1 and take_bits(config) > HeaderLayout.size else 1


def queue_lines(config: AcceleratorConfig) -> int:
    """Lines in which all that may leave in one cycle lies if it begins in the first of them.

    And one in store where more leave in a cycle than come, which is made up for by takes of a line or less.
    """
    units = line_units(config) - 1 + drop_units(config)
    return -(-units // line_units(config)) + leaving_lines(config) - 1


class HeadSignature(wiring.Signature):
    """The next units of the stream, from the point of view of who supplies them.

    Members:
        window: the next units; those that are not there are undefined.
        need: units that are wanted, at most :func:`drop_units`.
        there: they are there.
        load_ends: a load ends before the last of them.
        rest: units from the first one to the end of its line.
        mid_line: the first unit is not the first of its line; valid with ``there``, and known before the unit is there.
        settled: ``mid_line`` and ``rest`` are valid.
        line_last: the line is the last of its load.
        load_over: the line before it was (at the start: 1).
        drop: units to remove at the end of this cycle if ``drops``; at most ``need``.
        drops: remove them; only when they are there. Comes late in a cycle.
    """

    def __init__(self, config: AcceleratorConfig):
        drops = range(drop_units(config) + 1)
        super().__init__(
            {
                "window": Out(window_units(config) * UNIT_BITS),
                "need": In(drops),
                "there": Out(1),
                "load_ends": Out(1),
                "rest": Out(range(line_units(config) + 1)),
                "mid_line": Out(1),
                "settled": Out(1),
                "line_last": Out(1),
                "load_over": Out(1),
                "drop": In(drops),
                "drops": In(1),
            }
        )


class Gearbox(wiring.Component):
    """A short queue of lines; a shifter shows what follows an offset inside its first line.

    A line comes in a cycle, and one leaves, or two (:func:`leaving_lines`). If a take has used up more than that,
    nothing is there until the others have left, too.

    Parameters:
        config: the accelerator.

    Members:
        lines: from the stream FIFO.
        head: the next units.
        empty: no unit is here.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "lines": In(stream.Signature(line_layout(config))),
                "head": Out(HeadSignature(config)),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        head, line, places = self.head, line_units(self._config), queue_lines(self._config)
        queue = [Signal(line * UNIT_BITS, name=f"line_{i}", reset_less=True) for i in range(places)]
        lasts = [Signal(name=f"last_{i}", reset_less=True) for i in range(places)]
        count = Signal(range(places + 1))
        level = Signal(range(places * line + 1))
        offset = Signal(range(line + drop_units(self._config)))
        settled = Signal()

        # What happens in a cycle in which units are dropped, and in one in which none are, is found before it is known
        # which one this is.
        most = leaving_lines(self._config)
        push, pops = Signal(), Signal(range(most + 1))
        kept, dropping = self._leaving(m, offset, "kept"), self._leaving(m, offset + head.drop, "dropping")
        m.d.comb += [
            settled.eq(offset < line),
            pops.eq(Mux(head.drops, dropping.pops, kept.pops)),
            self.lines.ready.eq((count != places) | (pops != 0)),
            push.eq(self.lines.valid & self.lines.ready),
        ]
        m.d.sync += [
            offset.eq(Mux(head.drops, dropping.offset, kept.offset)),
            count.eq(count - pops + push),
            level.eq(Mux(head.drops, level - head.drop, level) + Mux(push, line, 0)),
        ]
        over = Signal(init=1)
        for place in range(places):
            free = Cat((pops == leave) & (count == place + leave) for leave in range(most + 1)).any()
            with m.If(push & free):
                m.d.sync += [queue[place].eq(self.lines.payload.data), lasts[place].eq(self.lines.payload.last)]
            for leave in range(1, min(most, places - 1 - place) + 1):
                with m.Elif(pops == leave):
                    m.d.sync += [queue[place].eq(queue[place + leave]), lasts[place].eq(lasts[place + leave])]
        for leave in range(1, most + 1):
            with m.If(pops == leave):
                m.d.sync += over.eq(lasts[leave - 1])

        # Each stage of the shifter shows no more than the stages behind it can reach.
        shown, width = Cat(queue), window_units(self._config)
        for bit in reversed(range(bits_for(line - 1))):
            step = 1 << bit
            size = (width + step - 1) * UNIT_BITS
            stage = Signal(size, name=f"shown_{bit}")
            m.d.comb += stage.eq(Mux(offset[bit], shown[step * UNIT_BITS :], shown)[:size])
            shown = stage

        bounds = [(place + 1) * line - offset for place in range(places)]  # negative where the line has been used up
        crossed = [lasts[place] & (count > place) & (head.need > bound) for place, bound in enumerate(bounds)]
        m.d.comb += [
            head.window.eq(shown),
            head.there.eq(settled & (level >= head.need)),
            head.load_ends.eq(Cat(crossed).any()),
            head.rest.eq(line - offset),
            head.mid_line.eq(offset != 0),
            head.settled.eq(settled),
            head.line_last.eq(lasts[0]),
            head.load_over.eq(over),
            self.empty.eq(count == 0),
        ]
        return m

    def _leaving(self, m: Module, offset: Value, name: str) -> data.View:
        """Lines that leave if the next unit has this offset, and what its offset is then."""
        line, most = line_units(self._config), leaving_lines(self._config)
        size = range(line + drop_units(self._config))
        found = Signal(data.StructLayout({"pops": range(most + 1), "offset": size}), name=name)
        m.d.comb += found.offset.eq(offset)
        for leave in range(1, most + 1):
            with m.If(offset >= leave * line):
                m.d.comb += [found.pops.eq(leave), found.offset.eq(offset - leave * line)]
        return found
