# SPDX-License-Identifier: Apache-2.0
"""Verilog and C++ to a shared library, cached by the hash of everything that goes into it.

The compiler is called directly, one process per core: Verilator's runtime is compiled once per machine and kept, the
model's files are joined into as many units as there are cores, since each pays for the headers again.

Evaluating a large model is bound by fetching its instructions. A tuned build is compiled twice: once to count, in a run
that the caller makes, how often each branch is taken, and then with these counts, so that what seldom runs lies apart.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from catenary.isa.errors import DeviceError
from catenary.sim.rtl.cache import Progress, digest, entry, failed, known, quiet
from catenary.sim.rtl.gates import with_gated_clocks
from catenary.sim.rtl.ports import CLOCK, RESET, Port, to_json
from catenary.sim.rtl.registers import with_clocked_conditions
from catenary.sim.rtl.toolchain import Toolchain, check_fst_headers, check_profiles, find_toolchain
from catenary.sim.rtl.verilog import Design

Trace = Literal["", "vcd", "fst"]
"""Kind of waveform that a build can write; tracing slows it down, so only builds for it can."""

Training = Callable[[Path], None]
"""Runs the library that it is given, for a while, as the tuned one will run."""

PREFIX = "Vtop"
LIBRARY = "model.so"
LOG = "build.log"
_FIELD_HEADER = "field.h"
_RECIPE = ("build.py", "gates.py", "registers.py")

# Values that Amaranth leaves undefined do not exist: every register has a reset value, every x is a don't-care.
VERILATOR_FLAGS = (
    *("-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert", "--no-timing"),
    *("--output-split", "40000", "--output-split-cfuncs", "2000", "-Wno-fatal", "-Wno-lint", "-Wno-style"),
)
# Several models live in one Python process, so nothing of one may be visible to another.
COMPILER_FLAGS = ("-std=gnu++17", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-w")
FAST, SLOW = "-O2", "-O0"
LINKER_FLAGS = ("-shared", "-Wl,-Bsymbolic", "-pthread")
COUNT = "-fprofile-generate"
# Without -fprofile-partial-training, so what the training does not reach is compiled for size: that was faster, also
# for another model than the one trained with.
USE = ("-fprofile-use",)

_COUNTING = "counting"
_DUMP = """
extern "C" void __gcov_dump(void);
extern "C" __attribute__((visibility("default"))) void dump_profile(void) { __gcov_dump(); }
"""

_SMALL_BYTES = 150_000
"""Generated code up to this size is compiled as one unit."""
_RUNTIME = {
    "": ("verilated.cpp", "verilated_threads.cpp"),
    "vcd": ("verilated.cpp", "verilated_threads.cpp", "verilated_vcd_c.cpp"),
    "fst": ("verilated.cpp", "verilated_threads.cpp", "verilated_fst_c.cpp"),
}


@dataclass(frozen=True)
class _Unit:
    """One call of the compiler."""

    source: Path
    flags: tuple[str, ...]


@dataclass(frozen=True)
class _Code:
    """C++ of a model and what is around it.

    Attributes:
        folder: where it is, and objects go.
        tools: to compile it with.
        trace: as of :func:`build`.
        quick: what counts for speed.
        slow: what runs once.
    """

    folder: Path
    tools: Toolchain
    trace: Trace
    quick: Sequence[Path]
    slow: Sequence[Path]

    def link(self, library: str, progress: Callable[[float], None], flags: tuple[str, ...] = ()) -> None:
        """Compile and link; ``progress`` is told the share that is done, ``flags`` count where speed does."""
        common = (*COMPILER_FLAGS, *_includes(self.tools, self.trace), "-I.", "-Imodel")
        units = [_Unit(path, (*common, FAST, *flags)) for path in self.quick]
        units += [_Unit(path, (*common, SLOW)) for path in self.slow if not path.with_suffix(".o").exists()]
        _compile(units, self.folder, self.tools, progress)
        objects = [f"{path.stem}.o" for path in (*self.quick, *self.slow)]
        libraries = ["-llz4", "-lz"] if self.trace == "fst" else []
        command = [*self.tools.compiler, *LINKER_FLAGS, *flags, *objects, *_runtime(self.tools, self.trace)]
        _call([*command, *libraries, "-o", library], self.folder, self.tools)


def build(
    design: Design,
    sources: Mapping[str, str],
    trace: Trace = "",
    progress: Progress = quiet,
    *,
    fast: bool = False,
    training: Training | None = None,
) -> Path:
    """Compile a design and C++ code around it.

    Args:
        design: what to simulate; its model is the class ``Vtop`` of ``Vtop.h``.
        sources: C++ files by name; those that end in ``.cpp`` are compiled. They may include ``ports.h``, which
            lists the model's ports as ``catenary::fields(model)``: for every port of the design all of its fields, in
            order, as ``catenary::Field`` of ``field.h``; ``set_clock`` and ``set_reset`` do nothing where a design
            has none.
        trace: which waveform writer to build in.
        progress: told of the stages.
        fast: make a model that runs faster, and takes longer to build: groups of registers rest while they do not
            change, and the clock is an input that changes once a cycle, so one evaluation is one cycle.
        training: tune the build with this; called only where the cache has no tuned build yet. Without it a tuned
            build is taken if there is one, since it differs in nothing but speed.

    Returns:
        The shared library, ready for ctypes.

    Raises:
        DeviceError: a tool is missing, or failed, and the message names the log; or a build cannot be tuned.
    """
    tools = find_toolchain()
    if trace == "fst":
        check_fst_headers(tools)
    if training is not None:
        if trace:
            raise DeviceError(f"A tuned build must write no waveform, not a .{trace} file")
        check_profiles(tools)
    flags = (*VERILATOR_FLAGS, *COMPILER_FLAGS, FAST, SLOW, *LINKER_FLAGS, trace, str(fast))
    texts = [text for name in sorted(sources) for text in (name, sources[name])]
    own = [(Path(__file__).parent / name).read_text(encoding="utf-8") for name in (_FIELD_HEADER, *_RECIPE)]
    ports = json.dumps(to_json(design.ports))
    key = digest(tools.versions, design.top, design.text, ports, *own, *texts, *flags)

    def make(folder: Path) -> None:
        progress("translating Verilog to C++", 0.2)
        model = folder / "model"
        verilog = with_clocked_conditions(design.text)
        if fast:
            verilog = with_gated_clocks(verilog).replace("@(posedge clk", "@(edge clk")
        for name, text in {"top.v": verilog, _FIELD_HEADER: own[0], **sources}.items():
            (folder / name).write_text(text, encoding="utf-8")
        option = (f"--trace-{trace}",) if trace else ()
        command = [str(tools.verilator), "--cc", "top.v", "--top-module", design.top, "--prefix", PREFIX]
        _call([*command, "--Mdir", "model", *VERILATOR_FLAGS, *option], folder, tools)
        (folder / "ports.h").write_text(_ports_header(design.ports, model / f"{PREFIX}.h"), encoding="utf-8")
        quick = [folder / name for name in sources if name.endswith(".cpp")]
        quick += _join(folder, _generated(model, slow=False))
        code = _Code(folder, tools, trace, quick, _join(folder, _generated(model, slow=True), "slow", 1))
        if training is None:
            code.link(LIBRARY, lambda share: progress("compiling", 0.3 + 0.65 * share))
        else:
            _tune(code, training, progress)
        for pattern in ("*.o", "*.gcda", "*.gcno", "unit_*.cpp", "model/*", f"{_COUNTING}*"):
            for path in folder.glob(pattern):
                path.unlink()
        model.rmdir()

    tuned = digest(key, COUNT, *USE)
    if training is not None or known("model", tuned):
        key = tuned
    return entry("model", key, make) / LIBRARY


def _tune(code: _Code, training: Training, progress: Progress) -> None:
    """Make the library with a profile of ``training``."""
    dump = code.folder / f"{_COUNTING}.cpp"
    dump.write_text(_DUMP, encoding="utf-8")
    # A process knows a library that it has loaded by its path, and may try again after an error.
    library = code.folder / f"{_COUNTING}_{time.time_ns()}.so"
    counting = replace(code, quick=(*code.quick, dump))
    counting.link(library.name, lambda share: progress("compiling to count", 0.3 + 0.25 * share), (COUNT,))
    progress("training", 0.55)
    try:
        training(library)
    finally:  # also after an error: what is not written now would be when the process ends
        ctypes.CDLL(str(library)).dump_profile()
    code.link(LIBRARY, lambda share: progress("compiling", 0.6 + 0.35 * share), USE)


def _ports_header(ports: Sequence[Port], model: Path) -> str:
    """The table of a model's ports as C++; ``model`` is the header that says what Verilator calls them."""
    mangled = re.findall(r"VL_(?:IN|OUT)\w*\(&(\w+)", model.read_text(encoding="utf-8"))
    members = {name.removeprefix("__SYM__").replace("___05F", "__"): name for name in mangled}
    rows = [
        f'        {{"{field.path}", &model.{members[port.name]}, {port.width}, {field.offset}, {field.width}, '
        f"{'true' if field.output else 'false'}}},\n"
        for port in ports
        for field in port.fields
    ]
    set_clock, set_reset = (f"model.{port} = value;" if port in members else "" for port in (CLOCK, RESET))
    return f"""#pragma once
#include <vector>
#include "{PREFIX}.h"
#include "{_FIELD_HEADER}"

namespace catenary {{

static inline void set_clock({PREFIX}& model, bool value) {{ {set_clock} }}
static inline void set_reset({PREFIX}& model, bool value) {{ {set_reset} }}
static inline std::vector<Field> fields({PREFIX}& model) {{
    return {{
{"".join(rows)}    }};
}}

}}  // namespace catenary
"""


