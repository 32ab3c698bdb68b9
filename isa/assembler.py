# SPDX-License-Identifier: Apache-2.0
"""Instructions as text, both ways and without loss.

One instruction a line: mnemonic, then ``field=value`` in any order. The syntax follows from the instruction classes::

    decode:                                          ; a label: an entry point
       0  ld buffer=v format=f32 memory=r9+4 rows=1 elements=r3 release=vector
       1  loop count=r4 length=1                     ; to 2
       2    norm function=rms dst=0 ... wait=load    ; loop bodies are indented

Operands read ``128``, ``r5`` or ``r5+128``, register numbers ``r5``, integers ``20`` or ``0x14``, enumerations and
units their lower-case names (``wait=load,vector``; ``none`` is the empty set), booleans ``true`` or ``false``. Floats
are the shortest decimal that gives the same binary32 value. A field may be left out where its class has a default. The
index in front and everything behind ``;`` are for the reader.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import Enum, IntFlag
from typing import Any, NamedTuple

from catenary.isa.encoding import decode_all, encode
from catenary.isa.errors import EncodingError
from catenary.isa.fields import BitField, Float32, Operand, Reg, RegisterNumber
from catenary.isa.instructions import INSTRUCTIONS, Instruction, Loop

_LABEL = re.compile(r"([A-Za-z_][\w.]*):")
_INDEX = re.compile(r"^\d+\s+")
_OPERAND = re.compile(r"r(?P<reg>\d+)(?:\+(?P<offset>\w+))?|(?P<imm>\w+)")
_NUMBER = re.compile(r"r(\d+)")
_INDENT = "  "


class Assembly(NamedTuple):
    """What a text says: the instruction words, and each label by the index of the instruction behind it."""

    code: bytes
    symbols: dict[int, str]


def disassemble(code: bytes, symbols: Mapping[int, str] | None = None) -> str:
    """Instruction words as text.

    Args:
        code: whole instruction words.
        symbols: names of entry points, by instruction index.

    Returns:
        Lines that :func:`assemble` turns back into ``code``.

    Raises:
        EncodingError: a word that is not legal; the message names its index. Or a symbol that is no name.
    """
    symbols = symbols or {}
    for name in symbols.values():
        if _LABEL.fullmatch(f"{name}:") is None:
            raise EncodingError(f"Label must be a name, not {name!r}")
    lines: list[str] = []
    ends: list[int] = []
    instructions = decode_all(code)
    digits = max(4, len(str(len(instructions))))
    for index, insn in enumerate(instructions):
        ends = [end for end in ends if end > index]
        if index in symbols:
            lines.append(f"{symbols[index]}:")
        text = f"{index:>{digits}}  {_INDENT * len(ends)}{format_instruction(insn)}"
        if isinstance(insn, Loop):
            ends.append(index + 1 + insn.length)
            text += f"  ; to {index + insn.length}"
        lines.append(text)
    return "".join(f"{line}\n" for line in lines)


def assemble(text: str) -> bytes:
    """Inverse of :func:`disassemble`; labels are dropped.

    Raises:
        EncodingError: names the line, the field, the rule and the value.
    """
    return parse(text).code


def parse(text: str) -> Assembly:
    """Like :func:`assemble`, but keeps the labels.

    Raises:
        EncodingError: names the line, the field, the rule and the value.
    """
    words: list[bytes] = []
    symbols: dict[int, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        statement = line.split(";", 1)[0].strip()
        try:
            label = _LABEL.fullmatch(statement)
            if label is not None:
                _add_symbol(symbols, len(words), label[1])
            elif statement:
                words.append(encode(parse_instruction(_INDEX.sub("", statement, count=1))))
        except EncodingError as error:
            raise EncodingError(f"Line {number}: {error}") from None
    return Assembly(b"".join(words), symbols)


def format_instruction(insn: Instruction) -> str:
    """One instruction as text, without index or indentation."""
    owner = insn.opcode.name
    defaults = _defaults(type(insn))
    words = [owner.lower()]
    for part in _parts(type(insn)):
        bits = part.encode(owner, getattr(insn, part.name))
        # Bits, not values, are compared: -0.0 == 0.0, but their words differ.
        if part.name not in defaults or bits != part.encode(owner, defaults[part.name]):
            words.append(f"{part.name}={format_value(part, part.decode(owner, bits))}")
    return " ".join(words)


def format_field(insn: Instruction, name: str) -> str:
    """The value of one field as text."""
    [part] = [part for part in _parts(type(insn)) if part.name == name]
    return format_value(part, getattr(insn, name))


def parse_instruction(statement: str) -> Instruction:
    """Inverse of :func:`format_instruction`.

    Raises:
        EncodingError: names the field, the rule and the value.
    """
    mnemonic, *settings = statement.split()
    names = {opcode.name.lower(): opcode for opcode in INSTRUCTIONS}
    if mnemonic not in names:
        raise EncodingError(f"Mnemonic must be one of {', '.join(names)}, not {mnemonic}")
    cls = INSTRUCTIONS[names[mnemonic]]
    owner = cls.opcode.name
    parts = {part.name: part for part in _parts(cls)}
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not text:
            raise EncodingError(f"Operand of {owner} must be of the form field=value, not {setting}")
        if name not in parts:
            raise EncodingError(f"Field of {owner} must be one of {', '.join(parts)}, not {name}")
        if name in values:
            raise EncodingError(f"{owner}.{name} must be given once, not twice")
        values[name] = _parse_value(parts[name], f"{owner}.{name}", text)
    missing = [name for name in parts if name not in values and name not in _defaults(cls)]
    if missing:
        raise EncodingError(f"{owner}.{missing[0]} must be given, not left out")
    return cls(**values)


def _parts(cls: type[Instruction]) -> tuple[BitField, ...]:
    """Fields in the order of the text: what the instruction does, then whom it waits for and releases."""
    return (*cls.body, *cls.prefix[1:])


def _defaults(cls: type[Instruction]) -> dict[str, Any]:
    return {field.name: field.default for field in fields(cls) if field.default is not MISSING}


def _add_symbol(symbols: dict[int, str], index: int, name: str) -> None:
    if name in symbols.values():
        raise EncodingError(f"Label {name} must be defined once, not twice")
    if index in symbols:
        raise EncodingError(f"Instruction {index} must have one label, not both {symbols[index]} and {name}")
    symbols[index] = name


def format_value(part: BitField, value: Any) -> str:  # noqa: ANN401 - every field type passes through
    """A value of field ``part`` as text."""
    if isinstance(part.kind, Float32):
        return format_float(value)
    if isinstance(part.kind, Reg):
        reg, imm = value
        if not reg:
            return str(imm)
        return f"r{reg}+{imm}" if imm else f"r{reg}"
    if isinstance(part.kind, RegisterNumber):
        return f"r{value}"
    if isinstance(value, IntFlag):
        return ",".join(member.name.lower() for member in value if member.name) or "none"
    return value.name.lower() if isinstance(value, Enum) else str(value).lower()


def _parse_value(part: BitField, where: str, text: str) -> Any:  # noqa: ANN401
    if isinstance(part.kind, Float32):
        return _float(where, text)
    if isinstance(part.kind, Reg):
        match = _OPERAND.fullmatch(text)
        if match is None:
            raise EncodingError(f"{where} must be like 128, r5 or r5+128, not {text}")
        return Operand(int(match["reg"] or 0), _integer(where, match["imm"] or match["offset"] or "0"))
    if isinstance(part.kind, RegisterNumber):
        match = _NUMBER.fullmatch(text)
        if match is None:
            raise EncodingError(f"{where} must be a register like r5, not {text}")
        return int(match[1])
    if issubclass(part.type, bool):
        return _choose(where, {"false": False, "true": True}, text)
    if issubclass(part.type, IntFlag):
        members = {"none": part.type(0), **{str(m.name).lower(): m for m in part.type}}
        result = part.type(0)
        for name in text.split(","):
            result |= _choose(where, members, name)
        return result
    if issubclass(part.type, Enum):
        return _choose(where, {member.name.lower(): member for member in part.type}, text)
    return _integer(where, text)


def _choose(where: str, choices: Mapping[str, Any], text: str) -> Any:  # noqa: ANN401
    if text not in choices:
        raise EncodingError(f"{where} must be one of {', '.join(choices)}, not {text}")
    return choices[text]


def _integer(where: str, text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise EncodingError(f"{where} must be an integer, not {text}") from None


def _float(where: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise EncodingError(f"{where} must be a decimal number, not {text}") from None
    if math.isinf(number) and text.lstrip("+-").lower() not in ("inf", "infinity"):
        raise EncodingError(f"{where} must be in the range of binary32, not {text}")
    return number


def format_float(value: float) -> str:
    """The shortest decimal that gives binary32 ``value`` (any but NaN) when it is read and rounded again."""
    bits = struct.pack("<f", value)
    for digits in range(1, 9):
        text = f"{value:.{digits}g}"
        try:
            if struct.pack("<f", float(text)) == bits:
                return text
        except OverflowError:  # rounded up beyond the largest number
            continue
    return f"{value:.9g}"
