# SPDX-License-Identifier: Apache-2.0
"""Crosses of what crosses the memory ports: rows in lines, bursts, streams and their row blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from math import gcd

from catenary.hw.memory.line_reader import BURST
from catenary.hw.memory.line_writer import WRITE_BURST
from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import ProgramError
from catenary.isa.fields import SCALAR_BITS, Operand
from catenary.isa.instructions import Load, Store
from catenary.isa.opcodes import Buffer, Opcode
from catenary.isa.rules import LOAD_FORMATS, STORE_FORMATS, insn_layout
from catenary.isa.stream_layout import BITS_CODES, BlockLayout
from catenary.isa.tensors import BLOCK, KEPT_CHOICES
from tests.programs.coverage import Point
from tests.programs.coverage_places import Classify
from tests.programs.coverage_rules import as_executed, layout_name, legal
from tests.programs.traced import Executed, Trace

_MASK = (1 << SCALAR_BITS) - 1


def transfer(e: Executed, config: AcceleratorConfig) -> Iterator[Point]:
    insn, line = e.insn, config.line_bytes
    if not isinstance(insn, Load | Store) or insn.buffer is Buffer.W or not e.value("rows") * e.value("elements"):
        return
    row_bytes = e.value("elements") * insn.format.bytes
    layout = insn_layout(insn, row_bytes)
    if insn.pack:
        inside = e.value("row") & ((1 << insn.pack) - 1)
        full = layout.piece_bytes << insn.pack == line
        shape = layout_name(insn)
        yield _kind(insn), shape, f"{'full' if full else 'short'} lines, from {'inside' if inside else 'its start'}"
    else:
        needed = config.lines(row_bytes)
        gaps = " and gaps" if insn.row_lines > needed else ""
        many = "one line" if needed == 1 else "several lines"
        yield _kind(insn), many + gaps, "full lines" if row_bytes % line == 0 else "short lines"


def _kind(insn: Load | Store) -> str:
    return f"{insn.opcode.name} {insn.buffer.name.lower()} {insn.format.name.lower()}"


@cache
def _rows_in_memory(config: AcceleratorConfig) -> tuple[Executed, ...]:
    """LD and ST of rows of all lengths up to three lines, in all layouts."""
    found = []
    for cls, table in ((Load, LOAD_FORMATS), (Store, STORE_FORMATS)):
        for buffer, fmt in ((buffer, fmt) for buffer, formats in table.items() for fmt in formats if fmt.bytes):
            for elements in range(1, 2 * config.line_bytes // fmt.bytes + 2):
                needed = config.lines(elements * fmt.bytes)
                shapes = [(0, needed), (0, needed + 1), *((pack, 1) for pack in range(1, 7))]
                if buffer is Buffer.A and elements % BLOCK == 0:
                    shapes += [(pack, elements // BLOCK) for pack in range(1, 7)]
                for (pack, lines), row in product(shapes, (0, 1)):
                    fields = {"elements": Operand(0, elements), "pack": pack, "row_lines": lines}
                    fields |= {"row": Operand(0, row)}
                    insn = legal(cls, config, buffer=buffer, format=fmt, **fields)
                    if insn is not None:
                        found.append(as_executed(insn))
    return tuple(found)


def all_rows(classify: Classify) -> Callable[[AcceleratorConfig], Iterator[Point]]:
    def wanted(config: AcceleratorConfig) -> Iterator[Point]:
        for e in _rows_in_memory(config):
            yield from classify(e, config)

    return wanted


def row_end(e: Executed, config: AcceleratorConfig) -> Iterator[Point]:
    insn, line = e.insn, config.line_bytes
    if isinstance(insn, Load | Store) and insn.buffer is not Buffer.W and e.value("rows") and e.value("elements"):
        residue = e.value("elements") * insn.format.bytes % line
        step = gcd(insn.format.bytes, line)
        yield _kind(insn), f"{residue:2} of {line:2} bytes by {step}"


def lines_of(e: Executed) -> tuple[int, int]:
    """First line of LD or ST, and number of lines."""
    insn = e.insn
    assert isinstance(insn, Load | Store)
    memory, row, rows = e.value("memory"), e.value("row"), e.value("rows")
    if insn.buffer is Buffer.W:
        return memory + row & _MASK, rows
    if not rows or not e.value("elements"):
        return 0, 0
    layout = insn_layout(insn, e.value("elements") * insn.format.bytes)
    first, last = (layout.locate(index)[0] for index in (row, row + rows - 1))
    return memory + first & _MASK, last - first + layout.row_lines


def burst(e: Executed, config: AcceleratorConfig) -> Iterator[Point]:
    insn = e.insn
    if isinstance(insn, Load | Store) and (found := lines_of(e))[1]:
        size = BURST if isinstance(insn, Load) else WRITE_BURST
        first, end = found[0], sum(found)
        bursts = -(-end // size) - first // size
        start = "from its start" if first % size == 0 else "from inside"
        stop = "to its end" if end % size == 0 else "to inside"
        yield _kind(insn), f"{'one burst' if bursts == 1 else 'several bursts'}, {start} {stop}"


def bursts(config: AcceleratorConfig) -> Iterator[Point]:
    ends = product(("one burst", "several bursts"), ("from its start", "from inside"), ("to its end", "to inside"))
    shapes = [f"{many}, {start} {stop}" for many, start, stop in ends]
    for cls, table in ((Load, LOAD_FORMATS), (Store, STORE_FORMATS)):
        for buffer, formats in table.items():
            for fmt, shape in product(formats, shapes):
                yield _kind(cls(buffer=buffer, format=fmt)), shape


# Streams


def stream(e: Executed, config: AcceleratorConfig) -> Iterator[Point]:
    if isinstance(e.insn, Load) and e.insn.buffer is Buffer.W and e.value("rows"):
        lines, room = e.value("rows"), config.stream_bytes // config.line_bytes
        yield ("one line" if lines == 1 else "shorter" if lines < room else "as long" if lines == room else "longer",)


def _weights(layout: BlockLayout) -> Point:
    extras = [
        name
        for name, there in (
            ("table", layout.has_table),
            ("outliers", layout.outlier_words),
            ("bias", layout.has_bias),
        )
        if there
    ]
    return f"{layout.bits} bits", f"{layout.kept}:16", " and ".join(extras) or "plain"


def block_hits(trace: Trace) -> Iterator[Point]:
    yield from {_weights(block.layout) for block in trace.blocks}


def _all_layouts(config: AcceleratorConfig) -> Iterator[BlockLayout]:
    for bits, kept, bias, table, outliers in product(BITS_CODES, KEPT_CHOICES, *[(False, True)] * 3):
        layout = BlockLayout(1, kept, bits, 1, 1, bias, config.stream_atom, table, int(outliers))
        try:
            layout.encode()
        except ProgramError:
            continue
        yield layout


def blocks(config: AcceleratorConfig) -> Iterator[Point]:
    for layout in _all_layouts(config):
        yield _weights(layout)


def shape_hits(trace: Trace) -> Iterator[Point]:
    for block in trace.blocks:
        layout = block.layout
        rows = "all lanes" if layout.rows == trace.config.block_rows(layout.kept) else "some lanes"
        groups = "one group" if layout.groups == 1 else "groups"
        if layout.groups > 1 and layout.blocks % layout.group_blocks:
            groups = "groups, the last one short"
        columns = "whole words" if block.columns % BLOCK == 0 else "part of a word"
        yield block.taker.insn.opcode.name, f"{layout.bits} bits", f"{layout.kept}:16", rows, groups, columns


def shapes(config: AcceleratorConfig) -> Iterator[Point]:
    groups = ("one group", "groups", "groups, the last one short")
    parts = (("all lanes", "some lanes"), groups, ("whole words", "part of a word"))
    for layout, (rows, group, columns) in product(_all_layouts(config), product(*parts)):
        for opcode in (Opcode.MM, Opcode.MV):
            if layout.rows < config.block_rows(layout.kept) or rows == "all lanes":
                yield opcode.name, f"{layout.bits} bits", f"{layout.kept}:16", rows, group, columns
