# SPDX-License-Identifier: Apache-2.0
"""Instruction words: one field per bit, lossless both ways, and a golden word per opcode."""

import inspect
import random
import re
from dataclasses import fields
from enum import Enum, IntFlag

import pytest

from catenary.isa.encoding import decode, decode_all, encode, encode_all
from catenary.isa.errors import EncodingError
from catenary.isa.fields import BitField, Float32, Operand, Reg
from catenary.isa.instructions import (
    INSTRUCTIONS,
    Alu,
    Apply,
    Argmax,
    Combine,
    Context,
    End,
    Load,
    LoadImmediate,
    LoadScalar,
    Loop,
    MatrixMatrix,
    MatrixVector,
    Nop,
    Norm,
    Quant,
    Rope,
    Score,
    Softmax,
    Store,
)
from catenary.isa.opcodes import (
    WORD_BITS,
    WORD_BYTES,
    AluFunction,
    ApplyFunction,
    Buffer,
    CombineFunction,
    MemoryFormat,
    NormFunction,
    Opcode,
    Source,
    Unit,
    Units,
)
from tests.instructions import random_instruction

CLASSES = list(INSTRUCTIONS.values())
EACH = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.opcode.name)
PARTS = [(cls, part) for cls in CLASSES for part in (*cls.prefix[1:], *cls.body)]
PART_IDS = [f"{cls.opcode.name}.{part.name}" for cls, part in PARTS]

