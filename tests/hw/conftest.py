# SPDX-License-Identifier: Apache-2.0
"""Which tests of the hardware are quick: each configuration has to be compiled before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

SLOW = ("odd", "wide", "packed", "uneven", "hbm-slice", "ports_4_8", "ports_4_8_16", "ports_4x64", "one_lane")
"""Configurations that only slow runs build: tests whose parameter ``name`` is one of them."""

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder that need one of them."""
    for item in items:
        call = getattr(item, "callspec", None)
        if call is None or HERE not in item.path.parents:
            continue
        if call.params.get("name") in SLOW:
            item.add_marker(pytest.mark.slow)
