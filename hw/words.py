# SPDX-License-Identifier: Apache-2.0
"""Hardware layouts of instruction words, derived from :mod:`catenary.isa.instructions`.

An instruction exists in two forms: the encoded *word* that dispatch decodes, where an operand is a register number and
an immediate, and the *record* in a unit's queue, where dispatch has replaced every operand by its value.
"""

from __future__ import annotations

from amaranth.lib import data
from amaranth.utils import ceil_log2

from catenary.isa.fields import REGISTER_BITS, SCALAR_BITS, BitField, Reg
from catenary.isa.instructions import INSTRUCTIONS, OPCODE_FIELD, WORD_BITS, Instruction, Unit
from catenary.isa.registers import PC_BITS

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


def record_layout(cls: type[Instruction]) -> data.StructLayout:
    """What a unit needs of an instruction: the fields of its body, operands replaced by values."""
    return data.StructLayout({field.name: value_width(field) for field in cls.body})


def command_layout(unit: Unit) -> data.StructLayout:
    """What a unit's queue hands to the unit: ``opcode`` and ``body``, a union of records named as opcodes are, in lower
    case (``command.body.softmax.rows``). NOP has no record and never reaches a unit."""
    records = {
        cls.opcode.name.lower(): record_layout(cls) for cls in INSTRUCTIONS.values() if cls.unit is unit and cls.body
    }
    return data.StructLayout({"opcode": OPCODE_BITS, "body": data.UnionLayout(records)})


def pc_width(instruction_words: int) -> int:
    """Bits of an index into an instruction buffer of so many words, at most ``PC_BITS``."""
    return min(PC_BITS, max(1, ceil_log2(instruction_words)))
