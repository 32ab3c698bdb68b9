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


def line_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A line, and whether it is the last of its command."""
    return data.StructLayout({"data": 8 * config.line_bytes, "last": 1})


class LineReader(wiring.Component):
    """Reads ranges of lines through all ports.

    Each port has a command and a FIFO of its own, so ports that are blocked at different times lose no rate as long as
    the FIFOs last; a line goes out when every port has its beat.

    Parameters:
        config: the accelerator.
        depth: beats that each port's FIFO holds.

    Members:
        command: a range of lines, at least one. Ready when the last line of the one before has gone out.
        lines: the lines, in order.
        memory_0, memory_1 ...: the ports.
        beats: by port, a beat crossed it in this cycle.
        error: a beat came with an error response in this cycle.
        abort: drop the command and its lines, and wait for the beats of bursts that have begun.
        idle: nothing is outstanding on any port.
    """

    def __init__(self, config: AcceleratorConfig, *, depth: int = READ_DEPTH):
        self._config = config
        self._depth = depth
        super().__init__(
            {
                "command": In(stream.Signature(range_layout(config.memory_lines))),
                "lines": Out(stream.Signature(line_layout(config))),
                **{name: Out(signature) for name, signature in read_ports(config).items()},
                "beats": Out(len(config.port_bytes)),
                "error": Out(1),
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

        left = Signal.like(self.command.payload.count)
        start, taken = Signal(), Signal()
        m.d.comb += [
            self.command.ready.eq(Cat(master.command.ready for master in masters).all() & (left == 0)),
            start.eq(self.command.valid & self.command.ready),
            self.lines.valid.eq(Cat(master.data.valid for master in masters).all()),
            self.lines.payload.data.eq(Cat(master.data.payload for master in masters)),
            self.lines.payload.last.eq(left == 1),
            taken.eq(self.lines.valid & self.lines.ready),
            self.beats.eq(Cat(master.beat for master in masters)),
            self.error.eq(Cat(master.error for master in masters).any()),
            self.idle.eq(Cat(master.idle for master in masters).all()),
        ]
        for master in masters:
            m.d.comb += [
                master.command.payload.eq(self.command.payload),
                master.command.valid.eq(start),
                master.data.ready.eq(taken),
                master.abort.eq(self.abort),
            ]
        with m.If(start):
            m.d.sync += left.eq(self.command.payload.count)
        with m.Elif(taken):
            m.d.sync += left.eq(left - 1)
        with m.If(self.abort):
            m.d.sync += left.eq(0)
        return m
