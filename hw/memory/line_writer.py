# SPDX-License-Identifier: Apache-2.0
"""Writes lines: one beat of every port together."""

from __future__ import annotations

from amaranth.hdl import Cat, Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.axi import BOUNDARY, AXI4WriteSignature, address_bits
from catenary.hw.memory.bursts import range_layout
from catenary.hw.memory.line_reader import port_names
from catenary.hw.memory.write_master import WRITE_DEPTH, WriteMaster, written_layout
from catenary.isa.config import AcceleratorConfig

WRITE_BURST = 16
"""Most beats of a burst, unless 4 KB are fewer. Shorter than when reading, because a burst waits for all its data."""


def write_ports(config: AcceleratorConfig) -> dict[str, AXI4WriteSignature]:
    """The write half of every memory port by name. Port p sees line n at byte address n * its width."""
    return {
        name: AXI4WriteSignature(address_bits(config.memory_lines, width), 8 * width)
        for name, width in zip(port_names(len(config.port_bytes)), config.port_bytes, strict=True)
    }


def bytes_layout(config: AcceleratorConfig) -> data.ArrayLayout:
    """Bytes written by each port in one cycle."""
    return data.ArrayLayout(range(max(config.port_bytes) + 1), len(config.port_bytes))


class LineWriter(wiring.Component):
    """Writes ranges of lines through all ports, each of which has a command and a FIFO of its own.

    Parameters:
        config: the accelerator.
        depth: beats that each port's FIFO holds.

    Members:
        command: a range of lines. Ready when all of the one before have been offered.
        lines: the lines of all commands, in order, with their byte strobes.
        room: at least ``write_master.SLACK`` more lines are taken without a pause.
        memory_0, memory_1 ...: the ports.
        written: by port, the bytes that it wrote in this cycle.
        error: a burst was answered with an error in this cycle.
        abort: drop the command and its lines; finish bursts that have begun, with no strobe set.
        idle: all that was commanded has been acknowledged.
    """

    def __init__(self, config: AcceleratorConfig, *, depth: int = WRITE_DEPTH):
        self._config = config
        self._depth = depth
        super().__init__(
            {
                "command": In(stream.Signature(range_layout(config.memory_lines))),
                "lines": In(stream.Signature(written_layout(config.line_bytes))),
                "room": Out(1),
                **{name: Out(signature) for name, signature in write_ports(config).items()},
                "written": Out(bytes_layout(config)),
                "error": Out(1),
                "abort": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        masters, first = [], 0
        line = self.lines.payload
        names = port_names(len(self._config.port_bytes))
        for port, (name, width) in enumerate(zip(names, self._config.port_bytes, strict=True)):
            burst = min(WRITE_BURST, BOUNDARY // width)
            master = WriteMaster(width, self._config.memory_lines, max_burst=burst, depth=self._depth)
            m.submodules[name] = master
            wiring.connect(m, master.axi, wiring.flipped(getattr(self, name)))
            m.d.comb += [
                master.command.payload.eq(self.command.payload),
                master.command.valid.eq(self.command.valid & self.command.ready),
                master.data.valid.eq(self.lines.valid & self.lines.ready),
                master.abort.eq(self.abort),
                self.written[port].eq(master.written),
                master.data.payload.data.eq(line.data[8 * first : 8 * (first + width)]),
                master.data.payload.strobe.eq(line.strobe[first : first + width]),
            ]
            masters.append(master)
            first += width
        m.d.comb += [
            self.command.ready.eq(Cat(master.command.ready for master in masters).all()),
            self.lines.ready.eq(Cat(master.data.ready for master in masters).all()),
            self.room.eq(Cat(master.room for master in masters).all()),
            self.error.eq(Cat(master.error for master in masters).any()),
            self.idle.eq(Cat(master.idle for master in masters).all()),
        ]
        return m
