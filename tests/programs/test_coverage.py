# SPDX-License-Identifier: Apache-2.0
"""Functional coverage: what is wanted follows from the rules, what occurred from what was executed."""

from __future__ import annotations

import pytest

from catenary.isa.assembler import assemble
from catenary.isa.code_check import check_fits
from catenary.isa.encoding import encode_all
from catenary.isa.fields import Operand
from catenary.isa.instructions import INSTRUCTIONS, Apply, Load, MatrixVector, Rope
from catenary.isa.opcodes import Buffer, MemoryFormat, Opcode, Unit
from catenary.isa.rules import RULES
from tests.programs.cases import Case
from tests.programs.compare import expected
from tests.programs.coverage import Coverage, Cross, holes, summary, to_json
from tests.programs.coverage_crosses import CROSSES
from tests.programs.coverage_order import nestings, orders
from tests.programs.coverage_rules import as_executed, legal, legal_modes, mode
from tests.programs.coverage_transfers import lines_of
from tests.programs.random_programs import CONFIGS, random_case
from tests.programs.traced import traced

SMALL, WIDE = CONFIGS["small"], CONFIGS["wide"]


def case_of(text: str) -> Case:
    code = assemble(text)
    lines = SMALL.lines(len(code)) + 8
    return Case("text", SMALL, code, 8, bytes(lines * SMALL.line_bytes))


