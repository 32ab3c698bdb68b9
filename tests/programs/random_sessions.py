# SPDX-License-Identifier: Apache-2.0
"""Random programs in series: several on one core that is not reset between them, with a memory drawn for the series.

A *session* is one core with one kind of memory that runs a few programs one after the other, with errors in between.
Everything about session ``n`` of a seed follows from the two numbers, so sessions may run in any order and anywhere.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import CatenaryError
from catenary.isa.opcodes import Unit
from catenary.isa.registers import Stall
from catenary.runtime.device import MemoryDevice
from catenary.runtime.devices.rtl import RtlDevice, RtlOptions
from catenary.runtime.engine import CoreCounters
from catenary.sim.rtl.memory_model import MemoryModel
from tests.programs.cases import Case, Outcome, run_opened, shrink
from tests.programs.compare import checked
from tests.programs.coverage import Coverage, Point
from tests.programs.coverage_crosses import CROSSES
from tests.programs.layer_programs import layer_case
from tests.programs.random_errors import Broken, broken_case
from tests.programs.random_programs import CONFIGS, random_case
from tests.programs.traced import traced

PROGRAMS = 8
"""Programs of a session."""
ERRORS = 0.25
"""How often a program with an error comes before one."""
WATCHDOG = 100_000
"""Cycles without progress after which a core hangs."""
SECONDS = 60.0
"""Most that a run may take."""

LAYERED = ("small",)
"""Accelerators that take prompts of 130 tokens in a dozen tiles, and have room for three of them."""

MEMORIES: Mapping[str, Callable[[random.Random, int], MemoryModel]] = {
    "quick": lambda rng, seed: MemoryModel.unthrottled(seed=seed),
    "late": lambda rng, seed: MemoryModel.unthrottled(latency=rng.randint(30, 300), seed=seed),
    "refreshing": lambda rng, seed: MemoryModel(
        blocked=rng.randint(10, 90), period=rng.randint(100, 900), latency=rng.randint(1, 120), seed=seed
    ),
    "slow": lambda rng, seed: replace(
        MemoryModel.unthrottled(latency=rng.randint(1, 60), seed=seed), share=rng.uniform(0.1, 0.7)
    ),
    "stalling": lambda rng, seed: MemoryModel.unthrottled(
        latency=rng.randint(1, 40), stall=rng.choice([0.05, 0.3, 0.6, 0.85]), seed=seed
    ),
    "narrow": lambda rng, seed: replace(
        MemoryModel.unthrottled(latency=rng.randint(1, 80), seed=seed), outstanding=rng.randint(1, 3)
    ),
    "everything": lambda rng, seed: MemoryModel(
        blocked=rng.randint(5, 60), period=rng.randint(80, 800), latency=rng.randint(1, 150),
        outstanding=rng.randint(1, 64), share=rng.uniform(0.3, 1), stall=rng.uniform(0.01, 0.4), seed=seed,
    ),
}  # fmt: skip
"""Kinds of memory. ``stalling`` holds every channel up at random, the host's too."""

Made = TypeVar("Made")

MakeDevice = Callable[[AcceleratorConfig, MemoryModel], MemoryDevice]


def rtl_device(config: AcceleratorConfig, model: MemoryModel) -> MemoryDevice:
    """The hardware."""
    return RtlDevice(config, RtlOptions(model=model))


@dataclass(frozen=True)
class Session:
    """One series of programs.

    Attributes:
        seed: of all sessions.
        number: of this one.
        config: name of the accelerator.
        memory: kind of memory.
        model: the memory.
        first: number of the first program.
        count: programs.
    """

    seed: int
    number: int
    config: str
    memory: str
    model: MemoryModel
    first: int
    count: int

    def draw(self, *what: object) -> random.Random:
        """Random choices about ``what``."""
        return random.Random(" ".join(str(part) for part in (self.seed, self.number, *what)))

    def case(self, index: int) -> Case:
        """The program ``index`` of the session."""
        rng = self.draw("program", index)
        config = CONFIGS[self.config]
        if self.config in LAYERED and rng.random() < 0.08:
            return _with_room(lambda: layer_case(config, rng.getrandbits(32), layers=1).case)
        size = rng.choice([1, 2, 3, 4, 5, 6, 8, 10, 14])
        words = rng.choice([128, 128, 256, 256, 512, 1024, 2048])
        return _with_room(lambda: random_case(config, size, rng.getrandbits(32), words))

    def errors(self, index: int) -> Iterator[Broken]:
        """What goes wrong before program ``index``."""
        rng = self.draw("errors", index)
        while rng.random() < ERRORS:
            yield _with_room(lambda: broken_case(CONFIGS[self.config], rng.getrandbits(32)))


def _with_room(make: Callable[[], Made]) -> Made:
    """What ``make`` makes, of the next seed where a block that must have room has none."""
    while True:
        try:
            return make()
        except AssertionError:
            continue


