# SPDX-License-Identifier: Apache-2.0
"""The model that runs when none is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from catenary.cli import sessions
from tests.cli.conftest import Call


def test_run_without_a_model_uses_the_demo_model(call: Call) -> None:
    reply = call("run", "--prompt", "Once upon a time", "--max-new-tokens", "3", "--json")
    assert (reply.status, reply.json["device"], len(reply.json["ids"])) == (0, "graph-fp32", 3)


def test_an_installation_without_the_demo_model_says_so(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sessions, "_checkout", lambda: tmp_path)
    reply = call("run", "--prompt", "x")
    assert reply.status == 2
    assert "PROGRAM or MODEL must be given: the demo model comes with a checkout" in reply.stderr