def _generated(model: Path, slow: bool) -> list[Path]:
    return [path for path in sorted(model.glob("*.cpp")) if path.stem.endswith("__Slow") == slow]


def _join(folder: Path, files: Sequence[Path], name: str = "fast", limit: int | None = None) -> list[Path]:
    """Spread generated files over few units of about equal size."""
    sizes = {path: path.stat().st_size for path in files}
    wanted = 1 if sum(sizes.values()) <= _SMALL_BYTES else (os.cpu_count() or 1)
    bins: list[list[Path]] = [[] for _ in range(limit or wanted)]
    for path in sorted(files, key=lambda path: (-sizes[path], path.name)):
        min(bins, key=lambda chosen: sum(sizes[other] for other in chosen)).append(path)
    units = []
    for index, chosen in enumerate(chosen for chosen in bins if chosen):
        unit = folder / f"unit_{name}_{index}.cpp"
        unit.write_text("".join(f'#include "{path.name}"\n' for path in chosen), encoding="utf-8")
        units.append(unit)
    return units


def _includes(tools: Toolchain, trace: Trace) -> tuple[str, ...]:
    include = tools.root / "include"
    values = {"VERILATOR": 1, "VM_COVERAGE": 0, "VM_SC": 0, "VM_TIMING": 0, "VM_TRACE": int(bool(trace))}
    values |= {"VM_TRACE_VCD": int(trace == "vcd"), "VM_TRACE_FST": int(trace == "fst"), "VM_TRACE_SAIF": 0}
    return (*(f"-D{name}={value}" for name, value in values.items()), f"-I{include}", f"-I{include / 'vltstd'}")


