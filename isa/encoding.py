# SPDX-License-Identifier: Apache-2.0
"""Instructions to words of 32 bytes and back."""

from __future__ import annotations

from collections.abc import Iterable

from catenary.isa.errors import EncodingError
from catenary.isa.instructions import INSTRUCTIONS, OPCODE_FIELD, Instruction
from catenary.isa.opcodes import WORD_BITS, WORD_BYTES, Opcode


def encode(insn: Instruction) -> bytes:
    """The 32-byte word of ``insn``, little-endian.

    Raises:
        EncodingError: a field value does not fit.
    """
    owner = insn.opcode.name
    word = int(insn.opcode)
    for part in (*insn.prefix[1:], *insn.body):
        word |= part.encode(owner, getattr(insn, part.name)) << part.offset
    return word.to_bytes(WORD_BYTES, "little")


def decode(data: bytes) -> Instruction:
    """Inverse of :func:`encode`.

    Raises:
        EncodingError: wrong length, illegal opcode, illegal field value, or a reserved bit that is not 0.
    """
    if len(data) != WORD_BYTES:
        raise EncodingError(f"Instruction must be {WORD_BYTES} bytes long, not {len(data)}")
    word = int.from_bytes(data, "little")
    number = word & ((1 << OPCODE_FIELD.width) - 1)
    if number not in Opcode.__members__.values():
        raise EncodingError(f"Opcode must be one that the instruction set defines, not 0x{number:02x}")
    cls = INSTRUCTIONS[Opcode(number)]
    owner = cls.opcode.name
    values = {}
    end = 0
    for part in (*cls.prefix, *cls.body):
        end = part.offset + part.width
        if part.name != "opcode":
            values[part.name] = part.decode(owner, word >> part.offset & ((1 << part.width) - 1))
    if word >> end:
        raise EncodingError(f"Reserved bits {end}..{WORD_BITS - 1} of {owner} must be 0, not 0x{word >> end:x}")
    return cls(**values)


def encode_all(code: Iterable[Instruction]) -> bytes:
    """The words of ``code``, one after the other."""
    return b"".join(encode(insn) for insn in code)


def decode_all(data: bytes) -> list[Instruction]:
    """Inverse of :func:`encode_all`; errors name the instruction's index."""
    if len(data) % WORD_BYTES:
        raise EncodingError(f"Code must be a multiple of {WORD_BYTES} bytes long, not {len(data)}")
    result = []
    for index in range(len(data) // WORD_BYTES):
        try:
            result.append(decode(data[index * WORD_BYTES : (index + 1) * WORD_BYTES]))
        except EncodingError as error:
            raise EncodingError(f"Instruction {index}: {error}") from None
    return result
