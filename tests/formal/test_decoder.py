# SPDX-License-Identifier: Apache-2.0
"""The instruction decoder, for all 2**256 words: which are legal, who executes them, what they write, what faults say.

The definition here is a second one, from the fields and the words of the rules in :mod:`catenary.isa`; it uses nothing
of ``hw``, and no rule can be missing or left over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, IntFlag
from functools import partial
from types import ModuleType

import pytest
from amaranth.hdl import Cat, Const, Module, Signal, Value

from catenary.boards.loader import load_accelerator
from catenary.hw.control import decoder, dispatch
from catenary.isa.fields import REGISTER_BITS, BitField, Float32
from catenary.isa.instructions import INSTRUCTIONS, Instruction
from catenary.isa.opcodes import KEY_LIMIT, Buffer, MemoryFormat, Opcode, Source, Unit
from catenary.isa.registers import ErrorCause
from catenary.isa.rules import LOAD_FORMATS, RULES, STORE_FORMATS, register_fields
from catenary.isa.tensors import BLOCK
from tests.formal.harness import Harness
from tests.formal.proofs import Record, mutant, prove

Fields = Mapping[str, Value]
Holds = Callable[[type[Instruction], Fields], Value]


def _some(conditions: list[Value]) -> Value:
    return Cat(conditions).any() if conditions else Const(0)


def _all(conditions: list[Value]) -> Value:
    return Cat(conditions).all() if conditions else Const(1)


def _executes(cls: type[Instruction], f: Fields) -> Value:
    """Number of the unit that executes the instruction."""
    return f["target"] if cls.opcode is Opcode.NOP else Const(cls.unit.value, len(Const(max(Unit).value)))


def _not_own(field: str) -> Holds:
    return lambda cls, f: ~_some([f[field][unit] & (_executes(cls, f) == unit.value) for unit in Unit])


def _pairs(formats: Mapping[Buffer, tuple[Enum, ...]]) -> Holds:
    return lambda cls, f: _some(
        [(f["buffer"] == buffer.value) & (f["format"] == one.value) for buffer in formats for one in formats[buffer]]
    )


def _at_least_one(field: str) -> Holds:
    return lambda cls, f: f[field].any()


def _interleaved(f: Fields) -> Value:
    return f["pack"].any() & (f["row_lines"] > 1)


HOLDS: Mapping[tuple[str, str], Holds] = {
    ("wait", "units other than its own"): _not_own("wait"),
    ("release", "units other than its own"): _not_own("release"),
    ("format", next(r.text for r in RULES if r.opcodes == (Opcode.LD,) and r.field == "format")): _pairs(LOAD_FORMATS),
    ("format", next(r.text for r in RULES if r.opcodes == (Opcode.ST,) and r.field == "format")): _pairs(STORE_FORMATS),
    ("tokens", "1"): lambda cls, f: f["tokens"] == 1 << REGISTER_BITS,
    ("depth", "at least 1"): _at_least_one("depth"),
    ("depth", f"at most {KEY_LIMIT}"): lambda cls, f: f["depth"] <= KEY_LIMIT,
    ("row_lines", "at least 1 for rows from the stream that are not packed"): lambda cls, f: (
        f["row_lines"].any() | f["pack"].any() | (f["source"] == Source.BUFFER.value)
    ),
    ("row_lines", "at most 1 for packed rows"): lambda cls, f: ~_interleaved(f),
    ("row_lines", "at most 1 for packed rows of floats"): lambda cls, f: (
        ~_interleaved(f) | (f["format"] == MemoryFormat.I8.value)
    ),
    ("row_lines", "at most 1 for packed rows from the stream"): lambda cls, f: (
        ~_interleaved(f) | (f["source"] == Source.BUFFER.value)
    ),
    ("row_lines", f"at most 1 or depth / {BLOCK} for packed rows from the stream"): lambda cls, f: (
        ~_interleaved(f) | (f["source"] == Source.BUFFER.value) | (f["row_lines"] * BLOCK == f["depth"])
    ),
    ("group", "at least 1"): _at_least_one("group"),
    ("elements", "at least 1"): _at_least_one("elements"),
    ("rotary", "even"): lambda cls, f: ~f["rotary"][0],
    ("rotary", "at most elements"): lambda cls, f: f["rotary"] <= f["elements"],
    ("every", "at least 1"): _at_least_one("every"),
    ("rd", "a register other than r0"): _at_least_one("rd"),
    ("length", "at least 1"): _at_least_one("length"),
}
"""What each rule of the instruction set says, by its field and its words."""


def _value_exists(field: BitField, bits: Value) -> Value:
    """Whether the bits of a field mean something: no NaN, and a member where the type is an enumeration."""
    if isinstance(field.kind, Float32):
        return ~((bits[:31] > 0x7F800000) & (bits[:31] <= 0x7FFFFFFF))
    if issubclass(field.type, Enum) and not issubclass(field.type, IntFlag):
        return _some([bits == member.value for member in field.type])
    return Const(1)


def definition(m: Module, word: Value) -> tuple[Signal, Signal, Signal]:
    """(legal, unit, register that is written) of a word."""
    legal, unit, writes = Signal(), Signal(range(len(Unit))), Signal(REGISTER_BITS)
    for opcode, cls in INSTRUCTIONS.items():
        parts = (*cls.prefix, *cls.body)
        fields = {part.name: word[part.offset : part.offset + part.width] for part in parts}
        end = max(part.offset + part.width for part in parts)
        rules = [HOLDS[rule.field, rule.text](cls, fields) for rule in RULES if opcode in rule.opcodes]
        values = [_value_exists(part, fields[part.name]) for part in cls.body]
        with m.If(fields["opcode"] == opcode.value):
            m.d.comb += [legal.eq(~word[end:].any() & _all(rules) & _all(values)), unit.eq(_executes(cls, fields))]
            for part in register_fields(cls, written=True):
                m.d.comb += writes.eq(fields[part.name])
    return legal, unit, writes


def harness(module: ModuleType = decoder) -> Harness:
    """The decoder and the definition."""
    h = Harness()
    dut = module.Decoder()
    h.add(dut, "dut")
    legal, unit, writes = definition(h.m, dut.word)
    h.claim("legal words are", ~legal | dut.legal)
    h.claim("others are not", legal | ~dut.legal)
    h.claim("unit", ~legal | (dut.unit == unit))
    h.claim("register", ~legal | (dut.writes == writes))
    for opcode in INSTRUCTIONS:
        h.cover(f"legal {opcode.name}", legal & (dut.word[:6] == opcode.value))
    return h


def test_every_rule_is_defined() -> None:
    assert {(rule.field, rule.text) for rule in RULES} == set(HOLDS)


WRONG = {
    "depth of SCORE has no limit": ("(word.depth > KEY_LIMIT if cls.opcode is Opcode.SCORE else 0)", "0"),
    "rotary may be odd": ("word.rotary[0] | (word.rotary", "(word.rotary"),
    "reserved bits are not looked at": ("any_of([beyond[reserved_from(cls)], *", "any_of([*"),
    "keys are interleaved in more lines than they have words": ("word.row_lines) != word.depth", "0) != word.depth"),
    "NaN is a number": ("& value[:MANTISSA_BITS].any()", "& 0"),
    "NOP is executed by load": ("word.target if cls.opcode is Opcode.NOP else cls.unit)", "cls.unit)"),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_decoder(record: Record) -> None:
    prove(
        record,
        "Decoder",
        "for every word of 256 bits: legal exactly if decode() and all rules take it; unit and register are right",
        harness,
        steps=1,
        controls={name: partial(harness, mutant(decoder, change)) for name, change in WRONG.items()},
    )


def faults(module: ModuleType = dispatch) -> Harness:
    """Dispatch, in the state in which it judges the word in hand."""
    h = Harness()
    dut = module.Dispatch(load_accelerator("small"))
    inside = h.add(dut, "dut")
    state, legal = inside["dispatch_state"], inside["decoder.legal"]
    decode = (state == 4) & dut.enable
    named = dut.fault & (dut.cause == ErrorCause.ILLEGAL_INSTRUCTION.value)
    h.implies("an illegal word is named", decode & ~legal, named)
    h.implies("a legal word is no fault", decode & legal, ~dut.fault)
    h.claim(
        "and it goes nowhere",
        ~(decode & ~legal) | (Cat(q.valid for q in (dut.load, dut.store, dut.matrix, dut.vector)) == 0),
    )
    stopped = h.past(decode & ~legal, "illegal")
    h.implies("dispatch stops", stopped, state == 0)
    return h


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_illegal_words_have_a_cause(record: Record) -> None:
    wrong = {
        "another cause": (
            "fail(ErrorCause.ILLEGAL_INSTRUCTION)\n                with m.Elif(~scalars",
            "fail(ErrorCause.CODE_RANGE)\n                with m.Elif(~scalars",
        )
    }
    prove(
        record,
        "Dispatch",
        "in DECODE, an illegal word, and no legal one, is a fault with cause ILLEGAL_INSTRUCTION, and stops dispatch",
        faults,
        steps=1,
        controls={name: partial(faults, mutant(dispatch, change)) for name, change in wrong.items()},
    )
