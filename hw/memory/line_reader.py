# SPDX-License-Identifier: Apache-2.0
"""Reads lines: one beat of every port together."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.axi import BOUNDARY, AXI4ReadSignature, address_bits
from catenary.hw.memory.bursts import range_layout
from catenary.hw.memory.read_master import READ_DEPTH, ReadMaster
from catenary.isa.config import AcceleratorConfig

BURST = 64
"""Most beats of a burst, unless 4 KB are fewer."""


def port_names(ports: int) -> tuple[str, ...]:
    """Names of the members for the ports, in the order in which their bytes make a line."""
    return tuple(f"memory_{port}" for port in range(ports))


def read_ports(config: AcceleratorConfig) -> dict[str, AXI4ReadSignature]:
    """The read half of every memory port by name. Port p sees line n at byte address n * its width."""
    return {
        name: AXI4ReadSignature(address_bits(config.memory_lines, width), 8 * width)
        for name, width in zip(port_names(len(config.port_bytes)), config.port_bytes, strict=True)
    }


def read_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A line that has been read, and whether any of its beats came with an ``error`` response."""
    return data.StructLayout({"data": 8 * config.line_bytes, "error": 1})


def line_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A line of the weight stream, and whether it is the last of its load."""
    return data.StructLayout({"data": 8 * config.line_bytes, "last": 1})


class LineReader(wiring.Component):
    """Reads ranges of lines through all ports.

    Each port has a command and a FIFO of its own, so ports that are blocked at different times lose no rate as long as
    the FIFOs last; a line goes out when every port has its beat. A command is taken when every port has asked for all
    of the one before, so the lines of several can be on their way.

    Parameters:
        config: the accelerator.
        depth: beats that each port's FIFO holds.

    Members:
        command: a range of lines, at least one.
        lines: the lines of all commands, in order.
        memory_0, memory_1 ...: the ports.
        beats: by port, a beat crossed it in this cycle.
        abort: drop all commands and their lines, and wait for the beats of bursts that have begun.
        idle: nothing is outstanding on any port.
    """

    def __init__(self, config: AcceleratorConfig, *, depth: int = READ_DEPTH):
        self._config = config
        self._depth = depth
        super().__init__(
            {
                "command": In(stream.Signature(range_layout(config.memory_lines))),
                "lines": Out(stream.Signature(read_layout(config))),
                **{name: Out(signature) for name, signature in read_ports(config).items()},
                "beats": Out(len(config.port_bytes)),
                "abort": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        masters = []
        for name, width in zip(port_names(len(self._config.port_bytes)), self._config.port_bytes, strict=True):
            burst = min(BURST, BOUNDARY // width)
            master = ReadMaster(width, self._config.memory_lines, max_burst=burst, depth=max(self._depth, burst))
            m.submodules[name] = master
            wiring.connect(m, master.axi, wiring.flipped(getattr(self, name)))
            masters.append(master)

        beats = [master.beats for master in masters]
        start, taken = Signal(), Signal()
        m.d.comb += [
            self.command.ready.eq(Cat(master.command.ready for master in masters).all()),
            start.eq(self.command.valid & self.command.ready),
            self.lines.valid.eq(Cat(beat.valid for beat in beats).all()),
            self.lines.payload.data.eq(Cat(beat.payload.data for beat in beats)),
            self.lines.payload.error.eq(Cat(beat.payload.error for beat in beats).any()),
            taken.eq(self.lines.valid & self.lines.ready),
            self.beats.eq(Cat(master.beat for master in masters)),
            self.idle.eq(Cat(master.idle for master in masters).all()),
        ]
        for master in masters:
            m.d.comb += [
                master.command.payload.eq(self.command.payload),
                master.command.valid.eq(start),
                master.beats.ready.eq(taken),
                master.abort.eq(self.abort),
            ]
        return m
