# SPDX-License-Identifier: Apache-2.0
"""Random programs on the simulated hardware, compared with the instruction-set simulator: docs/random.md.

    python -m tools.random_programs --seed 1 --count 3000   compare, and say what the programs had in them
    python -m tools.random_programs --seed 1 --only 1234    this program again, behind those of its session
    python -m tools.random_programs --no-hardware           only make and check programs, for their coverage
    python -m tools.random_programs --record                as `make test-random RECORD=1`: figures and docs/random.md

Exit status: 0 all agree, 1 some do not, 2 a wrong argument.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.record import ROOT
from benchmarks.speed import note
from catenary.isa.errors import CatenaryError
from catenary.sim.rtl.memory_model import MemoryModel
from tests.programs.coverage import Coverage, Row, holes, summary, to_json
from tests.programs.coverage_crosses import CROSSES
from tests.programs.random_programs import CONFIGS
from tests.programs.random_sessions import (
    MEMORIES,
    PROGRAMS,
    MakeDevice,
    Report,
    rtl_device,
    run_session,
    sessions,
)

COUNT = 3000
RECORDED = 10_000
"""Programs of a run that is recorded."""
MOST_DIFFERENCES = 5
"""A run ends when it has found so many."""
STEPS = 20
"""Lines about progress where there is no terminal for a bar."""
PAGE = ROOT / "docs" / "random.md"
_PART = re.compile(r"(?P<begin><!-- (?P<name>coverage|holes):begin -->\n).*?(?P<end><!-- (?P=name):end -->)", re.DOTALL)

console = Console(stderr=True)


def default_seed() -> int:
    """The first eight hexadecimal digits of the commit, so that every commit tries other programs; 1 without one."""
    found = subprocess.run(
        ["git", "rev-parse", "--short=8", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return int(found.stdout[:8], 16) if found.returncode == 0 else 1


def build(configs: Sequence[str]) -> None:
    """Compile the cores, so that workers find them."""
    for name in configs:
        with console.status(f"{name}: compiling, where it is not there yet"), rtl_device(CONFIGS[name], MemoryModel()):
            pass


def reports(
    seed: int, count: int, configs: Sequence[str], jobs: int, make_device: MakeDevice | None
) -> Iterator[Report]:
    """What came of each session, in any order."""
    todo = sessions(seed, count, configs)
    run = partial(run_session, make_device=make_device)
    if jobs == 1:
        yield from map(run, todo)
        return
    # A new interpreter for each worker: one that is forked could inherit a lock of the progress bar.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        pending = [pool.submit(run, session) for session in todo]
        try:
            for done in as_completed(pending):
                yield done.result()
        finally:
            for each in pending:
                each.cancel()


def command(seed: int, only: int, configs: Sequence[str]) -> str:
    """What runs one program again."""
    chosen = "" if list(configs) == list(CONFIGS) else f" CONFIG={','.join(configs)}"
    return f"make test-random SEED={seed:#010x} ONLY={only}{chosen}"


def show(report: Report, seed: int, configs: Sequence[str]) -> None:
    """Say what differs in a session."""
    for found in report.differences:
        behind = "" if found.alone else ", behind the programs before it in its session"
        where = (
            f"program {found.program} of seed {seed:#010x} on {report.session.config}, {report.session.memory} memory"
        )
        print(
            f"\nDIFFERENCE: {where}{behind}\n{found.what}\n{found.text}\nagain: {command(seed, found.program, configs)}"
        )


def run_all(
    seed: int, count: int, configs: Sequence[str], jobs: int, make_device: MakeDevice | None, seconds: float
) -> tuple[list[Report], Coverage]:
    """Run all sessions with a bar; stops early behind too many differences, or when ``seconds`` are over."""
    coverage, found = Coverage(CROSSES), []
    columns = (TextColumn("programs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    differences, end = 0, time.monotonic() + seconds
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("programs", total=count)
        for report in reports(seed, count, configs, jobs, make_device):
            found.append(report)
            coverage.merge(report.counts)
            bars.advance(task, report.session.count)
            done = sum(each.session.count for each in found)
            if not console.is_terminal and done * STEPS // count != (done - report.session.count) * STEPS // count:
                print(f"{done:,} of {count:,} programs", flush=True)
            show(report, seed, configs)
            differences += len(report.differences)
            if differences >= MOST_DIFFERENCES:
                print(f"\nstopped after {differences} differences")
                break
            if time.monotonic() > end:
                print(f"\nstopped after {done:,} programs, when the time was over")
                break
    return found, coverage


def again(seed: int, only: int, configs: Sequence[str], make_device: MakeDevice | None) -> Report:
    """Run one program again, behind those before it in its session."""
    *_, session = sessions(seed, only + 1, configs)
    print(f"program {only} of seed {seed:#010x} on {session.config}, {session.memory} memory: {session.model}")
    print(session.case(only - session.first).describe())
    return run_session(session, make_device)


def record(rows: Sequence[Row], programs: int, errors: int, seed: int) -> None:
    """Record figures, and rewrite the tables of the page."""
    what = f"make test-random SEED={seed:#010x} RECORD=1"
    note("rtl.random.programs", programs, "programs", "rtl", what)
    note("rtl.random.errors", errors, "programs", "rtl", what)
    for row in rows:
        note(f"rtl.random.coverage.{row.cross.name}", round(row.covered / row.total, 4), "fraction", "rtl", what)
    write_page(rows)


def write_page(rows: Sequence[Row], page: Path = PAGE) -> None:
    """Rewrite the table of coverage and the list of holes."""
    parts = {"coverage": summary(rows), "holes": holes(rows, list(MEMORIES)) or ["None."]}
    text = page.read_text(encoding="utf-8")

    def made(found: re.Match[str]) -> str:
        return found["begin"] + "\n" + "\n".join(parts[found["name"]]) + "\n\n" + found["end"]

    page.write_text(_PART.sub(made, text), encoding="utf-8")


def conclude(found: Iterable[Report], seconds: float, hardware: bool) -> str:
    """One line for all of them."""
    found = list(found)
    programs, errors = (sum(getattr(report, name) for report in found) for name in ("programs", "errors"))
    instructions, cycles = (sum(getattr(report, name) for report in found) for name in ("instructions", "cycles"))
    different = sum(len(report.differences) for report in found)
    what = f"{programs - different if hardware else programs:,} programs"
    text = f"{what} {'equal to the simulator' if hardware else 'legal'}, {different:,} not"
    if hardware:
        text += f"; {errors:,} errors in between, each as it must be"
    return f"{text}; {instructions:,} instructions, {cycles:,} cycles, {seconds:.0f} s"


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.random_programs", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--seed", type=lambda text: int(text, 0), help="of everything (of the commit)")
    parser.add_argument("--count", type=int, help=f"programs ({COUNT}; with --record {RECORDED})")
    parser.add_argument("--config", default=",".join(CONFIGS), help="accelerators, by commas (%(default)s)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes (%(default)s)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long, with what there is")
    parser.add_argument("--only", type=int, help="run this program again")
    parser.add_argument("--json", type=Path, help="write all points and holes to this file")
    parser.add_argument("--holes", type=int, default=10, help="lines of each cross's list of holes (%(default)s)")
    parser.add_argument("--no-hardware", action="store_true", help="only make programs and check them")
    parser.add_argument("--record", action="store_true", help="record figures and rewrite docs/random.md")
    options = parser.parse_args(arguments)
    options.configs = options.config.split(",")
    if unknown := [name for name in options.configs if name not in CONFIGS]:
        parser.error(f"config must be some of {', '.join(CONFIGS)}, not {', '.join(unknown)}")
    if options.record and (options.no_hardware or options.configs != list(CONFIGS) or options.only is not None):
        parser.error("record must be of all programs on the hardware of every config, not of some")
    options.seed = default_seed() if options.seed is None else options.seed
    options.count = options.count or (RECORDED if options.record else COUNT)
    return options


def main(arguments: Sequence[str] | None = None, make_device: MakeDevice = rtl_device) -> int:
    """Run what was asked for; returns the exit status."""
    options = options_of(arguments)
    chosen = None if options.no_hardware else make_device
    start = time.monotonic()
    try:
        if chosen is rtl_device:
            build(options.configs)
        if options.only is not None:
            report = again(options.seed, options.only, options.configs, chosen)
            show(report, options.seed, options.configs)
            print(conclude([report], time.monotonic() - start, chosen is not None))
            return int(bool(report.differences))
        print(f"seed {options.seed:#010x}: {options.count:,} programs, {PROGRAMS} in a row, on {options.config}")
        found, coverage = run_all(
            options.seed, options.count, options.configs, options.jobs, chosen, 60 * options.minutes
        )
    except CatenaryError as error:
        print(error, file=sys.stderr)
        return 2
    rows = coverage.rows((CONFIGS[name] for name in options.configs), list(MEMORIES))
    print("\n".join(["", *summary(rows), "", *holes(rows, list(MEMORIES), options.holes), ""]))
    print(conclude(found, time.monotonic() - start, chosen is not None))
    if options.json:
        options.json.write_text(json.dumps(to_json(rows, coverage), indent=1) + "\n", encoding="utf-8")
    if any(report.differences for report in found):
        return 1
    if options.record:
        record(rows, sum(report.programs for report in found), sum(report.errors for report in found), options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
