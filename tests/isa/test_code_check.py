# SPDX-License-Identifier: Apache-2.0
"""Static checks: programs that could deadlock, leak or read garbage are refused, each with its message."""

import random

import pytest

from catenary.isa.assembler import assemble, parse_instruction
from catenary.isa.code_check import check_code, check_fits, find_misfits, find_problems
from catenary.isa.config import AcceleratorConfig
from catenary.isa.encoding import decode_all
from catenary.isa.errors import EncodingError, ProgramError
from catenary.isa.instructions import INSTRUCTIONS
from catenary.isa.rules import RULES, SPANS
from tests.instructions import random_instruction

LD = "ld buffer=v format=f32 rows=1 elements=4"
LDW = "ld buffer=w format=lines rows=4"
MV = "mv act=0 act_stride=1 tokens=1 depth=16 rows=16 out=0 out_stride=16 scales=0"
RELU = "apply function=relu dst=0 dst_stride=0 x=0 x_stride=0 rows=1 elements=16"
SCORE = "score act=0 act_stride=1 tokens=1 depth=16 rows=1 out=0 out_stride=1 scales=0 row_scales=0"
CONTEXT = (
    "context source=buffer clear=true emit=true act=0 act_stride=1 tokens=1 depth=16 rows=1 first=0 out=0 out_stride=1 "
    "group=1 scales=0"
)


def problems(*lines: str) -> list[str]:
    return [str(problem) for problem in find_problems(assemble("\n".join(lines)))]


@pytest.mark.parametrize(
    "lines",
    [
        ["end"],
        ["end", "end result=r3"],
        [f"{LD} release=vector", f"{RELU} wait=load", "end"],
        # A token given before a loop and taken after it, with a pair that the loop uses evenly.
        [f"{LD} release=vector", "loop count=r1 length=2", f"{RELU} wait=load release=load",
         f"{LD} wait=vector release=vector", f"{RELU} wait=load", "end"],
        # A stream for several instructions, one of them in a loop without loads.
        [LDW, MV, "loop count=r1 length=1", MV, f"{LD} release=vector", f"{RELU} wait=load", "end"],
        # The stream of the next iteration is loaded at the end of this one.
        [LDW, "loop count=3 length=2", MV, LDW, MV, "end"],
        # Two tokens are there, so the one that is taken is the first load's, which has finished.
        [f"{LD} release=vector", f"{LDW} release=vector", f"{RELU} wait=load", MV, f"{RELU} wait=load", "end"],
        # A stream's token may be taken behind its last consumer.
        [f"{LDW} release=vector", MV, f"{RELU} wait=load", "end"],
        # r9 is written by a loop that certainly runs.
        ["loop count=2 length=1", "li rd=r9 imm=1", "end result=r9"],
        [f"{SCORE} source=buffer", "end"],
        ["loop count=1 length=4", "loop count=1 length=3", "loop count=1 length=2", "loop count=1 length=1",
         "nop target=load", "end"],
    ],
)  # fmt: skip
def test_sound_programs_pass(lines):
    assert problems(*lines) == []
    check_code(assemble("\n".join(lines)))


NO_TOKEN = "{}.wait must take a token from {} to {} that is released before it, not later"


