# SPDX-License-Identifier: Apache-2.0
"""From words to records: dispatch reads an instruction's operands one after the other.

The n-th operand of any instruction goes into slot n; a unit's record is then a matter of wiring slots and fields of the
word to their places. So one read port of the register file and one adder serve all instructions.
"""

from __future__ import annotations

from collections.abc import Iterator

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.words import OPCODE_BITS, value_width, word_layout
from catenary.isa.fields import REGISTER_BITS, SCALAR_BITS, BitField, Reg
from catenary.isa.instructions import INSTRUCTIONS, WORD_BITS, Instruction, Unit
from catenary.isa.rules import register_fields


def operands(cls: type[Instruction]) -> tuple[BitField, ...]:
    """Fields of ``cls`` whose value is that of a register, in order."""
    numbers = register_fields(cls, written=False)
    return tuple(field for field in cls.body if isinstance(field.kind, Reg) or field in numbers)


def operand_width(field: BitField) -> int:
    """Bits that the value of an operand may have."""
    return value_width(field) if isinstance(field.kind, Reg) else SCALAR_BITS


def _slots() -> Iterator[tuple[str, int]]:
    widths = [[operand_width(field) for field in operands(cls)] for cls in INSTRUCTIONS.values()]
    for index in range(max(map(len, widths))):
        yield f"slot{index}", max(row[index] for row in widths if len(row) > index)


SlotLayout = data.StructLayout(dict(_slots()))
"""Values of an instruction's operands, in order."""

SLOTS = len(SlotLayout.members)

WIDTHS = sorted({operand_width(field) for cls in INSTRUCTIONS.values() for field in operands(cls)})
"""Widths that values of operands have."""


def slot(slots: data.View, cls: type[Instruction], name: str) -> Value:
    """Value of the operand ``name`` of an instruction of ``cls``."""
    fields = operands(cls)
    [index] = [number for number, field in enumerate(fields) if field.name == name]
    return slots[f"slot{index}"][: operand_width(fields[index])]


def record(cls: type[Instruction], word: Value, slots: data.View) -> Value:
    """The record of an instruction: the fields of its body, operands replaced by their values."""
    view = data.View(word_layout(cls), word)
    resolved = {field.name for field in operands(cls)}
    return Cat(slot(slots, cls, field.name) if field.name in resolved else view[field.name] for field in cls.body)


def assemble(m: Module, unit: Unit, command: data.View, word: Value, slots: data.View) -> None:
    """Drive ``command``, of ``command_layout(unit)``, from a word for that unit; for other words it means nothing."""
    m.d.comb += command.opcode.eq(word[:OPCODE_BITS])
    *others, last = [cls for cls in INSTRUCTIONS.values() if cls.unit is unit]
    with m.Switch(word[:OPCODE_BITS]):
        for cls in others:
            with m.Case(cls.opcode):
                m.d.comb += command.body[cls.opcode.name.lower()].eq(record(cls, word, slots))
        with m.Default():
            m.d.comb += command.body[last.opcode.name.lower()].eq(record(last, word, slots))


class Resolver(wiring.Component):
    """Reads the operands of an instruction, one per cycle behind a cycle of selection.

    Members:
        word: the instruction; it must not change until ``done``.
        start: begin with its first operand.
        enable: may go on.
        register: number of a register to read.
        value: its value, in the same cycle.
        pending: an instruction that writes it has not finished, so wait.
        slots: the values; they stay until the next start.
        done: all are there; low from the cycle after ``start``.
        fault: a value has more bits than its field; pulses before ``done``.
    """

    def __init__(self):
        super().__init__(
            {
                "word": In(WORD_BITS),
                "start": In(1),
                "enable": In(1),
                "register": Out(REGISTER_BITS),
                "value": In(SCALAR_BITS),
                "pending": In(1),
                "slots": Out(SlotLayout),
                "done": Out(1),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        index = Signal(range(SLOTS + 1))
        count = Signal.like(index)
        # What the first stage selects, and the second adds up.
        selected = data.StructLayout({"register": REGISTER_BITS, "immediate": SCALAR_BITS, "width": range(len(WIDTHS))})
        choice, operand = Signal(selected), Signal(selected)
        target = Signal(range(SLOTS))
        held = Signal()

        self._select(m, index, choice, count)
        total = Signal(SCALAR_BITS)
        excess = Signal()
        with m.Switch(operand.width):
            for number, width in enumerate(WIDTHS):
                with m.Case(number):
                    m.d.comb += excess.eq(total[width:].any())
        advance = self.enable & ~(held & self.pending)
        m.d.comb += [
            self.register.eq(operand.register),
            total.eq(self.value + operand.immediate),
            self.fault.eq(held & advance & excess),
            self.done.eq((index == count) & ~held),
        ]
        with m.If(self.start):
            m.d.sync += [index.eq(0), held.eq(0)]
        with m.Elif(advance):
            m.d.sync += held.eq(index != count)
            with m.If(index != count):
                m.d.sync += [index.eq(index + 1), operand.eq(choice), target.eq(index)]
            with m.If(held), m.Switch(target):
                for number in range(SLOTS):
                    with m.Case(number):
                        m.d.sync += self.slots[f"slot{number}"].eq(total)
        return m

    def _select(self, m: Module, index: Signal, choice: data.View, count: Signal) -> None:
        """Find operand ``index`` of the word, and how many it has."""
        with m.Switch(self.word[:OPCODE_BITS]):
            for cls in INSTRUCTIONS.values():
                word = data.View(word_layout(cls), self.word)
                with m.Case(cls.opcode):
                    m.d.comb += count.eq(len(operands(cls)))
                    with m.Switch(index):
                        for number, field in enumerate(operands(cls)):
                            value, is_pair = word[field.name], isinstance(field.kind, Reg)
                            with m.Case(number):
                                m.d.comb += [
                                    choice.register.eq(value.reg if is_pair else value),
                                    choice.immediate.eq(value.imm if is_pair else 0),
                                    choice.width.eq(WIDTHS.index(operand_width(field))),
                                ]
