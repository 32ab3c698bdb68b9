# SPDX-License-Identifier: Apache-2.0
"""Verdicts of a block's mutants, kept in a file from run to run, and what they add up to."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.mutation.netlist import Mutant
from tests.mutation.trial import Verdict

NORMAL = 1.959964
"""A standard normal variable lies within plus and minus this with a probability of 95 %."""


@dataclass(frozen=True)
class Result:
    """What is known about one mutant.

    Attributes:
        verdict: of the programs.
        proof: ``cut`` or ``induction`` if it is proved equivalent, why not otherwise, and empty if nobody has tried.
    """

    verdict: Verdict
    proof: str = ""

    @property
    def killed(self) -> bool:
        """The programs have noticed it."""
        return self.verdict.kind == "killed"

    @property
    def equivalent(self) -> bool:
        """It is proved to be no fault."""
        return self.proof in ("cut", "induction")


def wilson_bound(successes: int, trials: int) -> float:
    """Lower end of the Wilson score interval of 95 % of a share."""
    if not trials:
        return 0.0
    share, square = successes / trials, NORMAL**2
    middle = share + square / (2 * trials)
    margin = NORMAL * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    return (middle - margin) / (1 + square / trials)


@dataclass(frozen=True)
class Summary:
    """A block in numbers.

    Attributes:
        mutants: tried.
        killed: noticed.
        equivalent: proved to be no fault.
        timing: noticed by nothing but when things happen, and not proved; they count as survivors.
        reasons: mutants killed, by reason.
    """

    mutants: int
    killed: int
    equivalent: int
    timing: int
    reasons: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, results: Iterable[Result]) -> Summary:
        """Count."""
        known = list(results)
        reasons = Counter(result.verdict.reason for result in known if result.killed)
        left = [result for result in known if not result.killed and not result.equivalent]
        return cls(
            mutants=len(known),
            killed=sum(reasons.values()),
            equivalent=sum(result.equivalent for result in known),
            timing=sum(result.verdict.kind == "timing" for result in left),
            reasons=tuple(reasons.most_common()),
        )

    @property
    def faults(self) -> int:
        """Mutants that are not proved equivalent."""
        return self.mutants - self.equivalent

    @property
    def survivors(self) -> int:
        """Faults that nothing has noticed."""
        return self.faults - self.killed

    @property
    def share(self) -> float:
        """Of the faults that were noticed."""
        return self.killed / self.faults if self.faults else 0.0

    @property
    def bound(self) -> float:
        """Its lower bound of 95 %."""
        return wilson_bound(self.killed, self.faults)


class Store:
    """Results in a file, one a line, the last of a mutant counts.

    What was noticed stays so as long as the whole netlist is the same. What was not is tried again when the programs
    have changed; a survivor stays one, and a proof a proof, when only other parts of the core have.

    Args:
        path: of the file, which need not exist.
        netlist: hash of the design with all mutants.
        block: hash of the part of it that the mutants are made in.
        programs: hash of what they are tried with.
    """

    def __init__(self, path: Path, netlist: str, block: str, programs: str) -> None:
        self._path, self._netlist, self._block, self._programs = path, netlist, block, programs
        self._known: dict[int, Result] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._take(json.loads(line))

    def _take(self, row: dict[str, object]) -> None:
        if row["block"] != self._block:
            return
        result = Result(Verdict(**row["verdict"]), str(row["proof"]))  # type: ignore[arg-type]
        holds = row["netlist"] == self._netlist if result.killed else row["programs"] == self._programs
        if holds or result.equivalent:
            self._known[result.verdict.number] = result
        elif row["netlist"] == self._netlist:
            self._known.pop(result.verdict.number, None)

    def get(self, number: int) -> Result | None:
        """What is known about a mutant."""
        return self._known.get(number)

    def put(self, result: Result) -> None:
        """Keep a result."""
        self._known[result.verdict.number] = result
        hashes = {"netlist": self._netlist, "block": self._block, "programs": self._programs}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**hashes, "verdict": asdict(result.verdict), "proof": result.proof}) + "\n")

    def prove(self, number: int, how: str) -> None:
        """Keep what an attempt to prove a mutant equivalent has given."""
        self.put(replace(self._known[number], proof=how))

    def results(self) -> list[Result]:
        """All that is known, in order."""
        return [self._known[number] for number in sorted(self._known)]


def survivors_table(block: str, mutants: Sequence[Mutant], results: Sequence[Result]) -> list[str]:
    """Rows of a Markdown table: the mutants of a block that are neither noticed nor proved equivalent."""
    by_number = {mutant.number: mutant for mutant in mutants}
    rows = []
    for result in results:
        if result.killed or result.equivalent:
            continue
        mutant = by_number[result.verdict.number]
        place = ", ".join(f"`{source}`" for source in mutant.sources) or "-"
        cell = f"`{mutant.module.partition('.')[2]}` `{mutant.cell}` {mutant.mode} `{mutant.port}[{mutant.bit}]`"
        kind = "timing only" if result.verdict.kind == "timing" else result.proof
        rows.append(f"| {block} | {cell} | `{mutant.signal or '-'}` | {place} | {kind} |".replace("$", "&#36;"))
    return rows