# The words in hexadecimal, in memory order, without the zeros at the end.
GOLDEN = [
    (
        Load(
            buffer=Buffer.V, format=MemoryFormat.BF16, address=Operand(5, 128), stride=64,
            memory=Operand(9, 0x12345678), row=Operand(2, 3), rows=Operand(4, 1), elements=Operand(0, 64), pack=2,
            row_lines=7, wait=Units.VECTOR, release=Units.MATRIX | Units.VECTOR,
        ),
        "0862ac0002001000243c2b1a093100002400000000018038",
    ),
    (
        Store(
            buffer=Buffer.A, format=MemoryFormat.I8, address=Operand(1, 2), stride=3, memory=Operand(4, 5),
            row=Operand(6, 7), rows=Operand(8, 9), elements=Operand(10, 11), pack=12, row_lines=13, wait=Units.MATRIX,
        ),
        "1001210800c000009002000000730000280100402d00006b",
    ),
    (
        MatrixMatrix(
            act=Operand(0, 64), act_stride=4, tokens=Operand(5), depth=64, rows=Operand(0, 192), out=Operand(1, 256),
            out_stride=192, scales=Operand(0, 4096), wait=Units.LOAD | Units.VECTOR, release=Units.VECTOR,
        ),
        "5842000880000a00000100000680001000c00000002",
    ),
    (
        MatrixVector(
            act=Operand(0, 1), act_stride=2, tokens=Operand(0, 1), depth=3, rows=Operand(4, 5), out=Operand(6, 7),
            out_stride=8, scales=Operand(9, 10), release=Units.STORE,
        ),
        "19102000400040000c000029000073000008009014",
    ),
    (
        Score(
            source=Source.BUFFER, act=Operand(1, 2), act_stride=3, tokens=Operand(4, 5), depth=6, rows=Operand(7, 8),
            out=Operand(9, 10), out_stride=11, scales=Operand(12, 13), row_scales=Operand(14, 15),
            rows_at=Operand(16, 17), rows_stride=18, pack=19, row_lines=20,
        ),
        "1a008300c000900230808300004901001600803500807b0000180120019302",
    ),
    (
        Context(
            source=Source.STREAM, clear=True, emit=False, act=Operand(1, 2), act_stride=3, tokens=Operand(4, 5),
            depth=6, rows=Operand(7, 8), first=Operand(9, 10), out=Operand(11, 12), out_stride=13, group=14,
            scales=Operand(15, 16), rows_at=Operand(17, 18), rows_stride=19, pack=20, row_lines=21,
        ),
        "1b000a020003400ac0000e0200240500580c00d000000e0f0200a204c004d00a",
    ),
    (
        Norm(
            function=NormFunction.LAYER, dst=Operand(1, 2), dst_stride=3, x=Operand(4, 5), x_stride=6,
            rows=Operand(7, 8), elements=9, weight=Operand(10, 11), has_bias=True, bias=Operand(12, 13), eps=1e-5,
        ),
        "200005010018000052000006007010200100d40200640d00c05a7c7203",
    ),
    (
        Apply(
            function=ApplyFunction.SOFT_CAP, dst=Operand(1, 2), dst_stride=3, x=Operand(4, 5), x_stride=6,
            rows=Operand(7, 8), elements=Operand(9, 10), parameter=50.0,
        ),
        "21001504006000004801001800c04180a4000000004842",
    ),
    (
        Combine(
            function=CombineFunction.MUL, dst=Operand(1, 2), dst_stride=3, a=Operand(4, 5), a_stride=6,
            b=Operand(7, 8), b_stride=9, rows=Operand(10, 11), elements=Operand(12, 13),
        ),
        "22000501001800005200000600701000200100d402b006",
    ),
    (
        Rope(
            x=Operand(1, 2), x_stride=3, rows=Operand(4, 5), parts=6, elements=7, rotary=8, table=Operand(9, 10),
            table_stride=11,
        ),
        "230041000006008014800107800049010016",
    ),
    (
        Quant(
            dst=Operand(1, 2), dst_stride=3, x=Operand(4, 5), x_stride=6, rows=Operand(7, 8), parts=9, elements=10,
            scales=Operand(11, 12), scale_stride=13, scale_step=14, multiplier=0.125,
        ),
        "2400410060004801001800c0418004140060310040038003000000800f",
    ),
    (
        Softmax(
            x=Operand(1, 2), x_stride=3, rows=Operand(4, 5), length=Operand(6, 7), every=8, total=Operand(9, 10),
            value_scales=Operand(11, 12), dst=Operand(13, 14), dst_stride=15, scales=Operand(16, 17),
        ),
        "2500410000060080148039000004480a00b01800a039003c008c",
    ),
    (Argmax(rd=4, first=True, x=Operand(1, 2), elements=Operand(3, 4), base=Operand(5, 6)), "260064100080410000c5"),
    (LoadImmediate(rd=31, imm=(1 << 40) - 2), "3800dfffffffff1f"),
    (Alu(function=AluFunction.LESS, rd=3, ra=4, b=Operand(5, 1 << 39)), "39003848010000000004"),
    (LoadScalar(rd=9, address=Operand(10, 11)), "3a00492d"),
    (Loop(count=Operand(1, 2), length=3), "3b004100006"),
    (Nop(target=Unit.MATRIX, wait=Units.VECTOR, release=Units.VECTOR), "3c4202"),
    (End(result=4, wait=Units.STORE), "bd0004"),
]  # fmt: skip


def test_every_opcode_has_a_class_of_its_own():
    assert set(INSTRUCTIONS) == set(Opcode)
    assert [cls.opcode for cls in CLASSES] == list(INSTRUCTIONS)
    assert len({opcode.value for opcode in Opcode}) == len(Opcode)


@EACH
def test_every_bit_belongs_to_exactly_one_field(cls):
    owner: list[str] = []
    for part in (*cls.prefix, *cls.body):
        assert part.offset == len(owner), f"{part.name} must begin where the field before it ends"
        owner += [part.name] * part.width
    owner += ["reserved"] * (WORD_BITS - len(owner))
    assert len(owner) == WORD_BITS
    names = [part.name for part in (*cls.prefix, *cls.body)]
    assert sorted(names) == sorted({"opcode", *(f.name for f in fields(cls))})


