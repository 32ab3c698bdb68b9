# SPDX-License-Identifier: Apache-2.0
"""The tables of the function unit, in one ROM."""

from amaranth import Cat, Const, Module, Shape, Value
from amaranth.hdl import ValueLike
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from catenary.isa.functions import TABLES, FunctionTable

# In descending order of their sizes, each table begins at a multiple of its own: so an address is a concatenation.
_ORDER = sorted(TABLES.values(), key=lambda table: -table.entries)
_COLUMNS = {name: [value for table in _ORDER for value in getattr(table, name)] for name in ("c0", "c1", "c2")}

ENTRY_BITS = ceil_log2(sum(table.entries for table in _ORDER))

Coefficients = data.StructLayout(
    {name: Shape.cast(range(min(column), max(column) + 1)) for name, column in _COLUMNS.items()}
)
"""An entry: c0, c1 and c2, as wide as the tables need them."""


def entry_of(table: FunctionTable, index: ValueLike) -> Value:
    """Address of the entry ``index`` of ``table``; as many bits as that has."""
    index = Value.cast(index)
    if 1 << len(index) != table.entries:
        raise ValueError(f"Index must have the bits of {table.entries} entries, not {len(index)}")
    base = sum(before.entries for before in _ORDER[: _ORDER.index(table)])
    return Cat(index, Const(base >> len(index), ENTRY_BITS - len(index)))


class Tables(wiring.Component):
    """All tables, read through two ports.

    Members:
        entries: addresses, see :func:`entry_of`.
        enable: while 0, the answers hold.
        rows: the entries that were addressed in the last enabled cycle.
    """

    entries: In(data.ArrayLayout(ENTRY_BITS, 2))
    enable: In(1)
    rows: Out(data.ArrayLayout(Coefficients, 2))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        init = [dict(zip(_COLUMNS, row, strict=True)) for row in zip(*_COLUMNS.values(), strict=True)]
        # As deep as the address: the rest of a block RAM costs nothing, and a decoder for less does.
        m.submodules.rom = rom = Memory(shape=Coefficients, depth=1 << ENTRY_BITS, init=init)
        for entry, row in zip(self.entries, self.rows, strict=True):
            port = rom.read_port()
            m.d.comb += [port.addr.eq(entry), port.en.eq(self.enable), row.eq(port.data)]
        return m
