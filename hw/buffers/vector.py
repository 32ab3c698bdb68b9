# SPDX-License-Identifier: Apache-2.0
"""Buffer V: FP32 words in as many banks as the vector unit has lanes, so that a beat may begin at any word."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In
from amaranth.utils import exact_log2

from catenary.hw.buffers.arbiter import Arbiter
from catenary.hw.buffers.signatures import VRead, VWrite
from catenary.isa.config import AcceleratorConfig


class VectorBuffer(wiring.Component):
    """V with its readers and writers: one beat is read and one is written in a cycle.

    Word ``i`` lies in bank ``i % lanes`` at row ``i // lanes``. Each bank computes its own row, so the ``lanes`` words
    from any address on come from different banks; rotations put them in order.

    Parameters:
        config: the accelerator.
        readers, writers: numbers of clients.

    Members:
        reads: the readers.
        writes: the writers.
    """

    def __init__(self, config: AcceleratorConfig, readers: int, writers: int):
        self._config = config
        self._lanes = config.vector_lanes
        self._rotation = exact_log2(self._lanes)
        super().__init__({"reads": In(VRead(config)).array(readers), "writes": In(VWrite(config)).array(writers)})

    def elaborate(self, platform):
        m = Module()
        lanes, words = self._lanes, self._config.vector_words
        m.submodules.read_arbiter = reading = Arbiter(self.reads[0].request.payload.shape(), len(self.reads))
        m.submodules.write_arbiter = writing = Arbiter(self.writes[0].request.payload.shape(), len(self.writes))
        for client, read in enumerate(self.reads):
            wiring.connect(m, wiring.flipped(read.request), reading.requests[client])
        for client, write in enumerate(self.writes):
            wiring.connect(m, wiring.flipped(write.request), writing.requests[client])

        # Cycle 1: rows of the banks.
        source, target = reading.payload, writing.payload
        read_fault, write_fault = Signal(), Signal()
        m.d.comb += [read_fault.eq(self._outside(source)), write_fault.eq(self._outside(target))]
        outputs = []
        turned = self._turned(m, list(target.data), -target.address[: self._rotation], "write")
        for bank in range(lanes):
            memory = Memory(shape=32, depth=words // lanes, init=[])
            m.submodules[f"bank_{bank}"] = memory
            reader, writer = memory.read_port(), memory.write_port()
            m.d.comb += [
                reader.addr.eq(self._row(source.address, bank)),
                reader.en.eq(reading.valid),
                writer.addr.eq(self._row(target.address, bank)),
                writer.data.eq(turned[bank]),
                writer.en.eq(writing.valid & ~write_fault & (self._lane(target.address, bank) < target.count)),
            ]
            outputs.append(reader.data)

        # Cycle 2: words into order.
        asked, asker, first, fault = Signal(), Signal.like(reading.client), Signal(max(1, self._rotation)), Signal()
        m.d.sync += asked.eq(reading.valid)
        with m.If(reading.valid):
            m.d.sync += [asker.eq(reading.client), first.eq(source.address[: self._rotation]), fault.eq(read_fault)]
        ordered = Signal(self.reads[0].data.shape())
        answered, answerer, refused = Signal(), Signal.like(asker), Signal()
        m.d.sync += answered.eq(asked)
        with m.If(asked):
            m.d.sync += [answerer.eq(asker), refused.eq(fault)]
            m.d.sync += [
                word.eq(turn) for word, turn in zip(ordered, self._turned(m, outputs, first, "read"), strict=True)
            ]
        for client, read in enumerate(self.reads):
            mine = answered & (answerer == client)
            m.d.comb += [read.data.eq(ordered), read.valid.eq(mine), read.fault.eq(mine & refused)]
        for client, write in enumerate(self.writes):
            m.d.sync += write.fault.eq(writing.valid & (writing.client == client) & write_fault)
        return m

    def _outside(self, beat):
        """Whether a beat reaches behind the last row, without a carry over the whole address."""
        rows = self._config.vector_words // self._lanes
        row, first = beat.address[self._rotation :], beat.address[: self._rotation]
        return (row >= rows) | ((row == rows - 1) & (first + beat.count > self._lanes))

    def _row(self, address, bank: int):
        """Row of ``bank`` in the beat that begins at ``address``."""
        row = address[self._rotation :]
        return row + (bank < address[: self._rotation]) if self._rotation else row

    def _lane(self, address, bank: int):
        """Lane of the beat that ``bank`` serves."""
        return (bank - address[: self._rotation])[: self._rotation] if self._rotation else Const(0, 1)

    def _turned(self, m: Module, values, places, name: str):
        """``values``, of which number ``places`` comes first: a multiplexer of two for each bit of ``places``."""
        for power in range(self._rotation):
            step, before = 1 << power, values
            values = [Signal(32, name=f"{name}_by_{step}_{at}") for at in range(self._lanes)]
            m.d.comb += [
                value.eq(Mux(places[power], before[(at + step) % self._lanes], before[at]))
                for at, value in enumerate(values)
            ]
        return values