def points(text: str) -> dict[str, set]:
    coverage = Coverage(CROSSES)
    coverage.observe(traced(case_of(text))[1], "m")
    return {name: {point for point, count in found.items() if count} for name, found in coverage.counts.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_executed_is_wanted_and_the_result_is_that_of_the_simulator(name):
    coverage = Coverage(CROSSES)
    for seed in range(15):
        case = random_case(CONFIGS[name], 6, seed, 512)
        outcome, trace = traced(case)
        assert outcome == expected(case)
        coverage.observe(trace, "m")
    rows = coverage.rows([CONFIGS[name]], ["m"])
    assert not {row.cross.name: row.beyond for row in rows if row.beyond}
    assert all(row.covered for row in rows if row.cross.hits)
    assert all(row.covered + len(row.holes) == row.total for row in rows)


def test_a_trace_has_the_values_of_operands_in_every_turn():
    body = "nop target=vector\nalu function=add rd=r9 ra=r9 b=r9+1\n"
    trace = traced(case_of(f"li rd=r9 imm=5\nloop count=2 length=2\n{body}end result=r9"))[1]
    assert [(e.pc, e.values, e.held, e.depth) for e in trace.executed] == [
        (0, (), (), 0), (1, (2,), (0,), 0), (2, (), (), 1), (3, (6,), (5,), 1), (2, (), (), 1), (3, (12,), (11,), 1),
        (4, (), (), 0),
    ]  # fmt: skip
    assert [e.value("imm") for e in trace.executed[:1]] == [5]


def test_what_a_program_covers():
    found = points(
        "li rd=r9 imm=1099511627775\n"
        "ld buffer=v format=f32 address=2 memory=0 rows=1 elements=6 row_lines=3 release=vector\n"
        "apply function=relu dst=r9+9 dst_stride=0 x=2 x_stride=0 rows=1 elements=6 wait=load\n"
        "loop count=1 length=2\nloop count=0 length=1\nnop target=store\nend"
    )
    assert found["modes"] >= {("LD v f32 alone", "unaligned", "m"), ("APPLY relu", "mixed", "m"), ("LI", "-", "m")}
    assert {("APPLY", "x", " 2 of  4", "m"), ("APPLY", "dst", " 0 of  4", "m")} < found["residues"]
    assert ("APPLY", "dst", "sum that wraps", "m") in found["operands"]
    assert {("APPLY", "rows", "1", "m"), ("APPLY", "elements", "parts", "m")} < found["sizes"]
    assert found["rows"] == {("LD v f32", "several lines", "full lines", "m")}
    assert found["bursts"] == {("LD v f32", "one burst, from its start to inside", "m")}
    assert found["tokens"] == {("load", "vector", "m")}
    assert ("vector", "wait", "load", "m") in found["token_sets"]
    assert found["loops"] == {
        ("depth 1", "1 turns", "ends alone", "m"),
        ("depth 2", "0 turns", "ends with another", "m"),
    }
    assert ("control", "LOOP", "LOOP", "m") in found["orders"]
    assert ("LOOP", "depth 1", "m") in found["nesting"]
    assert not found["weights"]


def test_instructions_that_rules_forbid_are_not_wanted():
    assert legal(MatrixVector, SMALL, tokens=Operand(0, 2)) is None
    assert legal(Rope, SMALL, rotary=3) is None
    assert legal(Load, SMALL, buffer=Buffer.V, format=MemoryFormat.I8) is None
    assert legal(Load, SMALL, buffer=Buffer.D, format=MemoryFormat.U64, pack=1) is None  # no room in a line
    assert legal(Load, WIDE, buffer=Buffer.D, format=MemoryFormat.U64, pack=1) is not None
    assert legal(Apply, SMALL, dst=Operand(0, SMALL.vector_words)) is None
    modes = {mode(insn) for insn in legal_modes(SMALL)}
    assert "LD d u64 packed" not in modes
    assert "SCORE stream interleaved" not in modes
    assert "SCORE stream interleaved" in {mode(insn) for insn in legal_modes(WIDE)}
    assert "CONTEXT stream clear emit interleaved" not in modes
    assert not [point for point in orders(SMALL) if point[1] == "END"]
    assert ("END", "depth 1") not in nestings(SMALL)
    assert ("LOOP", "depth 4") not in nestings(SMALL)
    assert {("LOOP", "depth 3"), ("SCORE", "depth 4"), ("END", "depth 0")} < set(nestings(SMALL))


@pytest.mark.parametrize("cls", INSTRUCTIONS.values(), ids=lambda cls: cls.opcode.name)
def test_there_is_a_legal_instruction_of_every_kind(cls):
    insn = legal(cls, WIDE)
    check_fits(encode_all([insn]), WIDE)
    assert all(rule.holds(insn) for rule in RULES if cls.opcode in rule.opcodes)


def test_lines_of_a_transfer():
    row = {"buffer": Buffer.A, "format": MemoryFormat.I8, "memory": Operand(0, 10), "elements": Operand(0, 3)}
    alone = Load(**row, row=Operand(0, 2), rows=Operand(0, 3), row_lines=4)
    packed = Load(**row, row=Operand(0, 1), rows=Operand(0, 2), pack=1)
    stream = Load(
        buffer=Buffer.W, format=MemoryFormat.LINES, memory=Operand(0, 1), row=Operand(0, 2), rows=Operand(0, 3)
    )
    none = Load(**row, rows=Operand())
    assert [lines_of(as_executed(insn)) for insn in (alone, packed, stream, none)] == [
        (18, 12),
        (10, 2),
        (3, 3),
        (0, 0),
    ]


def test_a_report_counts_holes_and_what_is_beyond():
    plain = Cross("plain", ("a",), lambda config: [("x",), ("y",)], lambda trace: [("x",), ("z",)])
    told = Cross("told", ("a", "memory"), lambda config: [("x",), ("y",)])
    first, second = Coverage([plain, told]), Coverage([plain, told])
    first.observe(traced(case_of("end"))[1], "m")
    second.hit("told", "x", "m")
    first.merge(second.counts)
    rows = first.rows([SMALL], ["m", "n"])
    assert [(row.covered, row.total, row.holes, row.beyond) for row in rows] == [
        (1, 2, (("y",),), (("z",),)),
        (1, 4, (("x", "n"), ("y", "m"), ("y", "n")), ()),
    ]
    assert holes(rows, ["m", "n"]) == ["- plain: y", "- told: x · n", "- told: y · any"]
    assert holes(rows, ["m", "n"], 1)[1:] == ["- told: x · n", "- told: and 1 more lines like these"]
    assert summary(rows)[2:] == ["| plain | a | 1 | 2 | 1 |", "| told | a x memory | 1 | 4 | 3 |"]
    assert to_json(rows, first)["told"]["counts"] == [["x", "m", 1]]


def test_every_opcode_and_unit_is_in_some_cross():
    wanted = {part for cross in CROSSES for point in cross.wanted(WIDE) for part in point}
    assert {opcode.name for opcode in Opcode} <= wanted
    assert {unit.name.lower() for unit in Unit} <= wanted
