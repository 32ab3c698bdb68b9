# SPDX-License-Identifier: Apache-2.0
"""What the contracts in pyproject.toml cannot say about imports.

Devices whose results are compared with ``==`` are evidence only while none learns anything from another. So they may
share what a program *is* (``isa``) and, two of them, the definition of the arithmetic: nothing else of what executes.
"""

from __future__ import annotations

import sys
from itertools import combinations

import grimp
import pytest

GRAPH = grimp.build_graph("catenary", include_external_packages=True, cache_dir=None)
DEVICES = sorted(GRAPH.find_children("catenary.runtime.devices"))
SHARE_ARITHMETIC = {"catenary.runtime.devices.reference", "catenary.runtime.devices.iss"}


def reached(device: str) -> set[str]:
    """Every module of sim that a device imports, directly or not."""
    found = GRAPH.find_upstream_modules(device, as_package=GRAPH.find_children(device) != set())
    return {name for name in found if name.startswith("catenary.sim.")}


@pytest.mark.parametrize("one, other", list(combinations(DEVICES, 2)))
def test_devices_share_the_arithmetic_at_most(one: str, other: str) -> None:
    shared = reached(one) & reached(other)
    if {one, other} == SHARE_ARITHMETIC:
        shared = {name for name in shared if not f"{name}.".startswith("catenary.sim.arith.")}
    assert not shared, f"{one} and {other} both import {', '.join(sorted(shared))}"


def test_isa_needs_the_standard_library_and_numpy_alone() -> None:
    for module in GRAPH.find_descendants("catenary.isa"):
        outside = {name for name in GRAPH.find_modules_directly_imported_by(module) if not name.startswith("catenary")}
        assert outside <= sys.stdlib_module_names | {"numpy"}, module


@pytest.mark.parametrize("room", ["isa", "hw", "compiler", "sim", "runtime", "boards"])
def test_no_room_imports_the_facade(room: str) -> None:
    """The facade may import every room, so through it each room would reach each other one."""
    inside = GRAPH.find_descendants(f"catenary.{room}") | {f"catenary.{room}"}
    assert not GRAPH.find_modules_that_directly_import("catenary") & inside