def sessions(seed: int, count: int, configs: Sequence[str]) -> Iterator[Session]:
    """Sessions of ``count`` programs in all; accelerators and kinds of memory take turns."""
    kinds = list(MEMORIES)
    for number in range(-(-count // PROGRAMS)):
        config, memory = configs[number % len(configs)], kinds[number // len(configs) % len(kinds)]
        rng = random.Random(f"{seed} {number} memory")
        model = MEMORIES[memory](rng, rng.getrandbits(31))
        first = number * PROGRAMS
        yield Session(seed, number, config, memory, model, first, min(PROGRAMS, count - first))


@dataclass(frozen=True)
class Difference:
    """A program about which the device and the simulator do not agree.

    Attributes:
        program: its number.
        what: the difference, or what broke.
        alone: whether it shows on a fresh core that runs nothing before.
        text: the program, as small as it still fails, and the memory.
    """

    program: int
    what: str
    alone: bool
    text: str


@dataclass
class Report:
    """What came of a session."""

    session: Session
    programs: int = 0
    errors: int = 0
    instructions: int = 0
    cycles: int = 0
    differences: list[Difference] = field(default_factory=list)
    counts: dict[str, Counter[Point]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Step:
    """One run of a session, and how it must end.

    Attributes:
        program: number of the program; of one with an error, that of the program behind it.
        broken: the program, and memory that fails.
        expected: what it must leave behind.
    """

    program: int
    broken: Broken
    expected: Outcome

    def difference(self, device: MemoryDevice) -> str:
        """Run it on a device that is open; what is wrong, in words, or nothing."""
        failure, case = self.broken.failure, replace(self.broken.case, watchdog=self.broken.case.watchdog or WATCHDOG)
        simulator = device.simulator if isinstance(device, RtlDevice) else None
        try:
            if failure is not None and simulator is not None:
                simulator.fail_accesses(*failure)
            found = run_opened(device, case, SECONDS)
        except CatenaryError as error:
            return f"{type(error).__name__}: {error}"
        finally:
            if simulator is not None:
                simulator.clear_failures()
        wanted = self.expected
        if case.cause and case.fault is None:
            wanted = replace(wanted, pc=found.pc)
        return wanted.difference(found, case.config.line_bytes)


def run_session(session: Session, make_device: MakeDevice | None = rtl_device) -> Report:
    """Run a session.

    Args:
        session: the session.
        make_device: what is compared with the simulator; ``None`` only runs the simulator.
    """
    report = Report(session)
    coverage = Coverage(CROSSES, report.counts)
    steps: list[Step] = []
    for index in range(session.count):
        program = session.first + index
        if make_device is rtl_device:
            steps += [Step(program, broken, _refused(broken.case)) for broken in session.errors(index)]
        case = session.case(index)
        try:
            outcome, trace = traced(checked(case))
        except CatenaryError as error:
            report.differences.append(Difference(program, f"the simulator refuses it: {error}", True, case.describe()))
            continue
        steps.append(Step(program, Broken(case), outcome))
        report.programs += 1
        report.instructions += len(trace.executed)
        coverage.observe(trace, session.memory)
    if make_device is not None:
        _compare(report, coverage, steps, make_device)
    return report


def _refused(case: Case) -> Outcome:
    return Outcome(case.cause, case.fault or 0)


def _compare(report: Report, coverage: Coverage, steps: Sequence[Step], make_device: MakeDevice) -> None:
    """Run all steps on one core, or on a fresh one behind each that ended otherwise than it must."""
    first = 0
    while first < len(steps):
        with _opened(make_device, report.session, steps) as device:
            end, what = _run(report, coverage, steps, first, device)
            if isinstance(device, RtlDevice):
                report.cycles += device.simulator.cycles
                _note_waits(coverage, device.counters(), report.session.memory)
        if what and end < len(steps):  # the device is closed: one thread can have only one simulation at a time
            report.differences.append(_looked_at(report.session, what, steps[first:end], steps[end], make_device))
        elif what:
            report.differences.append(Difference(steps[-1].program, what, False, str(report.session.model)))
        first = end + 1


def _run(
    report: Report, coverage: Coverage, steps: Sequence[Step], first: int, device: MemoryDevice
) -> tuple[int, str]:
    """Run steps from ``first`` on; which one ended otherwise than it must, or how many there are, and the problem."""
    for index in range(first, len(steps)):
        step = steps[index]
        if what := step.difference(device):
            return index, what
        if cause := step.broken.case.cause:
            report.errors += 1
            coverage.hit("errors", cause.name.lower(), report.session.memory)
    return len(steps), _stray_writes(device, steps)


@contextmanager
def _opened(make_device: MakeDevice, session: Session, steps: Sequence[Step]) -> Iterator[MemoryDevice]:
    """A device with memory for all steps."""
    with make_device(CONFIGS[session.config], session.model) as device:
        device.allocate(max(len(step.broken.case.image) for step in steps))
        yield device


def _looked_at(session: Session, what: str, before: Sequence[Step], step: Step, make_device: MakeDevice) -> Difference:
    """The difference that ``step`` shows behind the steps ``before``, made small."""

    def fails(case: Case, first: Sequence[Step]) -> bool:
        steps = [*first, Step(step.program, Broken(case, step.broken.failure), step.expected)]
        if not case.cause:
            steps[-1] = replace(steps[-1], expected=traced(case)[0])
        with _opened(make_device, session, steps) as device:
            return [bool(each.difference(device)) for each in steps][-1]

    case = step.broken.case
    alone = fails(case, ())
    needed = () if alone else before
    if case.blocks and fails(case, needed):
        case = shrink(case, lambda smaller: fails(smaller, needed))
    return Difference(step.program, what, alone, f"{session.model}\n{case.describe()}")


def _stray_writes(device: MemoryDevice, steps: Sequence[Step]) -> str:
    """Whether memory behind all programs is as it was, zeros."""
    if not isinstance(device, RtlDevice):
        return ""
    config = steps[0].broken.case.config
    end = config.lines(max(len(step.broken.case.image) for step in steps))
    for port, (memory, width) in enumerate(zip(device.simulator.memory, config.port_bytes, strict=True)):
        behind = memory[end * width :]
        if behind.any():
            return f"Memory behind the programs is written at port {port}, byte {end * width + int(behind.argmax())}"
    return ""


def _note_waits(coverage: Coverage, counters: CoreCounters, memory: str) -> None:
    for unit in Unit:
        for stall in Stall:
            if counters.units[unit.name.lower()].stalled[stall.name.lower()]:
                coverage.hit("waits", unit.name.lower(), stall.name.lower(), memory)
