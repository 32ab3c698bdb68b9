# SPDX-License-Identifier: Apache-2.0
"""Crosses of what single instructions do: mode by alignment, operands, sizes, strides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import product

from catenary.isa.config import AcceleratorConfig
from catenary.isa.fields import Operand
from catenary.isa.instructions import INSTRUCTIONS, Context, Instruction, Score
from catenary.isa.opcodes import KEY_LIMIT, Buffer, Opcode, Source
from catenary.isa.rules import SPANS, Span
from catenary.isa.tensors import BLOCK
from tests.programs.coverage import Point
from tests.programs.coverage_rules import WRITTEN, bases, legal, legal_modes, mode, places, product_of, sizes_of
from tests.programs.traced import OPERANDS, Executed, Trace

Classify = Callable[[Executed, AcceleratorConfig], Iterable[Point]]


def of_executions(classify: Classify) -> Callable[[Trace], Iterator[Point]]:
    """The points of all executions of a program; equal ones are looked at once."""

    def hits(trace: Trace) -> Iterator[Point]:
        seen = {(e.insn.opcode, id(e.insn), e.values): e for e in trace.executed}
        for e in seen.values():
            yield from classify(e, trace.config)

    return hits


# Instruction x alignment in V


def alignment(e: Executed, config: AcceleratorConfig) -> Iterator[Point]:
    lanes = config.vector_lanes
    found = [at % lanes == 0 for span, at in bases(e) if span.buffer is Buffer.V]
    if not found and any(span.buffer is Buffer.V for span in places(e.insn)):
        return  # it does nothing
    where = "aligned" if all(found) else "mixed" if any(found) else "unaligned"
    yield mode(e.insn), where if found else "-"


def alignments(config: AcceleratorConfig) -> Iterator[Point]:
    for insn in legal_modes(config):
        count = sum(span.buffer is Buffer.V for span in places(insn))
        kinds = ["aligned", "unaligned", "mixed"] if config.vector_lanes > 1 else ["aligned"]
        for kind in kinds[: 2 if count == 1 else 3] if count else ["-"]:
            yield mode(insn), kind


def residue(e: Executed, config: AcceleratorConfig) -> Iterator[Point]:
    for span, at in bases(e):
        if span.buffer is Buffer.V and config.vector_lanes > 1:
            yield e.insn.opcode.name, span.base, f"{at % config.vector_lanes:2} of {config.vector_lanes:2}"
    if isinstance(e.insn, Context) and e.value("rows") and e.value("tokens"):
        yield e.insn.opcode.name, "first", f"{e.value('first') % BLOCK:2} of {BLOCK}"


def residues(config: AcceleratorConfig) -> Iterator[Point]:
    lanes = config.vector_lanes if config.vector_lanes > 1 else 0
    for insn in legal_modes(config):
        for span in places(insn):
            if span.buffer is Buffer.V:
                yield from ((insn.opcode.name, span.base, f"{at:2} of {lanes:2}") for at in range(lanes))
    yield from ((Opcode.CONTEXT.name, "first", f"{at:2} of {BLOCK}") for at in range(BLOCK))


# Operands and sizes


def operand(e: Executed, config: AcceleratorConfig) -> Iterator[Point]:
    for name, value, held in zip(OPERANDS[e.insn.opcode], e.values, e.held, strict=True):
        operand = getattr(e.insn, name)
        if operand.reg == 0:
            kind = "immediate"
        elif operand.imm == 0:
            kind = "register"
        else:
            kind = "sum" if held <= value else "sum that wraps"
        yield e.insn.opcode.name, name, kind


def operands(config: AcceleratorConfig) -> Iterator[Point]:
    kinds = {"immediate": (0, 1), "register": (1, 0), "sum": (1, 1), "sum that wraps": (1, 2)}
    for opcode, names in OPERANDS.items():
        for name, (kind, (reg, imm)) in product(names, kinds.items()):
            if legal(INSTRUCTIONS[opcode], config, **{name: Operand(reg, imm)}) is not None:
                yield opcode.name, name, kind


@cache
def _unit_of(opcode: Opcode, name: str, config: AcceleratorConfig) -> int:
    """What the hardware takes at a time of a size: codes of a word, lanes of a beat, rows of the lanes; else 1."""
    if name == "tokens":
        return 2 if config.packed else 1
    if opcode in (Opcode.MM, Opcode.MV) and name == "rows":
        return config.block_rows(BLOCK)
    widths = {span.buffer for span in SPANS.get(opcode, ()) if name in span.width}
    if Buffer.A in widths:
        return BLOCK
    return config.vector_lanes if Buffer.V in widths else 1


def _most_of(insn: Instruction, name: str, config: AcceleratorConfig) -> int:
    """The largest legal value of a size that has a limit of its own; 0 if it has none."""
    if name == "tokens" and insn.opcode is not Opcode.MV:
        return config.context_rows(insn.depth) if isinstance(insn, Context) else config.mm_tokens
    return KEY_LIMIT if isinstance(insn, Score) and name == "depth" else 0


def size(e: Executed, config: AcceleratorConfig) -> Iterator[Point]:
    for name in sizes_of(e.insn.opcode):
        value = e.value(name)
        yield e.insn.opcode.name, name, _size_class(e.insn, name, value, config)


def _size_class(insn: Instruction, name: str, value: int, config: AcceleratorConfig) -> str:
    if value < 2:
        return str(value)
    if value == _most_of(insn, name, config):
        return "most"
    unit = _unit_of(insn.opcode, name, config)
    return "many" if unit == 1 else "parts" if value % unit else "whole"


def sizes(config: AcceleratorConfig) -> Iterator[Point]:
    for opcode in INSTRUCTIONS:
        cls = INSTRUCTIONS[opcode]
        plain = {part.name for part in cls.body if part.type is int}
        for name in sizes_of(opcode):
            [part] = [part for part in cls.body if part.name == name]
            top = 3 * max(2, _unit_of(opcode, name, config))
            for value in {*range(top), *(_most_of(insn, name, config) for insn in _samples(cls, config))}:
                chosen = Operand(0, value) if part.type is Operand else value
                others = {other: value for other in sizes_of(opcode) if other != name and other in plain}
                for more in ({}, others, *_sources(cls)):  # some sizes may be at most another one
                    insn = legal(cls, config, **{name: chosen, **more})
                    if insn is not None:
                        yield opcode.name, name, _size_class(insn, name, value, config)


def _sources(cls: type[Instruction]) -> list[dict[str, Source]]:
    """Where rows may come from, which have limits of their own there."""
    return [{"source": source} for source in Source] if "source" in {part.name for part in cls.body} else []


def _samples(cls: type[Instruction], config: AcceleratorConfig) -> list[Instruction]:
    return [insn for insn in legal_modes(config) if type(insn) is cls]


# Strides


def stride(e: Executed, config: AcceleratorConfig) -> Iterator[Point]:
    for span, _ in bases(e):
        if not span.stride or product_of(e, span.rows) < 2:
            continue
        width = product_of(e, span.width)
        width = -(-width // BLOCK) if span.buffer is Buffer.A else width
        stride = int(getattr(e.insn, span.stride))
        kind = "same row" if stride == 0 else "overlap" if stride < width else "dense" if stride == width else "apart"
        yield e.insn.opcode.name, _base(e.insn, span.base), kind


def _base(insn: Instruction, base: str) -> str:
    buffer = getattr(insn, "buffer", None)
    return base if buffer is None else f"{base} in {buffer.name}"


def strides(config: AcceleratorConfig) -> Iterator[Point]:
    for insn in legal_modes(config):
        for span in places(insn):
            if span.stride and _several_rows(insn, span, config):
                written = span.base in WRITTEN or (insn.opcode, span.base) in WRITTEN
                for kind in ("dense", "apart") if written else ("dense", "apart", "same row", "overlap"):
                    if kind != "overlap" or span.width != (1,):
                        yield insn.opcode.name, _base(insn, span.base), kind


def _several_rows(insn: Instruction, span: Span, config: AcceleratorConfig) -> bool:
    """Whether ``span`` may have more than one row."""
    if any(isinstance(factor, int) and factor > 1 for factor in span.rows):
        return True
    types = {part.name: part.type for part in insn.body}
    for name in span.rows:
        two = Operand(0, 2) if types.get(str(name)) is Operand else 2
        if isinstance(name, str) and legal(type(insn), config, **{name: two}) is not None:
            return True
    return False
