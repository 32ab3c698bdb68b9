# SPDX-License-Identifier: Apache-2.0
"""Programs with one bit of one instruction changed: most break a rule, and whoever runs them must say so.

The static check sees none of them. Where the instruction-set simulator runs one to its end, hardware must leave the
same behind; where it refuses, hardware must report an error, unless what is wrong is a race, which it cannot see.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import CatenaryError, DeviceError
from catenary.isa.opcodes import WORD_BYTES
from tests.programs.cases import Case, Outcome, iss_device, run_case
from tests.programs.random_programs import random_case

BASES = 6
"""Programs that are changed."""
WATCHDOG = 3000
SECONDS = 1.0
"""Programs that take the simulator longer are of no use: a changed loop may go round for days."""


@cache
def _base(config: AcceleratorConfig, seed: int) -> Case:
    return random_case(config, 5, 900 + seed, 128)


def flipped_case(config: AcceleratorConfig, seed: int) -> Case:
    """A random program with a random bit inverted, whose cause of error is not known."""
    rng = random.Random(seed)
    base = _base(config, rng.randrange(BASES))
    index, bit = rng.randrange(base.entry, base.count), rng.randrange(8 * WORD_BYTES)
    code = bytearray(base.code)
    code[index * WORD_BYTES + bit // 8] ^= 1 << bit % 8
    name = f"{base.name}, bit {bit} of instruction {index} inverted"
    return replace(base, name=name, code=bytes(code), watchdog=WATCHDOG, blocks=())


@cache
def simulated(case: Case) -> Outcome | None:
    """What the simulator says about a case; ``None`` if it refuses it.

    Raises:
        DeviceError: it takes too long.
    """
    try:
        return run_case(iss_device(case.config, len(case.image)), case, SECONDS)
    except DeviceError:
        raise
    except CatenaryError:
        return None
