# SPDX-License-Identifier: Apache-2.0
"""Constants and scalar registers of the vector unit."""

import struct

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from catenary.hw.vector.layouts import SCALAR_REGISTERS, Scalar
from catenary.hw.vector.microcode import CONSTANTS


def word(number: float) -> int:
    """The FP32 word of ``number``."""
    return int.from_bytes(struct.pack("<f", number), "little")


class Scalars(wiring.Component):
    """Two scalars by name, without delay, out of one memory, which holds the constants when the power comes.

    Members:
        select_q, select_c: which ones.
        q, c: their values; ``c`` is never FP32(1/length).
        inverse: FP32(1/length).
        load, parameter: the instruction's own number, when nothing else is written.
        write: the register to write, as a bit, or none.
        result: the value for ``write``.
        write_extreme, extreme: likewise, for the end of a search, unless there is a ``write``.
    """

    select_q: In(Scalar)
    select_c: In(Scalar)
    q: Out(32)
    c: Out(32)
    inverse: In(32)
    load: In(1)
    parameter: In(32)
    write: In(len(SCALAR_REGISTERS))
    result: In(32)
    write_extreme: In(len(SCALAR_REGISTERS))
    extreme: In(32)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        init = [word(CONSTANTS.get(scalar, 0.0)) for scalar in Scalar]
        m.submodules.words = words = Memory(shape=32, depth=len(init), init=init)
        port = words.write_port()
        chosen, written, settled = Signal(len(SCALAR_REGISTERS)), Signal(), Signal()
        m.d.comb += [
            written.eq(self.write.any()),
            settled.eq(~written & ~self.load),
            chosen.eq(Mux(written, self.write, self.write_extreme)),
            port.en.eq(self.load | chosen.any()),
            port.data.eq(
                (self.parameter & self.load.replicate(32))
                | (self.result & written.replicate(32))
                | (self.extreme & settled.replicate(32))
            ),
            port.addr.eq(Scalar.PARAMETER.value),
        ]
        for at, scalar in enumerate(SCALAR_REGISTERS):
            with m.If(chosen[at]):
                m.d.comb += port.addr.eq(scalar.value)
        for select, value in ((self.select_q, self.q), (self.select_c, self.c)):
            reader = words.read_port(domain="comb")
            m.d.comb += [reader.addr.eq(select.as_value()), value.eq(reader.data)]
        with m.If(self.select_q == Scalar.INVERSE_LENGTH):
            m.d.comb += self.q.eq(self.inverse)
        return m
