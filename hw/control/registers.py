# SPDX-License-Identifier: Apache-2.0
"""The host interface in hardware, derived from :func:`catenary.isa.registers.register_map`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Member, Out
from amaranth.utils import exact_log2

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

    Parameters:
        config: the accelerator.
        status: names of the registers that come from elsewhere.
        counters: names of the registers that are counters, in the order of their numbers.

    Members:
        bus: the port.
        written: by setting, the host has written a word of it.
        counter: number of the counter that is read.
        counter_valid: ``counter_value`` is that of ``counter``.
        counter_value: its value.
    """

    def __init__(self, config: AcceleratorConfig, status: Sequence[str], counters: Sequence[str]):
        self._map = register_map(config)
        self._status = tuple(status)
        self._counters = tuple(counters)
        self._settings = tuple(r for r in self._map if Access.READ_WRITE in accesses(r.register))
        self._triggers = tuple(r for r in self._map if Access.WRITE in accesses(r.register))
        outputs = (*self._settings, *self._triggers)
        super().__init__(
            {
                "bus": In(AXI4LiteSignature(self._map.address_bits)),
                **{r.name.lower(): _output(r.register) for r in outputs},
                **{name.lower(): In(fields_layout(self._map[name].register)) for name in status},
                "written": Out(data.StructLayout({r.name.lower(): 1 for r in self._settings})),
                "counter": Out(range(len(counters))),
                "counter_valid": In(1),
                "counter_value": In(COUNTER_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        self._write(m)
        self._read(m)
        return m

    def _words(self, register: PlacedRegister) -> Iterator[tuple[int, int]]:
        """Number of each word of ``register`` and the offset of its first bit."""
        for offset in range(0, register.register.width, BUS_BITS):
            yield (register.address * BYTE_BITS + offset) // BUS_BITS, offset

    def _write(self, m: Module) -> None:
        bus = self.bus
        accept = Signal()
        m.d.comb += [
            accept.eq(bus.awvalid & bus.wvalid & (~bus.bvalid | bus.bready)),
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

    def _read(self, m: Module) -> None:
        bus = self.bus
        word = Signal(len(bus.araddr) - WORD_SHIFT)
        value, other = Signal(2 * BUS_BITS), Signal(2 * BUS_BITS)
        is_counter, is_wide, is_high = Signal(), Signal(), Signal()
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
                    else:
                        m.d.comb += other.eq(self._value(register))
        m.d.comb += value.eq(Mux(is_counter, self.counter_value, other))
        m.d.comb += [bus.arready.eq(~busy & ~bus.rvalid), bus.rresp.eq(Resp.OKAY)]
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [word.eq(bus.araddr[-len(word) :]), busy.eq(1)]
        follows = has_captured & is_high & (captured_for == word)
        with m.If(busy & (follows | ~is_counter | self.counter_valid)):
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
