# SPDX-License-Identifier: Apache-2.0
"""Trying one mutant: run the programs until something is not as it must be.

What is compared, in this order:

* the outcome of each program with that of the instruction-set simulator: memory, result, error cause, instruction at
  fault, numeric flag; a broken rule of AXI, a silent register and a run that does not end are differences, too;
* the registers that a host reads, all of them, with those of the core without mutants. Counters of cycles only as long
  as the units have done everything in the very cycles in which they do without a mutant, so that a counter that differs
  is a wrong counter;
* when the units did what. A mutant that differs in nothing else is *slow* where a program takes a good deal longer than
  without it, and *timing* where it does not. Only the former counts as noticed.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256

import numpy as np

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import CatenaryError, DeviceError
from catenary.isa.registers import register_map
from catenary.runtime.devices.rtl import RtlDevice
from catenary.sim.rtl import simulator
from catenary.sim.rtl.memory_model import MemoryModel
from tests.mutation.host import PATIENT_SECONDS
from tests.mutation.stimuli import Session, Stimulus
from tests.programs.cases import Outcome

VERSION = 1
"""Of what this module and :mod:`tests.mutation.host` compare: another where a verdict may be another."""
SLOWER = 1.1
"""A program that takes so many times as long is slow ..."""
SLOWER_CYCLES = 200
"""... if these are at least so many cycles."""
OPENING = "opening"
"""What happens before the first program: the host asks who the core is."""
TIMED = ("CYCLES", "BUSY_", "STALL_", "ARRAY")
"""Registers, by the starts of their names, that depend on when things happen."""
HUNG = 3
"""A run hangs when it has taken so many times the cycles of the core without mutants ..."""
HUNG_CYCLES = 20_000
"""... and so many more."""
RECORDED_CYCLES = 400_000
"""Longest program on the core without mutants."""
SECONDS = 200
"""Longest time for one mutant, of the processor: nothing may depend on who else is there."""


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    Attributes:
        number: of the mutant.
        kind: ``killed``, ``timing`` or ``alive``.
        reason: what differed: ``outcome``, ``hang``, ``bus``, ``register``, ``counter``, ``slow``, ``crash``.
        by: the program that noticed.
        detail: in words.
        programs: so many were run.
    """

    number: int
    kind: str
    reason: str = ""
    by: str = ""
    detail: str = ""
    programs: int = 0


@dataclass(frozen=True)
class Golden:
    """What the core without mutants did in one program.

    Attributes:
        seen: what it left behind, or what the host saw; ``None`` where that cannot be relied on.
        registers: afterwards.
        slices: hash of what its units did when.
        path: hash of what they did, in order.
        cycles: from start to end, idle ones of the host included.
        used: cycle in which the last instruction ended, counted from the start.
    """

    seen: Outcome | list[int] | None
    registers: dict[str, int]
    slices: str
    path: str
    cycles: int
    used: int


