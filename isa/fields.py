# SPDX-License-Identifier: Apache-2.0
"""Bit fields of instruction words, derived from annotated dataclasses.

An instruction class is a frozen dataclass whose fields carry their encoding in the type::

    rows: Annotated[Operand, Reg(20)]      # a register plus a 20-bit immediate
    stride: Annotated[int, Bits(20)]       # unsigned
    eps: Annotated[float, Float32()]       # IEEE binary32

Fields are packed least significant bit first, in declaration order; what remains of the word is one reserved field that
must be 0. Encoder, decoder, assembler, hardware layouts and the tables of the manual all derive from here.
"""

from __future__ import annotations

import math
import operator
import struct
from dataclasses import dataclass
from enum import Enum, IntFlag
from typing import Any, NamedTuple, get_type_hints

from catenary.isa.errors import EncodingError

REGISTER_BITS = 5
REGISTERS = 1 << REGISTER_BITS
SCALAR_BITS = 40
"""Width of a scalar register and of every address and size computed from one."""


class Operand(NamedTuple):
    """A size or address: the value of scalar register ``reg`` (register 0 reads 0) plus ``imm``."""

    reg: int = 0
    imm: int = 0


@dataclass(frozen=True)
class Bits:
    """An unsigned integer, an enumeration or a set of flags in ``width`` bits."""

    width: int


@dataclass(frozen=True)
class RegisterNumber(Bits):
    """The number of a scalar register that the instruction reads or, if ``written``, writes."""

    width: int = REGISTER_BITS
    written: bool = False


@dataclass(frozen=True)
class Reg:
    """An :class:`Operand`: a register number, then an unsigned immediate of ``width`` bits."""

    width: int


@dataclass(frozen=True)
class Float32:
    """An IEEE binary32 immediate: any value but NaN, which would not equal itself after a round trip."""


Kind = Bits | Reg | Float32


@dataclass(frozen=True)
class BitField:
    """One field of an instruction word.

    Attributes:
        name: attribute of the instruction class.
        offset: least significant bit.
        width: bits.
        kind: how the value is encoded.
        type: Python type of the value (int, bool, float, Operand, or an Enum).
    """

    name: str
    offset: int
    width: int
    kind: Kind
    type: type

    def encode(self, owner: str, value: Any) -> int:  # noqa: ANN401 - one encoder serves every field type
        """Bits of ``value``; a float is rounded to binary32, to nearest even.

        Raises:
            EncodingError: the value is of another type or does not fit; the message names ``owner``, the field, the
                rule and the value.
        """
        where = f"{owner}.{self.name}"
        if isinstance(self.kind, Float32):
            return _encode_float(where, value)
        if isinstance(self.kind, Reg):
            if not isinstance(value, Operand):
                raise EncodingError(f"{where} must be an Operand, not {value!r}")
            reg, imm = _integer(f"{where} register", value.reg), _integer(f"{where} immediate", value.imm)
            if not 0 <= reg < REGISTERS:
                raise EncodingError(f"{where} register must be in 0..{REGISTERS - 1}, not {reg}")
            if not 0 <= imm < 1 << self.kind.width:
                raise EncodingError(f"{where} immediate must be in 0..{(1 << self.kind.width) - 1}, not {imm}")
            return reg | imm << REGISTER_BITS
        if issubclass(self.type, Enum):
            if not isinstance(value, self.type):  # Unit.LOAD is 0 and would silently mean no unit in a set of units
                raise EncodingError(f"{where} must be of type {self.type.__name__}, not {value!r}")
            value = value.value
        number = _integer(where, value)
        if not 0 <= number < 1 << self.width:
            raise EncodingError(f"{where} must be in 0..{(1 << self.width) - 1}, not {number}")
        return number

    def decode(self, owner: str, bits: int) -> Any:  # noqa: ANN401
        """Inverse of :meth:`encode`.

        Raises:
            EncodingError: the bits name no member of the field's enumeration, or are a NaN.
        """
        if isinstance(self.kind, Float32):
            number = struct.unpack("<f", bits.to_bytes(4, "little"))[0]
            if math.isnan(number):
                raise EncodingError(f"{owner}.{self.name} must be a number, not NaN")
            return number
        if isinstance(self.kind, Reg):
            return Operand(bits & (REGISTERS - 1), bits >> REGISTER_BITS)
        if issubclass(self.type, IntFlag):
            return self.type(bits)
        if issubclass(self.type, Enum):
            try:
                return self.type(bits)
            except ValueError:
                legal = [member.value for member in self.type]
                raise EncodingError(f"{owner}.{self.name} must be one of {legal}, not {bits}") from None
        return bool(bits) if self.type is bool else bits


def _integer(where: str, value: Any) -> int:  # noqa: ANN401
    try:
        return operator.index(value)
    except TypeError:
        raise EncodingError(f"{where} must be an integer, not {value!r}") from None


def _encode_float(where: str, value: Any) -> int:  # noqa: ANN401
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise EncodingError(f"{where} must be a float, not {value!r}") from None
    if math.isnan(number):
        raise EncodingError(f"{where} must be a number, not NaN")
    try:
        return int.from_bytes(struct.pack("<f", number), "little")
    except OverflowError:
        raise EncodingError(f"{where} must be in the range of binary32, not {number}") from None


def layout(cls: type, names: list[str], start: int) -> tuple[BitField, ...]:
    """Bit fields of the annotated attributes ``names`` of ``cls``, packed from bit ``start``."""
    hints = get_type_hints(cls, include_extras=True)
    result = []
    offset = start
    for name in names:
        annotated = hints[name]
        base, kind = annotated.__origin__, annotated.__metadata__[0]
        width = 32 if isinstance(kind, Float32) else kind.width + (REGISTER_BITS if isinstance(kind, Reg) else 0)
        result.append(BitField(name, offset, width, kind, base))
        offset += width
    return tuple(result)
