# SPDX-License-Identifier: Apache-2.0
"""``catenary run --device rtl``: the tokens of the simulator, the core's own counters, and a timeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from catenary.isa.opcodes import Unit
from tests.cli.conftest import Call

PROMPT = ("--prompt-ids", "1,2,3,4,5", "--max-new-tokens", "4", "--ignore-eos", "--json")
SAME = ("prompt_ids", "ids", "text", "stop_reason", "logits_sha256")


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the first time, the core is built
def test_rtl_gives_the_tokens_of_the_simulator(call: Call, program: Path, tmp_path: Path) -> None:
    timeline = tmp_path / "run.json"
    real = call("run", program, "--device", "rtl", "--timeline", timeline, *PROMPT)
    assert real.status == 0, real.stderr
    found, expected = real.json, call("run", program, "--device", "iss", *PROMPT).json
    assert {key: found[key] for key in SAME} == {key: expected[key] for key in SAME}
    assert (found["device"], found["source"]) == ("rtl", "rtl")
    counters = found["counters"]
    assert counters["port_bytes_per_cycle"] == 8
    assert counters["bytes_written"] == expected["counters"]["bytes_written"]
    assert list(counters["units"]) == [unit.name.lower() for unit in Unit]
    for name, unit in counters["units"].items():
        assert unit["busy"] + unit["idle"] == counters["cycles"], name
        assert sum(unit["stalled"].values()) <= unit["busy"], name
    spans = [event for event in json.loads(timeline.read_text())["traceEvents"] if event["ph"] == "X"]
    assert {span["tid"] for span in spans} == set(range(len(Unit)))
    assert all(span["args"]["instruction"] not in ("", "illegal") for span in spans)