def _runtime(tools: Toolchain, trace: Trace) -> list[str]:
    """Objects of Verilator's runtime, compiled once for all models."""

    def make(folder: Path) -> None:
        flags = (*COMPILER_FLAGS, *_includes(tools, trace), FAST)
        units = [_Unit(tools.root / "include" / name, flags) for name in _RUNTIME[trace]]
        _compile(units, folder, tools)

    key = digest(tools.versions, *COMPILER_FLAGS, FAST, trace, *_RUNTIME[trace])
    return [str(path) for path in sorted(entry("runtime", key, make).glob("*.o"))]


def _compile(
    units: Sequence[_Unit], folder: Path, tools: Toolchain, progress: Callable[[float], None] = lambda share: None
) -> None:
    """Compile into ``folder``; ``progress`` is told the share that is done."""
    done = []

    def compile_one(unit: _Unit) -> None:
        target = folder / f"{unit.source.stem}.o"
        _call([*tools.compiler, *unit.flags, "-c", str(unit.source), "-o", str(target)], folder, tools)
        done.append(target)
        progress(len(done) / len(units))

    progress(0.0)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, units))


def _call(command: Sequence[str], folder: Path, tools: Toolchain) -> None:
    """Run one tool in ``folder``, with its output in the log.

    Raises:
        DeviceError: it failed.
    """
    environment = {**os.environ, "VERILATOR_ROOT": str(tools.root)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    with (folder / LOG).open("a", encoding="utf-8") as log:
        log.write(" ".join(command) + "\n" + done.stdout + done.stderr)
    if done.returncode:
        name = Path(command[0]).name
        where = failed(folder.with_suffix("")) / LOG
        lines = done.stderr.splitlines() or ["no output"]
        first = next((line for line in lines if "rror" in line), lines[0]).strip()
        raise DeviceError(f"{name} must succeed, not end with status {done.returncode}: {first} (see {where})")
