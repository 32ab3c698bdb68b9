# SPDX-License-Identifier: Apache-2.0
"""Scales and zeros of one group of columns, kept for each lane, so that their use needs no multiplexers."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.matrix.signatures import fill_groups, fill_rows
from catenary.isa.config import AcceleratorConfig
from catenary.isa.tensors import BLOCK, KEPT_CHOICES

PARAM_ROWS = 4
"""Rows whose scales and zeros are taken in one cycle, for each group that is filled in one."""

PairLayout = data.StructLayout({"scale": 8, "zero": 8})
"""Scale and zero of a row, as they stand in the stream."""


def param_rows(config: AcceleratorConfig, kept: int) -> int:
    """Rows whose scales and zeros a cycle takes: those of one tile write or less, unless they wait in a queue."""
    groups = fill_groups(config)
    return PARAM_ROWS if groups == 1 else min(PARAM_ROWS * groups, groups * BLOCK // kept)


class ParamsSignature(wiring.Signature):
    """Reading scales and zeros, from the reader's point of view.

    Members:
        read: ask for the rows of a tile write.
        row: which.
        lanes: what was asked for in the cycle before: a pair for each lane.
    """

    def __init__(self, config: AcceleratorConfig):
        lanes = fill_groups(config) * BLOCK
        super().__init__({"read": Out(1), "row": Out(range(fill_rows(config))), "lanes": In(lanes * PairLayout.size)})


class GroupParams(wiring.Component):
    """Scale and zero of every row of a row block, for one group of columns.

    Where a tile write fills several groups, every lane picks the pair of its row. Where it fills one, pairs wait in a
    queue and are written one by one to the lanes of their row, while index or codes come.

    Parameters:
        config: the accelerator.

    Members:
        clear: the next write begins with row 0; only while not ``busy``.
        write: append ``pairs``.
        pairs: of as many rows as are taken in a cycle; those behind the last row are undefined.
        kept: log2 N of the row block.
        ready: what is read in the next cycle, if it belongs to tile write ``row``, will have been written.
        row: see ``ready``.
        busy: pairs are waiting, or written in this cycle.
        port: the reader.
    """

    def __init__(self, config: AcceleratorConfig):
        self._config = config
        super().__init__(
            {
                "clear": In(1),
                "write": In(1),
                "pairs": In(data.ArrayLayout(PairLayout, fill_groups(config) * PARAM_ROWS)),
                "kept": In(range(len(KEPT_CHOICES))),
                "ready": Out(1),
                "row": In(range(fill_rows(config))),
                "busy": Out(1),
                "port": In(ParamsSignature(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        groups, rows = fill_groups(self._config), fill_rows(self._config)
        # The queue also writes what stands behind the last row.
        depth = rows if groups > 1 else -(-rows // PARAM_ROWS) * PARAM_ROWS
        m.submodules.memory = memory = Memory(
            shape=data.ArrayLayout(PairLayout.size, groups * BLOCK),
            depth=depth,
            init=[],
            attrs={"ram_style": "distributed"},
        )
        writer, reader = memory.write_port(granularity=1), memory.read_port()
        m.d.comb += [
            reader.en.eq(self.port.read),
            reader.addr.eq(self.port.row),
            self.port.lanes.eq(reader.data),
        ]
        if groups > 1:
            self._parallel(m, writer)
        else:
            self._serial(m, writer)
        return m

    def _parallel(self, m: Module, writer) -> None:
        groups = fill_groups(self._config)
        lanes = groups * BLOCK
        # How many takes of this tile write there were, and which it is.
        part, row = Signal(range(max(lanes // param_rows(self._config, 1), 2))), Signal(range(fill_rows(self._config)))
        m.d.comb += [self.ready.eq(1), writer.addr.eq(row)]
        whole = Signal()
        with m.Switch(self.kept):
            for code, kept in enumerate(KEPT_CHOICES):
                with m.Case(code):
                    taken = param_rows(self._config, kept)
                    parts = lanes // kept // taken
                    m.d.comb += whole.eq(part == parts - 1)
                    pairs = [self.pairs[lane // kept % taken].as_value() for lane in range(lanes)]
                    m.d.comb += Cat(*writer.data).eq(Cat(pairs))
                    with m.If(self.write), m.Switch(part):
                        for number in range(parts):
                            with m.Case(number):
                                owned = [lane // kept // taken == number for lane in range(lanes)]
                                m.d.comb += writer.en.eq(sum(1 << lane for lane in range(lanes) if owned[lane]))
        with m.If(self.write):
            m.d.sync += part.eq(Mux(whole, 0, part + 1))
            with m.If(whole):
                m.d.sync += row.eq(row + 1)
        with m.If(self.clear):
            m.d.sync += [part.eq(0), row.eq(0)]

    def _serial(self, m: Module, writer) -> None:
        lanes = fill_rows(self._config) * BLOCK
        m.submodules.queue = queue = Memory(
            shape=len(self.pairs.as_value()), depth=max(lanes // PARAM_ROWS, 2), init=[]
        )
        enter, leave = queue.write_port(), queue.read_port(domain="comb")
        waiting, number = Signal(range(queue.depth + 1)), Signal(range(PARAM_ROWS))
        # Row r owns the lanes from r N on; N of them are written in a cycle.
        lane, following = (Signal(range(lanes + PARAM_ROWS * BLOCK), name=name) for name in ("lane", "following"))
        empty, active, last = Signal(), Signal(), Signal()
        pair = Signal(PairLayout)
        m.d.comb += [
            empty.eq(waiting == 0),
            active.eq(self.write | ~empty),
            last.eq(number == PARAM_ROWS - 1),
            self.busy.eq(active),
            enter.en.eq(self.write),
            enter.data.eq(self.pairs),
            # The first pair of an empty queue is written at once.
            pair.eq(Mux(empty, self.pairs[0].as_value(), leave.data.word_select(number, PairLayout.size))),
        ]
        done = ~empty & last
        with m.If(self.write != done):
            m.d.sync += waiting.eq(Mux(self.write, waiting + 1, waiting - 1))
        with m.If(self.write):
            m.d.sync += enter.addr.eq(Mux(enter.addr == queue.depth - 1, 0, enter.addr + 1))
        with m.If(done):
            m.d.sync += leave.addr.eq(Mux(leave.addr == queue.depth - 1, 0, leave.addr + 1))
        with m.If(active):
            m.d.sync += [number.eq(number + 1), lane.eq(following)]
        with m.If(self.clear):
            m.d.sync += lane.eq(0)

        m.d.comb += [
            writer.addr.eq(lane // BLOCK),
            self.ready.eq(~active | (self.row < following // BLOCK)),
            *(part.eq(pair) for part in writer.data),
        ]
        with m.Switch(self.kept):
            for code, kept in enumerate(KEPT_CHOICES):
                with m.Case(code):
                    owned = Cat(lane[: exact_log2(BLOCK)] // kept == place // kept for place in range(BLOCK))
                    m.d.comb += [writer.en.eq(Mux(active, owned, 0)), following.eq(lane + kept)]
