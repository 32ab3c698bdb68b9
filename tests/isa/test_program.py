# SPDX-License-Identifier: Apache-2.0
"""The program file: what is saved is loaded, and a file whose parts disagree is refused with a message that says so."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catenary.compiler.pipeline import compile_graph
from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import ProgramError
from catenary.isa.graph import Graph, tensor_inputs
from catenary.isa.program import Program
from catenary.isa.tensors import FloatTensor, QuantTensor
from catenary.sim.reference import Reference
from tests.conftest import ROOT
from tests.graphs import FEATURES, quantised_form, random_graph
from tests.isa.small_programs import SMALL, small_program
from tests.isa.streams import assert_same as assert_same_weights
from tests.programs.support import ACCELERATORS

FIELDS = {
    "config", "entries", "memory", "code", "tables", "structure", "tensor_refs", "counts", "tokenizer_json",
    "tokenizer_config", "provenance",
}  # fmt: skip
"""Fields of a program that compare with ==; the image is the only other one."""


def assert_same(found: Program, expected: Program) -> None:
    assert {field.name for field in fields(Program)} == FIELDS | {"image"}
    for name in sorted(FIELDS):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.image.shape == expected.image.shape
    assert found.image.tobytes() == expected.image.tobytes()


def assert_same_tensors(found: Graph, expected: Graph) -> None:
    """Every tensor that a node reads is the same, field by field; norms and biases may have been widened to FP32."""
    runs = [(stage, layer, node) for stage, layer in expected.runs() for node in stage.nodes]
    used = {stage.tensor(template, layer) for stage, layer, node in runs for template in tensor_inputs(node)}
    assert set(found.tensors) == used
    for name in used:
        a, b = found.tensors[name], expected.tensors[name]
        if isinstance(a, QuantTensor) and isinstance(b, QuantTensor):
            assert_same_weights(a, b, name)
        else:
            assert isinstance(a, FloatTensor)
            assert isinstance(b, FloatTensor)
            assert a.shape == b.shape, name
            assert a.to_float32().tobytes() == b.to_float32().tobytes(), name
            assert a.format in (b.format, a.format.F32)


def round_trip(program: Program, path: Path) -> Program:
    program.save(path)
    loaded = Program.load(path)
    assert_same(loaded, program)
    again = path.with_suffix(".again")
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()
    return loaded


@pytest.mark.parametrize("config", [SMALL, ACCELERATORS["ports-16-8-4"]], ids=lambda config: config.name)
@pytest.mark.parametrize("seed, bits", [(1, 8), (2, 4), (3, 3), (4, 2), (5, None), (6, 4)])
def test_random_programs_survive(tmp_path: Path, seed: int, bits: int | None, config: AcceleratorConfig) -> None:
    """``bits=None`` rounds plainly; everything else mixes N, groups, zeros and biases at random."""
    overrides = {"hidden": 24, "ffn": 37, "layers": 2, "vocab": 61, "context": 32}
    graph = random_graph(seed, **overrides)
    quantised = quantised_form(graph) if bits is None else quantised_form(graph, seed, bits)
    loaded = round_trip(compile_graph(quantised, config), tmp_path / "x.cat")
    assert_same_tensors(loaded.graph, quantised)
    assert (loaded.graph.stages, loaded.graph.vocab) == (quantised.stages, quantised.vocab)
    assert (loaded.graph.bos_id, loaded.graph.eos_ids) == (quantised.bos_id, quantised.eos_ids)
    ids = np.random.default_rng(seed).integers(0, graph.vocab, 11)
    logits = [Reference(g).run(ids, 0, all_logits=True).tobytes() for g in (loaded.graph, quantised)]
    assert logits[0] == logits[1]


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_tables_and_outliers_survive(tmp_path: Path, bits: int) -> None:
    graph = random_graph(20 + bits, hidden=24, ffn=37, layers=2, vocab=61, context=32)
    quantised = quantised_form(graph, bits, bits, corrected=True)
    weights = [tensor for tensor in quantised.tensors.values() if isinstance(tensor, QuantTensor)]
    assert {tensor.outliers is None for tensor in weights} == {True, False}
    assert any(tensor.table is not None for tensor in weights) == (bits != 8)
    loaded = round_trip(compile_graph(quantised, SMALL), tmp_path / "x.cat")
    assert_same_tensors(loaded.graph, quantised)
    sizes = loaded.stream_sizes()
    assert (sizes["table"] > 0, sizes["outliers"] > 0) == (bits != 8, True)
    assert sum(sizes.values()) == sum(ref.nbytes for ref in loaded.tensor_refs.values() if ref.kind == "weight")
    ids = np.random.default_rng(bits).integers(0, graph.vocab, 11)
    logits = [Reference(g).run(ids, 0, all_logits=True).tobytes() for g in (loaded.graph, quantised)]
    assert logits[0] == logits[1]


@pytest.mark.parametrize("feature", FEATURES)
def test_every_family_survives(tmp_path: Path, feature: str) -> None:
    overrides = {"hidden": 16, "ffn": 20, "layers": 1, "vocab": 30, "context": 16, **FEATURES[feature]}
    quantised = quantised_form(random_graph(9, **overrides), 9, bits=4)
    loaded = round_trip(compile_graph(quantised, SMALL), tmp_path / "x.cat")
    assert_same_tensors(loaded.graph, quantised)


@pytest.mark.parametrize("text", [None, "", "{}", '{"a": "ü\\u2028\\n\0😀"}', "x" * 100_000])
def test_documents_survive(tmp_path: Path, text: str | None) -> None:
    program = replace(
        small_program(),
        tokenizer_json=text,
        tokenizer_config={"bos_id": None, "add_bos_token": True, "eos_ids": [2], "ü": "😀"},
        provenance={"files": {"a": 1 << 70}, "share": 0.1, "nothing": None},
    )
    round_trip(program, tmp_path / "x.cat")


def test_the_image_is_mapped_and_read_only(tmp_path: Path) -> None:
    small_program().save(tmp_path / "x.cat")
    image = Program.load(tmp_path / "x.cat").image
    base: Any = image
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)
    assert image.flags.c_contiguous
    assert not image.flags.writeable
    assert image.ctypes.data % 64 == 0


def test_a_program_may_be_saved_over_its_own_file(tmp_path: Path) -> None:
    path = tmp_path / "x.cat"
    small_program().save(path)
    before, loaded = path.read_bytes(), Program.load(path)
    loaded.save(path)
    assert path.read_bytes() == before
    assert_same(loaded, small_program())


def test_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    code = "import sys; from tests.isa.small_programs import *; small_program().save(sys.argv[1])"
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code, str(tmp_path / seed)]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, timeout=60)
    small_program().save(tmp_path / "3")
    assert len({(tmp_path / name).read_bytes() for name in "123"}) == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"provenance": {"x": float("nan")}}, "Header must be plain JSON values, not with the fault: "),
        ({"provenance": {"x": b"bytes"}}, "Header must be plain JSON values, not with the fault: "),
        ({"structure": {"x": {1, 2}}}, "Graph of the program must be plain JSON values, not with the fault: "),
        ({"structure": {"x": "x" * (1 << 24)}}, "Graph of the program must have at most 16777216 bytes, not "),
        ({"tokenizer_json": "\ud800"}, "Tokenizer must be valid Unicode, not with the fault: "),
    ],
)
def test_what_a_file_cannot_hold_is_not_saved(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProgramError, match=f"^{message}"):
        replace(small_program(), **changes).save(tmp_path / "x.cat")
    assert list(tmp_path.iterdir()) == []


def test_loading_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.cat"
    with pytest.raises(ProgramError, match=f"^Program file {re.escape(repr(str(path)))} must exist, not be missing$"):
        Program.load(path)
    small_program().save(path)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ProgramError, match=f"^Program file {re.escape(repr(str(path)))}: Checksum of documents must"):
        Program.load(str(path))


def test_what_reports_quote() -> None:
    program = small_program()
    assert program.config_hash == SMALL.hash
    assert program.instruction_bytes == len(program.code) + len(program.tables)
    assert program.weight_bytes == program.counts.weight_bytes
    assert program.bits_per_weight == program.weight_bytes * 8 / program.counts.linear_weights
    step = program.decode_bytes_per_token(5) - program.decode_bytes_per_token(4)
    assert step == program.counts.kv_bytes_per_token
    base = program.counts.weight_bytes + program.counts.constant_bytes + len(program.tables)
    assert program.decode_bytes_per_token(0) == base


def test_a_trained_model_survives(tmp_path: Path, data_dir: Path) -> None:
    import catenary

    program = catenary.compile(data_dir / "stories260K")
    loaded = round_trip(program, tmp_path / "x.cat")
    assert loaded.tokenizer_json == (data_dir / "stories260K" / "tokenizer.json").read_text()
    logits = [Reference(p.graph).run([1, 403, 407], 0).tobytes() for p in (loaded, program)]
    assert hashlib.sha256(logits[0]).digest() == hashlib.sha256(logits[1]).digest()