@pytest.mark.parametrize(
    "lines, expected",
    [
        ([RELU], [(0, "Code from here must reach END, not run to its end at 1")]),
        (["end", RELU], [(1, "Code from here must reach END, not run to its end at 2")]),
        ([f"{RELU} wait=load", f"{LD} release=vector", "end"], [
            (0, NO_TOKEN.format("APPLY", "load", "vector")),
            (2, "END must find no token from load to vector, not 1"),
        ]),
        (["nop target=load wait=load", "end"], [(0, "NOP.wait must be units other than its own, not load")]),
        (["nop target=matrix release=vector,matrix", "nop target=vector wait=matrix", "end"], [
            (0, "NOP.release must be units other than its own, not matrix,vector")
        ]),
        (["end release=load"], [(0, "END must find no token from control to load, not 1")]),
        (["loop count=2 length=1", "end", "end"], [(1, "END must stand outside loops, not inside one")]),
        (["loop count=2 length=0", "end"], [(0, "LOOP.length must be at least 1, not 0")]),
        (["loop count=2 length=5", "end"], [
            (0, "Code from here must reach END, not run to its end at 2"),
            (0, "LOOP must end within the code, at 1 or before, not at 5"),
            (1, "END must stand outside loops, not inside one"),
        ]),
        (["loop count=2 length=2", "loop count=2 length=2", RELU, RELU, "end"], [
            (1, "LOOP must end within the enclosing loop, at 2 or before, not at 3")
        ]),
        ([f"loop count=2 length={9 - n}" for n in range(5)] + [RELU] * 5 + ["end"], [
            (4, "LOOP must nest at most 4 deep, not 5")
        ]),
        (["loop count=2 length=1", f"{LD} release=vector", "end"], [
            (0, "LOOP body must leave the tokens from load to vector as it found them, not change them by +1")
        ]),
        ([f"{LD} release=vector", "loop count=1 length=1", f"{RELU} wait=load", "end"], [
            (1, "LOOP body must leave the tokens from load to vector as it found them, not change them by -1"),
            (3, "END must find no token from load to vector, not 1"),
        ]),
        # Balanced, but the wait of the first iteration finds nothing.
        (["loop count=2 length=2", f"{RELU} wait=load", f"{LD} release=vector", "end"], [
            (0, "LOOP body must leave the tokens from load to vector as it found them, not change them by +1"),
            (1, NO_TOKEN.format("APPLY", "load", "vector")),
        ]),
    ],
)  # fmt: skip
def test_programs_that_could_hang_or_leak_are_refused(lines, expected):
    assert problems(*lines) == [f"Instruction {index}: {message}" for index, message in expected]


STREAMLESS = "{} must follow an LD into W, not another instruction of the load unit or none"


@pytest.mark.parametrize(
    "lines, expected",
    [
        ([MV, "end"], [(0, STREAMLESS.format("MV"))]),
        ([f"{SCORE} source=stream", "end"], [(0, STREAMLESS.format("SCORE"))]),
        ([LDW, LD, MV, "end"], [
            (0, "LD into W must be consumed before the load unit's next instruction at 1, not later or never"),
            (2, STREAMLESS.format("MV")),
        ]),
        ([LDW, "end"], [(0, "LD into W must be consumed before END at 1, not later or never")]),
        # Only the second iteration sees the other load.
        ([LDW, "loop count=2 length=2", MV, LD, "end"], [(2, STREAMLESS.format("MV"))]),
        ([f"{LDW} release=matrix", f"{MV} wait=load", "end"], [
            (1, "MV.wait must not take the token of the LD into W at 0 before its last use")
        ]),
        ([f"{LDW} release=vector", f"{RELU} wait=load release=matrix", f"{MV} wait=vector", "end"], [
            (1, "APPLY.wait must not take the token of the LD into W at 0 before its last use")
        ]),
        ([f"{LDW} release=vector", MV, f"{RELU} wait=load", MV, "end"], [
            (2, "APPLY.wait must not take the token of the LD into W at 0 before its last use")
        ]),
    ],
)  # fmt: skip
def test_streams_that_could_block_their_load_are_refused(lines, expected):
    assert problems(*lines) == [f"Instruction {index}: {message}" for index, message in expected]


@pytest.mark.parametrize(
    "lines, index, message",
    [
        (["li rd=r0 imm=1", "end"], 0, "LI.rd must be a register other than r0, not r0"),
        (["lds rd=r9 address=r10+1", "end"], 0, "LDS must read registers that are written before it, not r10"),
        (["alu function=add rd=r9 ra=r9 b=1", "end"], 0, "ALU must read registers that are written before it, not r9"),
        (["end result=r9"], 0, "END must read registers that are written before it, not r9"),
        (["loop count=r1 length=1", "li rd=r9 imm=1", "end result=r9"], 2,
         "END must read registers that are written before it, not r9"),
        (["li rd=r9 imm=1", "end", "end result=r9"], 2, "END must read registers that are written before it, not r9"),
    ],
)  # fmt: skip
def test_registers_without_a_value_are_refused(lines, index, message):
    assert problems(*lines) == [f"Instruction {index}: {message}"]


