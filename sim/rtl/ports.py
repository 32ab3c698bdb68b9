# SPDX-License-Identifier: Apache-2.0
"""The ports of a component as compiled code sees them, and the fields inside them, by their Amaranth paths.

Derived from the component's signature, so that no name or bit position is typed a second time: a member
``memory[0].ar`` that is a stream of structures is the port ``memory__0__ar__payload`` of the Verilog module and holds
the field ``memory.0.ar.payload.address`` at some offset.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amaranth.lib.wiring import Component

CLOCK, RESET = "clk", "rst"
"""Ports that Amaranth adds for the clock domain ``sync``."""


@dataclass(frozen=True)
class Field:
    """A part of a port, or a whole one.

    Attributes:
        path: dotted path of the signature's member, then of the field inside its layout.
        port: name of the Verilog port.
        offset: lowest bit within the port.
        width: bits.
        output: driven by the component.
    """

    path: str
    port: str
    offset: int
    width: int
    output: bool


@dataclass(frozen=True)
class Port:
    """One port of the Verilog module; only ports of at least one bit exist.

    Attributes:
        name: as the Verilog module has it.
        width: bits.
        output: driven by the component.
        signed: read as two's complement.
        fields: the whole port first, then every part of it, outer before inner.
    """

    name: str
    width: int
    output: bool
    signed: bool
    fields: tuple[Field, ...]


def ports_of(component: Component) -> tuple[Port, ...]:
    """The ports of ``component``, clock and reset excluded, in the order of its signature."""
    from amaranth.hdl import Value, ValueCastable
    from amaranth.lib.wiring import Out

    ports = []
    for path, member, value in component.signature.flatten(component):
        plain = Value.cast(value)
        if not len(plain):
            continue
        shape = value.shape() if isinstance(value, ValueCastable) else None
        name, dotted = "__".join(map(str, path)), ".".join(map(str, path))
        output = member.flow is Out
        parts = [(dotted, 0, len(plain)), *_inside(dotted, shape, 0)]
        fields = tuple(Field(where, name, offset, width, output) for where, offset, width in parts)
        ports.append(Port(name, len(plain), output, plain.shape().signed, fields))
    return tuple(ports)


def find_field(ports: Sequence[Port], path: str) -> Field | None:
    """The field at ``path``, if there is one."""
    return next((field for port in ports for field in port.fields if field.path == path), None)


def to_json(ports: Sequence[Port]) -> list[dict[str, Any]]:
    """Plain values, for a file beside the Verilog."""
    return [asdict(port) for port in ports]


def from_json(values: Sequence[dict[str, Any]]) -> tuple[Port, ...]:
    """Inverse of :func:`to_json`."""
    return tuple(Port(**{**port, "fields": tuple(Field(**field) for field in port["fields"])}) for port in values)


def _inside(path: str, shape: object, base: int) -> Iterator[tuple[str, int, int]]:
    """Path, offset and width of every part of a layout."""
    from amaranth.hdl import Shape
    from amaranth.lib.data import Layout

    if isinstance(shape, type) and hasattr(shape, "as_shape"):  # data.Struct and data.Union subclasses
        shape = shape.as_shape()
    if not isinstance(shape, Layout):
        return
    for name, field in shape:
        where, offset = f"{path}.{name}", base + field.offset
        width = Shape.cast(field.shape).width
        if width:
            yield where, offset, width
            yield from _inside(where, field.shape, offset)
