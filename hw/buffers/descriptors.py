# SPDX-License-Identifier: Apache-2.0
"""Buffer D: 64-bit words that the load unit writes and dispatch reads."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from catenary.hw.buffers.signatures import D_BITS, DRead, DWrite
from catenary.isa.config import AcceleratorConfig


class DescriptorBuffer(wiring.Component):
    """D, with one reader and one writer.

    Parameters:
        config: the accelerator.

    Members:
        read: the reader.
        write: the writer.
    """

    def __init__(self, config: AcceleratorConfig):
        self._words = config.desc_words
        super().__init__({"read": In(DRead(config)), "write": In(DWrite(config))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=D_BITS, depth=self._words, init=[])
        reader, writer = memory.read_port(), memory.write_port()
        request = self.write.request
        outside = request.payload.address >= self._words
        m.d.comb += [
            request.ready.eq(1),
            writer.addr.eq(request.payload.address),
            writer.data.eq(request.payload.data),
            writer.en.eq(request.valid & ~outside),
            reader.addr.eq(self.read.address),
            reader.en.eq(self.read.enable),
            self.read.data.eq(reader.data),
        ]
        m.d.sync += self.write.fault.eq(request.valid & outside)
        with m.If(self.read.enable):
            m.d.sync += self.read.fault.eq(self.read.address >= self._words)
        return m
