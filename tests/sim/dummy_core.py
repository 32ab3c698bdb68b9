# SPDX-License-Identifier: Apache-2.0
"""A core with the real registers and ports that executes no instructions: it copies lines, or only reads them.

Arguments of a run: source line, target line, lines, mode (one of :class:`Mode`). It tests everything around a core.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.boards.loader import load_accelerator
from catenary.hw.axi import NORMAL_MEMORY, AXI4LiteSignature, AXI4Signature, Burst
from catenary.isa.config import AcceleratorConfig
from catenary.isa.csr import Access
from catenary.isa.registers import ErrorCause, register_map

BURST = 16
ADDRESS_BITS = 32
LINES = 1 << 14


def dummy_config(*port_bytes: int) -> AcceleratorConfig:
    """A configuration with these ports and :data:`LINES` lines of memory; tests share it, for the sake of the build."""
    small = load_accelerator("small")
    return replace(small, port_bytes=port_bytes, memory_bytes=LINES * sum(port_bytes))


class Mode(IntEnum):
    """What a run does."""

    COPY = 0
    READ = 1
    HANG = 2
    CROSS = 3
    """Break a rule of AXI4: a burst across 4 KB."""


class Mover(wiring.Component):
    """Copies or reads behind one port: ``beats`` from byte ``source`` to byte ``target``."""

    def __init__(self, port_bytes: int) -> None:
        self.bytes = port_bytes
        address = {"source": In(ADDRESS_BITS), "target": In(ADDRESS_BITS)}
        super().__init__(
            {
                "memory": Out(AXI4Signature(ADDRESS_BITS, 8 * port_bytes)),
                **address,
                "beats": In(24),
                "mode": In(2),
                "start": In(1),
                "reset": In(1),
                "busy": Out(1),
                "failed": Out(1),
                "loading": Out(1),
                "storing": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.buffer = buffer = Memory(shape=8 * self.bytes, depth=BURST, init=[])
        port = buffer.write_port()
        read = buffer.read_port(domain="comb")
        axi, shift = self.memory, exact_log2(self.bytes)
        source, target = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        left, burst, at = Signal(24), Signal(range(BURST + 1)), Signal(range(BURST + 1))
        due = Signal(24)  # beats asked for in mode READ, not yet received
        limit = Signal(24)
        room = [(4096 - address[:12]) >> shift for address in (source, target)]

        def least(a, b):
            return Mux(a < b, a, b)

        m.d.comb += limit.eq(least(least(left, BURST), least(room[0], Mux(self.mode == Mode.COPY, room[1], BURST))))
        for channel in ("ar", "aw"):
            m.d.comb += [
                getattr(axi, f"{channel}size").eq(shift),
                getattr(axi, f"{channel}burst").eq(Burst.INCR),
                getattr(axi, f"{channel}cache").eq(NORMAL_MEMORY),
            ]
        m.d.comb += [
            axi.araddr.eq(source),
            axi.awaddr.eq(target),
            axi.arlen.eq(Mux(self.mode == Mode.CROSS, 255, limit - 1)),
            axi.awlen.eq(burst - 1),
            axi.wdata.eq(read.data),
            axi.wstrb.eq(~0),
            axi.wlast.eq(at == burst - 1),
            read.addr.eq(at),
            port.addr.eq(at),
            port.data.eq(axi.rdata),
        ]
        with m.If(self.mode == Mode.READ):
            m.d.comb += axi.rready.eq(1)
            taken = axi.rvalid & axi.rready
            m.d.sync += due.eq(due + Mux(axi.arvalid & axi.arready, limit, 0) - taken)
        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [source.eq(self.source), target.eq(self.target), left.eq(self.beats)]
                m.d.sync += self.failed.eq(0)
                m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += [self.loading.eq(1), axi.arvalid.eq((left != 0) & (self.mode != Mode.HANG))]
                with m.If((left == 0) & (due == 0)):
                    m.next = "IDLE"
                with m.If(axi.arvalid & axi.arready):
                    m.d.sync += [burst.eq(limit), at.eq(0), left.eq(left - limit), source.eq(source + (limit << shift))]
                    with m.If(self.mode != Mode.READ):
                        m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += [self.loading.eq(1), axi.rready.eq(1), port.en.eq(axi.rvalid)]
                with m.If(axi.rvalid):
                    m.d.sync += at.eq(at + 1)
                    with m.If(axi.rlast):
                        m.d.sync += at.eq(0)
                        m.next = "TARGET"
            with m.State("TARGET"):
                m.d.comb += [self.storing.eq(1), axi.awvalid.eq(1)]
                with m.If(axi.awready):
                    m.next = "STORE"
            with m.State("STORE"):
                m.d.comb += [self.storing.eq(1), axi.wvalid.eq(1)]
                with m.If(axi.wready):
                    m.d.sync += at.eq(at + 1)
                    with m.If(axi.wlast):
                        m.d.sync += target.eq(target + (burst << shift))
                        m.next = "RESPONSE"
            with m.State("RESPONSE"):
                m.d.comb += [self.storing.eq(1), axi.bready.eq(1)]
                with m.If(axi.bvalid):
                    m.next = "ASK"
        errors = [axi.rvalid & axi.rready & axi.rresp.as_value()[1], axi.bvalid & axi.bready & axi.bresp.as_value()[1]]
        with m.If(errors[0] | errors[1]):
            m.d.sync += [self.failed.eq(1), left.eq(0)]
        with m.If(self.reset):
            m.d.sync += left.eq(0)
        m.d.comb += self.busy.eq(self.loading | self.storing)
        return m


class DummyCore(wiring.Component):
    """See the module's documentation.

    Args:
        config: gives ports and registers.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.map = register_map(config)
        trace = wiring.Signature({"active": Out(1), "pc": Out(24)})
        ports = {
            f"port{index}": Out(AXI4Signature(ADDRESS_BITS, 8 * width)) for index, width in enumerate(config.port_bytes)
        }
        super().__init__(
            {
                "control": In(AXI4LiteSignature(max(self.map.address_bits, 12))),
                "memory": Out(wiring.Signature(ports)),
                "trace": Out(wiring.Signature({"load": Out(trace), "store": Out(trace)})),
            }
        )

    def elaborate(self, platform):
        m = Module()
        values = {reg.name: Signal(reg.register.width, name=reg.name, init=reg.register.reset) for reg in self.map}
        start, soft_reset = Signal(), Signal()
        words = {}
        for place in self.map:
            for word in range(place.register.width // 32):
                words[place.address + 4 * word] = (place, values[place.name].word_select(word, 32))
        bus = self.control
        write = Signal()
        m.d.comb += [write.eq(bus.awvalid & bus.wvalid & ~bus.bvalid), bus.awready.eq(write), bus.wready.eq(write)]
        with m.If(bus.bvalid & bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(write):
            m.d.sync += bus.bvalid.eq(1)
        with m.Switch(bus.awaddr):
            for address, (place, word) in words.items():
                settable = any(field.access is Access.READ_WRITE for field in place.register.fields.values())
                if settable:
                    with m.Case(address), m.If(write):
                        m.d.sync += word.eq(bus.wdata)
        control = self.map["CONTROL"]
        pressed = write & (bus.awaddr == control.address)
        m.d.comb += [start.eq(pressed & bus.wdata[0]), soft_reset.eq(pressed & bus.wdata[1])]
        m.d.comb += bus.arready.eq(~bus.rvalid)
        with m.If(bus.rvalid & bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [bus.rvalid.eq(1), bus.rresp.eq(0)]
            with m.Switch(bus.araddr):
                for address, (_, word) in words.items():
                    with m.Case(address):
                        m.d.sync += bus.rdata.eq(word)
                with m.Default():
                    m.d.sync += bus.rresp.eq(2)

        movers = []
        lines = [values[f"ARGUMENT{index}"] for index in range(4)]
        for index, width in enumerate(self.config.port_bytes):
            m.submodules[f"mover{index}"] = mover = Mover(width)
            wiring.connect(m, mover.memory, wiring.flipped(getattr(self.memory, f"port{index}")))
            m.d.comb += [
                mover.source.eq(lines[0] << exact_log2(width)),
                mover.target.eq(lines[1] << exact_log2(width)),
                mover.beats.eq(lines[2]),
                mover.mode.eq(lines[3]),
                mover.start.eq(start),
                mover.reset.eq(soft_reset),
            ]
            read, written = values[f"PORT_READ{index}"], values[f"PORT_WRITTEN{index}"]
            with m.If(mover.memory.rvalid & mover.memory.rready):
                m.d.sync += read.eq(read + width)
            with m.If(mover.memory.wvalid & mover.memory.wready):
                m.d.sync += written.eq(written + width)
            with m.If(soft_reset):
                m.d.sync += [read.eq(0), written.eq(0)]
            movers.append(mover)

        layout = {place.name: place.offset for place in self.map["STATUS"].register.layout}
        status = data.StructLayout({name: 1 for name in layout if name != "reserved"})
        flags = Signal(status)
        m.d.comb += values["STATUS"].eq(flags.as_value())
        failed = Cat(mover.failed for mover in movers).any()
        with m.If(flags.running):
            m.d.sync += values["CYCLES"].eq(values["CYCLES"] + 1)
            with m.If(~Cat(mover.busy for mover in movers).any()):
                m.d.sync += [flags.running.eq(0), flags.done.eq(~failed), flags.error.eq(failed)]
                m.d.sync += values["RESULT"].eq(lines[2])
                cause = self.map["ERROR"].register.pack(cause=ErrorCause.BUS_ERROR, unit=1, pc=77)
                m.d.sync += values["ERROR"].eq(Mux(failed, cause, 0))
        with m.If(start & ~flags.running):
            m.d.sync += [flags.running.eq(1), flags.done.eq(0), flags.error.eq(0)]
        with m.If(soft_reset):
            m.d.sync += [flags.as_value().eq(0), values["CYCLES"].eq(0), values["ERROR"].eq(0)]
        for name in ("load", "store"):
            traced = getattr(self.trace, name)
            m.d.comb += traced.active.eq(movers[0].loading if name == "load" else movers[0].storing)
            m.d.comb += traced.pc.eq(3 if name == "load" else 4)
            busy = values[f"BUSY_{name.upper()}"]
            with m.If(traced.active):
                m.d.sync += busy.eq(busy + 1)
            with m.If(soft_reset):
                m.d.sync += busy.eq(0)
        return m
