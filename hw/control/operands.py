# SPDX-License-Identifier: Apache-2.0
"""From words to records: dispatch reads an instruction's operands one after the other.

Each operand's value goes into the slot that :mod:`catenary.hw.words` gives it; a unit's record is then a matter of
wiring slots and bits of the word to their places. So one read port of the register file and one adder serve all
instructions.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from catenary.hw.words import OPCODE_BITS, SLOTS, operand_width, operands, rest_bits, slot_widths, slots_of
from catenary.isa.fields import REGISTER_BITS, SCALAR_BITS, BitField, Reg
from catenary.isa.instructions import INSTRUCTIONS, Instruction
from catenary.isa.opcodes import WORD_BITS, Unit

SlotLayout = data.StructLayout({f"slot{slot}": max(slot_widths(unit)[slot] for unit in Unit) for slot in range(SLOTS)})
"""Values of an instruction's operands."""

WINDOW = 8
"""Operands are looked for in windows of the word that begin at multiples of so many bits. There are fewer of these than
places of operands, so that two multiplexers, of windows and of places in one, are smaller than one of all places."""


def slot(slots: data.View, cls: type[Instruction], name: str) -> Value:
    """Value of the operand ``name`` of an instruction of ``cls``."""
    [field] = [field for field in operands(cls) if field.name == name]
    return slots[f"slot{slots_of(cls)[name]}"][: operand_width(field)]


def assemble(m: Module, unit: Unit, command: data.View, word: Value, slots: data.View) -> None:
    """Drive ``command``, of ``command_layout(unit)``, from a word for that unit; for other words it means nothing."""
    values = [slots[f"slot{number}"][:width] for number, width in enumerate(slot_widths(unit))]
    m.d.comb += [
        command.opcode.eq(word[:OPCODE_BITS]),
        command.body.as_value().eq(Cat(*values, *(word[bit] for bit in rest_bits(unit)))),
    ]


def _form(field: BitField) -> tuple[int, int]:
    return operand_width(field), field.kind.width if isinstance(field.kind, Reg) else 0


OPERANDS = tuple((cls, index, field) for cls in INSTRUCTIONS.values() for index, field in enumerate(operands(cls)))
"""Every operand: its instruction, its index there, and the field."""

FORMS = tuple(sorted({_form(field) for _, _, field in OPERANDS}))
"""What operands there are: bits that the value may have, and bits of the immediate."""

WINDOWS = tuple(sorted({field.offset // WINDOW for _, _, field in OPERANDS}))
"""Windows that an operand begins in."""

COMMON = 20
"""Bits of most immediates at most. Those of longer ones are selected apart, because there are few of them."""


class Resolver(wiring.Component):
    """Reads the operands of an instruction, one per cycle behind a cycle of selection.

    Where an operand lies is looked up while the one before it is selected; for the first, in the cycle of ``start``.

    Members:
        word: the instruction, from the cycle of ``start`` on; it must not change until ``done``.
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
        selected = data.StructLayout(
            {
                "register": REGISTER_BITS,
                "immediate": SCALAR_BITS,
                "form": range(len(FORMS)),
                "target": range(SLOTS),
            }
        )
        choice, operand = Signal(selected), Signal(selected)
        held, busy = Signal(), Signal()

        advance = self.enable & ~(held & self.pending)
        following = Signal.like(index)
        with m.If(busy):
            m.d.comb += following.eq(index + advance)
        spot = self._find(m, following, count)
        self._select(m, spot, choice)
        total = Signal(SCALAR_BITS)
        excess = Signal()
        with m.Switch(operand.form):
            for number, (width, _) in enumerate(FORMS):
                with m.Case(number):
                    m.d.comb += excess.eq(total[width:].any())
        m.d.comb += [
            self.register.eq(operand.register),
            total.eq(self.value + operand.immediate),
            self.fault.eq(held & advance & excess),
            self.done.eq((index == count) & ~held),
        ]
        with m.If(self.start):
            m.d.sync += [index.eq(0), held.eq(0), busy.eq(1)]
        with m.Elif(self.done):
            m.d.sync += busy.eq(0)
        with m.Elif(busy & advance):
            m.d.sync += held.eq(index != count)
            with m.If(index != count):
                m.d.sync += [index.eq(index + 1), operand.eq(choice)]
            with m.If(held), m.Switch(operand.target):
                for number in range(SLOTS):
                    with m.Case(number):
                        m.d.sync += self.slots[f"slot{number}"].eq(total)
        return m

    def _find(self, m: Module, index: Signal, count: Signal) -> data.View:
        """A register with where operand ``index`` of the word lies and what it is; and how many operands there are."""
        spots = data.StructLayout(
            {
                "window": range(len(WINDOWS)),
                "place": range(WINDOW),
                "form": range(len(FORMS)),
                "target": range(SLOTS),
            }
        )
        found, spot = Signal(spots), Signal(spots)
        m.d.sync += spot.eq(found)
        with m.Switch(self.word[:OPCODE_BITS]):
            for cls in INSTRUCTIONS.values():
                with m.Case(cls.opcode):
                    m.d.comb += count.eq(len(operands(cls)))
        with m.Switch(Cat(self.word[:OPCODE_BITS], index)):
            for cls, number, field in OPERANDS:
                with m.Case(cls.opcode | number << OPCODE_BITS):
                    m.d.comb += [
                        found.window.eq(WINDOWS.index(field.offset // WINDOW)),
                        found.place.eq(field.offset % WINDOW),
                        found.form.eq(FORMS.index(_form(field))),
                        found.target.eq(slots_of(cls)[field.name]),
                    ]
        return spot

    def _select(self, m: Module, spot: data.View, choice: data.View) -> None:
        """The operand at ``spot``."""
        window, place = spot.window, spot.place
        bits = REGISTER_BITS + COMMON
        word = Cat(self.word, Const(0, WINDOW + bits))
        opened, shifted = Signal(WINDOW - 1 + bits), Signal(bits)
        m.d.comb += [
            opened.eq(Cat(word[WINDOW * start :][: len(opened)] for start in WINDOWS).word_select(window, len(opened))),
            shifted.eq(opened >> place),
            choice.form.eq(spot.form),
            choice.target.eq(spot.target),
            choice.register.eq(shifted),
        ]
        with m.Switch(spot.form):
            for number, (_, length) in enumerate(FORMS):
                with m.Case(number):
                    m.d.comb += choice.immediate.eq(shifted[REGISTER_BITS:][:length] if length else 0)
        long = {(field.offset, _form(field)) for _, _, field in OPERANDS if _form(field)[1] > COMMON}
        for offset, form in sorted(long):
            high = self.word[offset + bits : offset + REGISTER_BITS + form[1]]
            at_offset = (window == WINDOWS.index(offset // WINDOW)) & (place == offset % WINDOW)
            with m.If(at_offset & (spot.form == FORMS.index(form))):
                m.d.comb += choice.immediate[COMMON:].eq(high)
