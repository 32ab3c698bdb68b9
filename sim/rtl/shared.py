# SPDX-License-Identifier: Apache-2.0
"""RTLIL in which modules that are alike are one module with several instances.

Amaranth writes a module for every component that it elaborates, so an array of 36 equal chains is 36 times the text for
every tool behind it, and 36 times the code in the simulation, where fetching code is what takes the time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_MODULE = re.compile(r"^((?:attribute [^\n]*\n)*)module (\S+)\n(.*?)^end\n", re.DOTALL | re.MULTILINE)
_CELL = re.compile(r"^  cell (\\\S+) (\S+)\n(.*?)^  end\n", re.DOTALL | re.MULTILINE)
_CONNECTION = re.compile(r"^    connect (\S+)(.*)$", re.MULTILINE)
# What Amaranth calls a port that no signal of the module stands for. The numbers count through the whole design.
_NUMBERED = re.compile(r"\\port\$\d+\$\d+")


def with_shared_modules(text: str) -> str:
    """``text``, RTLIL in which a module comes before those inside it, without the modules that are there twice.

    Modules are alike if they have the same text, once those inside them are shared and their own ports are numbered
    from 0.
    """
    shared = _Shared()
    kept = [shared.add(*found) for found in reversed(_MODULE.findall(text))]
    return "".join(reversed(kept))


class _Shared:
    """The modules so far; those inside a module come before it."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}  # by text, the first module with it
        self._heirs: dict[str, str] = {}  # by name, the module that stands for it
        self._ports: dict[str, dict[str, str]] = {}  # by name, the new names of ports by the old ones

    def add(self, attributes: str, name: str, body: str) -> str:
        """The text of a module, or nothing if there is one like it."""
        numbered = dict.fromkeys(_NUMBERED.findall(_CELL.sub("", body)))
        self._ports[name] = own = {port: f"\\port${number}" for number, port in enumerate(numbered)}
        body = _CELL.sub(lambda cell: self._instance(cell[1], cell[2], cell[3], own), body)
        body = _renamed(body, own)
        self._heirs[name] = heir = self._first.setdefault(attributes + body, name)
        return f"{attributes}module {name}\n{body}end\n" if heir == name else ""

    def _instance(self, module: str, name: str, connections: str, own: Mapping[str, str]) -> str:
        """An instance in a module that renames its ``own`` ports."""
        inner = self._ports.get(module, {})
        connections = _CONNECTION.sub(
            lambda found: f"    connect {inner.get(found[1], found[1])}{_renamed(found[2], own)}", connections
        )
        return f"  cell {self._heirs.get(module, module)} {name}\n{connections}  end\n"


def _renamed(text: str, names: Mapping[str, str]) -> str:
    return _NUMBERED.sub(lambda port: names.get(port[0], port[0]), text)
