# SPDX-License-Identifier: Apache-2.0
"""Text form of programs: lossless both ways, readable, and exact about mistakes."""

import math
import random
import re
import struct

import pytest

from catenary.isa.assembler import (
    assemble,
    disassemble,
    format_float,
    format_instruction,
    parse,
    parse_instruction,
)
from catenary.isa.encoding import encode, encode_all
from catenary.isa.errors import EncodingError
from catenary.isa.fields import Operand
from catenary.isa.instructions import INSTRUCTIONS, Apply, End, LoadImmediate, Loop, MatrixMatrix, Nop, Norm
from catenary.isa.opcodes import ApplyFunction, NormFunction, Unit, Units
from tests.instructions import random_instruction

EACH = pytest.mark.parametrize("cls", INSTRUCTIONS.values(), ids=lambda cls: cls.opcode.name)


@EACH
@pytest.mark.parametrize("seed", range(3))
def test_random_instructions_round_trip(cls, seed):
    rng = random.Random(seed)
    for _ in range(100):
        word = encode(random_instruction(rng, cls))
        assert assemble(disassemble(word)) == word, f"seed {seed}"


def test_random_programs_round_trip():
    seed = 7
    rng = random.Random(seed)
    code = encode_all([random_instruction(rng) for _ in range(1000)])
    assert assemble(disassemble(code)) == code, f"seed {seed}"


@EACH
def test_all_zero_words_round_trip(cls):
    word = int(cls.opcode).to_bytes(32, "little")
    assert assemble(disassemble(word)) == word


def test_a_listing_reads_so():
    code = encode_all(
        [
            LoadImmediate(rd=9, imm=640),
            Loop(count=Operand(4), length=3),
            MatrixMatrix(
                act=Operand(0, 64),
                act_stride=4,
                tokens=Operand(5),
                depth=64,
                rows=Operand(0, 192),
                out=Operand(9, 128),
                out_stride=192,
                scales=Operand(),
                wait=Units.LOAD | Units.VECTOR,
                release=Units.VECTOR,
            ),
            Loop(count=Operand(0, 2), length=1),
            Nop(target=Unit.VECTOR, wait=Units.MATRIX),
            End(),
            End(result=9),
        ]
    )
    assert disassemble(code, {0: "prefill", 6: "decode"}) == (
        "prefill:\n"
        "   0  li rd=r9 imm=640\n"
        "   1  loop count=r4 length=3  ; to 4\n"
        "   2    mm act=64 act_stride=4 tokens=r5 depth=64 rows=192 out=r9+128 out_stride=192 scales=0"
        " wait=load,vector release=vector\n"
        "   3    loop count=2 length=1  ; to 4\n"
        "   4      nop target=vector wait=matrix\n"
        "   5  end\n"
        "decode:\n"
        "   6  end result=r9\n"
    )


def test_labels_survive_parsing():
    text = "prefill:\n  li rd=r9 imm=1\n  end\ndecode:  ; one token\n  end\n"
    code, symbols = parse(text)
    assert symbols == {0: "prefill", 2: "decode"}
    assert parse(disassemble(code, symbols)) == (code, symbols)


def test_order_case_of_numbers_comments_and_indices_do_not_matter():
    plain = "loop count=r4+16 length=3 wait=store,load\n"
    loose = "; a comment\n\n  17   loop\twait=load,store  length=0x3 count=r4+0x10 release=none ; more\n"
    assert assemble(loose) == assemble(plain)


def test_no_instructions_are_no_text():
    assert disassemble(b"") == ""
    assert assemble("") == b""


def test_values_equal_to_a_default_are_left_out_but_minus_zero_is_not():
    apply = {
        "function": ApplyFunction.RELU,
        "dst": Operand(),
        "dst_stride": 0,
        "x": Operand(),
        "x_stride": 0,
        "rows": Operand(),
        "elements": Operand(),
    }
    assert "parameter" not in format_instruction(Apply(**apply, parameter=0.0))
    assert format_instruction(Apply(**apply, parameter=-0.0)).endswith(" parameter=-0")
    word = encode(Apply(**apply, parameter=-0.0))
    assert assemble(disassemble(word)) == word


def test_floats_are_shown_as_binary32_holds_them():
    norm = Norm(
        function=NormFunction.RMS,
        dst=Operand(),
        dst_stride=0,
        x=Operand(),
        x_stride=0,
        rows=Operand(),
        elements=1,
        weight=Operand(),
        has_bias=False,
        bias=Operand(),
        eps=0.1,
    )
    assert format_instruction(norm).endswith(" has_bias=false bias=0 eps=0.1")