@EACH
def test_every_bit_of_the_word_reaches_its_field_and_no_other(cls):
    """Set each bit of an all-zero word: it is refused, or exactly the field that owns the bit changes."""
    parts = (*cls.prefix[1:], *cls.body)

    def bits(word: int) -> dict[str, int]:
        insn = decode(word.to_bytes(WORD_BYTES, "little"))
        return {part.name: part.encode("", getattr(insn, part.name)) for part in parts}

    zero = bits(cls.opcode)
    for bit in range(cls.prefix[0].width, WORD_BITS):
        owners = [part for part in parts if part.offset <= bit < part.offset + part.width]
        legal = owners and not (issubclass(owners[0].type, Enum) and not _is_member(owners[0], bit))
        if legal:
            assert {name: v for name, v in bits(cls.opcode | 1 << bit).items() if v != zero[name]} == {
                owners[0].name: 1 << bit - owners[0].offset
            }
        else:
            name = rf"{cls.opcode.name}\.{owners[0].name}" if owners else r"Reserved bits \d+\.\.255 of \w+"
            with pytest.raises(EncodingError, match=f"^{name} must be "):
                bits(cls.opcode | 1 << bit)


def _is_member(part: BitField, bit: int) -> bool:
    return issubclass(part.type, IntFlag) or 1 << bit - part.offset in [member.value for member in part.type]


@EACH
@pytest.mark.parametrize("seed", range(4))
def test_random_legal_words_round_trip(cls, seed):
    rng = random.Random(seed)
    for _ in range(100):
        insn = random_instruction(rng, cls)
        word = encode(insn)
        assert len(word) == WORD_BYTES
        assert decode(word) == insn, f"seed {seed}"
        assert encode(decode(word)) == word, f"seed {seed}"


def test_random_programs_round_trip():
    seed = 5
    rng = random.Random(seed)
    code = [random_instruction(rng) for _ in range(3000)]
    assert decode_all(encode_all(code)) == code, f"seed {seed}"


@pytest.mark.parametrize("insn, word", GOLDEN, ids=[insn.opcode.name for insn, _ in GOLDEN])
def test_golden_words(insn, word):
    word = word.ljust(2 * WORD_BYTES, "0")
    assert encode(insn).hex() == word
    assert encode(decode(bytes.fromhex(word))).hex() == word


def test_every_opcode_has_a_golden_word():
    assert [insn.opcode for insn, _ in GOLDEN] == list(INSTRUCTIONS)


def test_a_word_packed_by_hand():
    """LI from the bit ranges of the manual: opcode 5:0, wait 10:6, release 15:11, rd 20:16, imm 60:21."""
    word = 0x38 | 0b01000 << 6 | 0b00100 << 11 | 7 << 16 | 0xABCDE12345 << 21
    insn = LoadImmediate(rd=7, imm=0xABCDE12345, wait=Units.VECTOR, release=Units.MATRIX)
    assert encode(insn) == word.to_bytes(32, "little")


@pytest.mark.parametrize("cls, part", PARTS, ids=PART_IDS)
def test_out_of_range_values_are_refused_by_name(cls, part):
    seed = 3
    good = random_instruction(random.Random(seed), cls)
    where = f"{cls.opcode.name}.{part.name}"
    most = (1 << part.width) - 1
    if isinstance(part.kind, Float32):
        cases = [(float("nan"), f"{where} must be a number, not NaN")]
    elif isinstance(part.kind, Reg):
        most = (1 << part.kind.width) - 1
        cases = [
            (Operand(0, most + 1), f"{where} immediate must be in 0..{most}, not {most + 1}"),
            (Operand(0, -1), f"{where} immediate must be in 0..{most}, not -1"),
            (Operand(32, 0), f"{where} register must be in 0..31, not 32"),
        ]
    elif issubclass(part.type, IntFlag):
        cases = [(part.type(most + 1), f"{where} must be in 0..{most}, not {most + 1}")]
    elif issubclass(part.type, Enum):
        cases = [(0, f"{where} must be of type {part.type.__name__}, not 0")]
    else:
        cases = [
            (most + 1, f"{where} must be in 0..{most}, not {most + 1}"),
            (-1, f"{where} must be in 0..{most}, not -1"),
        ]
    for value, message in cases:
        values = {f.name: getattr(good, f.name) for f in fields(good)}
        with pytest.raises(EncodingError, match=f"^{re.escape(message)}$"):
            encode(cls(**{**values, part.name: value}))


