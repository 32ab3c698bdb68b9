# SPDX-License-Identifier: Apache-2.0
"""Which words are legal, which unit runs them and which register they write.

Everything is derived from the instruction set: a word is legal if :func:`catenary.isa.encoding.decode` takes it and
it breaks none of :data:`catenary.isa.rules.RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum, IntFlag

from amaranth.hdl import Cat, Const, Module, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from catenary.hw.words import OPCODE_BITS, word_layout
from catenary.isa.fields import REGISTER_BITS, Float32
from catenary.isa.instructions import INSTRUCTIONS, Instruction
from catenary.isa.opcodes import KEY_LIMIT, WORD_BITS, Buffer, MemoryFormat, Opcode, Source, Unit
from catenary.isa.rules import LOAD_FORMATS, RULES, STORE_FORMATS, register_fields
from catenary.isa.tensors import BLOCK

MANTISSA_BITS = 23
EXPONENT_BITS = 8

Check = Callable[[type[Instruction], data.View], Value]


def any_of(conditions: Iterator[Value] | list[Value]) -> Value:
    """Whether at least one condition holds."""
    result: Value = Const(0)
    for condition in conditions:
        result = result | condition
    return result


def _names_itself(units: Value, cls: type[Instruction], word: data.View) -> Value:
    return units.bit_select(word.target, 1) if cls.opcode is Opcode.NOP else units[cls.unit]


def _format_mismatch(cls: type[Instruction], word: data.View) -> Value:
    formats: Mapping[Buffer, tuple[MemoryFormat, ...]] = LOAD_FORMATS if cls.opcode is Opcode.LD else STORE_FORMATS
    pairs = [(buffer, fmt) for buffer, allowed in formats.items() for fmt in allowed]
    return ~any_of([(word.buffer == buffer.value) & (word.format == fmt.value) for buffer, fmt in pairs])


def _is_zero(name: str) -> Check:
    return lambda cls, word: word[name] == 0


def _bad_depth(cls: type[Instruction], word: data.View) -> Value:
    return (word.depth == 0) | (word.depth > KEY_LIMIT if cls.opcode is Opcode.SCORE else 0)


def _bad_row_lines(cls: type[Instruction], word: data.View) -> Value:
    interleaves = (word.pack != 0) & (word.row_lines[1:] != 0)
    if cls.opcode is Opcode.LD:
        return interleaves
    if cls.opcode is Opcode.ST:
        return interleaves & (word.format != MemoryFormat.I8.value)
    if cls.opcode is Opcode.SCORE:
        interleaves &= Cat(Const(0, exact_log2(BLOCK)), word.row_lines) != word.depth
    return (word.source == Source.STREAM.value) & (interleaves | ((word.row_lines == 0) & (word.pack == 0)))


_BROKEN: Mapping[str, Check] = {
    "wait": lambda cls, word: _names_itself(word.wait, cls, word),
    "release": lambda cls, word: _names_itself(word.release, cls, word),
    "format": _format_mismatch,
    "tokens": lambda cls, word: (word.tokens.reg != 0) | (word.tokens.imm != 1),
    "depth": _bad_depth,
    "row_lines": _bad_row_lines,
    "group": _is_zero("group"),
    "elements": _is_zero("elements"),
    "rotary": lambda cls, word: word.rotary[0] | (word.rotary > word.elements),
    "every": _is_zero("every"),
    "rd": _is_zero("rd"),
    "length": _is_zero("length"),
}
"""How hardware sees that the rules about a field are broken; an instruction's rules about a field go together."""


def illegal_fields(cls: type[Instruction], word: data.View) -> Iterator[Value]:
    """What makes a word with the opcode of ``cls`` illegal: enumeration values, NaN and rules, field by field."""
    for field in cls.body:
        value = word[field.name]
        if isinstance(field.kind, Float32):
            yield value[MANTISSA_BITS : MANTISSA_BITS + EXPONENT_BITS].all() & value[:MANTISSA_BITS].any()
        elif issubclass(field.type, Enum) and not issubclass(field.type, IntFlag):
            legal = [member.value for member in field.type]
            if len(legal) < 1 << field.width:
                yield ~any_of([value == number for number in legal])
    for name in dict.fromkeys(rule.field for rule in RULES if cls.opcode in rule.opcodes):
        yield _BROKEN[name](cls, word)


def reserved_from(cls: type[Instruction]) -> int:
    """The first bit behind the fields of ``cls``."""
    last = (*cls.prefix, *cls.body)[-1]
    return last.offset + last.width


class Decoder(wiring.Component):
    """Judges a word; combinational.

    Members:
        word: the word.
        legal: it may be executed.
        unit: which unit executes it, if it is legal.
        writes: number of the register that it writes, 0 if it writes none.
    """

    def __init__(self):
        super().__init__(
            {
                "word": In(WORD_BITS),
                "legal": Out(1),
                "unit": Out(range(len(Unit))),
                "writes": Out(REGISTER_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        ends = sorted({reserved_from(cls) for cls in INSTRUCTIONS.values()})
        beyond: dict[int, Value] = {}  # whether any bit from there on is set; each builds on the next
        rest: Value = Const(0)
        for start, end in reversed(list(zip(ends, [*ends[1:], WORD_BITS], strict=True))):
            rest = rest | self.word[start:end].any()
            beyond[start] = rest
        with m.Switch(self.word[:OPCODE_BITS]):
            for cls in INSTRUCTIONS.values():
                word = data.View(word_layout(cls), self.word)
                with m.Case(cls.opcode):
                    illegal = any_of([beyond[reserved_from(cls)], *illegal_fields(cls, word)])
                    m.d.comb += [
                        self.legal.eq(~illegal),
                        self.unit.eq(word.target if cls.opcode is Opcode.NOP else cls.unit),
                    ]
                    for field in register_fields(cls, written=True):
                        m.d.comb += self.writes.eq(word[field.name])
        return m
