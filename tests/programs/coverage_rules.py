# SPDX-License-Identifier: Apache-2.0
"""Instructions with given fields, as far as the rules of the instruction set allow any: what coverage may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from functools import cache
from itertools import product
from typing import Any

from catenary.isa.config import AcceleratorConfig
from catenary.isa.fields import BitField, Operand
from catenary.isa.instructions import INSTRUCTIONS, Context, Instruction, Load, Loop, Norm, Score, Store
from catenary.isa.memory import key_pack
from catenary.isa.opcodes import Buffer, Opcode, Source
from catenary.isa.rules import RULES, SPANS, Span, interleaves, misfits, spans
from catenary.isa.tensors import BLOCK
from tests.programs.traced import OPERANDS, Executed

WRITTEN = frozenset(
    {"dst", "out", (Opcode.LD, "address"), (Opcode.ROPE, "x"), (Opcode.SOFTMAX, "x"), (Opcode.QUANT, "scales")}
)
"""Places whose rows are written; rows that overlap there would depend on the order in which they are written."""

_CONTEXT_OUT = Span(Buffer.V, "out", ("depth",), ("tokens",))


def legal(cls: type[Instruction], config: AcceleratorConfig, **fixed: Any) -> Instruction | None:
    """An instruction with the fields ``fixed`` that breaks no rule and fits ``config``; ``None`` if there is none.

    All sizes that are not fixed are 1 where a rule does not ask for another one.
    """
    values = {part.name: _candidates(part)[0] for part in cls.body} | fixed
    for rule in RULES:
        if cls.opcode not in rule.opcodes or rule.holds(cls(**values)):
            continue
        part = next((part for part in cls.body if part.name == rule.field), None)
        choices = [] if part is None or rule.field in fixed else _candidates(part)
        fitting = [choice for choice in choices if rule.holds(cls(**values | {rule.field: choice}))]
        if not fitting:
            return None
        values[rule.field] = fitting[0]
    insn = cls(**values)
    if any(cls.opcode in rule.opcodes and not rule.holds(insn) for rule in RULES):
        return None
    return None if next(misfits(insn, config), None) else insn


def _candidates(part: BitField) -> list[Any]:
    if part.type is Operand:
        return [Operand(0, 1), Operand()]
    if part.name == "pack":
        return [0]
    if part.type is bool:
        return [False, True]
    if issubclass(part.type, Enum):
        return list(part.type)
    return [part.type(value) for value in (1, 0, 2)]


def as_executed(insn: Instruction) -> Executed:
    """``insn``, all of whose operands are immediates, as if it had been executed."""
    operands = [getattr(insn, name) for name in OPERANDS[insn.opcode]]
    return Executed(0, insn, tuple(operand.imm for operand in operands), tuple(0 for _ in operands), 0)


def layout_name(insn: Instruction) -> str:
    """How the rows of ``insn`` lie in lines; empty if it has none there."""
    if not isinstance(insn, Load | Store | Score | Context) or getattr(insn, "buffer", None) is Buffer.W:
        return ""
    if getattr(insn, "source", None) is Source.BUFFER:
        return ""
    return "interleaved" if interleaves(insn) else "packed" if insn.pack else "alone"


def mode(insn: Instruction) -> str:
    """What ``insn`` does: opcode, functions, formats, flags and layout of rows."""
    words = [insn.opcode.name]
    for part in _choices(type(insn)):
        value = getattr(insn, part.name)
        words.append(value.name.lower() if isinstance(value, Enum) else part.name if value else f"no {part.name}")
    return " ".join([*words, layout_name(insn)]).strip()


@cache
def _choices(cls: type[Instruction]) -> tuple[BitField, ...]:
    return tuple(part for part in cls.body if part.type is bool or issubclass(part.type, Enum))


@cache
def legal_modes(config: AcceleratorConfig) -> tuple[Instruction, ...]:
    """An instruction of every mode that ``config`` can have."""
    found: dict[str, Instruction] = {}
    for cls in INSTRUCTIONS.values():
        parts = _choices(cls)
        members = [(False, True) if part.type is bool else tuple(part.type) for part in parts]
        for values in product(*members):
            chosen = dict(zip((part.name for part in parts), values, strict=True))
            for layout in _layouts(cls, config):
                insn = legal(cls, config, **chosen, **layout)
                if insn is not None:
                    found.setdefault(mode(insn), insn)
    return tuple(found.values())


def _layouts(cls: type[Instruction], config: AcceleratorConfig) -> list[dict[str, Any]]:
    """Fields of rows alone, packed and interleaved, for instructions that have rows in lines."""
    names = {part.name for part in cls.body}
    if "pack" not in names:
        return [{}]
    room = max([pack for pack in range(8) if BLOCK << pack <= config.line_bytes], default=0)
    pack = key_pack(config) if cls is Score else room
    width: dict[str, Any] = {"elements": Operand(0, 2 * BLOCK)} if "elements" in names else {"depth": 2 * BLOCK}
    interleaved = [{"pack": pack, "row_lines": 2, **width}] if pack else []
    return [{"pack": 0}, {"pack": 1}, *interleaved]


@cache
def sizes_of(opcode: Opcode) -> tuple[str, ...]:
    """Fields that say how much an instruction does."""
    cls = INSTRUCTIONS[opcode]
    names = [name for span in SPANS.get(opcode, ()) for name in (*span.width, *span.rows) if isinstance(name, str)]
    if cls in (Load, Store):
        names = ["rows", "elements"]
    elif cls is Loop:
        names = ["count"]
    flags = {part.name for part in cls.body if part.type is bool}
    return tuple(dict.fromkeys(name for name in names if name not in flags))


def places(insn: Instruction) -> tuple[Span, ...]:
    """The parts of buffers that ``insn`` really uses, that of CONTEXT's result with them."""
    found = spans(insn)
    if isinstance(insn, Context):
        found = (*(span for span in found if insn.emit or span.base != "scales"), _CONTEXT_OUT)
        return tuple(span for span in found if insn.emit or span.base != "out")
    if isinstance(insn, Norm) and not insn.has_bias:
        return tuple(span for span in found if span.base != "bias")
    return found


def product_of(e: Executed, factors: tuple[str | int, ...]) -> int:
    """Product of the factors of a :class:`Span`, with the values that an execution had."""
    total = 1
    for factor in factors:
        total *= factor if isinstance(factor, int) else e.value(factor)
    return total


def bases(e: Executed) -> Iterator[tuple[Span, int]]:
    """The places that an execution used and that are not empty, and the address of each."""
    if not isinstance(e.insn, Context) and any(not e.value(name) for name in sizes_of(e.insn.opcode)):
        return  # a size of 0 makes an instruction do nothing; without rows, CONTEXT still clears and emits
    for span in places(e.insn):
        if product_of(e, span.width) and product_of(e, span.rows):
            yield span, e.value(span.base)
