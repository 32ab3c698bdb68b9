# SPDX-License-Identifier: Apache-2.0
"""What every mutant is tried with: programs of the program suite, in sessions of one opened device each.

Programs of a session run one after the other without a reset between them, unless the device resets itself after an
error, as a host does. Cheap ones come first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import DeviceError, ProgramError
from catenary.isa.registers import ErrorCause
from catenary.runtime.devices.rtl import RtlDevice
from catenary.sim.rtl.memory_model import MemoryModel
from tests.mutation.host import PATIENT_SECONDS, Script, scripts
from tests.programs.bit_cases import bases, sound_and_refused
from tests.programs.cases import Case, Outcome, run_opened
from tests.programs.compare import checked, expected
from tests.programs.control_cases import CONTROL, UNBALANCED, moved
from tests.programs.directed_cases import DIRECTED
from tests.programs.error_cases import ERRORS
from tests.programs.flipped_cases import flipped_case, simulated
from tests.programs.layer_programs import layer_case
from tests.programs.random_programs import random_case
from tests.programs.stream_cases import HEADER_BITS, STREAMS, header_bit
from tests.programs.support import SMALL
from tests.programs.transfer_cases import TRANSFERS

SMALL_SEEDS = range(12)
SEEDS = range(100, 116)
LAYER_SEEDS = range(5)
STALLED_SEEDS = range(200, 204)
FLIPPED_SEEDS = range(130)
FAR = 900
"""Instructions before some programs with errors, so that the one at fault has a large number."""
FAR_ERRORS = ("read behind V", "free opcode", "load over the end", "store behind V", "keys behind A", "header: rows")
QUICK_SCRIPTS = 3
"""Scripts that a host that stalls tries, too: accesses to registers."""
LOOK = 8
"""Programs from one look at all registers to the next."""
REFUSED_STEP = 5
"""Of the bits that make an instruction one that is refused, one of so many is tried: neighbours do much the same."""
STALLS = MemoryModel.unthrottled(latency=3, stall=0.3, seed=1)


@dataclass(frozen=True, eq=False)
class Stimulus:
    """One program, or one thing that a host does.

    Attributes:
        name: says which it is.
        case: the program.
        script: what the host does, in place of a program.
        outcome: what the program must leave behind; without it the core without mutants says what is right.
        refused: the simulator refuses the program, so the core must report some error; ``None``: it is not known.
        look: all registers are read afterwards.
    """

    name: str
    case: Case | None = None
    script: Script | None = None
    outcome: Outcome | None = None
    refused: bool | None = None
    look: bool = False

    def run(self, device: RtlDevice) -> Outcome | list[int]:
        """What is seen."""
        if self.script is not None:
            return self.script(device)
        assert self.case is not None
        found = run_opened(device, self.case, PATIENT_SECONDS)
        if self.case.cause and self.case.fault is None:  # left open which instruction is blamed
            found = replace(found, pc=0)
        return found

    def usable(self, found: Outcome | list[int]) -> bool:
        """Whether what the core without mutants shows says what is right.

        It does not know races, and programs that no compiler made may leave behind what is not defined.
        """
        if self.refused is None or not isinstance(found, Outcome):
            return True
        if self.outcome is not None and self.case is not None:
            return not self.outcome.difference(found, self.case.config.line_bytes)
        return self.refused == (found.cause is not ErrorCause.NONE)

    def difference(self, found: Outcome | list[int], golden: Outcome | list[int] | None) -> str:
        """In what something seen is not as it must be, in words; empty if it is."""
        right = self.outcome or golden
        if isinstance(found, Outcome) and isinstance(right, Outcome):
            assert self.case is not None
            return right.difference(found, self.case.config.line_bytes)
        if right is None or found == right:
            return ""
        wrong = [index for index, pair in enumerate(zip(right, found, strict=False)) if pair[0] != pair[1]]
        return f"number {(wrong or [-1])[0]} that the host sees is another"


@dataclass(frozen=True, eq=False)
class Session:
    """Programs that run on one device, one after the other.

    Attributes:
        model: timing of its memories.
        stimuli: in order.
    """

    model: MemoryModel
    stimuli: tuple[Stimulus, ...]


def sessions(config: AcceleratorConfig, groups: Sequence[str]) -> tuple[Session, ...]:
    """What mutants are tried with, cheap programs that notice most of them first.

    Args:
        config: the accelerator.
        groups: names of :data:`GROUPS`.
    """
    made = [(model, stimuli) for name in groups for model, stimuli in GROUPS[name](config)]
    return tuple(Session(model, tuple(_looking(stimuli))) for model, stimuli in made)


_Made = list[tuple[MemoryModel, list[Stimulus]]]


def _random(config: AcceleratorConfig) -> _Made:
    small = [random_case(config, 6, seed, 256) for seed in SMALL_SEEDS]
    usual = [random_case(config, 14, seed, 1024) for seed in SEEDS]
    layers = [layer_case(config, seed).case for seed in LAYER_SEEDS]
    stalled = [random_case(config, 10, seed, 512) for seed in STALLED_SEEDS]
    return [
        (MemoryModel(), [_sound(case) for case in small]),
        (MemoryModel(), [_sound(case) for case in (*usual, *(case for case in layers if _fits(case)))]),
        (STALLS, [_sound(case) for case in stalled]),
    ]


def _directed(config: AcceleratorConfig, parts: Sequence[str]) -> _Made:
    chosen = {name: make for name, make in DIRECTED.items() if name.partition("-")[0] in parts}
    return [(MemoryModel.unthrottled(latency=2), _named(chosen, config, _sound))]


def _streams(config: AcceleratorConfig) -> _Made:
    headers = [_unknown(header_bit(config, bit)) for bit in HEADER_BITS]
    return [(MemoryModel(), [*_named(STREAMS, config, _sound), *headers])]


def _transfers(config: AcceleratorConfig) -> _Made:
    return [(MemoryModel(), _named(TRANSFERS, config, _sound)), (STALLS, _named(TRANSFERS, config, _sound))]


def _bits(config: AcceleratorConfig, names: Sequence[str]) -> _Made:
    sound, refused = [], []
    for name in names:
        some, others = sound_and_refused(config, name)
        sound += [Stimulus(case.name, case, refused=False, outcome=expected(case)) for case in some]
        refused += [Stimulus(case.name, case, refused=True) for case in others]
    return [(MemoryModel.unthrottled(latency=2), [*sound, *refused[::REFUSED_STEP]])]


def _errors(config: AcceleratorConfig) -> _Made:
    return [(MemoryModel(), _named(ERRORS, config, _wrong))]


def _host(config: AcceleratorConfig) -> _Made:
    """What a host does beside running programs."""
    short, long = random_case(config, 3, 1, 64), random_case(config, 8, 2, 256)
    made = scripts(short, long, ERRORS["wait for ever"](config))
    done = [Stimulus(name, script=script) for name, script in made.items()]
    return [(STALLS, done[:QUICK_SCRIPTS]), (MemoryModel(), done)]


def _control(config: AcceleratorConfig) -> _Made:
    control = _named(CONTROL, config, _sound)
    far = [_wrong(moved(ERRORS[name](config), FAR)) for name in FAR_ERRORS]
    last = _sound(random_case(config, 6, 0, 256))
    return [
        (MemoryModel(), [*control, *_named(UNBALANCED, config, _run), *far]),
        (MemoryModel.unthrottled(), [*_flipped(config), last]),
    ]


def _slow(config: AcceleratorConfig) -> _Made:
    """Memory that has no time for all."""
    some = [random_case(config, 14, seed, 1024) for seed in SEEDS[:4]]
    return [(MemoryModel(share=0.3), [_sound(case) for case in some])]


_MATRIX = ("sums", "outliers", "table", "tokens", "attention")
_VECTOR = ("apply", "combine", "norm", "quant", "softmax", "rope", "argmax")
GROUPS: Mapping[str, Callable[[AcceleratorConfig], _Made]] = {
    "random": _random,
    "matrix": partial(_directed, parts=_MATRIX),
    "vector": partial(_directed, parts=_VECTOR),
    "sums": partial(_directed, parts=_MATRIX[:1]),
    "streams": _streams,
    "transfers": _transfers,
    "errors": _errors,
    "host": _host,
    "control": _control,
    "slow": _slow,
    **{f"bits-{name}": partial(_bits, names=(name,)) for name in bases(SMALL, SMALL.memory_lines // 2)},
}
"""Makers of sessions by name."""


def _looking(stimuli: list[Stimulus]) -> Iterator[Stimulus]:
    """Registers are read behind some and behind the last: counters go on, and reading takes as long as a program."""
    for index, stimulus in enumerate(stimuli):
        yield replace(stimulus, look=index % LOOK == 0 or stimulus is stimuli[-1])


def _named(
    makers: Mapping[str, Callable[[AcceleratorConfig], Case]],
    config: AcceleratorConfig,
    use: Callable[[Case], Stimulus],
) -> list[Stimulus]:
    return [use(replace(make(config), name=name)) for name, make in makers.items()]


def _sound(case: Case) -> Stimulus:
    return _run(checked(case))


def _run(case: Case) -> Stimulus:
    return Stimulus(case.name, case, outcome=expected(case))


def _wrong(case: Case) -> Stimulus:
    return Stimulus(case.name, case, outcome=Outcome(case.cause, case.fault or 0))


def _unknown(case: Case) -> Stimulus:
    """A program of which the simulator tells whether it must be refused, and not with which cause."""
    return Stimulus(case.name, case, refused=simulated(case) is None)


def _flipped(config: AcceleratorConfig) -> Iterator[Stimulus]:
    for seed in FLIPPED_SEEDS:
        case = flipped_case(config, seed)
        with suppress(DeviceError):  # it takes the simulator too long
            yield _unknown(case)


def _fits(case: Case) -> bool:
    """Whether an accelerator with few tokens takes a program that was made for any."""
    try:
        checked(case)
    except ProgramError:
        return False
    return True
