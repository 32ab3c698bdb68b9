# SPDX-License-Identifier: Apache-2.0
"""``eval``, ``bench``, ``check`` and ``devices``, and the examples that the help shows."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
from pathlib import Path

import pytest

import catenary
from tests.cli.conftest import Call
from tests.cli.test_usage import VERBS


def test_eval_json(call: Call, model: Path, stories: Path) -> None:
    reply = call("eval", model, "--text", stories, "--max-tokens", 20, "--json")
    found = reply.json
    keys = ["device", "perplexity", "bits_per_byte", "tokens", "seconds", "nan_seen"]
    assert (reply.status, list(found)) == (0, keys)
    assert (found["device"], found["tokens"]) == ("graph-fp32", 20)
    assert found["perplexity"] > 1
    # A tokenizer of one token a byte: bits per byte are bits per token.
    assert found["bits_per_byte"] == pytest.approx(math.log2(found["perplexity"]))


def test_eval_for_people(call: Call, model: Path, stories: Path) -> None:
    reply = call("eval", model, "--text", stories)
    assert (reply.status, reply.stderr) == (0, "")
    assert re.fullmatch(r"perplexity [\d.]+, [\d.]+ bits per byte, 50 tokens on graph-fp32 in [\d.]+ s\n", reply.stdout)


def test_eval_separates_documents(call: Call, model: Path, stories: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(stories.read_text().replace("<|endoftext|>", "||"))
    first = call("eval", model, "--text", stories, "--json").json
    second = call("eval", model, "--text", other, "--separator", "||", "--json").json
    assert first["perplexity"] == second["perplexity"]


def test_eval_needs_a_tokenizer(call: Call, model: Path, stories: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(model, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    (bare / "tokenizer_config.json").unlink()
    reply = call("eval", bare, "--text", stories)
    assert reply.status == 2
    assert "must have a tokenizer" in reply.stderr


def test_bench_json(call: Call, program: Path) -> None:
    arguments = ("bench", program, "--device", "reference", "--prompt-tokens", 4, "--new-tokens", 2)
    reply = call(*arguments, "--json")
    found = reply.json
    assert (reply.status, list(found)) == (0, ["prefill_tokens_per_s", "decode_tokens_per_s", "total_s", "source"])
    assert found["source"] == "wall"
    assert found["total_s"] == pytest.approx(4 / found["prefill_tokens_per_s"] + 2 / found["decode_tokens_per_s"])
    assert "reference: prefill" in call(*arguments).stdout


def test_check_json(call: Call, model: Path) -> None:
    reply = call("check", model, "--json")
    assert reply.status == 0
    assert list(reply.json) == ["ok", "family", "reasons", "weight_bytes", "kv_bytes_per_token"]
    assert (reply.json["ok"], reply.json["family"], reply.json["reasons"]) == (True, "llama", [])
    assert call("check", model / "config.json", "--json").json == reply.json


def test_check_agrees_with_the_compiler(call: Call, model: Path, program: Path) -> None:
    found = call("check", model, "--json").json
    loaded = catenary.load(program)
    assert found["kv_bytes_per_token"] == loaded.counts.kv_bytes_per_token
    assert found["weight_bytes"] == loaded.weight_bytes


def edited(model: Path, folder: Path, **values: object) -> Path:
    """The checkpoint's configuration with other values."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads((model / "config.json").read_text()) | values))
    return path


def test_check_names_what_is_not_supported(call: Call, model: Path, tmp_path: Path) -> None:
    path = edited(model, tmp_path, architectures=["MambaForCausalLM"], model_type="mamba")
    reply = call("check", path, "--json")
    assert (reply.status, reply.json["ok"]) == (1, False)
    assert "MambaForCausalLM" in reply.json["reasons"][0]
    people = call("check", path)
    assert (people.status, people.stderr) == (1, "")
    assert "cannot be compiled" in people.stdout


def test_check_counts_memory(call: Call, model: Path, tmp_path: Path) -> None:
    path = edited(model, tmp_path, intermediate_size=1 << 19)
    small, large = (call("check", path, "--accel", name, "--json") for name in ("small", "hbm-slice"))
    assert (small.status, large.status) == (1, 0)
    [reason] = small.json["reasons"]
    assert "must fit the 33,554,432 bytes of memory of small, not need " in reason


def test_devices(call: Call) -> None:
    reply = call("devices", "--json")
    assert (reply.status, list(reply.json)) == (0, ["devices"])
    found = {entry["name"]: entry for entry in reply.json["devices"]}
    assert found.keys() >= {"graph-fp32", "iss", "reference"}
    assert all(list(entry) == ["name", "available", "reason"] for entry in found.values())
    assert found["graph-fp32"]["available"]
    people = call("devices").stdout
    assert all(name in people for name in found)


def test_the_examples_of_the_help_run(
    call: Call, model: Path, stories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they stand, one after the other, in a folder with the files that they name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path" / "to").mkdir(parents=True)
    shutil.copytree(model, tmp_path / "path" / "to" / "model")
    shutil.copy(stories, tmp_path / "stories.txt")
    for verb in VERBS:
        [example] = re.findall(r"Example: catenary (.*?)\n\s*\n", call(verb, "--help").stdout + "\n\n", re.DOTALL)
        reply = call(*shlex.split(example))
        assert (reply.status, reply.stderr) == (0, ""), example
