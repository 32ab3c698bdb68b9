# SPDX-License-Identifier: Apache-2.0
"""Program files whose checksums are right, but whose parts disagree: each is refused with a message that says why."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import ProgramError
from catenary.isa.opcodes import WORD_BYTES
from catenary.isa.program import MESSAGE_LIMIT, Program
from tests.isa.small_programs import RECIPE, SMALL, Parts, small_program


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    path = tmp_path_factory.mktemp("program") / "x.cat"
    replace(small_program(), tokenizer_json="{}").save(path)
    return Parts.of(path)


def refusal(parts: Parts, path: Path) -> str:
    parts.write(path)
    with pytest.raises(ProgramError) as caught:
        Program.load(path)
    assert type(caught.value) is ProgramError
    return str(caught.value).removeprefix(f"Program file {str(path)!r}: ")


PROGRAM = small_program()
HASH = PROGRAM.config.hash
INSTRUCTIONS = len(PROGRAM.code) // WORD_BYTES
CONTEXT = RECIPE.context
IMAGE = PROGRAM.image.size
KV = 2 * RECIPE.layers * RECIPE.kv_heads * (RECIPE.head_dim + 4)


def header(*path: str, value: Any) -> Callable[[Parts], None]:
    """Sets the value at ``path`` of the header; ``...`` removes it."""

    def change(parts: Parts) -> None:
        at = parts.header
        for key in path[:-1]:
            at = at[key]
        if value is ...:
            del at[path[-1]]
        else:
            at[path[-1]] = value

    return change


def graph(**values: Any) -> Callable[[Parts], None]:
    return lambda parts: parts.documents["graph"].update(values)


def stage(index: int, **values: Any) -> Callable[[Parts], None]:
    return lambda parts: parts.documents["graph"]["stages"][index].update(values)


def other_config(**changes: Any) -> Callable[[Parts], None]:
    """The configuration of another accelerator, with its hash."""

    def change(parts: Parts) -> None:
        config = replace(PROGRAM.config, **changes)
        parts.header.update(config=config.to_dict(), config_hash=config.hash)

    return change


def section(name: str, data: bytes) -> Callable[[Parts], None]:
    return lambda parts: parts.raw.update({name: data})


def code_at(index: int, data: bytes) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        parts.arrays["code"][index * WORD_BYTES : (index + 1) * WORD_BYTES] = np.frombuffer(data, np.uint8)

    return change


def longer_code(count: int) -> Callable[[Parts], None]:
    """Code of ``count`` instructions, at the same place."""

    def change(parts: Parts) -> None:
        other_config(instruction_words=count)(parts)
        parts.raw["code"] = PROGRAM.code[-WORD_BYTES:] * count
        lines = SMALL.lines(count * WORD_BYTES)
        for name, (line, length) in parts.header["memory"].items():
            parts.header["memory"][name] = [line, lines] if name == "code" else [line + lines, length]
        parts.header["config"]["memory_bytes"] = 1 << 40
        parts.header["config_hash"] = AcceleratorConfig.from_dict(parts.header["config"]).hash

    return change


DISAGREEMENTS: dict[str, tuple[Callable[[Parts], None], str]] = {
    "format version": (header("format_version", value=2), "format_version must be 1, not 2"),
    "no format version": (header("format_version", value=...), "format_version must be 1, not None"),
    "true format version": (header("format_version", value=True), "format_version must be 1, not True"),
    "ISA version": (header("isa_version", value=0), "isa_version must be 1, not 0"),
    "other key": (header("more", value=1), "Keys of header must be [...], not with ['more'] missing or added"),
    "no key": (header("memory", value=...), "Keys of header must be [...], not with ['memory'] missing or added"),
    "no object": (header("counts", value=[1]), "header.counts must be of type dict, not [1]"),
    "provenance": (header("provenance", value=None), "header.provenance must be of type dict, not None"),
    "hash": (header("config_hash", value="0" * 16), f"Configuration hash must be {HASH}, not '{'0' * 16}'"),
    "config": (header("config", "chains", value=9), f"Configuration hash must be [...], not '{HASH}'"),
    "config type": (header("config", "chains", value=8.0), "chains must be of type int, not 8.0"),
    "config rule": (header("config", "chains", value=0), "chains must be at least 1, not 0"),
    "config size": (header("config", "chains", value=1 << 40), f"chains must be at most {1 << 28}, not {1 << 40}"),
    "config key": (
        header("config", "x", value=0),
        "Accelerator parameters must be exactly [...], not with ['x'] missing or added",
    ),
    "config port": (
        header("config", "port_bytes", value=[8, True]),
        "port_bytes must be a list of integers, not [8, True]",
    ),
    "line width": (
        other_config(port_bytes=(64, 32), stream_atom=4),
        f"Image must have lines of 96 bytes, not {IMAGE} bytes",
    ),
    "huge lines": (
        other_config(port_bytes=(128,) * 1024, stream_bytes=1 << 18),
        f"Image must have lines of {1 << 17} bytes, not {IMAGE} bytes",
    ),
    "no image": (section("image", b""), "Image must have lines of 8 bytes, not 0 bytes"),
    "other section": (
        section("more", b""),
        "Sections must be [...], not ['code', 'documents', 'image', 'more', 'tables', 'tokenizer']",
    ),
    "documents": (section("documents", b"{"), "Documents must be JSON, not with the fault: [...]"),
    "documents twice": (
        section("documents", b'{"graph":{},"graph":{},"tensors":{}}'),
        "Documents must be JSON in canonical form (no key twice), not otherwise",
    ),
    "documents deep": (section("documents", b"[" * 200_000), "Documents must be JSON, not with the fault: [...]"),
    "documents not a number": (
        section("documents", b'{"graph":NaN}'),
        "Documents must be plain JSON values, not with the fault: [...]",
    ),
    "documents list": (section("documents", b"[]"), "Documents must be a JSON object, not []"),
    "documents long": (
        section("documents", b" " * (1 << 24) + b"1"),
        f"Documents must have at most {1 << 24} bytes, not {(1 << 24) + 1}",
    ),
    "documents keys": (
        section("documents", b'{"graph":{},"tensors":{},"x":1}'),
        "Keys of Documents must be [...], not with ['x'] missing or added",
    ),
    "tokenizer": (section("tokenizer", b"\xff"), "Tokenizer must be UTF-8, not with the fault: [...]"),
    "entry": (
        header("entries", "decode", value=...),
        "Keys of entries must be [...], not with ['decode'] missing or added",
    ),
    "other entry": (header("entries", "x", value=1), "Keys of entries must be [...], not with ['x'] missing or added"),
    "true entry": (header("entries", "decode", value=True), "entries.decode must be of type int, not True"),
    "entry behind": (
        header("entries", "decode", value=INSTRUCTIONS),
        f"Instruction {INSTRUCTIONS}: Entry must be in 0..{INSTRUCTIONS - 1}, not {INSTRUCTIONS}",
    ),
    "entry before": (
        header("entries", "decode", value=-1),
        f"Instruction -1: Entry must be in 0..{INSTRUCTIONS - 1}, not -1",
    ),
    "entry inside": (header("entries", "decode", value=5), "Instruction [...] must [...]"),
    "region": (header("memory", "kv", value=[0]), "memory.kv must be a line and a number of lines, not 1 integers"),
    "overlap": (
        header("memory", "kv", value=[0, 5]),
        "Region kv must start at line [...] or later and have at least 0 lines, not (0, 5)",
    ),
    "code region": (
        header("memory", "code", value=[0, 1]),
        "Region code must have the [...] lines of its contents, not 1",
    ),
    "no code": (section("code", b""), "Region code must have the 0 lines of its contents, not [...]"),
    "half a word": (
        section("code", PROGRAM.code[:-8]),
        "Region code must have the [...] lines of its contents, not [...]",
    ),
    "small memory": (other_config(memory_bytes=80), "Memory must be at most 10 lines, not [...]"),
    "tables": (section("tables", small_program().tables[:-1]), "Tables must be words of 8 bytes, not [...] bytes"),
    "illegal word": (code_at(0, b"\xff" * WORD_BYTES), "Instruction 0: [...]"),
    "deadlock": (code_at(INSTRUCTIONS - 2, bytes(PROGRAM.code[-WORD_BYTES:])), "Instruction [...]"),
    "instructions": (
        other_config(instruction_words=100),
        f"Code must have at most 100 instructions, not {INSTRUCTIONS}",
    ),
    "too many instructions": (longer_code(1 << 15), f"Code must have at most {1 << 13} instructions, not {1 << 15}"),
    "buffers": (other_config(vector_words=128), "Instruction [...] must end within the 128 words of V, not at [...]"),
    "row blocks": (
        other_config(chains=1), "Stream of tensor [...]: rows of a row block of 4:16 must be at most 4, not 16",
    ),
    "tensor missing": (
        lambda parts: parts.documents["tensors"].pop("rope"),
        "Tensor of layers.mixed must exist in the graph, not 'rope'",
    ),
    "tensor renamed": (
        lambda parts: parts.documents["tensors"].update({"x": parts.documents["tensors"].pop("rope")}),
        "Tensor of layers.mixed must exist in the graph, not 'rope'",
    ),
    "tensor behind": (
        lambda parts: parts.documents["tensors"]["rope"].update(line=1 << 40),
        f"Tensor 'rope' must end within the {IMAGE} bytes of the image, not at [...]",
    ),
    "tensor overlap": (
        lambda parts: parts.documents["tensors"]["norm.weight"].update(line=0),
        "Tensors [...] must lie apart in the image, not overlap",
    ),
    "tensor kind": (
        lambda parts: parts.documents["tensors"]["rope"].update(kind="i8"),
        "Reference of tensor 'rope' must have a kind of [...], not 'i8'",
    ),
    "tensor no reference": (
        lambda parts: parts.documents["tensors"].update(rope=5),
        "Reference of tensor 'rope' must be a JSON object, not 5",
    ),
    "shape": (
        lambda parts: parts.documents["tensors"]["rope"].update(shape=[8, 16]),
        "Rotary table 'rope' must have shape (16, 8), not (8, 16)",
    ),
    "graph": (graph(stages=[]), "Graph must have at least one stage, not 0"),
    "graph key": (graph(x=1), "Keys of Graph must be [...], not with ['x'] missing or added"),
    "vocabulary": (graph(vocab=25), "Embedding 'embed.weight' must have 25 rows, not shape (24, 16)"),
    "vocabulary 0": (graph(vocab=0), "Embedding 'embed.weight' must have 0 rows, not shape (24, 16)"),
    "context": (graph(max_context=17), "Rotary table 'rope' must have shape (17, 8), not (16, 8)"),
    "no layer": (stage(1, repeat=0), "Stage 'layers' must repeat at least once, not 0"),
    "fewer layers": (stage(1, repeat=1), "Tensors must all be used by the graph, not 'layers.1.down.bias'"),
    "more layers": (stage(1, repeat=3), "Tensor of layers.n1 must exist in the graph, not 'layers.2.norm1.weight'"),
    "endless layers": (stage(1, repeat=1 << 50), f"Graph must run at most {1 << 20} nodes, not [...]"),
    "logit rows 0": (header("counts", "logit_rows", value=0), f"counts.logit_rows must be in 1..{CONTEXT}, not 0"),
    "logit rows": (header("counts", "logit_rows", value=17), f"counts.logit_rows must be in 1..{CONTEXT}, not 17"),
    "logit region": (
        header("memory", "logits", value=[10**6, 191]),
        "Region logits must have at least 192 lines, not 191",
    ),
    "count missing": (
        header("counts", "weight_bytes", value=...),
        "Keys of counts must be [...], not with ['weight_bytes'] missing or added",
    ),
    "count type": (header("counts", "weight_bytes", value=1.5), "counts.weight_bytes must be of type int, not 1.5"),
    "weight bytes": (header("counts", "weight_bytes", value=1), "counts.weight_bytes must be in [...], not 1"),
    "weight bytes more": (
        header("counts", "weight_bytes", value=IMAGE + 1),
        f"counts.weight_bytes must be in [...], not {IMAGE + 1}",
    ),
    "weights": (header("counts", "linear_weights", value=0), "counts.linear_weights must be in [...], not 0"),
    "constants": (header("counts", "constant_bytes", value=-1), f"counts.constant_bytes must be in 0..{IMAGE}, not -1"),
    "KV bytes": (
        header("counts", "kv_bytes_per_token", value=0),
        f"counts.kv_bytes_per_token must be in {KV}..{KV}, not 0",
    ),
    "tokens": (header("counts", "tile_tokens", value=17), "counts.tile_tokens must be in 1..16, not 17"),
}  # fmt: skip


@pytest.mark.parametrize("name", DISAGREEMENTS)
def test_parts_that_disagree_are_refused(tmp_path: Path, original: Parts, name: str) -> None:
    change, message = DISAGREEMENTS[name]
    parts = copy.deepcopy(original)
    change(parts)
    pattern = re.escape(message).replace(re.escape("[...]"), ".*")
    found = refusal(parts, tmp_path / "x.cat")
    assert re.fullmatch(pattern, found, re.DOTALL), found


@pytest.mark.parametrize("region, room", [("ids", 16), ("kv", -(-KV * CONTEXT // 8))])
def test_regions_have_room_for_what_the_host_and_the_cache_put_there(
    tmp_path: Path, original: Parts, region: str, room: int
) -> None:
    parts = copy.deepcopy(original)
    line, _ = parts.header["memory"][region]
    parts.header["memory"][region] = [line, room]
    parts.write(tmp_path / "enough.cat")
    Program.load(tmp_path / "enough.cat")
    parts.header["memory"][region] = [line, room - 1]
    found = refusal(parts, tmp_path / "x.cat")
    assert found == f"Region {region} must have at least {room} lines, not {room - 1}"


def test_names_in_a_file_do_not_make_a_message_long(tmp_path: Path, original: Parts) -> None:
    parts = copy.deepcopy(original)
    stage(1, output="x" * 1_000_000)(parts)
    assert len(refusal(parts, tmp_path / "x.cat")) <= MESSAGE_LIMIT


def test_the_parts_themselves_are_a_good_file(tmp_path: Path, original: Parts) -> None:
    original.write(tmp_path / "x.cat")
    replace(small_program(), tokenizer_json="{}").save(tmp_path / "saved.cat")
    assert (tmp_path / "x.cat").read_bytes() == (tmp_path / "saved.cat").read_bytes()
