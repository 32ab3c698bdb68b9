# SPDX-License-Identifier: Apache-2.0
"""Buffer A: words of 16 INT8 codes."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from catenary.hw.buffers.arbiter import Arbiter
from catenary.hw.buffers.signatures import CODE_BITS, ARead, AWrite
from catenary.isa.config import AcceleratorConfig
from catenary.isa.tensors import BLOCK


class CodeBuffer(wiring.Component):
    """A with its readers and writers: one word is read and one is written in a cycle.

    Parameters:
        config: the accelerator.
        readers, writers: numbers of clients.

    Members:
        reads: the readers.
        writes: the writers.
    """

    def __init__(self, config: AcceleratorConfig, readers: int, writers: int):
        self._words = config.act_bytes // BLOCK
        super().__init__({"reads": In(ARead(config)).array(readers), "writes": In(AWrite(config)).array(writers)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.read_arbiter = reading = Arbiter(self.reads[0].request.payload.shape(), len(self.reads))
        m.submodules.write_arbiter = writing = Arbiter(self.writes[0].request.payload.shape(), len(self.writes))
        for client, read in enumerate(self.reads):
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