@pytest.mark.parametrize(
    "line, message",
    [
        ("ld buffer=v format=i8", "LD.format must be {ld}, not i8"),
        ("ld buffer=v format=lines", "LD.format must be {ld}, not lines"),
        ("ld buffer=a format=f32", "LD.format must be {ld}, not f32"),
        ("ld buffer=d format=f32", "LD.format must be {ld}, not f32"),
        ("st buffer=v format=bf16", "ST.format must be f32 with buffer v, i8 with buffer a, not bf16"),
        ("st buffer=d format=u64", "ST.format must be f32 with buffer v, i8 with buffer a, not u64"),
        (MV.replace("tokens=1", "tokens=2"), "MV.tokens must be 1, not 2"),
        (MV.replace("tokens=1", "tokens=r1"), "MV.tokens must be 1, not r1"),
        (MV.replace("depth=16", "depth=0"), "MV.depth must be at least 1, not 0"),
        (f"{SCORE} source=stream row_lines=0",
         "SCORE.row_lines must be at least 1 for rows from the stream that are not packed, not 0"),
        ("ld buffer=a format=i8 pack=1 row_lines=2", "LD.row_lines must be at most 1 for packed rows, not 2"),
        ("st buffer=v format=f32 pack=1 row_lines=2",
         "ST.row_lines must be at most 1 for packed rows of floats, not 2"),
        (f"{SCORE} source=stream pack=1 row_lines=2",
         "SCORE.row_lines must be at most 1 or depth / 16 for packed rows from the stream, not 2"),
        (f"{CONTEXT.replace('buffer', 'stream')} pack=1 row_lines=2",
         "CONTEXT.row_lines must be at most 1 for packed rows from the stream, not 2"),
        ("rope x=0 x_stride=0 rows=1 parts=1 elements=8 rotary=5 table=0 table_stride=0",
         "ROPE.rotary must be even, not 5"),
        ("rope x=0 x_stride=0 rows=1 parts=1 elements=8 rotary=10 table=0 table_stride=0",
         "ROPE.rotary must be at most elements, not 10"),
        ("softmax x=0 x_stride=0 rows=1 length=1 every=0 total=1 value_scales=0 dst=0 dst_stride=1 scales=0",
         "SOFTMAX.every must be at least 1, not 0"),
        ("norm function=rms dst=0 dst_stride=0 x=0 x_stride=0 rows=1 elements=0 weight=0 has_bias=false bias=0 eps=0",
         "NORM.elements must be at least 1, not 0"),
        ("quant dst=0 dst_stride=0 x=0 x_stride=0 rows=1 parts=1 elements=0 scales=0 scale_stride=1 scale_step=1",
         "QUANT.elements must be at least 1, not 0"),
        (CONTEXT.replace("group=1", "group=0"), "CONTEXT.group must be at least 1, not 0"),
    ],
)  # fmt: skip
def test_fields_that_make_no_sense_are_refused(line, message):
    message = message.replace(
        "{ld}", "f32 or f16 or bf16 with buffer v, i8 with buffer a, u64 with buffer d, lines with buffer w"
    )
    code = [LDW] * ("source=stream" in line or line.startswith("mv")) + [line, "end"]
    assert problems(*code) == [f"Instruction {len(code) - 2}: {message}"]


def test_the_error_counts_the_other_problems():
    with pytest.raises(ProgramError, match=r"^Instruction 0: LI\.rd must be a register other than r0, not r0$"):
        check_code(assemble("li rd=r0 imm=0\nend\n"))
    with pytest.raises(ProgramError, match=r"^Instruction 0: LI\.rd must .* r0 \(and 2 more problems\)$"):
        check_code(assemble("li rd=r0 imm=0\nli rd=r0 imm=0\nend result=r9\n"))


def test_entries_are_walked_each_for_itself():
    code = decode_all(assemble("li rd=r9 imm=1\nend\nend result=r9\n"))
    check_code(code, [0])
    check_code(code, [1])
    with pytest.raises(ProgramError, match=r"^Instruction 2: END must read registers .* not r9$"):
        check_code(code, [0, 2])
    with pytest.raises(ProgramError, match=r"^Instruction 3: Entry must be in 0\.\.2, not 3$"):
        check_code(code, [3])


def test_an_empty_program_is_refused():
    with pytest.raises(ProgramError, match=r"^Instruction 0: Program must have at least one instruction, not none$"):
        check_code(b"")


def test_damaged_words_are_refused_first():
    with pytest.raises(EncodingError, match=r"^Instruction 0: Opcode must be "):
        check_code(bytes(32))


def test_hostile_nesting_takes_no_time():
    code = "\n".join([f"loop count=1 length={2000 - n}" for n in range(2000)] + [RELU, "end"])
    assert problems(code) == ["Instruction 4: LOOP must nest at most 4 deep, not 5"]


def test_any_legal_words_can_be_checked():
    seed = 23
    rng = random.Random(seed)
    for _ in range(30):
        code = [random_instruction(rng) for _ in range(40)]
        assert find_problems(code), f"seed {seed}: random code must be refused"
        find_misfits(code, SMALL)


