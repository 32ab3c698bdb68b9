# SPDX-License-Identifier: Apache-2.0
"""Programs for the control unit, and programs with a changed bit: the simulator and devices agree about them."""

from __future__ import annotations

import random

import pytest

from catenary.isa.encoding import decode_all
from catenary.isa.errors import DeviceError
from catenary.isa.instructions import Alu
from catenary.isa.opcodes import TOKEN_LIMIT, AluFunction
from catenary.isa.registers import ErrorCause
from tests.programs.cases import run_opened
from tests.programs.compare import DEVICES, agree, checked, expected
from tests.programs.control_cases import CONTROL, UNBALANCED, moved
from tests.programs.error_cases import ERRORS
from tests.programs.flipped_cases import flipped_case, simulated
from tests.programs.random_programs import CONFIGS, random_case

FLIPPED = 150
"""Changed programs that are compared with a device."""

every_config = pytest.mark.parametrize("config", CONFIGS)


@every_config
@pytest.mark.parametrize("name", CONTROL)
def test_a_program_for_the_control_unit_is_legal(config, name):
    expected(checked(CONTROL[name](CONFIGS[config])))


@every_config
@pytest.mark.parametrize("name", UNBALANCED)
def test_a_program_that_the_static_check_refuses_runs(config, name):
    pairs_with_control = 8
    assert expected(UNBALANCED[name](CONFIGS[config])).result == pairs_with_control * (TOKEN_LIMIT + TOKEN_LIMIT // 3)


def test_every_function_of_alu_is_tried():
    case = CONTROL["alu"](CONFIGS["small"])
    assert {insn.function for insn in decode_all(case.code) if isinstance(insn, Alu)} == set(AluFunction)


def test_moved_code_does_the_same():
    case = random_case(CONFIGS["small"], 4, 1, 128)
    far = moved(case, 77)
    assert far.entry == case.entry + 77
    assert far.count == case.count + 77
    first, second = expected(case), expected(checked(far))
    assert second.result == first.result
    kept = case.code_line * case.config.line_bytes  # what the program leaves behind lies before the code
    assert second.memory[:kept] == first.memory[:kept]


def test_a_seed_gives_one_changed_program():
    config = CONFIGS["least"]
    assert flipped_case(config, 3).code == flipped_case(config, 3).code
    changed = {flipped_case(config, seed).code for seed in range(20)}
    assert len(changed) == 20


def test_most_changed_programs_are_refused_and_some_run():
    refused = [simulated(flipped_case(CONFIGS["small"], seed)) is None for seed in range(40)]
    assert sum(refused) > 20
    assert not all(refused)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@every_config
@pytest.mark.parametrize("device", DEVICES)
def test_a_device_agrees(config, device):
    """And survives changed programs.

    One that runs may still have a number that is too large and that nothing uses, such as the elements of no rows:
    the core refuses it, and the simulator does not look at it.
    """
    accelerator = CONFIGS[config]
    cases = [make(accelerator) for make in (*CONTROL.values(), *UNBALANCED.values())]
    changed = [flipped_case(accelerator, seed) for seed in range(FLIPPED)]
    far = [moved(ERRORS[name](accelerator), 900) for name in ("read behind V", "free opcode", "load over the end")]
    sound = random_case(accelerator, 3, 1, 64)
    with DEVICES[device](accelerator) as opened:
        opened.allocate(max(len(case.image) for case in (*cases, *changed, *far, sound)))
        for case in cases:
            agree(opened, case)
        for case in far:
            found = run_opened(opened, case)
            assert (found.cause, found.pc) == (case.cause, case.fault), case.name
        for case in random.Random(1).sample(changed, 40):
            try:
                runs = simulated(case) is not None
            except DeviceError:  # it takes too long
                continue
            found = run_opened(opened, case)
            if runs:
                assert found.cause in (ErrorCause.NONE, ErrorCause.ADDRESS_RANGE), case.describe()
        agree(opened, sound)
