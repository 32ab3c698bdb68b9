# SPDX-License-Identifier: Apache-2.0
"""Where proofs are written down, for ``python -m tools.formal``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[dict[str, object]], None]:
    """Append a row to the file that CATENARY_PROOFS names, if it does."""

    def write(row: dict[str, object]) -> None:
        if "CATENARY_PROOFS" in os.environ:
            with Path(os.environ["CATENARY_PROOFS"]).open("a", encoding="utf-8") as rows:
                rows.write(json.dumps({"group": request.path.stem.removeprefix("test_"), **row}) + "\n")

    return write
