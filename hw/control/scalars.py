# SPDX-License-Identifier: Apache-2.0
"""Scalar registers: the register file, and which registers wait for a unit."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from catenary.hw.unit import ResultLayout
from catenary.isa.fields import REGISTER_BITS, REGISTERS, SCALAR_BITS


class Scalars(wiring.Component):
    """32 registers of 40 bits with one read port, and the one of them that a unit is about to write.

    An instruction that makes another register busy waits until that one has been written. Programs have no use for
    more: what a unit writes is a running arg-max.

    Members:
        register: number of the register to read.
        value: its value, in the same cycle; register 0 reads 0.
        pending: it is busy.
        written: number of the register that an instruction is about to write.
        by_unit: a unit is to write it, after ``reserve``.
        blocked: it cannot be written, or reserved, before another write has happened.
        reserve: make ``written`` busy.
        write: a write by dispatch; never to register 0.
        result: a write by a unit, which goes first; the register is no longer busy.
    """

    def __init__(self):
        super().__init__(
            {
                "register": In(REGISTER_BITS),
                "value": Out(SCALAR_BITS),
                "pending": Out(1),
                "written": In(REGISTER_BITS),
                "by_unit": In(1),
                "blocked": Out(1),
                "reserve": In(1),
                "write": In(stream.Signature(data.StructLayout({"register": REGISTER_BITS, "value": SCALAR_BITS}))),
                "result": In(ResultLayout),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.file = file = Memory(shape=SCALAR_BITS, depth=REGISTERS, init=[])
        reader, writer = file.read_port(domain="comb"), file.write_port()
        busy = Signal(data.StructLayout({"valid": 1, "register": REGISTER_BITS}))
        m.d.comb += [
            reader.addr.eq(self.register),
            self.value.eq(reader.data),
            self.pending.eq(busy.valid & (busy.register == self.register)),
            self.blocked.eq(busy.valid & ((busy.register == self.written) | (self.by_unit & (self.written != 0)))),
            self.write.ready.eq(~self.result.valid),
            writer.en.eq(self.result.valid | self.write.valid),
            writer.addr.eq(self.write.payload.register),
            writer.data.eq(self.write.payload.value),
        ]
        with m.If(self.result.valid):
            m.d.comb += [writer.addr.eq(self.result.register), writer.data.eq(self.result.value)]
            m.d.sync += busy.valid.eq(0)
        with m.If(self.reserve):
            m.d.sync += [busy.valid.eq(1), busy.register.eq(self.written)]
        return m
