# SPDX-License-Identifier: Apache-2.0
"""Mutation testing of the hardware: which single faults the program suite notices. docs/mutation.md says what counts.

    python -m tools.mutation                            all blocks; figures, and the table of docs/mutation.md
    python -m tools.mutation --block control            one block; likewise
    python -m tools.mutation --block control --count 20 a quick look at one, which records nothing

What was found is kept under build/mutation/, so a run that was interrupted goes on where it was, and a change of the
programs tries again only what they had not noticed.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks.record import ROOT
from benchmarks.speed import note
from catenary.isa.config import AcceleratorConfig
from catenary.sim.rtl.cache import digest
from tests.mutation.blocks import BLOCKS, MEASURED
from tests.mutation.core import MutantCore, Netlist, make, verilog
from tests.mutation.netlist import Mutant
from tests.mutation.proof import Prover
from tests.mutation.results import Result, Store, Summary, survivors_table
from tests.mutation.stimuli import Session, sessions
from tests.mutation.trial import VERSION, Trials

COMMAND = "make mutation"
COUNT, SEED = 200, 1
"""Of a run that is recorded."""
FOLDER = ROOT / "build" / "mutation"
PAGE = ROOT / "docs" / "mutation.md"
_TABLE = re.compile(r"(?P<begin><!-- survivors:begin -->\n).*?(?P<end><!-- survivors:end -->)", re.DOTALL)
_HEAD = ["| block | cell and bit | signal | source | kind |", "|---|---|---|---|---|"]

console = Console(stderr=True)


@cache
def build(config: AcceleratorConfig, count: int, seed: int) -> Netlist:
    """The core with the mutants of all blocks that are made on it."""
    blocks = {name: block.patterns for name, block in BLOCKS.items() if block.config == config}
    with console.status(f"{config.name}: netlist"):
        return make(config, blocks, count, seed, FOLDER / f"{config.name}-{seed}-{count}")


@cache
def compiled(config: AcceleratorConfig, count: int, seed: int) -> MutantCore:
    """The same, to run."""
    with console.status(f"{config.name}: compiling"):
        return MutantCore(config, verilog(build(config, count, seed)))


def run_block(name: str, count: int, seed: int, proofs: bool) -> tuple[Sequence[Mutant], Store]:
    """Try and prove all mutants of a block; what is known already is not done again."""
    block = BLOCKS[name]
    netlist = build(block.config, count, seed)
    folder, mutants = netlist.folder / name, netlist.mutants[name]
    with console.status(f"{name}: programs"):
        tried = sessions(block.config, block.stimuli)
    store = Store(folder / "results.jsonl", digest(netlist.text), _block_hash(folder), _hash(tried))
    left = [mutant for mutant in mutants if store.get(mutant.number) is None]
    if left:
        core = compiled(block.config, count, seed)
        with console.status(f"{name}: running without mutants"):
            trials = Trials(block.config, core.device, tried)
        console.print(f"{name}: {trials.programs} programs, {trials.cycles:,} cycles")
        for mutant in track(left, f"{name}: mutants", console=console):
            store.put(Result(trials.run(mutant.number)))
    if proofs:
        by_number = {mutant.number: mutant for mutant in mutants}
        open_ones = [r.verdict.number for r in store.results() if not r.killed and not r.proof]
        prover = Prover(folder, block.roots, [by_number[number] for number in open_ones])
        for number in track(open_ones, f"{name}: proofs", console=console):
            store.prove(number, prover.prove(by_number[number]).how)
    return mutants, store


def _block_hash(folder: Path) -> str:
    """Of the modules that the mutants are made in, and so of the choice of mutants."""
    return digest((folder / "block.il").read_text(encoding="utf-8"), (folder / "mutants.json").read_text("utf-8"))


def _hash(tried: tuple[Session, ...]) -> str:
    parts = [
        part
        for session in tried
        for stimulus in session.stimuli
        for part in (
            str(session.model),
            stimulus.name,
            *((stimulus.case.code, stimulus.case.image) if stimulus.case else ()),
        )
    ]
    return digest(str(VERSION), *parts)


def report(name: str, summary: Summary) -> None:
    """Show a block in numbers."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.reasons)
    print(
        f"{name}: {summary.killed} of {summary.faults} killed ({summary.share:.1%}, at least {summary.bound:.1%}); "
        f"{summary.equivalent} of {summary.mutants} equivalent, {summary.survivors} survivors, "
        f"{summary.timing} of them differ in timing; killed by {reasons}"
    )


def record(name: str, summary: Summary) -> None:
    """Record a block's figures."""
    note(f"rtl.mutation.{name}", round(summary.bound, 4), "fraction", "rtl", COMMAND)
    for what in ("mutants", "killed", "equivalent", "survivors", "timing"):
        note(f"rtl.mutation.{name}.{what}", getattr(summary, what), "mutants", "rtl", COMMAND)


def write_page(rows: Mapping[str, list[str]], page: Path = PAGE) -> None:
    """Rewrite the list of survivors of some blocks, and keep those of others."""
    text = page.read_text(encoding="utf-8")
    found = _TABLE.search(text)
    kept = found[0].splitlines() if found else []
    lines = [
        line for name in MEASURED for line in rows.get(name, [line for line in kept if line.startswith(f"| {name} |")])
    ]
    table = "\n".join([*_HEAD, *lines])
    page.write_text(_TABLE.sub(lambda found: f"{found['begin']}\n{table}\n\n{found['end']}", text), encoding="utf-8")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--block", action="append", choices=BLOCKS, help="only this one; may be repeated")
    parser.add_argument("--count", type=int, default=COUNT, help=f"mutants of each block ({COUNT})")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the choice of mutants ({SEED})")
    parser.add_argument("--no-proofs", action="store_true", help="leave out the proofs of equivalence")
    parser.add_argument("--json", type=Path, help="write all results to this file")
    options = parser.parse_args()
    rows: dict[str, list[str]] = {}
    everything = {}
    recorded = (options.count, options.seed, options.no_proofs) == (COUNT, SEED, False)
    for name in options.block or MEASURED:
        mutants, store = run_block(name, options.count, options.seed, not options.no_proofs)
        results = store.results()
        report(name, Summary.of(results))
        rows[name] = survivors_table(name, mutants, results)
        by_number = {mutant.number: mutant for mutant in mutants}
        everything[name] = [
            {**by_number[result.verdict.number].__dict__, **result.verdict.__dict__, "proof": result.proof}
            for result in results
        ]
        if recorded:
            record(name, Summary.of(results))
            write_page(rows)
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    if not recorded:
        print("\n".join([*_HEAD, *(line for lines in rows.values() for line in lines)]))


if __name__ == "__main__":
    main()
