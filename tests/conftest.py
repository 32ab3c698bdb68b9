# SPDX-License-Identifier: Apache-2.0
"""Fixtures and rules that every test shares."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import hypothesis
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent

# One run is like the next: a failure that only some runs see is a failure nobody can look at.
hypothesis.settings.register_profile("catenary", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("catenary")


def find_data() -> Path | None:
    """Return the folder of the shared data set, or None where there is none.

    CATENARY_DATA names it; without that it is looked for beside the repository.

    Raises:
        pytest.UsageError: CATENARY_DATA is set, but to no folder.
    """
    named = os.environ.get("CATENARY_DATA")
    if named is None:
        beside = ROOT.parent / "shared" / "data"
        return beside if beside.is_dir() else None
    if not Path(named).is_dir():
        raise pytest.UsageError(f"CATENARY_DATA must be a folder, not {named!r}")
    return Path(named).resolve()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of the shared data set; a test that asks for it is left out where that is absent."""
    folder = find_data()
    if folder is None:  # only if a test reaches the fixture by getfixturevalue, which collection cannot see
        raise pytest.UsageError("Test must name data_dir among its arguments, not ask for it while it runs")
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs the shared data set where that is absent; the header counts it."""
    if find_data() is not None:
        return
    without: list[pytest.Item] = []
    needing: list[pytest.Item] = []
    for item in items:
        needs = "data_dir" in getattr(item, "fixturenames", ()) or item.get_closest_marker("needs_data") is not None
        (needing if needs else without).append(item)
    items[:] = without
    config.stash[_LEFT_OUT] = len(needing)
    config.hook.pytest_deselected(items=needing)


_LEFT_OUT = pytest.StashKey[int]()


def pytest_report_header() -> list[str]:
    """Say what the results depend on."""
    return [
        f"catenary: Python {platform.python_version()}, numpy {np.__version__}, hypothesis {hypothesis.__version__}",
        "seeds: hypothesis is derandomised; every other random test names its own",
        f"shared data: {find_data() or 'absent'}",
    ]


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Say how many tests were left out for want of data."""
    left_out = config.stash.get(_LEFT_OUT, 0)
    return [f"left out: {left_out} tests that need the shared data set (CATENARY_DATA)"] if left_out else []
