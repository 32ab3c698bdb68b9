# SPDX-License-Identifier: Apache-2.0
"""``catenary run``: the JSON, the streamed text, and which device runs what."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

import catenary
from tests.cli.conftest import Call

KEYS = [
    "device",
    "source",
    "prompt_ids",
    "ids",
    "text",
    "stop_reason",
    "logits_sha256",
    "prompt_tokens",
    "load_s",
    "prefill_s",
    "decode_s",
    "total_s",
    "counters",
    "nan_seen",
]


def test_json_of_a_model(call: Call, model: Path) -> None:
    reply = call("run", model, "--prompt", "Once", "--max-new-tokens", 4, "--ignore-eos", "--json")
    found = reply.json
    assert (reply.status, list(found)) == (0, KEYS)
    assert (found["device"], found["source"], found["stop_reason"]) == ("graph-fp32", "wall", "length")
    assert found["prompt_ids"][0] == 1, "the BOS token"
    assert (found["prompt_tokens"], len(found["ids"])) == (len(found["prompt_ids"]), 4)
    assert found["counters"] == dict.fromkeys(("cycles", "bytes_read", "bytes_written", "port_bytes_per_cycle"))
    assert found["load_s"] + found["prefill_s"] + found["decode_s"] <= found["total_s"]


def test_hash_covers_the_rows_that_the_tokens_came_from(call: Call, model: Path) -> None:
    found = call("run", model, "--prompt-ids", "1,5,9", "--max-new-tokens", 3, "--ignore-eos", "--json").json
    rows = []
    with catenary.open_device(None, model) as engine:
        rows.append(engine.run([1, 5, 9], 0)[-1])
        for position, token in enumerate(found["ids"][:-1], start=3):
            rows.append(engine.run([token], position)[-1])
    assert found["logits_sha256"] == hashlib.sha256(np.stack(rows).astype("<f4").tobytes()).hexdigest()
    assert found["ids"] == [int(row.argmax()) for row in rows]


def test_streamed_text_is_the_text_of_the_json(call: Call, model: Path) -> None:
    for seed in range(5):
        arguments = ("run", model, "--prompt", "Once", "--max-new-tokens", 40, "--temperature", 1.5, "--seed", seed)
        text = call(*arguments, "--json").json["text"]
        assert call(*arguments).stdout == f"{text}\n", f"seed {seed}"


def test_prompts_may_come_from_a_file_or_as_ids(call: Call, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes("Once é\r\n".encode())
    from_file = call("run", model, "--prompt-file", path, "--max-new-tokens", 2, "--json").json
    from_text = call("run", model, "--prompt", "Once é\r\n", "--max-new-tokens", 2, "--json").json
    ids = ",".join(map(str, from_text["prompt_ids"]))
    from_ids = call("run", model, "--prompt-ids", ids, "--max-new-tokens", 2, "--json").json
    assert from_file["prompt_ids"] == from_text["prompt_ids"] == from_ids["prompt_ids"]
    assert from_file["logits_sha256"] == from_text["logits_sha256"] == from_ids["logits_sha256"]


def test_ids_are_taken_as_they_are(call: Call, model: Path) -> None:
    found = call("run", model, "--prompt-ids", "7", "--max-new-tokens", 1, "--json").json
    assert found["prompt_ids"] == [7]


def test_an_empty_prompt_is_the_bos_token(call: Call, model: Path) -> None:
    assert call("run", model, "--prompt", "", "--max-new-tokens", 1, "--json").json["prompt_ids"] == [1]


def test_seeds_decide_what_is_sampled(call: Call, model: Path) -> None:
    arguments = ("run", model, "--prompt", "a", "--temperature", 1, "--top-p", 0.9, "--max-new-tokens", 12, "--json")
    runs = [call(*arguments, "--seed", seed).json["ids"] for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_generation_ends_with_the_context(call: Call, model: Path) -> None:
    found = call("run", model, "--prompt-ids", "3", "--max-new-tokens", 500, "--ignore-eos", "--json").json
    assert (found["stop_reason"], len(found["ids"])) == ("context", 64)


def test_without_a_tokenizer_ids_are_printed(call: Call, model: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(model, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    (bare / "tokenizer_config.json").unlink()
    arguments = ("run", bare, "--prompt-ids", "3", "--max-new-tokens", 3, "--ignore-eos")
    found = call(*arguments, "--json").json
    assert found["text"] is None
    assert [int(item) for item in call(*arguments).stdout.split()] == found["ids"]
    refused = call("run", bare, "--prompt", "a")
    assert refused.status == 2
    assert "must be given by --prompt-ids, not --prompt" in refused.stderr


def test_stats_are_shown_on_stderr(call: Call, model: Path) -> None:
    reply = call("run", model, "--prompt", "a", "--max-new-tokens", 2, "--stats")
    assert all(word in reply.stderr for word in ("graph-fp32", "prefill", "decode", "tokens/s", "not counted"))
    assert "prefill" not in reply.stdout


@pytest.mark.parametrize("device", ["reference", "iss"])
def test_programs_run_where_they_are_told_to(call: Call, program: Path, device: str) -> None:
    found = call("run", program, "--prompt", "Once", "--device", device, "--max-new-tokens", 3, "--json").json
    assert (found["device"], list(found)) == (device, KEYS)


def test_programs_run_on_iss_and_give_what_the_reference_gives(call: Call, program: Path) -> None:
    arguments = ("run", program, "--prompt", "Once", "--max-new-tokens", 5, "--ignore-eos", "--json")
    default, reference = call(*arguments).json, call(*arguments, "--device", "reference").json
    assert default["device"] == "iss"
    assert (default["ids"], default["logits_sha256"]) == (reference["ids"], reference["logits_sha256"])


def test_programs_do_not_run_as_float_graphs(call: Call, program: Path) -> None:
    reply = call("run", program, "--prompt", "a", "--device", "graph-fp32")
    wanted = "error: Device graph-fp32 must be given an uncompressed model, not a program\n"
    assert (reply.status, reply.stdout, reply.stderr) == (2, "", wanted)


def test_models_are_compiled_for_a_device(call: Call, model: Path, program: Path, tmp_path: Path) -> None:
    arguments = ("--prompt", "Once", "--device", "reference", "--max-new-tokens", 4, "--json")
    first, again = (call("run", model, *arguments).json for _ in range(2))
    assert first["device"] == "reference"
    assert first["logits_sha256"] == again["logits_sha256"] == call("run", program, *arguments).json["logits_sha256"]
    assert len(list((tmp_path / "cache" / "catenary").iterdir())) == 1
