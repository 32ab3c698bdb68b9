# SPDX-License-Identifier: Apache-2.0
"""Damaged program files, and files written on purpose: never a traceback, a hang, or silently wrong tokens."""

from __future__ import annotations

import contextlib
import copy
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catenary.isa.config import AcceleratorConfig
from catenary.isa.encoding import decode, encode
from catenary.isa.errors import CatenaryError, ConfigError, EncodingError, ProgramError
from catenary.isa.opcodes import WORD_BYTES
from catenary.isa.program import Program
from catenary.isa.stream_layout import HEADER_BYTES
from catenary.runtime import host
from catenary.runtime.devices.iss import IssDevice
from catenary.runtime.devices.reference import ReferenceEngine
from catenary.runtime.host import ProgramEngine
from tests.instructions import random_value
from tests.isa.small_programs import Parts, small_program

SECONDS_PER_STEP = 0.5
"""After which a program that loops is stopped."""


def contents(program: Program) -> tuple[object, ...]:
    """Everything that tokens depend on."""
    plain = (program.config, program.entries, program.memory, program.code, program.tables, program.counts)
    graph = (program.structure, program.tensor_refs, program.tokenizer_json, program.tokenizer_config)
    return (*plain, *graph, program.provenance, program.image.tobytes())


# Damage: bytes change, and the checksums do not know.


def flip(rng: random.Random, data: bytearray, at: int) -> None:
    data[at] ^= 1 << rng.randrange(8)


def overwrite(rng: random.Random, data: bytearray, at: int) -> None:
    size = rng.choice([1, 2, 4, 8, 64])
    data[at : at + size] = rng.choice([rng.randbytes(size), bytes(size), b"\xff" * size, b" " * size, b"9" * size])


def truncate(rng: random.Random, data: bytearray, at: int) -> None:
    del data[at:]


def remove(rng: random.Random, data: bytearray, at: int) -> None:
    del data[at : at + rng.choice([1, 2, 8, 64, 1024])]


def insert(rng: random.Random, data: bytearray, at: int) -> None:
    size = rng.choice([1, 2, 8, 64, 1024])
    data[at:at] = rng.choice([rng.randbytes(size), bytes(size), b" " * size, bytes(data[:size])])


def append(rng: random.Random, data: bytearray, at: int) -> None:
    data += rng.choice([b"\0", b" ", b"\n", rng.randbytes(64), bytes(data)])


def swap(rng: random.Random, data: bytearray, at: int) -> None:
    size = rng.choice([1, 8, 64])
    other = rng.randrange(len(data))
    data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]


def length(rng: random.Random, data: bytearray, at: int) -> None:
    data[:8] = struct.pack("<Q", rng.choice([0, 1, 7, at, len(data), len(data) - 8, 1 << 31, 1 << 63, (1 << 64) - 1]))


DAMAGE: tuple[Callable[[random.Random, bytearray, int], None], ...] = (
    *(flip,) * 6, *(overwrite,) * 3, truncate, remove, insert, append, swap, length,
)  # fmt: skip


def damaged(rng: random.Random, data: bytes) -> bytes:
    """``data`` with a random damage; half of them in the index, which is much the smaller part."""
    result = bytearray(data)
    index_end = 8 + int.from_bytes(data[:8], "little")
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        if not result:
            break
        at = rng.randrange(min(index_end, len(result)) if rng.random() < 0.5 else len(result))
        rng.choice(DAMAGE)(rng, result, at)
    return bytes(result)