def test_rules_and_spans_name_fields_that_exist():
    for rule in RULES:
        for opcode in rule.opcodes:
            assert rule.field in INSTRUCTIONS[opcode].__dataclass_fields__
    for opcode, spans in SPANS.items():
        for span in spans:
            names = [span.base, *span.width, *span.rows, *([span.stride] if span.stride else [])]
            assert {n for n in names if isinstance(n, str)} <= set(INSTRUCTIONS[opcode].__dataclass_fields__)


SMALL = AcceleratorConfig(
    name="tiny", port_bytes=(16, 8), memory_bytes=24 * 1000, chains=2, chain_length=16, mm_tokens=4, packed=False,
    stream_atom=8, stream_bytes=96, vector_words=256, vector_lanes=4, act_bytes=1024, desc_words=8, instruction_words=4,
    queue_depth=1,
)  # fmt: skip


@pytest.mark.parametrize(
    "line, message",
    [
        (RELU.replace("dst=0", "dst=240"), None),
        (RELU.replace("dst=0", "dst=241"), "APPLY.dst must end within the 256 words of V, not at 257"),
        (RELU.replace("dst=0", "dst=r1+241"), None),
        (RELU.replace("dst=0", "dst=300").replace("rows=1", "rows=0"), None),
        (RELU.replace("x=0 x_stride=0 rows=1", "x=0 x_stride=100 rows=4"),
         "APPLY.x must end within the 256 words of V, not at 316"),
        (RELU.replace("dst=0 dst_stride=0", "dst=256 dst_stride=0").replace("elements=16", "elements=r1"),
         "APPLY.dst must end within the 256 words of V, not at 257"),
        (MV.replace("act=0", "act=63").replace("depth=16", "depth=17"),
         "MV.act must end within the 64 words of A, not at 65"),
        ("lds rd=r9 address=8", "LDS.address must end within the 8 words of D, not at 9"),
        ("ld buffer=d format=u64 address=4 rows=1 elements=5", "LD.address must end within the 8 words of D, not at 9"),
        ("ld buffer=a format=i8 address=63 rows=1 elements=17",
         "LD.address must end within the 64 words of A, not at 65"),
        ("ld buffer=w format=lines address=999999 rows=1 elements=9", None),
        ("ld buffer=v format=f32 rows=1 elements=4 pack=1",
         "LD.pack must keep rows of 16 bytes within lines of 24, not 1"),
        ("ld buffer=v format=f32 rows=1 elements=3 pack=1", None),
        ("ld buffer=w format=lines memory=1000 rows=1", "LD.memory must be within the 1000 lines of memory, not 1000"),
        ("ld buffer=w format=lines memory=r1+1000 rows=1", None),
        (MV.replace("mv", "mm").replace("tokens=1", "tokens=5"), "MM.tokens must be at most 4, not 5"),
        (f"{SCORE} source=stream".replace("depth=16", "depth=25"),
         "SCORE.row_lines must be at least 2 for rows of 25 bytes, not 1"),
        (f"{SCORE} source=buffer".replace("depth=16", "depth=25"), None),
        (f"{SCORE} source=stream pack=1", "SCORE.pack must keep rows of 16 bytes within lines of 24, not 1"),
        (f"{SCORE} source=stream pack=1 row_lines=2".replace("depth=16", "depth=32"),
         "SCORE.pack must keep pieces of 16 bytes within lines of 24, not 1"),
        ("st buffer=a format=i8 rows=1 elements=32 pack=1 row_lines=2",
         "ST.pack must keep pieces of 16 bytes within lines of 24, not 1"),
        ("st buffer=a format=i8 rows=1 elements=31 pack=1 row_lines=2",
         "ST.elements must be 32 for rows interleaved in 2 lines, not 31"),
        (CONTEXT.replace("tokens=1", "tokens=3"), "CONTEXT.tokens must be at most 2, not 3"),
        (f"{SCORE} source=buffer rows_at=64",
         "SCORE.rows_at must end within the 64 words of A, not at 65"),
    ],
)  # fmt: skip
def test_immediates_are_compared_with_the_accelerator(line, message):
    expected = [] if message is None else [f"Instruction 0: {message}"]
    assert [str(problem) for problem in find_misfits([parse_instruction(line)], SMALL)] == expected


def test_a_program_longer_than_the_instruction_buffer_does_not_fit():
    code = assemble("end\n" * 5)
    check_fits(code[: 4 * 32], SMALL)
    with pytest.raises(ProgramError, match=r"^Instruction 4: Program must have at most 4 instructions, not 5$"):
        check_fits(code, SMALL)
