# SPDX-License-Identifier: Apache-2.0
"""Instructions with every bit inverted: the simulator and hardware agree about what they do, or refuse them."""

from __future__ import annotations

import pytest

from catenary.isa.opcodes import WORD_BITS
from catenary.isa.registers import ErrorCause
from tests.programs.bit_cases import bases, sound_and_refused, with_bits
from tests.programs.cases import run_opened
from tests.programs.compare import DEVICES, agree, checked, expected
from tests.programs.random_programs import CONFIGS

NAMES = tuple(bases(CONFIGS["small"], 64))
CONFIG_NAMES = ("small", "odd", "wide")


@pytest.mark.parametrize("config", CONFIG_NAMES)
@pytest.mark.parametrize("name", NAMES)
def test_an_instruction_without_an_inverted_bit_is_legal(config, name):
    expected(checked(with_bits(CONFIGS[config], name, [None])))


@pytest.mark.slow
def test_every_bit_is_tried_once():
    sound, refused = sound_and_refused(CONFIGS["odd"], "combine")
    assert sound
    assert len(refused) > WORD_BITS // 3
    assert len({case.code for case in refused}) == len(refused)
    assert len({case.code for case in (*sound, *refused)}) == len(sound) + len(refused)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [name for name in NAMES if name[:3] in ("ld-", "st-", "arg")])
def test_a_device_agrees(name):
    """Or refuses what the simulator refuses.

    Hardware knows only the end of its own memory, and no race, so a program may run that the simulator does not. Left
    out are instructions whose results an inverted bit may put over their operands.
    """
    accelerator = CONFIGS["small"]
    sound, refused = sound_and_refused(accelerator, name)
    with DEVICES["rtl"](accelerator) as opened:
        opened.allocate(accelerator.memory_lines * accelerator.line_bytes)
        for case in sound:
            agree(opened, case)
        found = [run_opened(opened, case).cause for case in refused]
        assert sum(cause is ErrorCause.NONE for cause in found) < len(refused) // 4
        agree(opened, sound[0])
