# SPDX-License-Identifier: Apache-2.0
"""Bad usage and bad input: status 2, one line, and the same as JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Call

VERBS = ("compile", "run", "eval", "inspect", "devices", "bench", "check", "verilog")

# {model}, {stories} and {dir} stand for the checkpoint, the text and an empty folder.
BAD = {
    "verb": (["explode"], "No such command 'explode'."),
    "option": (["run", "--explode"], "No such option: --explode"),
    "no-model": (["compile", "-o", "x.cat"], "Missing argument 'MODEL'."),
    "no-output": (["compile", "{model}"], "Missing option "),
    "absent": (["run", "{dir}/no.cat"], "Program or model must be an existing file or folder, not '{dir}/no.cat'"),
    "folder": (["run", "{dir}"], "config.json"),
    "not-a-program": (["inspect", "{stories}"], "Program file '{stories}' must be"),
    "no-prompt": (["run", "{model}"], "must be given by one of --prompt, --prompt-file and --prompt-ids, not none"),
    "two-prompts": (["run", "{model}", "--prompt", "x", "--prompt-ids", "1"], "not --prompt and --prompt-ids"),
    "no-ids": (["run", "{model}", "--prompt-ids", ""], "Prompt must have at least 1 token, not 0"),
    "bad-id": (["run", "{model}", "--prompt-ids", "1,x"], "must be integers separated by commas, not 'x'"),
    "outside": (
        ["run", "{model}", "--prompt-ids", "1,288"],
        "Prompt token 1 must be in 0..287 (the vocabulary), not 288",
    ),
    "long": (["run", "{model}", "--prompt-ids", ",".join("1" * 65)], "at most 64 tokens (the context), not 65"),
    "no-file": (
        ["run", "{model}", "--prompt-file", "{dir}/no"],
        "--prompt-file must be a readable file, not '{dir}/no'",
    ),
    "no-new": (["run", "{model}", "--prompt", "x", "--max-new-tokens", "0"], "must be at least 1, not 0"),
    "hot": (
        ["run", "{model}", "--prompt", "x", "--temperature", "-1"],
        "Temperature must be above 0 and finite, not -1.0",
    ),
    "top-p": (["run", "{model}", "--prompt", "x", "--top-p", "2"], "Top-p must be above 0 and at most 1, not 2.0"),
    "seed": (["run", "{model}", "--prompt", "x", "--seed", "-2"], "Seed must be at least 0, not -2"),
    "device": (["run", "{model}", "--prompt", "x", "--device", "abacus"], "Device must be one of graph-fp32, "),
    "trace": (
        ["run", "{model}", "--prompt", "x", "--trace", "x.vcd"],
        "trace must be asked of a device that simulates",
    ),
    "timeline": (
        ["run", "{model}", "--prompt", "x", "--device", "iss", "--timeline", "x.json"],
        "timeline must be asked of a device that simulates hardware (rtl), not of iss",
    ),
    "tune": (
        ["run", "{model}", "--prompt", "x", "--device", "iss", "--tune"],
        "tune must be asked of a device that simulates hardware (rtl), not of iss",
    ),
    "tune-trace": (
        ["run", "{model}", "--prompt", "x", "--device", "rtl", "--tune", "--trace", "x.vcd"],
        "tune must not be asked for together with a trace",
    ),
    "trace-kind": (
        ["run", "{model}", "--prompt", "x", "--device", "rtl", "--trace", "x.txt"],
        "Trace must be a .vcd or .fst file, not 'x.txt'",
    ),
    "verilog-accel": (["verilog", "--accel", "tiny", "-o", "{dir}"], "Accelerator must be one of "),
    "no-text": (["eval", "{model}", "--text", "{dir}/no"], "--text must be a readable file, not '{dir}/no'"),
    "max-tokens": (["eval", "{model}", "--text", "{stories}", "--max-tokens", "0"], "must be at least 1, not 0"),
    "separator": (["eval", "{model}", "--text", "{stories}", "--separator", ""], "must be at least one character"),
    "bench-long": (["bench", "{model}", "--new-tokens", "64"], "must be at most 64 (the context), not 96"),
    "check-absent": (["check", "{dir}/no"], "Model must be a Hugging Face directory"),
    "check-accel": (["check", "{model}", "--accel", "tiny"], "Accelerator must be one of "),
    "out-folder": (["compile", "{model}", "-o", "{dir}/no/x.cat"], "Folder of the output must exist, not '{dir}/no'"),
    "out-is-folder": (["compile", "{model}", "-o", "{dir}"], "Output must be a file, not the folder '{dir}'"),
    "weight-bits": (["compile", "{model}", "-o", "{dir}/x.cat", "--weight-bits", "5"], "must be 4 or 8, not 5"),
    "weight-bits-text": (["compile", "{model}", "-o", "{dir}/x.cat", "--weight-bits", "x"], "--weight-bits"),
    "kv-bits": (["compile", "{model}", "-o", "{dir}/x.cat", "--kv-bits", "4"], "KV bits must be 8, not 4"),
    "sparsity": (
        ["compile", "{model}", "-o", "{dir}/x.cat", "--sparsity", "3:16"],
        "Sparsity must be one of none, 8:16",
    ),
    "group": (
        ["compile", "{model}", "-o", "{dir}/x.cat", "--group-size", "24"],
        "must be a positive multiple of 16, not 24",
    ),
    "context": (
        ["compile", "{model}", "-o", "{dir}/x.cat", "--max-context", "65"],
        "at most the model's 64 tokens, not 65",
    ),
    "dummy": (
        ["compile", "{model}", "-o", "{dir}/x.cat", "--dummy-weights", "1"],
        "must be a config.json file, not '{model}'",
    ),
}


@pytest.mark.parametrize("arguments, message", BAD.values(), ids=BAD.keys())
def test_bad_usage(call: Call, model: Path, stories: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    def real(text: str) -> str:
        return text.format(model=model, stories=stories, dir=tmp_path)

    filled = [real(argument) for argument in arguments]
    reply = call(*filled)
    assert (reply.status, reply.stdout) == (2, "")
    assert reply.stderr.startswith("error: ")
    assert reply.stderr.count("\n") == 1
    assert real(message) in reply.stderr

    as_json = call(*filled, "--json")
    assert as_json.status == 2
    assert as_json.json["error"]["code"]
    assert reply.stderr == f"error: {as_json.json['error']['message']}\n" == as_json.stderr
    assert not list(tmp_path.glob("*.cat*"))


def test_prompt_files_must_be_utf8(call: Call, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompt"
    path.write_bytes(b"ab\xff")
    reply = call("run", model, "--prompt-file", path)
    assert (reply.status, reply.stderr) == (
        2,
        f"error: --prompt-file must be UTF-8 text, not '{path}' (byte 2 is not)\n",
    )


def test_no_verb_shows_the_help(call: Call) -> None:
    reply = call()
    assert (reply.status, reply.stderr) == (0, "")
    assert all(verb in reply.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_one_example(call: Call, verb: str) -> None:
    for flag in ("--help", "-h"):
        reply = call(verb, flag)
        assert (reply.status, reply.stderr) == (0, "")
        assert reply.stdout.count(f"Example: catenary {verb}") == 1
        assert "--json" in reply.stdout


def test_version(call: Call) -> None:
    import catenary

    assert call("--version").stdout == f"catenary {catenary.__version__}\n"
