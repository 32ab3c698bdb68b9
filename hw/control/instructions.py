# SPDX-License-Identifier: Apache-2.0
"""The instruction buffer: words of code, written by the load unit and read by dispatch."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from catenary.hw.buffers.signatures import IWrite
from catenary.hw.words import pc_width
from catenary.isa.config import AcceleratorConfig
from catenary.isa.opcodes import WORD_BITS


class InstructionMemory(wiring.Component):
    """Instruction words.

    Parameters:
        config: the accelerator.

    Members:
        write: the writer.
        address: of the word to read.
        enable: read it; ignored in a cycle in which a word is written.
        data: the word, one cycle later; it stays until the next read.
    """

    def __init__(self, config: AcceleratorConfig):
        self._words = config.instruction_words
        super().__init__(
            {
                "write": In(IWrite(config)),
                "address": In(pc_width(self._words)),
                "enable": In(1),
                "data": Out(WORD_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=WORD_BITS, depth=self._words, init=[])
        reader, writer = memory.read_port(), memory.write_port()
        request = self.write.request
        m.d.comb += [
            request.ready.eq(1),
            writer.addr.eq(request.payload.address),
            writer.data.eq(request.payload.data),
            writer.en.eq(request.valid),
            reader.addr.eq(self.address),
            reader.en.eq(self.enable & ~request.valid),  # so tools know that the two never meet at one address
            self.data.eq(reader.data),
        ]
        return m
