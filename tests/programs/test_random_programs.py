# SPDX-License-Identifier: Apache-2.0
"""Random and directed programs: they are legal, they reach everything, and devices agree on what they leave behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import Enum
from functools import cache

import pytest

from catenary.isa.code_check import find_problems
from catenary.isa.encoding import decode_all
from catenary.isa.errors import CatenaryError
from catenary.isa.fields import Operand
from catenary.isa.instructions import INSTRUCTIONS, Context, Load, Loop, Score, Store
from catenary.isa.opcodes import WORD_BYTES, Buffer, Opcode, Unit, Units
from catenary.isa.rules import LOAD_FORMATS, STORE_FORMATS, interleaves
from catenary.runtime.device import MemoryDevice
from tests.programs.cases import Case, iss_device, run_case, run_cases, run_opened, shrink
from tests.programs.compare import DEVICES, agree, checked, expected
from tests.programs.directed_cases import DIRECTED
from tests.programs.error_cases import ERRORS
from tests.programs.random_programs import CONFIGS, random_case

SIZE = 14
"""Blocks of a random program: a hundred or two instructions."""

SEEDS = {"small": range(14), "odd": range(100, 110), "least": range(200, 208), "wide": range(300, 308)}
"""Seeds of random programs by accelerator."""

COMPARED = {**SEEDS, "small": range(200)}
"""Those that are compared with a device."""

PROGRAMS = [(name, seed) for name, seeds in SEEDS.items() for seed in seeds]


@cache
def program(name: str, seed: int) -> Case:
    return random_case(CONFIGS[name], SIZE, seed)


@cache
def directed(config: str, name: str) -> Case:
    return DIRECTED[name](CONFIGS[config])


@pytest.mark.parametrize("name, seed", PROGRAMS)
def test_a_random_program_is_legal_and_leaves_the_same_behind_every_time(name, seed):
    case = checked(program(name, seed))
    again = run_cases(iss_device(case.config, len(case.image)), [case, case])
    for outcome in again:
        assert not outcome.difference(expected(case), case.config.line_bytes), case.describe()


def test_a_seed_gives_one_program():
    first, second = (random_case(CONFIGS["odd"], SIZE, 100) for _ in range(2))
    assert (first.code, first.image, first.arguments) == (second.code, second.image, second.arguments)


def test_random_programs_reach_every_opcode_mode_and_pair_of_units():
    """What the programs above have in them, so that agreement on them means something."""
    code = [insn for key in PROGRAMS for insn in decode_all(program(*key).code)]
    found, wanted = set(), set()
    for insn in code:
        for part in insn.body:
            value = getattr(insn, part.name)
            found.add((insn.opcode, part.name, bool(value.reg) if isinstance(value, Operand) else value))
        if isinstance(insn, Load | Store):
            found.add((insn.opcode, insn.buffer, insn.format, insn.pack > 0))
        if isinstance(insn, Load | Store | Score | Context) and interleaves(insn):
            found.add((insn.opcode, "interleaved"))
        found |= {(other, insn.executing_unit) for other in Unit if insn.wait & Units(1 << other)}
    for cls in INSTRUCTIONS.values():
        for part in cls.body:
            if part.type in (bool, Operand):
                wanted |= {(cls.opcode, part.name, False), (cls.opcode, part.name, True)}
            elif issubclass(part.type, Enum) and part.name not in ("buffer", "format"):
                wanted |= {(cls.opcode, part.name, value) for value in part.type}
    wanted.remove((Opcode.MV, "tokens", True))  # always 1
    for opcode, table in ((Opcode.LD, LOAD_FORMATS), (Opcode.ST, STORE_FORMATS)):
        for buffer, formats in table.items():
            packs = (False,) if buffer is Buffer.W else (False, True)
            wanted |= {(opcode, buffer, fmt, packed) for fmt in formats for packed in packs}
    wanted |= {(Opcode.ST, "interleaved"), (Opcode.SCORE, "interleaved")}
    wanted |= {(a, b) for a in Unit for b in Unit if a is not b}
    assert {insn.opcode for insn in code} == set(Opcode)
    missing = wanted - found
    assert not missing


def test_random_programs_reach_the_limits_of_tokens_and_turns():
    found = Counter()
    for key in PROGRAMS:
        case = program(*key)
        config, lanes = case.config, case.config.chains * case.config.chain_length
        for insn in decode_all(case.code):
            tokens = getattr(insn, "tokens", Operand(1, 0))
            if insn.opcode in (Opcode.MM, Opcode.SCORE) and tokens == Operand(0, config.mm_tokens):
                found["all tokens"] += 1
            if insn.opcode is Opcode.CONTEXT and insn.depth > lanes:
                found["turns"] += 1
            if insn.opcode in (Opcode.SCORE, Opcode.CONTEXT) and insn.rows == Operand():
                found["no rows"] += 1
            if isinstance(insn, Loop) and insn.count == Operand():
                found["no turns"] += 1
        found["numeric"] += expected(case).numeric
        found["plain"] += not expected(case).numeric
    assert set(found) == {"all tokens", "turns", "no rows", "no turns", "numeric", "plain"}, found


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", DIRECTED)
def test_a_directed_program_is_legal(config, name):
    expected(checked(directed(config, name)))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", ERRORS)
def test_a_program_with_an_error_is_refused(config, name):
    case = ERRORS[name](CONFIGS[config])
    with pytest.raises(CatenaryError):
        run_case(iss_device(case.config, len(case.image)), case)


@pytest.fixture(scope="module")
def opened(request: pytest.FixtureRequest) -> Iterator[tuple[MemoryDevice, str]]:
    """A device of one accelerator with memory for every program, open for all tests with it."""
    device, config = request.param
    size = max(len(case.image) for case in (program(config, seed) for seed in SEEDS[config]))
    with DEVICES[device](CONFIGS[config]) as found:
        found.allocate(max(size, *(len(directed(config, name).image) for name in DIRECTED)))
        yield found, config


every_device = pytest.mark.parametrize(
    "opened", [(device, config) for config in CONFIGS for device in DEVICES], indirect=True, ids="-".join
)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # the first test of a device builds it
@every_device
def test_a_device_agrees_on_random_programs(opened):
    device, config = opened
    for seed in COMPARED[config]:
        agree(device, program(config, seed))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@every_device
def test_a_device_agrees_on_directed_programs(opened):
    device, config = opened
    for name in DIRECTED:
        agree(device, directed(config, name))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@every_device
def test_a_device_reports_errors_and_is_sound_afterwards(opened):
    device, config = opened
    wrong = []
    for name, make in ERRORS.items():
        case = make(CONFIGS[config])
        found = run_opened(device, case)
        if found.cause is not case.cause or case.fault not in (None, found.pc):
            wrong.append((name, found.cause.name, found.pc, case.cause.name, case.fault))
        agree(device, program(config, SEEDS[config][0]))
    assert not wrong, "name, cause, instruction, and both as they should be"


def test_a_failing_program_becomes_a_small_one():
    """The failure: there is a ROPE."""
    case = next(program(*key) for key in PROGRAMS if _has_rope(program(*key)))
    small = shrink(case, _has_rope)
    assert not find_problems(small.code, [small.entry])
    assert _has_rope(small)
    assert len(small.blocks) == 3 < len(case.blocks)


def _has_rope(case: Case) -> bool:
    words = [case.code[at : at + WORD_BYTES] for at in range(0, len(case.code), WORD_BYTES)]
    return any(word[0] & 63 == Opcode.ROPE for word in words)
