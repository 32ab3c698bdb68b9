# SPDX-License-Identifier: Apache-2.0
"""Buffer A: words of 16 INT8 codes."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from catenary.hw.buffers.arbiter import Arbiter
from catenary.hw.buffers.signatures import CODE_BITS, ABeside, ARead, AWrite
from catenary.isa.config import AcceleratorConfig
from catenary.isa.tensors import BLOCK


class CodeBuffer(wiring.Component):
    """A with its readers and writers: one word is read and one is written in a cycle.

    Where tokens go through the array side by side, the first reader may ask for a second word, through the port that
    writes: only a write in the same cycle makes it wait. So memory stays as large as it is, with the two ports that
    block RAM has.

    Parameters:
        config: the accelerator.
        readers, writers: numbers of clients.

    Members:
        reads: the readers.
        writes: the writers.
        beside: a second word for the first reader; only if tokens go side by side.
    """

    def __init__(self, config: AcceleratorConfig, readers: int, writers: int):
        self._words = config.act_bytes // BLOCK
        self._beside = config.packed
        beside = {"beside": In(ABeside())} if self._beside else {}
        super().__init__(
            {**beside, "reads": In(ARead(config)).array(readers), "writes": In(AWrite(config)).array(writers)}
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.read_arbiter = reading = Arbiter(self.reads[0].request.payload.shape(), len(self.reads))
        m.submodules.write_arbiter = writing = Arbiter(self.writes[0].request.payload.shape(), len(self.writes))
        for client, read in enumerate(self.reads):
            if client or not self._beside:
                wiring.connect(m, wiring.flipped(read.request), reading.requests[client])
        for client, write in enumerate(self.writes):
            wiring.connect(m, wiring.flipped(write.request), writing.requests[client])

        m.submodules.memory = memory = Memory(shape=BLOCK * CODE_BITS, depth=self._words, init=[])
        reader, writer = memory.read_port(), memory.write_port(granularity=CODE_BITS)
        read_fault, write_fault = Signal(), Signal()
        m.d.comb += [
            read_fault.eq(reading.payload >= self._words),
            write_fault.eq(writing.payload.address >= self._words),
            reader.addr.eq(reading.payload),
            reader.en.eq(reading.valid),
            writer.addr.eq(writing.payload.address),
            writer.data.eq(writing.payload.data),
        ]
        with m.If(writing.valid & ~write_fault):
            m.d.comb += writer.en.eq(writing.payload.mask)

        if self._beside:
            self._read_beside(m, memory, reading, writing, writer, read_fault)

        # Block RAM has a slow output, hence a register behind it.
        asked, asker, fault = Signal(), Signal.like(reading.client), Signal()
        answered, answerer, refused = Signal(), Signal.like(asker), Signal()
        word = Signal(BLOCK * CODE_BITS)
        m.d.sync += [asked.eq(reading.valid), answered.eq(asked)]
        with m.If(reading.valid):
            m.d.sync += [asker.eq(reading.client), fault.eq(read_fault)]
        with m.If(asked):
            m.d.sync += [answerer.eq(asker), refused.eq(fault), word.eq(reader.data)]
        for client, read in enumerate(self.reads):
            mine = answered & (answerer == client)
            m.d.comb += [read.data.eq(word), read.valid.eq(mine), read.fault.eq(mine & refused)]
        for client, write in enumerate(self.writes):
            m.d.sync += write.fault.eq(writing.valid & (writing.client == client) & write_fault)
        return m

    def _read_beside(self, m: Module, memory: Memory, reading: Arbiter, writing: Arbiter, writer, read_fault) -> None:
        """The second word for the first reader, through the address of the port that writes."""
        beside, request, reader = self.beside, self.reads[0].request, memory.read_port()
        asked, word = Signal(), Signal(BLOCK * CODE_BITS)
        served = reading.valid & (reading.client == 0) & beside.both
        m.d.comb += [
            reading.requests[0].valid.eq(request.valid & ~(beside.both & writing.valid)),
            reading.requests[0].payload.eq(request.payload),
            request.ready.eq(reading.requests[0].ready),
            reader.en.eq(served),
            beside.data.eq(word),
        ]
        with m.If(~writing.valid):
            m.d.comb += writer.addr.eq(beside.address)
        m.d.comb += reader.addr.eq(writer.addr)
        with m.If(served & (beside.address >= self._words)):
            m.d.comb += read_fault.eq(1)
        m.d.sync += asked.eq(served)
        with m.If(asked):
            m.d.sync += word.eq(reader.data)
