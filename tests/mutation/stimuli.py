# SPDX-License-Identifier: Apache-2.0
"""What every mutant is tried with: programs of the program suite, in sessions of one opened device each.

Programs of a session run one after the other without a reset between them, unless the device resets itself after an
error, as a host does. Cheap ones come first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import ProgramError
from catenary.sim.rtl.memory_model import MemoryModel
from tests.programs.cases import Case, Outcome
from tests.programs.compare import checked, expected
from tests.programs.directed_cases import DIRECTED
from tests.programs.error_cases import ERRORS
from tests.programs.layer_programs import layer_case
from tests.programs.random_programs import random_case

SMALL_SEEDS = range(12)
SEEDS = range(100, 116)
LAYER_SEEDS = range(8)
STALLED_SEEDS = range(200, 206)
STALLS = MemoryModel.unthrottled(latency=3, stall=0.3, seed=1)


@dataclass(frozen=True)
class Stimulus:
    """One program.

    Attributes:
        case: the program.
        outcome: what it must leave behind; without ``fault`` of the case, ``pc`` of an error is not compared.
    """

    case: Case
    outcome: Outcome

    @property
    def name(self) -> str:
        """Of the program."""
        return self.case.name

    def difference(self, found: Outcome) -> str:
        """In what an outcome is not as it must be, in words; empty if it is."""
        if self.case.cause is not self.outcome.cause:
            return f"case {self.name} expects {self.case.cause}"
        if self.case.cause and self.case.fault is None:
            found = replace(found, pc=self.outcome.pc)
        return self.outcome.difference(found, self.case.config.line_bytes)


@dataclass(frozen=True)
class Session:
    """Programs that run on one device, one after the other.

    Attributes:
        model: timing of its memories.
        stimuli: in order.
    """

    model: MemoryModel
    stimuli: tuple[Stimulus, ...]


def sessions(config: AcceleratorConfig) -> tuple[Session, ...]:
    """Everything that mutants of ``config`` are tried with."""
    small = [random_case(config, 6, seed, 256, corrected=True) for seed in SMALL_SEEDS]
    usual = [random_case(config, 14, seed, 1024, corrected=seed % 2 == 0) for seed in SEEDS]
    layers = [layer_case(config, seed).case for seed in LAYER_SEEDS]
    stalled = [random_case(config, 10, seed, 512, corrected=True) for seed in STALLED_SEEDS]
    first = [*map(_sound, small), *_named(DIRECTED, config, _sound), *_named(ERRORS, config, _wrong), _sound(small[0])]
    second = [*map(_sound, usual), *(_sound(case) for case in layers if _fits(case))]
    third = [*map(_sound, stalled), *_named(DIRECTED, config, _sound)]
    return Session(MemoryModel(), tuple(first)), Session(MemoryModel(), tuple(second)), Session(STALLS, tuple(third))


def _named(
    makers: dict[str, Callable[[AcceleratorConfig], Case]], config: AcceleratorConfig, use: Callable[[Case], Stimulus]
) -> list[Stimulus]:
    return [use(replace(make(config), name=name)) for name, make in makers.items()]


def _sound(case: Case) -> Stimulus:
    return Stimulus(case, expected(checked(case)))


def _wrong(case: Case) -> Stimulus:
    return Stimulus(case, Outcome(case.cause, case.fault or 0))


def _fits(case: Case) -> bool:
    """Whether an accelerator with few tokens takes a program that was made for any."""
    try:
        checked(case)
    except ProgramError:
        return False
    return True


def image_bytes(found: Sequence[Session]) -> int:
    """Memory that is enough for every program."""
    return max(len(stimulus.case.image) for session in found for stimulus in session.stimuli)