@pytest.mark.parametrize(
    "bits, text",
    [
        (0x00000000, "0"),
        (0x80000000, "-0"),
        (0x3F800000, "1"),
        (0x3DCCCCCD, "0.1"),
        (0x3727C5AC, "1e-05"),
        (0x3EAAAAAB, "0.33333334"),
        (0x7F7FFFFF, "3.4028235e+38"),
        (0x00000001, "1e-45"),
        (0x00800000, "1.1754944e-38"),
        (0x7F800000, "inf"),
        (0xFF800000, "-inf"),
        (0x4B800001, "16777218"),
    ],
)
def test_floats_are_the_shortest_exact_decimal(bits, text):
    [value] = struct.unpack("<f", struct.pack("<I", bits))
    assert format_float(value) == text


def test_every_float_survives_its_text():
    seed = 13
    rng = random.Random(seed)
    for _ in range(5000):
        bits = rng.getrandbits(32)
        [value] = struct.unpack("<f", struct.pack("<I", bits))
        if not math.isnan(value):
            assert struct.pack("<f", float(format_float(value))) == struct.pack("<I", bits), f"seed {seed}, {bits:#x}"


@pytest.mark.parametrize(
    "line, message",
    [
        ("mul a=1", "Mnemonic must be one of {mnemonics}, not mul"),
        ("loop count", "Operand of LOOP must be of the form field=value, not count"),
        ("loop count=", "Operand of LOOP must be of the form field=value, not count="),
        ("loop times=3 length=1", "Field of LOOP must be one of count, length, wait, release, not times"),
        ("loop count=3 count=3 length=1", "LOOP.count must be given once, not twice"),
        ("loop count=3", "LOOP.length must be given, not left out"),
        ("loop count=3 length=x", "LOOP.length must be an integer, not x"),
        ("loop count=3 length=4096", "LOOP.length must be in 0..4095, not 4096"),
        ("loop count=3 length=-1", "LOOP.length must be in 0..4095, not -1"),
        ("loop count=r5-1 length=1", "LOOP.count must be like 128, r5 or r5+128, not r5-1"),
        ("loop count=rx length=1", "LOOP.count must be an integer, not rx"),
        ("loop count=r32 length=1", "LOOP.count register must be in 0..31, not 32"),
        ("loop count=16777216 length=1", "LOOP.count immediate must be in 0..16777215, not 16777216"),
        ("li rd=9 imm=0", "LI.rd must be a register like r5, not 9"),
        ("li rd=r32 imm=0", "LI.rd must be in 0..31, not 32"),
        ("nop target=dma", "NOP.target must be one of load, store, matrix, vector, control, not dma"),
        (
            "end wait=load,none,dma",
            "END.wait must be one of none, load, store, matrix, vector, control, not dma",
        ),
        ("argmax rd=r9 first=1 x=0 elements=0 base=0", "ARGMAX.first must be one of false, true, not 1"),
        ("{norm} eps=small", "NORM.eps must be a decimal number, not small"),
        ("{norm} eps=nan", "NORM.eps must be a number, not NaN"),
        ("{norm} eps=1e39", "NORM.eps must be in the range of binary32, not 1e+39"),
        ("{norm} eps=1e999", "NORM.eps must be in the range of binary32, not 1e999"),
    ],
)
def test_mistakes_are_named(line, message):
    norm = "norm function=rms dst=0 dst_stride=0 x=0 x_stride=0 rows=1 elements=1 weight=0 has_bias=true bias=0"
    mnemonics = ", ".join(opcode.name.lower() for opcode in INSTRUCTIONS)
    line = line.replace("{norm}", norm)
    message = message.replace("{mnemonics}", mnemonics)
    with pytest.raises(EncodingError, match=f"^Line 2: {re.escape(message)}$"):
        assemble(f"end\n{line}\n")
    with pytest.raises(EncodingError, match=f"^{re.escape(message)}$"):
        encode(parse_instruction(line))


@pytest.mark.parametrize(
    "text, message",
    [
        ("a:\nend\na:\nend\n", "Line 3: Label a must be defined once, not twice"),
        ("a:\nb:\nend\n", "Line 2: Instruction 0 must have one label, not both a and b"),
        ("1a:\nend\n", "Line 1: Mnemonic must be one of ld"),
    ],
)
def test_bad_labels_are_named(text, message):
    with pytest.raises(EncodingError, match=f"^{re.escape(message)}"):
        assemble(text)


def test_a_symbol_that_is_no_label_is_refused():
    with pytest.raises(EncodingError, match=r"^Label must be a name, not 'a b'$"):
        disassemble(encode(End()), {0: "a b"})


def test_an_illegal_word_has_no_text():
    with pytest.raises(EncodingError, match=r"^Instruction 1: Opcode must be one that .*, not 0x00$"):
        disassemble(encode(End()) + bytes(32))


def test_a_loop_that_leaves_the_code_can_still_be_read():
    assert disassemble(encode(Loop(count=Operand(0, 2), length=9))) == "   0  loop count=2 length=9  ; to 9\n"
