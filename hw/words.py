# SPDX-License-Identifier: Apache-2.0
"""Hardware layouts of instruction words, derived from :mod:`catenary.isa.instructions`.

An instruction exists in two forms: the encoded *word* that dispatch decodes, where an operand is a register number and
an immediate, and the *record* in a unit's queue, where dispatch has replaced every operand by its value.

A record is *slots*, then *rest*. Dispatch puts the value of each operand into a slot; operands of the same name have
the same slot in all instructions of a unit, as far as possible. The rest are all bits of the word that belong to a
field that is no operand, in any instruction of the unit. So nothing has to be selected to make a record of slots and
word, whatever the instruction.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from amaranth.lib import data
from amaranth.utils import ceil_log2

from catenary.isa.fields import REGISTER_BITS, SCALAR_BITS, BitField, Reg
from catenary.isa.instructions import INSTRUCTIONS, OPCODE_FIELD, Instruction
from catenary.isa.opcodes import WORD_BITS, Unit
from catenary.isa.registers import PC_BITS
from catenary.isa.rules import register_fields

WIDE_IMMEDIATE = 32
"""Immediates of at least so many bits belong to values that may use all bits of a scalar register."""

OPCODE_BITS = OPCODE_FIELD.width


def value_width(field: BitField) -> int:
    """Bits of a field's value in a record: an operand's is as wide as its immediate, or a whole scalar."""
    if not isinstance(field.kind, Reg):
        return field.width
    return SCALAR_BITS if field.kind.width >= WIDE_IMMEDIATE else field.kind.width


def word_layout(cls: type[Instruction]) -> data.StructLayout:
    """The encoded word of ``cls``: its fields by name, operands as ``{reg, imm}``, and what is left as ``reserved``."""
    members: dict[str, object] = {}
    end = 0
    for field in (*cls.prefix, *cls.body):
        if isinstance(field.kind, Reg):
            members[field.name] = data.StructLayout({"reg": REGISTER_BITS, "imm": field.kind.width})
        else:
            members[field.name] = field.width
        end = field.offset + field.width
    if end < WORD_BITS:
        members["reserved"] = WORD_BITS - end
    return data.StructLayout(members)


def operands(cls: type[Instruction]) -> tuple[BitField, ...]:
    """Fields of ``cls`` whose value is that of a register, in order."""
    numbers = register_fields(cls, written=False)
    return tuple(field for field in cls.body if isinstance(field.kind, Reg) or field in numbers)


def operand_width(field: BitField) -> int:
    """Bits that the value of an operand may have."""
    return value_width(field) if isinstance(field.kind, Reg) else SCALAR_BITS


SLOTS = max(len(operands(cls)) for cls in INSTRUCTIONS.values())
"""Slots for values of operands; instructions with fewer operands leave some unused."""


def instructions_of(unit: Unit) -> tuple[type[Instruction], ...]:
    """Those that ``unit`` executes."""
    return tuple(cls for cls in INSTRUCTIONS.values() if cls.unit is unit)


@cache
def slots_of(cls: type[Instruction]) -> Mapping[str, int]:
    """The slot of each operand of ``cls``."""
    return _assigned(cls.unit)[cls]


@cache
def slot_widths(unit: Unit) -> tuple[int, ...]:
    """Bits that each slot needs for the instructions of ``unit``."""
    widths = [0] * SLOTS
    for cls, slots in _assigned(unit).items():
        for field in operands(cls):
            widths[slots[field.name]] = max(widths[slots[field.name]], operand_width(field))
    return tuple(widths)


@cache
def _assigned(unit: Unit) -> Mapping[type[Instruction], Mapping[str, int]]:
    """Slots by instruction: that of a name which has one, else the free one that grows least."""
    usual: dict[str, int] = {}
    widths = [0] * SLOTS
    result: dict[type[Instruction], dict[str, int]] = {}
    for cls in sorted(instructions_of(unit), key=lambda cls: -len(operands(cls))):
        fields = {field.name: operand_width(field) for field in operands(cls)}
        slots: dict[str, int] = {}
        for name in fields:
            if name in usual and usual[name] not in slots.values():
                slots[name] = usual[name]
        for name in [name for name in fields if name not in slots]:
            free = [slot for slot in range(SLOTS) if slot not in slots.values()]
            slots[name] = min(free, key=lambda slot, width=fields[name]: (max(0, width - widths[slot]), slot))
            usual.setdefault(name, slots[name])
        for name, width in fields.items():
            widths[slots[name]] = max(widths[slots[name]], width)
        result[cls] = slots
    return result


@cache
def rest_bits(unit: Unit) -> tuple[int, ...]:
    """Bits of a word that belong to a field that is no operand, in any instruction of ``unit``."""
    fields = (field for cls in instructions_of(unit) for field in cls.body if field not in operands(cls))
    return tuple(sorted({bit for field in fields for bit in range(field.offset, field.offset + field.width)}))


def record_layout(cls: type[Instruction]) -> data.FlexibleLayout:
    """What a unit needs of an instruction: the fields of its body, operands replaced by values."""
    widths, rest = slot_widths(cls.unit), rest_bits(cls.unit)
    members = {}
    for field in cls.body:
        if field in operands(cls):
            slot = slots_of(cls)[field.name]
            members[field.name] = data.Field(operand_width(field), sum(widths[:slot]))
        else:
            members[field.name] = data.Field(field.width, sum(widths) + rest.index(field.offset))
    return data.FlexibleLayout(sum(widths) + len(rest), members)


def command_layout(unit: Unit) -> data.StructLayout:
    """What a unit's queue hands to the unit: ``opcode`` and ``body``, a union of records named as opcodes are, in lower
    case (``command.body.softmax.rows``). NOP has no record and never reaches a unit."""
    records = {cls.opcode.name.lower(): record_layout(cls) for cls in instructions_of(unit)}
    return data.StructLayout({"opcode": OPCODE_BITS, "body": data.UnionLayout(records)})


def pc_width(instruction_words: int) -> int:
    """Bits of an index into an instruction buffer of so many words, at most ``PC_BITS``."""
    return min(PC_BITS, max(1, ceil_log2(instruction_words)))