@pytest.mark.parametrize(
    "seed, count", [(1, 500), pytest.param(2, 10_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_damage_is_refused(tmp_path: Path, seed: int, count: int) -> None:
    path = tmp_path / "x.cat"
    small_program().save(path)
    good, expected = path.read_bytes(), contents(Program.load(path))
    rng = random.Random(seed)
    refused, slowest = 0, 0.0
    for case in range(count):
        data = damaged(rng, good)
        path.unlink()  # not written in place: an earlier case may still have it mapped
        path.write_bytes(data)
        start = time.monotonic()
        try:
            found = contents(Program.load(path))
        except ProgramError:
            refused += 1
        else:
            assert data == good, f"seed {seed}, case {case}: a changed file is taken"
            assert found == expected, f"seed {seed}, case {case}"
        slowest = max(slowest, time.monotonic() - start)
    assert refused > count * 0.98
    assert slowest < 5
    print(f"{refused} of {count} refused, the slowest load took {slowest:.3f} s")


# Forgery: values change, and the checksums are right.


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside the JSON ``value``."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            found += [(value, key), *places(item)]
    return found


def forged_value(rng: random.Random, value: Any, others: list[Any]) -> Any:
    """Something to put in the place of ``value``."""
    number = value if type(value) is int else 1
    near = [number + 1, number - 1, number * 2, -number, number // 2, number + 8, number * 16, number - 16]
    odd: list[Any] = [0, -1, 1, 1 << 20, 1 << 31, 1 << 40, (1 << 53) - 1, 1 << 53, 1 << 64, 10**30, 1e30, 0.0, 1e300]
    others_like = [other for other in others if type(other) is type(value)]
    kinds: list[Any] = [None, True, "", "x", "{layer}", [], {}, [value], {"a": value}, "h" * 1000]
    return copy.deepcopy(rng.choice([rng.choice(near), rng.choice(odd), rng.choice(others_like), rng.choice(kinds)]))


def forge_json(rng: random.Random, root: Any) -> None:
    every = places(root)
    container, key = rng.choice(every)
    action = rng.random()
    if action < 0.8:
        container[key] = forged_value(rng, container[key], [c[k] for c, k in every])
    elif action < 0.9:
        del container[key]
    elif isinstance(container, list):
        container.insert(rng.randrange(len(container) + 1), copy.deepcopy(container[key]))
    else:
        container[f"{key}x"] = copy.deepcopy(container[key])


def forge_config(rng: random.Random, parts: Parts) -> None:
    """Another accelerator, with its hash."""
    forge_json(rng, parts.header["config"])
    with contextlib.suppress(ConfigError):
        parts.header["config_hash"] = AcceleratorConfig.from_dict(parts.header["config"]).hash


def forge_code(rng: random.Random, parts: Parts) -> None:
    words = parts.arrays["code"].reshape(-1, WORD_BYTES)
    at = rng.randrange(len(words))
    action = rng.random()
    if action < 0.2:
        words[at, rng.randrange(WORD_BYTES)] ^= np.uint8(1 << rng.randrange(8))
    elif action < 0.4:
        other = rng.randrange(len(words))
        words[[at, other]] = words[[other, at]]
    elif action < 0.5:
        parts.arrays["code"] = np.delete(words, at, axis=0).reshape(-1)
    else:
        insn = decode(words[at].tobytes())
        part = rng.choice(insn.body or insn.prefix[1:])
        try:
            changed = encode(type(insn)(**{**{f.name: getattr(insn, f.name) for f in (*insn.prefix[1:], *insn.body)},
                                           part.name: random_value(rng, part)}))  # fmt: skip
        except EncodingError:
            return
        words[at] = np.frombuffer(changed, np.uint8)


def forge_tables(rng: random.Random, parts: Parts) -> None:
    words = parts.arrays["tables"].view("<u8")
    at = rng.randrange(len(words))
    value = int(words[at])
    words[at] = rng.choice([0, value + 1, max(0, value - 1), value * 2, 1 << 39, (1 << 64) - 1, int(rng.choice(words))])


def forge_image(rng: random.Random, parts: Parts) -> None:
    image = parts.arrays["image"]
    streams = [ref for ref in parts.documents["tensors"].values() if isinstance(ref, dict) and ref.get("nbytes")]
    at = rng.randrange(len(image))
    if streams and rng.random() < 0.5:  # the header of a row block, or what follows it
        ref = rng.choice(streams)
        at = int(ref["line"]) * 8 + int(ref["offset"]) + rng.randrange(2 * HEADER_BYTES)
    size = rng.choice([1, 1, 2, 4])
    part = image[max(0, at) :][:size]
    part[...] = np.frombuffer(rng.choice([rng.randbytes(size), bytes(size), b"\xff" * size]), np.uint8)[: len(part)]


def forge_raw(rng: random.Random, parts: Parts) -> None:
    deep, name = 100_000, rng.choice(["documents", "tokenizer", "code", "tables", "image", "other"])
    texts = [b"", b"null", b"[]", b"{}", b"[" * deep, b'{"a":' * deep, b"NaN", b'{"graph":{},"graph":{}}', b"1e999"]
    parts.raw[name] = rng.choice([*texts, b"9" * 5000, b'"\\ud800"', b"\xff\xfe", rng.randbytes(100), bytes(1000)])


def forge(rng: random.Random, parts: Parts) -> None:
    """Change something."""
    changes: tuple[Callable[[], None], ...] = (
        lambda: forge_json(rng, parts.header),
        lambda: forge_config(rng, parts),
        lambda: forge_json(rng, parts.documents),
        lambda: forge_json(rng, parts.documents["graph"]),
        lambda: forge_code(rng, parts),
        lambda: forge_code(rng, parts),
        lambda: forge_tables(rng, parts),
        lambda: forge_image(rng, parts),
    )
    rng.choices([*changes, lambda: forge_raw(rng, parts)], [*(1.0 for _ in changes), 0.2])[0]()


def run_everywhere(program: Program, check_hazards: bool) -> None:
    """A short prefill and a decode step on both devices."""
    engines = (
        lambda: ProgramEngine("iss", "wall", program, IssDevice(program, check_hazards)),
        lambda: ReferenceEngine(program),
    )
    errors: list[CatenaryError] = []
    for engine in engines:
        try:
            with engine() as opened:
                opened.run([1, 2, 3], 0, all_logits=True)
                opened.run([4], 3)
        except CatenaryError as error:
            errors.append(error)
    if errors:
        raise errors[0]


@pytest.mark.parametrize(
    "seed, count", [(1, 300), pytest.param(2, 5_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_forgeries_end_in_an_error_or_normally(
    tmp_path: Path, seed: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "TIMEOUT_S", SECONDS_PER_STEP)
    good, path = tmp_path / "good.cat", tmp_path / "x.cat"
    small_program().save(good)
    original = Parts.of(good)
    ends = {"refused by the writer": 0, "refused": 0, "stopped": 0, "completed": 0}
    for case in range(count):
        rng = random.Random(f"{seed}.{case}")
        parts, start = copy.deepcopy(original), time.monotonic()
        for _ in range(rng.choice([1, 1, 2])):
            try:
                forge(rng, parts)
            except (KeyError, IndexError, TypeError, ValueError, EncodingError):
                continue  # an earlier change has left nothing to change here
        try:
            parts.write(path)
        except ProgramError:
            ends["refused by the writer"] += 1
            continue
        try:
            program = Program.load(path)
        except ProgramError:
            ends["refused"] += 1
            continue
        try:
            run_everywhere(program, check_hazards=rng.random() < 0.25)
        except CatenaryError:
            ends["stopped"] += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}, case {case} escaped") from error
        else:
            ends["completed"] += 1
        assert time.monotonic() - start < 20, f"seed {seed}, case {case}"
    print(ends)
    assert min(ends["refused"], ends["stopped"], ends["completed"]) > count * 0.02, ends
