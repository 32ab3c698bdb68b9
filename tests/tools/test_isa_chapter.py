# SPDX-License-Identifier: Apache-2.0
"""The instruction chapter is what the classes say, and its example is a sound program."""

from __future__ import annotations

import re

from catenary.isa.assembler import assemble, disassemble, parse
from catenary.isa.code_check import check_code
from catenary.isa.instructions import INSTRUCTIONS
from catenary.isa.opcodes import Opcode
from catenary.isa.registers import register_map
from tools.isa_chapter import PAGE, PARTS, main, rewritten


def test_page_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == rewritten(page)
    assert main(["--check"]) == 0
    assert re.findall(r"<!-- isa:begin (\w+) -->", page) == re.findall(r"<!-- isa:begin (\w+) -->\n\n[^<]", page)
    assert sorted(re.findall(r"<!-- isa:begin (\w+) -->", page)) == sorted(PARTS)


def test_stale_part_is_rewritten() -> None:
    page = "before\n<!-- isa:begin units -->\nstale\n<!-- isa:end -->\nafter\n"
    assert rewritten(page) == f"before\n<!-- isa:begin units -->\n\n{PARTS['units']()}\n<!-- isa:end -->\nafter\n"


def test_every_instruction_has_a_section_with_its_meaning_and_all_bits() -> None:
    text = PARTS["instructions"]()
    sections = dict(zip(*[iter(re.split(r"^### (\w+)\n", text, flags=re.MULTILINE)[1:])] * 2, strict=True))
    assert list(sections) == [opcode.name for opcode in INSTRUCTIONS]
    for opcode, cls in INSTRUCTIONS.items():
        section = sections[opcode.name]
        assert f"Opcode `0x{opcode:02x}`" in section
        assert "``" not in section.replace("```", "")
        assert (cls.__doc__ or "").split("\n")[0].replace("``", "`").rstrip(".") in section
        bits: list[int] = []
        for span in re.findall(r"^\| (\d+(?::\d+)?) \|", section, flags=re.MULTILINE):
            last, _, first = span.partition(":")
            bits += range(int(first or last), int(last) + 1)
        assert bits == list(range(cls.body[0].offset, 256))


def test_loop_nests_are_code_blocks() -> None:
    text = PARTS["instructions"]()
    nests = re.findall(r"^```text\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert len(nests) >= len(Opcode) - 8  # scalar instructions, ST and MV have none
    assert all(nest.strip() and not nest.startswith(" ") for nest in nests)


def test_every_register_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for array in register_map().arrays:
        assert f"`{array.name}{array.suffixes[0]}`" in page


def test_programs_on_the_page_are_sound_and_listed_as_the_disassembler_does() -> None:
    page = PAGE.read_text(encoding="utf-8")
    snippet, listing = re.findall(r"^```asm\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    check_code(assemble(f"{snippet}end\n"))
    code, symbols = parse(listing)
    check_code(code)
    assert disassemble(code, symbols) == listing
