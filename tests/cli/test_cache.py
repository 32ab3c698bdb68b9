# SPDX-License-Identifier: Apache-2.0
"""The cache of compiled programs: hits, misses, damage, and folders that cannot be written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from catenary.boards.loader import load_accelerator
from catenary.cli import cache
from catenary.compiler import CompileOptions, importers
from catenary.compiler.random_models import llama_config, write_model
from catenary.isa.program import Program
from tests.cli.conftest import TINY, Call

SMALL = load_accelerator("small")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Grows by one with every compilation; the cache is empty at first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real, seen = cache.compile_model, []

    def count(*arguments: object) -> Program:
        seen.append("compiled")
        return real(*arguments)

    monkeypatch.setattr(cache, "compile_model", count)
    return seen


def test_the_second_time_is_a_hit(compiled: list[str], model: Path) -> None:
    imported = importers.load(model)
    first, second = (cache.cached_program(imported, SMALL, CompileOptions()) for _ in range(2))
    assert compiled == ["compiled"]
    assert (first.code, first.image.tobytes()) == (second.code, second.image.tobytes())
    assert second.tokenizer_json == imported.tokenizer_json


def test_everything_that_matters_is_in_the_key(model: Path, tmp_path: Path) -> None:
    other_weights = write_model(tmp_path / "weights", llama_config(**TINY), seed=2)
    other_tokenizer = shutil.copytree(model, tmp_path / "tokenizer")
    (other_tokenizer / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False}))
    loaded, options = importers.load(model), CompileOptions()
    keys = [
        cache.cache_key(loaded, SMALL, options),
        cache.cache_key(loaded, SMALL, CompileOptions(weight_bits=4)),
        cache.cache_key(loaded, load_accelerator("hbm-slice"), options),
        cache.cache_key(importers.load(model, max_context=32), SMALL, options),
        cache.cache_key(importers.load(other_weights), SMALL, options),
        cache.cache_key(importers.load(other_tokenizer), SMALL, options),
    ]
    assert len(set(keys)) == len(keys)


def test_the_place_of_a_checkpoint_is_not_in_the_key(model: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(model, tmp_path / "moved")
    keys = {cache.cache_key(importers.load(path), SMALL, CompileOptions()) for path in (model, moved)}
    assert len(keys) == 1


@pytest.mark.parametrize("damage", [b"", b"garbage", None], ids=["empty", "garbage", "flipped"])
def test_a_damaged_entry_is_compiled_again(compiled: list[str], model: Path, damage: bytes | None) -> None:
    imported, warnings = importers.load(model), []
    cache.cached_program(imported, SMALL, CompileOptions())
    [entry] = cache.cache_folder().iterdir()
    good = entry.read_bytes()
    entry.write_bytes(good[:-1] + bytes([good[-1] ^ 1]) if damage is None else damage)
    cache.cached_program(imported, SMALL, CompileOptions(), warn=warnings.append)
    assert (len(compiled), len(warnings)) == (2, 1)
    assert warnings[0].startswith("compiling again, since the cached program is damaged: ")
    assert Program.load(entry).config_hash == SMALL.hash


def test_a_cache_that_cannot_be_written_costs_only_time(compiled: list[str], model: Path) -> None:
    cache.cache_folder().parent.mkdir()
    cache.cache_folder().write_text("in the way")
    warnings: list[str] = []
    program = cache.cached_program(importers.load(model), SMALL, CompileOptions(), warn=warnings.append)
    assert program.isa_version == 1
    assert [warning.split(":")[0] for warning in warnings] == ["program not cached"]


def test_warnings_are_shown_on_stderr(call: Call, model: Path) -> None:
    cache.cache_folder().parent.mkdir()
    cache.cache_folder().write_text("in the way")
    reply = call("run", model, "--prompt", "a", "--device", "reference", "--max-new-tokens", 1, "--json")
    assert (reply.status, reply.json["device"]) == (0, "reference")
    assert reply.stderr.startswith("warning: program not cached: ")


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache.cache_folder() == Path("/somewhere/catenary")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache.cache_folder() == Path.home() / ".cache" / "catenary"
