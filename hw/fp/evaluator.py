# SPDX-License-Identifier: Apache-2.0
"""The quadratic evaluator: piecewise polynomials out of a ROM."""

from collections.abc import Sequence

from amaranth import Module, Shape, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from catenary.hw.fp.pipeline import delay
from catenary.isa.functions import C1_BITS, FRACTION_BITS, SHIFT1, SHIFT2, VALUE_BITS, FunctionTable


class Evaluator(wiring.Component):
    """``value = c0 + (((c1 + ((c2 * x) >> 17)) * x) >> 21)``, one a cycle, for an entry (c0, c1, c2) of a ROM.

    Products are at most 19 x 17 and 27 x 17 bits.

    Parameters:
        tables: what the ROM holds, one after the other. Columns get the bits that these tables need.

    Members:
        entry: address in the ROM; see :meth:`base`.
        x: position inside the entry's interval.
        enable: while 0, every register holds.
        value: of the entry and position of ``latency`` enabled cycles ago, from 0 to just below 2; 1.0 is ``1 << 29``.
    """

    latency = 4

    def __init__(self, tables: Sequence[FunctionTable]) -> None:
        self.tables = tuple(tables)
        self._columns = {
            name: [value for table in self.tables for value in getattr(table, name)] for name in ("c0", "c1", "c2")
        }
        entries = sum(table.entries for table in self.tables)
        super().__init__(
            {
                "entry": In(max(1, ceil_log2(entries))),
                "x": In(FRACTION_BITS),
                "enable": In(1),
                "value": Out(VALUE_BITS + 1),
            }
        )

    def base(self, table: FunctionTable) -> int:
        """Address of the first entry of ``table``."""
        return sum(before.entries for before in self.tables[: self.tables.index(table)])

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shapes = {name: Shape.cast(range(min(column), max(column) + 1)) for name, column in self._columns.items()}
        init = [dict(zip(shapes, row, strict=True)) for row in zip(*self._columns.values(), strict=True)]
        m.submodules.rom = rom = Memory(shape=data.StructLayout(shapes), depth=len(init), init=init)

        # 1: look up.
        port = rom.read_port()
        coefficients = port.data
        m.d.comb += [port.addr.eq(self.entry), port.en.eq(self.enable)]
        x = delay(m, self.enable, self.x, 1, "x")

        # 2 and 3: the two products, each with the sum before it.
        slope = Signal.like(coefficients.c2 * x >> SHIFT2, reset_less=True)
        with m.If(self.enable):
            m.d.sync += slope.eq(coefficients.c2 * x >> SHIFT2)
        c1 = delay(m, self.enable, coefficients.c1, 1, "c1")
        x = delay(m, self.enable, x, 1, "x_slope")
        tangent = Signal(signed(C1_BITS))
        rise = Signal.like(tangent * x >> SHIFT1, reset_less=True)
        m.d.comb += tangent.eq(c1 + slope)
        with m.If(self.enable):
            m.d.sync += rise.eq(tangent * x >> SHIFT1)

        # 4: add up.
        c0 = delay(m, self.enable, coefficients.c0, 2, "c0")
        with m.If(self.enable):
            m.d.sync += self.value.eq(c0 + rise)
        return m