class _DifferenceError(Exception):
    """A mutant is noticed."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Trials:
    """Tries mutants of one core.

    Args:
        config: the accelerator.
        device: makes the core with a mutant, 0 for none.
        found: what to run.

    Raises:
        AssertionError: the core without mutants does not leave behind what it must.
    """

    def __init__(
        self, config: AcceleratorConfig, device: Callable[[int, MemoryModel], RtlDevice], found: Sequence[Session]
    ) -> None:
        self._config, self._device, self._sessions = config, device, found
        simulator.CALL_SECONDS = PATIENT_SECONDS  # or when the host looks at a register would depend on this computer
        self._memory = config.memory_lines * config.line_bytes
        self._names = [place.name for place in register_map(config) if place.name != "CONTROL"]
        self._golden: list[list[Golden]] = []
        self._check("at first")
        # What cannot be relied on is left out, and the rest recorded as it will run.
        self._sessions = [
            replace(
                session, stimuli=tuple(s for s, g in zip(session.stimuli, golden, strict=True) if g.seen is not None)
            )
            for session, golden in zip(found, self._golden, strict=True)
        ]
        self._golden = []
        self._check("again")

    def _check(self, when: str) -> None:
        verdict = self._run(0)
        assert verdict.kind == "alive", f"core without mutants, {when}: {verdict}"

    @property
    def programs(self) -> int:
        """Programs and scripts that a mutant is tried with."""
        return sum(len(session.stimuli) for session in self._sessions)

    @property
    def cycles(self) -> int:
        """Cycles that they take without a mutant."""
        return sum(golden.cycles for session in self._golden for golden in session)

    def run(self, number: int) -> Verdict:
        """Try one mutant in a process of its own, which it may crash."""
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            try:
                verdict = self._run(number)
            except BaseException:  # noqa: BLE001 - the parent must not run twice, whatever happens here
                verdict = Verdict(number, "broken", detail=traceback.format_exc())
            with os.fdopen(writer, "w") as pipe:
                json.dump(asdict(verdict), pipe)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            text = pipe.read()
        _, status = os.waitpid(child, 0)
        if not text:
            ended = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"status {status}"
            return Verdict(number, "killed", "hang" if ended in ("SIGXCPU", "SIGKILL") else "crash", detail=ended)
        verdict = Verdict(**json.loads(text))
        if verdict.kind == "broken":
            raise RuntimeError(f"Mutant {number} must be tried, not end with {verdict.detail}")
        return verdict

    def _run(self, number: int) -> Verdict:
        """Try one mutant; the first time, without any, remember what it does."""
        timing = Verdict(number, "alive")
        count = 0
        known = bool(self._golden)
        for index, session in enumerate(self._sessions):
            golden: list[Golden] = []
            same, at = True, OPENING
            try:
                with self._device(number, session.model) as device:
                    device.simulator.record(True)
                    device.allocate(self._memory)
                    for place, stimulus in enumerate(session.stimuli):
                        at, count = stimulus.name, count + 1
                        wanted = self._golden[index][place] if known else None
                        golden.append(found := self._observe(device, stimulus, wanted))
                        if wanted is None:
                            continue
                        same = same and found.slices == wanted.slices
                        self._compare(stimulus, found, wanted, same)
                        timing = self._later(timing, same, found, wanted, at)
            except _DifferenceError as difference:
                return Verdict(number, "killed", difference.reason, at, str(difference), count)
            except CatenaryError as error:
                reason = "bus" if "rules of AXI" in str(error) else "register" if at == OPENING else "hang"
                return Verdict(number, "killed", reason, at, str(error), count)
            if not known:
                self._golden.append(golden)
        return replace(timing, programs=count)

    @staticmethod
    def _later(verdict: Verdict, same: bool, found: Golden, wanted: Golden, at: str) -> Verdict:
        """What a mutant is of which nothing but the time that it takes tells."""
        if verdict.kind == "killed" or same:
            return verdict
        if found.used > max(SLOWER * wanted.used, wanted.used + SLOWER_CYCLES):
            return Verdict(verdict.number, "killed", "slow", at, f"{found.used} cycles, not {wanted.used}")
        return Verdict(verdict.number, "timing")

    def _observe(self, device: RtlDevice, stimulus: Stimulus, wanted: Golden | None) -> Golden:
        core = device.simulator
        start, before = core.cycles, len(core.slices())
        longest = RECORDED_CYCLES if wanted is None else HUNG * wanted.cycles + HUNG_CYCLES
        core.last_cycle = start + longest
        seen: Outcome | list[int] | None
        try:
            seen = stimulus.run(device)
        except DeviceError:
            if wanted is not None or not stimulus.refused:
                raise
            seen = None  # a program with an error that takes for ever is of no use
        if core.violation:
            raise _DifferenceError("bus", core.violation)
        if wanted is None and seen is not None and not stimulus.usable(seen):
            seen = None
        if seen is not None and (difference := stimulus.difference(seen, wanted.seen if wanted else None)):
            raise _DifferenceError("host" if stimulus.script else "outcome", difference)
        cycles = core.cycles - start
        slices = core.slices()[before:].copy()
        for name in ("begin", "end"):
            slices[name] -= start
        used = int(slices["end"].max()) if len(slices) else 0
        path = slices[np.argsort(slices["unit"], kind="stable")][["unit", "pc"]]
        path = path[
            np.append(True, path[1:] != path[:-1])[: len(path)]
        ]  # turns of a loop are one if no cycle is between
        registers = {name: device.driver.read(name) for name in self._names} if stimulus.look else {}
        if core.violation:
            raise _DifferenceError("bus", core.violation)
        digests = [sha256(np.array(part.tolist(), np.uint64).tobytes()).hexdigest() for part in (slices, path)]
        return Golden(seen, registers, digests[0], digests[1], cycles, used)

    def _compare(self, stimulus: Stimulus, found: Golden, wanted: Golden, same: bool) -> None:
        ends = stimulus.outcome is not None and not stimulus.outcome.cause
        if ends and found.path != wanted.path:  # after an error it depends on when things happen
            raise _DifferenceError("trace", "units carried out other instructions")
        for name, value in found.registers.items():
            timed = name.startswith(TIMED)
            if value != wanted.registers[name] and (same or not timed):
                raise _DifferenceError(
                    "counter" if timed else "register", f"{name} is {value}, not {wanted.registers[name]}"
                )
