# SPDX-License-Identifier: Apache-2.0
"""Generate the tables of docs/isa.md, and its section on each instruction, from the instruction classes.

    python -m tools.isa_chapter          rewrite the page
    python -m tools.isa_chapter --check  exit 1 where the page is not what it would be rewritten to

What is generated stands between ``<!-- isa:begin NAME -->`` and ``<!-- isa:end -->``; the text around it is written by
hand.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from enum import Enum, IntFlag
from pathlib import Path

from catenary.isa.assembler import format_value
from catenary.isa.fields import BitField, Float32, Reg, RegisterNumber
from catenary.isa.instructions import INSTRUCTIONS, Instruction
from catenary.isa.opcodes import WORD_BITS, Buffer, MemoryFormat, Opcode, Unit
from catenary.isa.registers import ErrorCause, register_map
from catenary.isa.rules import LOAD_FORMATS, RULES, STORE_FORMATS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "isa.md"

_PART = re.compile(r"(?<=<!-- isa:begin )(?P<name>\w+) -->\n.*?(?=<!-- isa:end -->)", re.DOTALL)

_CLASSES = {0: "illegal", 1: "LD", 2: "ST", 3: "MM and MV", 4: "MISC", 5: "free", 6: "free", 7: "SYS"}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]]) + "\n"


def units() -> str:
    """The units, and the instructions that enter their queues."""
    rows = []
    for unit in Unit:
        opcodes = [opcode.name for opcode, cls in INSTRUCTIONS.items() if cls.unit is unit and opcode is not Opcode.NOP]
        rows.append((str(unit.value), unit.name.lower(), ", ".join(opcodes)))
    return table(("bit", "unit", "instructions"), rows)


def opcodes() -> str:
    """Opcodes by class, and how many are free."""
    rows = []
    for number, name in _CLASSES.items():
        used = [f"{opcode.name} `0x{opcode:02x}`" for opcode in Opcode if opcode >> 3 == number]
        rows.append((str(number), name, ", ".join(used), str(8 - len(used)) if number else "0"))
    return table(("class", "name", "opcodes", "free"), rows)


def prefix() -> str:
    """The fields that every word begins with."""
    first = next(iter(INSTRUCTIONS.values()))
    meaning = {
        "opcode": "which instruction",
        "wait": "units from each of which a token is taken before the instruction starts",
        "release": "units to each of which a token is given when it has finished",
    }
    return table(("bits", "field", "meaning"), [(_bits(part), part.name, meaning[part.name]) for part in first.prefix])


def formats() -> str:
    """Which formats move between memory and which buffers."""

    def names(table: Mapping[Buffer, tuple[MemoryFormat, ...]], buffer: Buffer) -> str:
        return ", ".join(fmt.name.lower() for fmt in table[buffer]) or "-"

    rows = [(buffer.name, names(LOAD_FORMATS, buffer), names(STORE_FORMATS, buffer)) for buffer in Buffer]
    return table(("buffer", "LD reads", "ST writes"), rows)


def instructions() -> str:
    """One section per instruction: opcode, unit, meaning, fields."""
    return "\n".join(_instruction(cls) for cls in INSTRUCTIONS.values())


def _instruction(cls: type[Instruction]) -> str:
    defaults = {field.name: field.default for field in fields(cls) if field.default is not MISSING}
    rows = []
    for part in cls.body:
        default = format_value(part, defaults[part.name]) if part.name in defaults else ""
        rules = [rule.text for rule in RULES if rule.field == part.name and cls.opcode in rule.opcodes]
        rows.append((_bits(part), f"`{part.name}`", _encoding(part), default, "; ".join(rules)))
    end = cls.body[-1].offset + cls.body[-1].width
    rows.append((_span(end, WORD_BITS - end), "reserved", "0", "", ""))
    unit = "the unit in `target`" if cls.opcode is Opcode.NOP else cls.unit.name.lower()
    meaning = _markdown(inspect.getdoc(cls) or "")
    text = f"### {cls.opcode.name}\n\nOpcode `0x{cls.opcode:02x}`, unit: {unit}.\n\n{meaning}\n\n"
    return text + table(("bits", "field", "encoding", "default", "must be"), rows)


def _bits(part: BitField) -> str:
    return _span(part.offset, part.width)


def _span(offset: int, width: int) -> str:
    return str(offset) if width == 1 else f"{offset + width - 1}:{offset}"


def _encoding(part: BitField) -> str:
    if isinstance(part.kind, Float32):
        return "binary32, not NaN"
    if isinstance(part.kind, Reg):
        return f"register, then immediate of {part.kind.width} bits"
    if isinstance(part.kind, RegisterNumber):
        return "register that is written" if part.kind.written else "register that is read"
    if issubclass(part.type, bool):
        return "0 or 1"
    if issubclass(part.type, Enum) and not issubclass(part.type, IntFlag):
        return ", ".join(f"{member.value} {member.name.lower()}" for member in part.type)
    return "unsigned"


def _markdown(docstring: str) -> str:
    """A docstring as Markdown: paragraphs, and literal blocks behind a line of two colons."""
    text = docstring.replace("``", "`") + "\n"
    return re.sub(r"^::\n\n((?: {4}.*\n|\n)+)", lambda found: _fenced(found[1]), text, flags=re.MULTILINE).strip()


def _fenced(block: str) -> str:
    return f"```text\n{textwrap.dedent(block).strip()}\n```\n\n"


def registers() -> str:
    """The register map, up to the counters of the ports."""
    return register_map().render() + "\n"


def ports() -> str:
    """Where the counters of the memory ports are."""
    start = register_map().size
    return (
        f"From `0x{start:03x}` on, for n memory ports: n registers `PORT_READ0` ... of 64 bits, bytes read through "
        "each port, then n registers `PORT_WRITTEN0` ..., bytes written.\n"
    )


def errors() -> str:
    """Causes of errors."""
    return table(("cause", "name", "meaning"), [(str(c.value), c.name.lower(), c.meaning) for c in ErrorCause])


PARTS: dict[str, Callable[[], str]] = {
    part.__name__: part for part in (units, opcodes, prefix, formats, instructions, registers, ports, errors)
}


def rewritten(page: str) -> str:
    """``page`` with every generated part as the definitions give it."""
    return _PART.sub(lambda found: f"{found['name']} -->\n\n{PARTS[found['name']]()}\n", page)


def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    page = PAGE.read_text(encoding="utf-8")
    new = rewritten(page)
    if "--check" in arguments:
        if page != new:
            print(f"{PAGE.name}: page is not current; run python -m tools.isa_chapter")
        return int(page != new)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
