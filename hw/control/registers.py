# SPDX-License-Identifier: Apache-2.0
"""The host interface in hardware, derived from :func:`catenary.isa.registers.register_map`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory, ReadPort, WritePort
from amaranth.lib.wiring import In, Member, Out
from amaranth.utils import bits_for, exact_log2

from catenary.hw.axi import AXI4LiteSignature, Resp
from catenary.hw.control.counters import COUNTER_BITS
from catenary.isa.config import AcceleratorConfig
from catenary.isa.csr import Access, PlacedRegister, Register
from catenary.isa.registers import register_map

BUS_BITS = 32
BYTE_BITS = 8
WORD_SHIFT = exact_log2(BUS_BITS // BYTE_BITS)


def accesses(register: Register) -> set[Access]:
    """What the host may do with the fields of ``register``."""
    return {part.field.access for part in register.layout} - {Access.RESERVED}


def fields_layout(register: Register) -> data.StructLayout:
    """All bits of ``register``, field by field."""
    return data.StructLayout({part.name: part.width for part in register.layout})


def _output(register: Register) -> Member:
    return Out(fields_layout(register), init={part.name: part.field.reset for part in register.layout})


class Registers(wiring.Component):
    """Registers behind an AXI4-Lite port; one access at a time.

    A register is a member named as it is, in lower case, a structure of its fields: ``status.running``, ``entry.pc``.
    What the host may write is an output, and what changes by itself an input. Addresses without a register read 0.
    Settings that are looked at one at a time are *stored* in a memory with one read port, which costs far less than
    registers and their multiplexers. After reset the port takes nothing until that memory has been cleared.

    Parameters:
        config: the accelerator.
        status: names of the registers that come from elsewhere.
        counters: names of the registers that are counters, in the order of their numbers.
        stored: names of the settings that are in memory; they follow each other in the map and have the same layout,
            one field from bit 0 on.

    Members:
        bus: the port.
        written: by setting, the host has written a word of it.
        stored: number of the stored setting that is read while ``stored_read`` is high.
        stored_read: read it; the host waits.
        stored_value: its value, in the same cycle.
        counter: number of the counter that is read.
        counter_valid: ``counter_value`` is that of ``counter``.
        counter_value: its value.
    """

    def __init__(
        self, config: AcceleratorConfig, status: Sequence[str], counters: Sequence[str], stored: Sequence[str]
    ):
        self._map = register_map(config)
        self._stored = tuple(self._map[name] for name in stored)
        self._status = tuple(status)
        self._counters = tuple(counters)
        settings = tuple(r for r in self._map if Access.READ_WRITE in accesses(r.register))
        self._settings = tuple(r for r in settings if r not in self._stored)
        self._triggers = tuple(r for r in self._map if Access.WRITE in accesses(r.register))
        self._stored_bits = self._stored[0].register.layout[0].width
        outputs = (*self._settings, *self._triggers)
        super().__init__(
            {
                "bus": In(AXI4LiteSignature(self._map.address_bits)),
                **{r.name.lower(): _output(r.register) for r in outputs},
                **{name.lower(): In(fields_layout(self._map[name].register)) for name in status},
                "written": Out(data.StructLayout({r.name.lower(): 1 for r in self._settings})),
                "stored": In(range(len(stored))),
                "stored_read": In(1),
                "stored_value": Out(self._stored_bits),
                "counter": Out(range(len(counters))),
                "counter_valid": In(1),
                "counter_value": In(COUNTER_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(
            shape=-(-self._stored_bits // BYTE_BITS) * BYTE_BITS, depth=len(self._stored), init=[]
        )
        reader, writer = memory.read_port(domain="comb"), memory.write_port(granularity=BYTE_BITS)
        clearing = Signal(init=1)
        self._write(m, writer, clearing)
        self._read(m, reader, clearing)
        return m

    def _words(self, register: PlacedRegister) -> Iterator[tuple[int, int]]:
        """Number of each word of ``register`` and the offset of its first bit."""
        for offset in range(0, register.register.width, BUS_BITS):
            yield (register.address * BYTE_BITS + offset) // BUS_BITS, offset

    def _number(self, word: Value) -> Value:
        """Number of the stored setting that has the word with number ``word``."""
        words = self._stored[0].register.width // BUS_BITS
        first = self._stored[0].address * BYTE_BITS // BUS_BITS
        return ((word - first) >> exact_log2(words))[: bits_for(len(self._stored) - 1)]

    def _write(self, m: Module, writer: WritePort, clearing: Signal) -> None:
        bus = self.bus
        accept = Signal()
        m.d.comb += [
            accept.eq(bus.awvalid & bus.wvalid & (~bus.bvalid | bus.bready) & ~clearing),
            bus.awready.eq(accept),
            bus.wready.eq(accept),
            bus.bresp.eq(Resp.OKAY),
        ]
        with m.If(accept):
            m.d.sync += bus.bvalid.eq(1)
        with m.Elif(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        word = bus.awaddr[WORD_SHIFT:]
        with m.If(accept), m.Switch(word):
            for register in (*self._settings, *self._triggers):
                for number, offset in self._words(register):
                    with m.Case(number):
                        self._write_word(m, register, offset)
            for register in self._stored:
                for number, offset in self._words(register):
                    with m.Case(number):
                        first, last = offset // BYTE_BITS, min(len(writer.en), (offset + BUS_BITS) // BYTE_BITS)
                        m.d.comb += writer.en[first:last].eq(bus.wstrb)
        cleared = Signal(range(len(self._stored)))
        m.d.comb += [
            writer.addr.eq(self._number(word)),
            writer.data.eq(Cat(bus.wdata, bus.wdata)),
        ]
        with m.If(clearing):
            m.d.comb += [writer.addr.eq(cleared), writer.data.eq(0), writer.en.eq(-1)]
            m.d.sync += [cleared.eq(cleared + 1), clearing.eq(cleared != len(self._stored) - 1)]

    def _write_word(self, m: Module, register: PlacedRegister, offset: int) -> None:
        """Write the word of ``register`` that begins at bit ``offset``."""
        name = register.name.lower()
        target = getattr(self, name)
        if register in self._settings:
            m.d.comb += self.written[name].eq(1)
        for part in register.register.layout:
            for byte in range(BUS_BITS // BYTE_BITS):
                start = max(part.offset, offset + byte * BYTE_BITS)
                end = min(part.offset + part.width, offset + (byte + 1) * BYTE_BITS)
                if start >= end or part.field.access is Access.RESERVED:
                    continue
                value, strobe = self.bus.wdata[start - offset : end - offset], self.bus.wstrb[byte]
                bits = Value.cast(target[part.name])[start - part.offset : end - part.offset]
                if part.field.access is Access.WRITE:
                    m.d.comb += bits.eq(Mux(strobe, value, 0))
                elif part.field.access is Access.READ_WRITE:
                    with m.If(strobe):
                        m.d.sync += bits.eq(value)

    def _read(self, m: Module, reader: ReadPort, clearing: Signal) -> None:
        bus = self.bus
        word = Signal(len(bus.araddr) - WORD_SHIFT)
        value, other = Signal(2 * BUS_BITS), Signal(2 * BUS_BITS)
        is_counter, is_stored, is_wide, is_high = Signal(), Signal(), Signal(), Signal()
        has_captured, captured = Signal(), Signal(BUS_BITS)
        captured_for = Signal.like(word)
        busy = Signal()
        with m.If(busy), m.Switch(word):
            for register in self._map:
                numbers = [number for number, _ in self._words(register)]
                with m.Case(*numbers):
                    # A wide register is aligned, so the lowest bit of the word's number tells its words apart.
                    m.d.comb += [is_wide.eq(len(numbers) > 1), is_high.eq(word[0] if len(numbers) > 1 else 0)]
                    if register.name in self._counters:
                        m.d.comb += [is_counter.eq(1), self.counter.eq(self._counters.index(register.name))]
                    elif register in self._stored:
                        m.d.comb += [is_stored.eq(1), other.eq(self.stored_value)]
                    else:
                        m.d.comb += other.eq(self._value(register))
        m.d.comb += [
            reader.addr.eq(Mux(self.stored_read, self.stored, self._number(word))),
            self.stored_value.eq(reader.data),
            value.eq(Mux(is_counter, self.counter_value, other)),
            bus.arready.eq(~busy & ~bus.rvalid & ~clearing),
            bus.rresp.eq(Resp.OKAY),
        ]
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [word.eq(bus.araddr[-len(word) :]), busy.eq(1)]
        follows = has_captured & is_high & (captured_for == word)
        waits = (is_counter & ~self.counter_valid) | (is_stored & self.stored_read)
        with m.If(busy & (follows | ~waits)):
            m.d.sync += [bus.rvalid.eq(1), busy.eq(0), has_captured.eq(is_wide & ~is_high)]
            m.d.sync += [captured.eq(value[BUS_BITS:]), captured_for.eq(word + 1)]
            with m.If(follows):
                m.d.sync += bus.rdata.eq(captured)
            with m.Else():
                m.d.sync += bus.rdata.eq(Mux(is_high, value[BUS_BITS:], value))
        with m.Elif(bus.rready):
            m.d.sync += bus.rvalid.eq(0)

    def _value(self, register: PlacedRegister) -> Value:
        """What a register that is no counter reads: reserved and write-only bits read 0."""
        known = register in self._settings or register.name in self._status
        source = getattr(self, register.name.lower()) if known else None
        readable = (Access.READ, Access.READ_WRITE)
        bits = []
        for part in register.register.layout:
            if source is None or part.field.access not in readable:
                bits.append(Const(part.field.reset, part.width))
            else:
                bits.append(Value.cast(source[part.name]))
        return Cat(bits)
