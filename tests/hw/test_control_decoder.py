# SPDX-License-Identifier: Apache-2.0
"""The decoder against ``decode`` and ``broken_rules``."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache

import numpy as np
import pytest

from catenary.hw.control.decoder import Decoder
from catenary.isa.code_check import broken_rules
from catenary.isa.encoding import decode, encode
from catenary.isa.errors import EncodingError
from catenary.isa.instructions import INSTRUCTIONS, Instruction
from catenary.isa.opcodes import WORD_BITS
from catenary.isa.rules import RULES, register_fields
from tests.hw.compiled import Compiled
from tests.hw.control_bench import lawful
from tests.instructions import random_instruction, random_value


@cache
def decoder() -> Compiled:
    return Compiled(Decoder())


def judged(words: list[bytes]) -> list[tuple[bool, int, int]]:
    """What hardware says of each word: legal, unit, register that it writes."""
    out = decoder().run({"word": np.frombuffer(b"".join(words), "<u4").reshape(-1, 8)}, ["legal", "unit", "writes"])
    return [(bool(a), int(b), int(c)) for a, b, c in zip(out["legal"], out["unit"], out["writes"], strict=True)]


def expected(word: bytes) -> Instruction | None:
    """The instruction, if it is legal."""
    try:
        insn = decode(word)
    except EncodingError:
        return None
    return None if list(broken_rules(insn)) else insn


def check(words: list[bytes], seed: int) -> int:
    """Compare all; how many are legal."""
    legal = 0
    for word, (is_legal, unit, writes) in zip(words, judged(words), strict=True):
        insn = expected(word)
        assert is_legal == (insn is not None), (seed, word.hex())
        if insn is not None:
            [rd] = [getattr(insn, part.name) for part in register_fields(type(insn), written=True)] or [0]
            assert (unit, writes) == (insn.executing_unit, rd), (seed, word.hex())
            legal += 1
    return legal


@pytest.mark.parametrize("seed", range(3))
def test_legal_words(seed):
    rng = random.Random(seed)
    words = [encode(lawful(rng, cls)) for cls in INSTRUCTIONS.values() for _ in range(50)]
    assert check(words, seed) == len(words)


@pytest.mark.parametrize("seed", range(3))
def test_any_fields(seed):
    rng = random.Random(seed)
    check([encode(random_instruction(rng)) for _ in range(3000)], seed)


@pytest.mark.parametrize("seed", range(3))
def test_one_bit_wrong(seed):
    """Reserved bits, enumeration values, NaN, opcodes."""
    rng = random.Random(seed)
    words = []
    for cls in INSTRUCTIONS.values():
        word = int.from_bytes(encode(lawful(rng, cls)), "little")
        words += [(word ^ 1 << bit).to_bytes(32, "little") for bit in range(WORD_BITS)]
    legal = check(words, seed)
    assert 0 < legal < len(words)


def test_every_opcode_and_nonsense():
    rng = random.Random(0)
    check([opcode.to_bytes(32, "little") for opcode in range(64)], 0)
    check([rng.randbytes(32) for _ in range(1000)], 0)


@pytest.mark.parametrize("seed", range(2))
def test_every_rule_is_enforced(seed):
    """Break one rule at a time, which also shows that hardware knows all of them."""
    rng = random.Random(seed)
    words, broken = [], Counter()
    for index, rule in enumerate(RULES):
        for opcode in rule.opcodes:
            cls = INSTRUCTIONS[opcode]
            [part] = [part for part in (*cls.prefix, *cls.body) if part.name == rule.field]
            for _ in range(300):
                insn = lawful(rng, cls)
                values = {p.name: getattr(insn, p.name) for p in (*cls.prefix[1:], *cls.body)}
                value = rng.choice([random_value(rng, part), part.decode("", 0)])
                candidate = cls(**{**values, rule.field: value})
                if not rule.holds(candidate):
                    broken[index] += 1
                    words.append(encode(candidate))
                    break
    assert set(broken) == set(range(len(RULES)))
    assert check(words, seed) == 0


@pytest.mark.parametrize("bits", [0x7F800001, 0xFFC00000, 0x7FFFFFFF, 0x7F800000, 0xFF800000, 0x00000001, 0x80000000])
def test_floats(bits):
    words = []
    for cls in INSTRUCTIONS.values():
        for part in cls.body:
            if part.type is float:
                word = int.from_bytes(encode(lawful(random.Random(1), cls)), "little")
                mask = (1 << part.width) - 1 << part.offset
                words.append((word & ~mask | bits << part.offset).to_bytes(32, "little"))
    assert check(words, bits) == (0 if bits & 0x7FFFFFFF > 0x7F800000 else len(words) == 3 and 3)
