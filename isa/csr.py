# SPDX-License-Identifier: Apache-2.0
"""Control and status registers as data, in the manner of amaranth-soc.

A :class:`Register` is a set of named fields with an access kind each. Bit offsets and addresses are derived from the
order of the description, never typed; the hardware's decoder, the host's driver and the manual's table read the same
:class:`RegisterMap`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import cached_property

from catenary.isa.errors import EncodingError


class Access(Enum):
    """What the host may do with a field."""

    READ = "r"
    """Read; writes are ignored."""
    WRITE = "w"
    """Writing 1 triggers; reads 0."""
    READ_WRITE = "rw"
    """Read what was written."""
    RESERVED = "-"
    """Reads 0; write 0."""


@dataclass(frozen=True)
class RegisterField:
    """One field of a register.

    Attributes:
        width: bits.
        access: what the host may do.
        doc: meaning, one line.
        reset: value after reset.
        enum: names of the values, if they have names.
    """

    width: int
    access: Access
    doc: str
    reset: int = 0
    enum: type[IntEnum] | None = None


@dataclass(frozen=True)
class PlacedField:
    """A field at its bits ``offset`` .. ``offset + width - 1``."""

    name: str
    offset: int
    field: RegisterField

    @property
    def width(self) -> int:
        """Bits."""
        return self.field.width


@dataclass(frozen=True)
class Register:
    """Fields, least significant first, in one or two 32-bit words.

    Attributes:
        fields: by name.
    """

    fields: Mapping[str, RegisterField]

    @property
    def width(self) -> int:
        """32, or 64 if the fields do not fit in 32 bits."""
        return 32 if sum(field.width for field in self.fields.values()) <= 32 else 64

    @cached_property
    def layout(self) -> tuple[PlacedField, ...]:
        """Every bit of the register, each in exactly one field; what is left over is one field ``reserved``."""
        placed: list[PlacedField] = []
        offset = 0
        for name, field in self.fields.items():
            placed.append(PlacedField(name, offset, field))
            offset += field.width
        if offset < self.width:
            rest = RegisterField(self.width - offset, Access.RESERVED, "reads 0; write 0")
            placed.append(PlacedField("reserved", offset, rest))
        return tuple(placed)

    @property
    def reset(self) -> int:
        """Value after reset."""
        return sum(part.field.reset << part.offset for part in self.layout)

    def pack(self, **values: int) -> int:
        """The register's value with these fields; fields that are not given are 0.

        Raises:
            EncodingError: an unknown field, or a value that does not fit.
        """
        word = 0
        known = {part.name: part for part in self.layout if part.field.access is not Access.RESERVED}
        for name, value in values.items():
            if name not in known:
                raise EncodingError(f"Register field must be one of {', '.join(known)}, not {name}")
            limit = (1 << known[name].width) - 1
            if not 0 <= value <= limit:
                raise EncodingError(f"Register field {name} must be in 0..{limit}, not {value}")
            word |= int(value) << known[name].offset
        return word

    def unpack(self, word: int) -> dict[str, int]:
        """Inverse of :meth:`pack`; values of a named field are members of its enumeration.

        Raises:
            EncodingError: a number of too many bits, or a value without a name in a field whose values have names.
        """
        if not 0 <= word < 1 << self.width:
            raise EncodingError(f"Register value must be in 0..{(1 << self.width) - 1}, not {word}")
        values: dict[str, int] = {}
        for name, offset, field in ((part.name, part.offset, part.field) for part in self.layout):
            value = word >> offset & ((1 << field.width) - 1)
            if field.enum is not None:
                if value not in {member.value for member in field.enum}:
                    legal = [member.value for member in field.enum]
                    raise EncodingError(f"Register field {name} must be one of {legal}, not {value}")
                value = field.enum(value)
            if field.access is not Access.RESERVED:
                values[name] = value
        return values


@dataclass(frozen=True)
class RegisterArray:
    """Equal registers, one after the other; most often just one.

    Attributes:
        name: name, to which each register's suffix is appended.
        register: the fields.
        suffixes: one per register.
    """

    name: str
    register: Register
    suffixes: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class PlacedRegister:
    """A register at a byte address; a 64-bit register has its low word there and its high word at ``address + 4``."""

    name: str
    address: int
    register: Register

    @property
    def end(self) -> int:
        """First byte address behind it."""
        return self.address + self.register.width // 8


@dataclass(frozen=True)
class RegisterMap:
    """Registers at their addresses, which follow from the order of ``arrays``; 64-bit registers are aligned to 8 bytes.

    Attributes:
        arrays: the description.
    """

    arrays: tuple[RegisterArray, ...]

    @cached_property
    def registers(self) -> dict[str, PlacedRegister]:
        """Every register by name, in address order."""
        placed: dict[str, PlacedRegister] = {}
        address = 0
        for array in self.arrays:
            step = array.register.width // 8
            address = -(-address // step) * step
            for suffix in array.suffixes:
                placed[array.name + suffix] = PlacedRegister(array.name + suffix, address, array.register)
                address += step
        return placed

    def __getitem__(self, name: str) -> PlacedRegister:
        """The register ``name``.

        Raises:
            KeyError: there is none.
        """
        return self.registers[name]

    def __iter__(self) -> Iterator[PlacedRegister]:
        """All registers, in address order."""
        return iter(self.registers.values())

    @property
    def size(self) -> int:
        """Bytes from address 0 to the end of the last register."""
        return max(register.end for register in self)

    @property
    def address_bits(self) -> int:
        """Width of a byte address."""
        return (self.size - 1).bit_length()

    def render(self) -> str:
        """The map as a Markdown table, one row per field; registers of an array share their rows."""
        rows = ["| address | register | bits | field | access | reset | meaning |", "|---|---|---|---|---|---|---|"]
        for array in self.arrays:
            first, last = (self[array.name + array.suffixes[i]] for i in (0, -1))
            place, name = f"`0x{first.address:03x}`", f"`{first.name}`"
            if first != last:
                place, name = f"{place} .. `0x{last.address:03x}`", f"{name} .. `{last.name}`"
            for part in array.register.layout:
                bits = f"{part.offset + part.width - 1}:{part.offset}" if part.width > 1 else str(part.offset)
                kind, reset = part.field.access.value, f"{part.field.reset:#x}" if part.field.reset else "0"
                rows.append(f"| {place} | {name} | {bits} | {part.name} | {kind} | {reset} | {part.field.doc} |")
                place = name = ""
        return "\n".join(rows)
