# SPDX-License-Identifier: Apache-2.0
"""Constants and scalar registers of the vector unit."""

import struct

from amaranth import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.vector.layouts import SCALAR_REGISTERS, Scalar
from catenary.hw.vector.microcode import CONSTANTS


def word(number: float) -> int:
    """The FP32 word of ``number``."""
    return int.from_bytes(struct.pack("<f", number), "little")


class Scalars(wiring.Component):
    """Two scalars by name, without delay.

    Members:
        select_q, select_c: which ones.
        q, c: their values.
        parameter: the instruction's own number.
        inverse: FP32(1/length).
        write: the registers to write, one bit each; at most one in a cycle for each source.
        result: the value for ``write``.
        write_extreme, extreme: likewise, for the end of a search.
    """

    select_q: In(Scalar)
    select_c: In(Scalar)
    q: Out(32)
    c: Out(32)
    parameter: In(32)
    inverse: In(32)
    write: In(len(SCALAR_REGISTERS))
    result: In(32)
    write_extreme: In(len(SCALAR_REGISTERS))
    extreme: In(32)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        values: dict[Scalar, Value | int] = {scalar: word(number) for scalar, number in CONSTANTS.items()}
        values |= {Scalar.PARAMETER: self.parameter, Scalar.INVERSE_LENGTH: self.inverse}
        for at, scalar in enumerate(SCALAR_REGISTERS):
            values[scalar] = register = Signal(32, name=scalar.name.lower())
            with m.If(self.write[at]):
                m.d.sync += register.eq(self.result)
            with m.Elif(self.write_extreme[at]):
                m.d.sync += register.eq(self.extreme)
        for select, value in ((self.select_q, self.q), (self.select_c, self.c)):
            with m.Switch(select):
                for scalar, source in values.items():
                    with m.Case(scalar):
                        m.d.comb += value.eq(source)
        return m
