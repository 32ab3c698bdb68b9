# SPDX-License-Identifier: Apache-2.0
"""``catenary compile`` and ``catenary inspect``: JSON, sizes, and files that cannot be written."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from catenary.boards.loader import load_accelerator
from catenary.isa.program import Program
from tests.cli.conftest import Call, command, environment

COMPILE_KEYS = [
    "program",
    "seconds",
    "peak_bytes",
    "instruction_bytes",
    "weight_bytes",
    "bits_per_weight",
    "config_hash",
]
INSPECT_KEYS = {
    "isa_version",
    "config_hash",
    "instruction_bytes",
    "weight_bytes",
    "stream_sizes",
    "bits_per_weight",
    "decode_bytes_per_token",
    "memory_map",
}


def test_json_says_what_the_file_holds(call: Call, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.cat"
    reply = call("compile", model, "-o", output, "--json")
    found, program = reply.json, Program.load(output)
    assert (reply.status, list(found)) == (0, COMPILE_KEYS)
    assert found["program"] == str(output)
    assert found["config_hash"] == program.config_hash == load_accelerator("small").hash
    assert (found["instruction_bytes"], found["weight_bytes"]) == (program.instruction_bytes, program.weight_bytes)
    assert found["bits_per_weight"] == program.bits_per_weight
    assert found["seconds"] > 0
    assert found["peak_bytes"] > 1 << 20


def test_people_get_one_line(call: Call, model: Path, tmp_path: Path) -> None:
    reply = call("compile", model, "-o", tmp_path / "x.cat")
    assert (reply.status, reply.stderr, reply.stdout.count("\n")) == (0, "", 1)
    assert "bits a weight" in reply.stdout


def test_options_reach_the_compiler(call: Call, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.cat"
    options = ("--weight-bits", 4, "--sparsity", "4:16", "--group-size", 32, "--max-context", 48)
    assert call("compile", model, "-o", output, "--accel", "hbm-slice", *options, "--json").status == 0
    program = Program.load(output)
    assert (program.config.name, program.graph.max_context) == ("hbm-slice", 48)
    chosen = {"weight_bits": 4, "sparsity": "4:16", "group_size": 32, "kv_bits": 8}
    assert program.provenance["options"].items() >= chosen.items()


def test_fewer_bits_make_a_smaller_file(call: Call, model: Path, tmp_path: Path) -> None:
    sizes = [
        call("compile", model, "-o", tmp_path / "x.cat", *options, "--json").json["weight_bytes"]
        for options in ((), ("--weight-bits", 4), ("--weight-bits", 4, "--sparsity", "4:16"))
    ]
    assert sizes[0] > sizes[1] > sizes[2]


def test_dummy_weights_need_a_configuration_only(call: Call, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.cat"
    assert call("compile", model / "config.json", "-o", output, "--dummy-weights", 3).status == 0
    assert Program.load(output).tokenizer_json is None
    found = call("run", output, "--prompt-ids", "1,2", "--device", "reference", "--max-new-tokens", 2, "--json").json
    assert (found["text"], len(found["ids"])) == (None, 2)


def test_a_file_that_is_there_is_replaced(call: Call, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.cat"
    output.write_bytes(b"old")
    assert call("compile", model, "-o", output).status == 0
    assert Program.load(output).isa_version == 1
    assert [path.name for path in tmp_path.glob("*x.cat*")] == ["x.cat"]


def test_a_full_disk_leaves_what_was_there(model: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    output = tmp_path / "out" / "x.cat"
    output.parent.mkdir()
    output.write_bytes(b"old")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    code = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nfrom catenary.cli.main import main; main()"
    arguments = [sys.executable, "-B", "-c", code, "compile", str(model), "-o", str(output)]
    done = subprocess.run(
        arguments, env=environment(tmp_path), capture_output=True, text=True, timeout=60, preexec_fn=limit
    )
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error: Program file must be writable, not ")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in output.parent.iterdir()] == ["x.cat"]
    assert output.read_bytes() == b"old"


def test_a_folder_that_is_read_only_is_refused(model: Path, tmp_path: Path) -> None:
    folder = Path("/proc/self")  # not writable for anybody, the superuser included
    done = subprocess.run(
        command(["compile", model, "-o", folder / "x.cat"]),
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_inspect_json(call: Call, program: Path) -> None:
    reply = call("inspect", program, "--json")
    found, loaded = reply.json, Program.load(program)
    assert reply.status == 0
    assert found.keys() >= INSPECT_KEYS
    assert "disassembly" not in found
    assert found["isa_version"] == loaded.isa_version
    assert found["decode_bytes_per_token"] == loaded.decode_bytes_per_token(loaded.graph.max_context)
    lines = {area["name"]: (area["line"], area["lines"]) for area in found["memory_map"]}
    assert lines == {name: tuple(area) for name, area in loaded.memory.regions().items()}
    assert all(area["bytes"] == area["lines"] * found["line_bytes"] for area in found["memory_map"])


def test_inspect_for_people(call: Call, program: Path) -> None:
    reply = call("inspect", program)
    assert (reply.status, reply.stderr) == (0, "")
    assert all(word in reply.stdout for word in ("bits a weight", "image", "logits", "small", "64 tokens"))


def test_inspect_lists_the_instructions(call: Call, program: Path) -> None:
    listing = call("inspect", program, "--disassemble", "--json").json["disassembly"]
    assert "decode:" in listing
    assert listing in call("inspect", program, "--disassemble").stdout


@pytest.mark.parametrize("place", [0, 0.01, 0.5, 0.99])
def test_damaged_programs_are_refused_in_one_line(call: Call, program: Path, tmp_path: Path, place: float) -> None:
    data = bytearray(program.read_bytes())
    data[int(place * len(data))] ^= 0xFF
    path = tmp_path / "damaged.cat"
    path.write_bytes(data)
    for verb in (("inspect", path), ("run", path, "--prompt-ids", "1")):
        reply = call(*verb)
        assert (reply.status, reply.stdout, reply.stderr.count("\n")) == (2, "", 1)
        assert str(path) in reply.stderr


def test_truncated_programs_are_refused_in_one_line(call: Call, program: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.cat"
    for size in (0, 7, 100, os.path.getsize(program) - 1):
        path.write_bytes(program.read_bytes()[:size])
        reply = call("inspect", path, "--json")
        assert (reply.status, reply.json["error"]["code"]) == (2, "bad-program"), size