@pytest.mark.parametrize("number", sorted(set(range(64)) - {opcode.value for opcode in Opcode}), ids=hex)
def test_unknown_opcodes_are_refused(number):
    message = f"Opcode must be one that the instruction set defines, not 0x{number:02x}"
    with pytest.raises(EncodingError, match=f"^{message}$"):
        decode(number.to_bytes(WORD_BYTES, "little"))


ENUMS = [(cls, p) for cls, p in PARTS if issubclass(p.type, Enum) and not issubclass(p.type, IntFlag)]


@pytest.mark.parametrize("cls, part", ENUMS, ids=[f"{cls.opcode.name}.{part.name}" for cls, part in ENUMS])
def test_unknown_enumeration_values_are_refused(cls, part):
    legal = [member.value for member in part.type]
    assert max(legal) < 1 << part.width
    for value in set(range(1 << part.width)) - set(legal):
        message = f"{cls.opcode.name}.{part.name} must be one of {legal}, not {value}"
        with pytest.raises(EncodingError, match=f"^{re.escape(message)}$"):
            decode((cls.opcode | value << part.offset).to_bytes(WORD_BYTES, "little"))


@EACH
def test_reserved_bits_are_refused(cls):
    end = max(part.offset + part.width for part in (*cls.prefix, *cls.body))
    assert end <= WORD_BITS
    for bit in {end, WORD_BITS - 1} if end < WORD_BITS else set():
        word = encode(random_instruction(random.Random(1), cls))
        word = (int.from_bytes(word, "little") | 1 << bit).to_bytes(WORD_BYTES, "little")
        message = f"Reserved bits {end}..255 of {cls.opcode.name} must be 0, not 0x{1 << bit - end:x}"
        with pytest.raises(EncodingError, match=f"^{message}$"):
            decode(word)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_words_of_another_length_are_refused(size):
    with pytest.raises(EncodingError, match=f"^Instruction must be 32 bytes long, not {size}$"):
        decode(bytes(size))


def test_code_of_part_of_a_word_is_refused():
    with pytest.raises(EncodingError, match=r"^Code must be a multiple of 32 bytes long, not 33$"):
        decode_all(bytes(33))


def test_an_error_in_code_names_the_instruction():
    code = encode(End()) + bytes(WORD_BYTES)
    message = "Instruction 1: Opcode must be one that the instruction set defines, not 0x00"
    with pytest.raises(EncodingError, match=f"^{message}$"):
        decode_all(code)


def test_empty_code_is_no_instructions():
    assert decode_all(b"") == []
    assert encode_all([]) == b""


@EACH
def test_every_instruction_documents_its_meaning(cls):
    assert cls.__doc__ is not None
    assert cls.__doc__.strip()
    assert cls.__doc__ != inspect.getdoc(cls.__mro__[1])


@EACH
def test_the_class_bits_of_the_opcode_name_the_unit(cls):
    units = {1: Unit.LOAD, 2: Unit.STORE, 3: Unit.MATRIX, 4: Unit.VECTOR, 7: Unit.CONTROL}
    assert cls.unit is units[cls.opcode >> 3]


def test_a_nop_executes_in_the_queue_that_it_names():
    assert [Nop(target=unit).executing_unit for unit in Unit] == list(Unit)
    assert End().executing_unit is Unit.CONTROL


def test_units_and_sets_of_units_agree():
    assert [Units[unit.name] for unit in Unit] == [Units(1 << unit) for unit in Unit]
