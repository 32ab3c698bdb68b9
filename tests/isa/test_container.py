# SPDX-License-Identifier: Apache-2.0
"""The container: each byte counts, nothing half-written stays, and the safetensors library can read it."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import struct
import tracemalloc
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from catenary.isa import container
from catenary.isa.container import INDEX_LIMIT, Sections, map_file, read_container, write_container
from catenary.isa.errors import ProgramError
from catenary.isa.json_values import dump

HEADER = {"version": 3, "name": "ü", "list": [1, 2.5, None]}
SECTIONS = {
    "image": np.arange(100, dtype=np.uint8),
    "empty": np.zeros(0, np.uint8),
    "other": np.array([0, 255, 7], np.uint8),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that holds the above."""
    result = tmp_path / "x.cat"
    write_container(result, HEADER, SECTIONS)
    return result


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return read_container(map_file(path), {"version": 3})


def refusal(path: Path, data: bytes) -> str:
    """The message with which a file of ``data`` is refused."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    with pytest.raises(ProgramError) as caught:
        read(path)
    assert type(caught.value) is ProgramError
    return str(caught.value).replace(str(path), "FILE")


def test_what_is_written_is_read(path: Path) -> None:
    header, sections = read(path)
    assert header == HEADER
    assert list(sections) == list(SECTIONS)
    for name, data in sections.items():
        assert data.dtype == np.uint8
        assert data.tobytes() == SECTIONS[name].tobytes()
        assert not data.flags.writeable


def test_safetensors_reads_the_file(path: Path) -> None:
    found = load_file(path)
    assert {name: data.tobytes() for name, data in found.items()} == {n: d.tobytes() for n, d in SECTIONS.items()}


def test_the_first_section_is_aligned(tmp_path: Path) -> None:
    for length in range(0, 130, 7):
        path = tmp_path / f"{length}.cat"
        write_container(path, {**HEADER, "pad": "x" * length}, SECTIONS)
        assert int.from_bytes(path.read_bytes()[:8], "little") % 64 == 56
        assert read(path)[1]["image"].ctypes.data % 64 == 0


def test_equal_contents_give_equal_bytes(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.cat"
    write_container(again, dict(reversed(HEADER.items())), {name: data.copy() for name, data in SECTIONS.items()})
    assert again.read_bytes() == path.read_bytes()
    write_container(again, *read(path))
    assert again.read_bytes() == path.read_bytes()


def test_every_byte_counts(path: Path) -> None:
    """Each byte of the file set to other values, whatever it is for."""
    good, rng = path.read_bytes(), random.Random(1)
    for at, byte in enumerate(good):
        for other in {byte ^ 1, byte ^ 0x80, 0, 0x20, 0x30, rng.randrange(256)} - {byte}:
            message = refusal(path, good[:at] + bytes([other]) + good[at + 1 :])
            assert len(message) < 1000, message


def test_every_length_counts(path: Path) -> None:
    good = path.read_bytes()
    start = 8 + int.from_bytes(good[:8], "little")
    for length in range(len(good)):
        message = refusal(path, good[:length])
        if length < start:
            assert message == f"Program file 'FILE' must be a safetensors container, not {length} other bytes"
        else:
            assert message == f"File must have {len(good)} bytes, not {length}"
    for more in (b"\0", b" ", b"\n" * 64, good):
        assert refusal(path, good + more) == f"File must have {len(good)} bytes, not {len(good) + len(more)}"


def test_messages_say_what_is_damaged(path: Path) -> None:
    good = path.read_bytes()
    start = 8 + int.from_bytes(good[:8], "little")
    flipped = bytearray(good)
    flipped[start + 3] ^= 1
    wanted, found = (sha256(data[start : start + 100]).hexdigest() for data in (good, flipped))
    assert refusal(path, bytes(flipped)) == f"Checksum of image must be '{wanted}', not {found}"
    damaged = good.replace(b"list", b"lost")
    assert refusal(path, damaged).startswith("Checksum of the header must be ")
    assert refusal(path, good.replace(b'"U8"', b'"I8"', 1)) == (
        "Index must be the one that follows from the header, not another"
    )
    spaces = good[:start].rstrip(b" ")
    padded = spaces + b"\t" * (start - len(spaces)) + good[start:]
    assert padded != good
    assert refusal(path, padded) == "Index must be the one that follows from the header, not another"


def forged(text: str, sections: bytes = b"", **metadata: object) -> bytes:
    """A file whose header ``text`` has a right checksum."""
    values = {"catenary": text, "sha256": sha256(text.encode("utf-8", "surrogatepass")).hexdigest(), **metadata}
    index = json.dumps({"__metadata__": values}).encode()
    return struct.pack("<Q", len(index)) + index + sections


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "Program file 'FILE' must be a safetensors container, not 0 other bytes"),
        (b"\x01", "Program file 'FILE' must be a safetensors container, not 1 other bytes"),
        (bytes(8), "Program file 'FILE' must be a safetensors container, not 8 other bytes"),
        (bytes(1000), "Program file 'FILE' must be a safetensors container, not 1000 other bytes"),
        (b"\xff" * 1000, "Program file 'FILE' must be a safetensors container, not 1000 other bytes"),
        (struct.pack("<Q", 2) + b"[]", "Program file 'FILE' must be a safetensors container, not 10 other bytes"),
        (struct.pack("<Q", 2) + b"{}", "Metadata must hold a Catenary header, not none"),
        (struct.pack("<Q", 2) + b"{x", "Index must be that of a safetensors container: "),
        (struct.pack("<Q", 2) + b"{\xff", "Index must be that of a safetensors container: "),
        (struct.pack("<Q", 600_000) + b'{"a":' * 120_000, "Index must be that of a safetensors container: "),
        (struct.pack("<Q", 19) + b'{"__metadata__":[]}', "Metadata must hold a Catenary header, not none"),
        (forged("x", catenary=None), "Metadata must hold a Catenary header, not none"),
        (forged("{}", sha256=None), f"Checksum of the header must be {sha256(b'{}').hexdigest()}, not None"),
        (forged("\ud800"), "Header must be Unicode: "),
        (forged("x"), "Header must be JSON, not with the fault: "),
        (forged("[" * 100_000), "Header must be JSON, not with the fault: "),
        (forged("[]"), "Header must be a JSON object, not []"),
        (forged("{}"), "version must be 3, not None"),
        (forged('{"version":4}'), "version must be 3, not 4"),
        (forged('{"version":3.0}'), "version must be 3, not 3.0"),
        (forged('{"version":"3"}'), "version must be 3, not '3'"),
        (forged('{"version":3}'), "Header must list the sections, not have None"),
        (forged('{"version":3, "sections":[]}'), "Header must be JSON in canonical form (no key twice), not otherwise"),
        (forged('{"sections":{},"version":3}'), "Header must list the sections, not have {}"),
        (forged('{"sections":[3],"version":3}'), "sections[0] must be a JSON object, not 3"),
        (forged('{"sections":[],"version":3}'), "Index must be the one that follows from the header, not another"),
        (forged('{"sections":[{}],"version":3}'), "Keys of sections[0] must be ['bytes', 'name', 'sha256'], not with "),
    ],
    ids=range(27),
)
def test_what_is_no_container_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    assert refusal(tmp_path / "x.cat", data).startswith(message)


@pytest.mark.parametrize(
    "sections",
    [
        [{"name": "a", "bytes": -1, "sha256": ""}],
        [{"name": "a", "bytes": 1, "sha256": ""}, {"name": "a", "bytes": 1, "sha256": ""}],
    ],
)
def test_sections_of_odd_sizes_are_refused(tmp_path: Path, sections: list[Any]) -> None:
    text = dump({"version": 3, "sections": sections}, "x").decode()
    message = refusal(tmp_path / "x.cat", forged(text, b"ab"))
    assert message.startswith("Sections must have distinct names and at least 0 bytes, not {'a': ")


def test_an_index_beyond_the_limit_is_neither_written_nor_read(tmp_path: Path) -> None:
    path = tmp_path / "x.cat"
    with pytest.raises(ProgramError, match=f"^Index must have at most {INDEX_LIMIT} bytes, not [0-9]+$"):
        write_container(path, {"version": 3, "long": "x" * INDEX_LIMIT}, {})
    with path.open("wb") as file:
        file.write(struct.pack("<Q", INDEX_LIMIT + 1) + b"{")
        file.truncate(INDEX_LIMIT + 100)
    message = f"must have an index of at most {INDEX_LIMIT} bytes, not {INDEX_LIMIT + 1}$"
    with pytest.raises(ProgramError, match=message):
        map_file(path)


def test_another_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"x": np.zeros(3, np.float32)}, path, metadata)
        with pytest.raises(ProgramError, match=r"^Metadata must hold a Catenary header, not none$"):
            read(path)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, rule in (
        ("", "must be a regular file, not a folder or device"),
        ("fifo", "must be a regular file, not a folder or device"),
        ("missing", "must exist, not be missing"),
        ("loop", "must be readable, not refused: Too many levels of symbolic links"),
        ("x" * 300, "must be readable, not refused: File name too long"),
        ("nul\0", "must be readable, not refused: embedded null byte"),
    ):
        where = tmp_path / name
        with pytest.raises(ProgramError, match=f"^Program file {re.escape(repr(str(where)))} {rule}$"):
            map_file(where)
    with pytest.raises(ProgramError, match=r"^Program file '/dev/null' must be a regular file, not a folder"):
        map_file(Path("/dev/null"))


def test_a_file_without_permission_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, whom no permission stops."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ProgramError, match=r"must be readable, not refused: Permission denied$"):
        map_file(path)


def unwritable(folder: Path, name: str, sections: Sections = SECTIONS) -> str:
    """The message with which ``name`` in ``folder`` is not written; the folder must be as before."""
    before = {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}
    with pytest.raises(ProgramError) as caught:
        write_container(folder / name, HEADER, sections)
    assert {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()} == before
    return str(caught.value).replace(str(folder), "FOLDER")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"file")
    (tmp_path / "folder").mkdir()
    for name, rule in (
        ("missing/x", "must be writable, not 'FOLDER/missing/x': No such file or directory"),
        ("file/x", "must be writable, not 'FOLDER/file/x': Not a directory"),
        ("folder", "must be a regular file, not 'FOLDER/folder'"),
        ("x" * 300, f"must be writable, not 'FOLDER/{'x' * 300}': File name too long"),
        ("nul\0", "must be writable, not 'FOLDER/nul\\x00': embedded null byte"),
    ):
        assert unwritable(tmp_path, name) == f"Program file {rule}"
    with pytest.raises(ProgramError, match=r"^Program file must be a regular file, not '/dev/null'$"):
        write_container(Path("/dev/null"), HEADER, SECTIONS)
    assert Path("/dev/null").is_char_device()


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    write_container(tmp_path / ("x" * 255), HEADER, SECTIONS)
    assert read(tmp_path / ("x" * 255))[0] == HEADER


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.cat").write_bytes(b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        message = unwritable(tmp_path, "x.cat", {"image": np.zeros(1_000_000, np.uint8)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert message == "Program file must be writable, not 'FOLDER/x.cat': File too large"


@pytest.mark.parametrize("where", ["write", "replace"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), MemoryError()])
def test_an_interruption_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException
) -> None:
    (tmp_path / "x.cat").write_bytes(b"before")

    def fail(*_: object) -> None:
        raise error

    if where == "replace":
        monkeypatch.setattr(container.os, "replace", fail)
    else:
        real: Callable[..., Any] = open

        def opened(*arguments: Any) -> Any:
            file = real(*arguments)
            file.write(b"some")

            class Failing:
                write = fail
                __enter__ = lambda self: self  # noqa: E731
                __exit__ = lambda self, *_: file.close()  # noqa: E731

            return Failing()

        monkeypatch.setattr("builtins.open", opened)
    expected = ProgramError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write_container(tmp_path / "x.cat", HEADER, SECTIONS)
    monkeypatch.undo()
    assert [(item.name, item.read_bytes()) for item in tmp_path.iterdir()] == [("x.cat", b"before")]


def test_a_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_container(tmp_path / "x.cat", HEADER, SECTIONS)
    finally:
        os.umask(old)
    assert (tmp_path / "x.cat").stat().st_mode & 0o777 == 0o640


def test_a_mapped_file_may_be_replaced(path: Path) -> None:
    _, sections = read(path)
    write_container(path, HEADER, {**SECTIONS, "image": np.zeros(100, np.uint8)})
    assert sections["image"].tobytes() == SECTIONS["image"].tobytes()
    assert not read(path)[1]["image"].any()


def test_neither_writing_nor_reading_copies_a_section(tmp_path: Path) -> None:
    path, image = tmp_path / "x.cat", np.ones(1 << 25, np.uint8)
    tracemalloc.start()
    write_container(path, {"version": 3}, {"image": image})
    _, sections = read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < image.nbytes // 8
    assert sections["image"].size == image.size


def test_a_header_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"^Header must be plain JSON values, not with the fault: "):
        write_container(tmp_path / "x.cat", {"x": float("nan")}, SECTIONS)
    assert list(tmp_path.iterdir()) == []
