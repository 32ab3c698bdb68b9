# SPDX-License-Identifier: Apache-2.0
"""A proof with all that shows it is about something: what it assumes can be, and what is wrong is found."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import ModuleType

from tests.formal.harness import Build
from tests.formal.prover import Prover, Trace

Record = Callable[[dict[str, object]], None]
"""Takes a row of the table of proofs."""

SEARCH = 300
"""Cycles within which what is covered, and what is wrong with a control, must be found."""


def mutant(module: ModuleType, *changes: tuple[str, str]) -> ModuleType:
    """``module`` made again from its source, with changes in it: each text, which must be there once, and another."""
    source = inspect.getsource(module)
    for old, new in changes:
        if source.count(old) != 1:
            raise ValueError(f"Text must be in {module.__name__} once, not {source.count(old)} times: {old!r}")
        source = source.replace(old, new)
    made = ModuleType(module.__name__)
    made.__package__, made.__file__ = module.__package__, module.__file__
    code = compile(source, f"{module.__name__} with changes", "exec", dont_inherit=True)
    exec(code, made.__dict__)
    return made


def told(trace: Trace) -> str:
    """A trace to read: the inputs that are not 0, cycle by cycle."""
    lines = (", ".join(f"{name}={value:#x}" for name, value in cycle.items() if value) for cycle in trace.cycles)
    return "\n".join(f"{number:4}: {line}" for number, line in enumerate(lines))


def found(prover: Prover, outputs: Mapping[str, str], owner: str) -> list[int]:
    """Cycles of the shortest way to each output, which must be the same in Amaranth's simulator.

    Raises:
        AssertionError: there is none within ``SEARCH`` cycles, or the simulator does not see it.
    """
    answers = prover.ask(*outputs.values(), engine=f"bmc3 -F {SEARCH}")
    for (name, output), answer in zip(outputs.items(), answers, strict=True):
        assert answer.trace is not None, f"{owner}: not found in {SEARCH} cycles: {name}"
        assert prover.replay(answer.trace, output), f"{owner}: not so in simulation: {name}\n{told(answer.trace)}"
    return [answer.frames for answer in answers]


def prove(
    record: Record,
    component: str,
    claim: str,
    build: Build,
    *,
    controls: Mapping[str, Build],
    steps: int | None = None,
    bound: int | None = None,
    before: str = "",
    reached: Build | None = None,
    cut: str = "",
) -> None:
    """Prove the claims of a harness, reach all that it covers, and find what is wrong with each control.

    Args:
        record: where the row of the table goes.
        component: that the proof is about.
        claim: in words.
        build: makes the harness.
        controls: by what is wrong: harnesses of which a claim does not hold.
        steps: cycles that induction may look back; without, ABC looks for an invariant.
        bound: cycles that are looked at, for a claim that is not proved for any number of them.
        before: commands of ABC that simplify the design first.
        cut: a kind of cell that may give any result as far as the assumptions allow it, for induction.
        reached: a smaller harness, for covers that take too long to reach in this one.

    Raises:
        AssertionError: a claim does not hold, a cover cannot be reached, or a control has nothing wrong with it.
        ProverError: no answer within the time.
    """
    assert controls, "a proof needs a control"
    with Prover(build) as prover:
        if steps is not None:
            answer = prover.induct(steps, cut)
            method = f"induction over {answer.frames} cycle{'s' if answer.frames > 1 else ''}"
        elif bound is not None:
            [answer] = prover.ask("bad", before=before, engine=f"bmc3 -F {bound}")
            method = f"the first {bound} cycles"
        else:
            [answer] = prover.ask("bad", before=before)
            method = f"invariant, found in {answer.frames} frames"
        if answer.trace is not None:
            broken = [name for name, output in prover.claims.items() if prover.replay(answer.trace, output)]
            raise AssertionError(f"{component}: not {broken}\n{told(answer.trace)}")
        if reached is None:
            found(prover, prover.covers, f"{component}, cover")
    if reached is not None:
        with Prover(reached) as prover:
            found(prover, prover.covers, f"{component}, cover")
    depths = []
    for name, control in controls.items():
        with Prover(control) as prover:
            depths += found(prover, {name: "bad"}, f"{component}, control")
    seconds, caught = round(answer.seconds, 1), dict(zip(controls, depths, strict=True))
    record({"component": component, "claim": claim, "method": method, "seconds": seconds, "controls": caught})
