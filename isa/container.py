# SPDX-License-Identifier: Apache-2.0
"""The container of a program file: safetensors, written in one way only and read without trust.

Layout, all of it in order and without gaps::

    8 bytes     length of the index, little endian
    index       safetensors' JSON: one U8 tensor for each section, and as metadata the header and its SHA-256;
                spaces up to a multiple of 64 bytes, so that the first section is aligned when it is mapped
    sections    bytes

The header is JSON in canonical form (:mod:`catenary.isa.json_values`). It holds the length and the SHA-256 of every
section, and the index follows from it: a reader writes the index again and compares. So each byte of a file is either
covered by a checksum or has only one legal value, and any damage is found.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catenary.isa.errors import ProgramError
from catenary.isa.json_values import checked, dump, parse, shown

INDEX_LIMIT = 1 << 24
"""Bytes of the longest index."""
_ALIGNMENT = 64
_LENGTH_BYTES = 8
_HEADER = "catenary"

Sections = Mapping[str, NDArray[np.uint8]]


def write_container(path: Path, header: Mapping[str, Any], sections: Sections) -> None:
    """Write a file; it appears under its name only when it is complete, and equal arguments give equal bytes.

    Args:
        path: what to write or replace.
        header: JSON values; ``sections`` is added to them.
        sections: uint8 [bytes] each, contiguous; written as they lie, without a copy.

    Raises:
        ProgramError: the folder is not writable, the disk is full, or a header that JSON cannot hold; nothing is left
            behind.
    """
    described = [{"name": name, "bytes": data.nbytes, "sha256": _sha256(data)} for name, data in sections.items()]
    text = dump({**header, "sections": described}, "Header").decode()
    start = _start_of_file(text, {name: data.nbytes for name, data in sections.items()})
    try:
        if path.exists() and not path.is_file():
            raise ProgramError(f"Program file must be a regular file, not {str(path)!r}")
        # In the same folder, because only there it can be renamed; a name that fits wherever the final one does.
        temporary = path.with_name(f".{secrets.token_hex(5)}")
        try:
            with open(temporary, "xb") as file:
                file.write(start)
                for data in sections.values():
                    file.write(data.data)
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
    except (OSError, ValueError) as error:
        raise ProgramError(f"Program file must be writable, not {str(path)!r}: {_reason(error)}") from None


def map_file(path: Path) -> NDArray[np.uint8]:
    """The file's bytes, read-only and memory-mapped, if they can be a container.

    Raises:
        ProgramError: missing, unreadable, or no safetensors file; the message names the file.
    """
    name = f"Program file {str(path)!r}"
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait for a writer
            raise ProgramError(f"{name} must be a regular file, not a folder or device")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(_LENGTH_BYTES)
            index_bytes = int.from_bytes(start, "little")
            if len(start) < _LENGTH_BYTES or not 2 <= index_bytes <= size - _LENGTH_BYTES or file.read(1) != b"{":
                raise ProgramError(f"{name} must be a safetensors container, not {size} other bytes")
            if index_bytes > INDEX_LIMIT:
                raise ProgramError(f"{name} must have an index of at most {INDEX_LIMIT} bytes, not {index_bytes}")
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except FileNotFoundError:
        raise ProgramError(f"{name} must exist, not be missing") from None
    except (OSError, ValueError) as error:
        raise ProgramError(f"{name} must be readable, not refused: {_reason(error)}") from None


def read_container(
    data: NDArray[np.uint8], versions: Mapping[str, int]
) -> tuple[dict[str, Any], dict[str, NDArray[np.uint8]]]:
    """Verify a container and take it apart.

    Args:
        data: from :func:`map_file`.
        versions: keys of the header that must have these values; looked at before anything else in it.

    Returns:
        The header without ``sections``, and the sections as views uint8 [bytes] of ``data``.

    Raises:
        ProgramError: damaged or of another version; the message says which.
    """
    index_end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES].tobytes(), "little")
    text = _header_text(data[_LENGTH_BYTES:index_end].tobytes())
    header = parse(text.encode(), "Header")
    if type(header) is not dict:
        raise ProgramError(f"Header must be a JSON object, not {shown(header)}")
    for name, expected in versions.items():
        if type(header.get(name)) is not int or header[name] != expected:
            raise ProgramError(f"{name} must be {expected}, not {shown(header.get(name))}")
    return header, _sections(data, index_end, text, header.pop("sections", None))


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _sha256(data: NDArray[np.uint8]) -> str:
    return hashlib.sha256(data.data).hexdigest()


def _start_of_file(text: str, sizes: Mapping[str, int]) -> bytes:
    """Everything in front of the sections, which have ``sizes`` bytes."""
    index: dict[str, Any] = {"__metadata__": {_HEADER: text, "sha256": hashlib.sha256(text.encode()).hexdigest()}}
    offset = 0
    for name, size in sizes.items():
        index[name] = {"dtype": "U8", "shape": [size], "data_offsets": [offset, offset + size]}
        offset += size
    data = json.dumps(index).encode()
    data += b" " * (-(_LENGTH_BYTES + len(data)) % _ALIGNMENT)
    if len(data) > INDEX_LIMIT:
        raise ProgramError(f"Index must have at most {INDEX_LIMIT} bytes, not {len(data)}")
    return len(data).to_bytes(_LENGTH_BYTES, "little") + data


def _header_text(index: bytes) -> str:
    """The header in the metadata of an index; its checksum is right."""
    try:
        values = json.loads(index.decode())
    except (ValueError, RecursionError) as error:
        raise ProgramError(f"Index must be that of a safetensors container: {error}") from None
    metadata = values.get("__metadata__") if isinstance(values, dict) else None
    if not isinstance(metadata, dict) or not isinstance(metadata.get(_HEADER), str):
        raise ProgramError("Metadata must hold a Catenary header, not none")
    text: str = metadata[_HEADER]
    try:
        digest = hashlib.sha256(text.encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise ProgramError(f"Header must be Unicode: {error}") from None
    if metadata.get("sha256") != digest:
        raise ProgramError(f"Checksum of the header must be {digest}, not {shown(metadata.get('sha256'))}")
    return text


def _sections(data: NDArray[np.uint8], start: int, text: str, described: object) -> dict[str, NDArray[np.uint8]]:
    """The sections of file ``data``, from byte ``start`` on; lengths, index and checksums are right."""
    if type(described) is not list:
        raise ProgramError(f"Header must list the sections, not have {shown(described)}")
    kinds = {"name": str, "bytes": int, "sha256": str}
    items = [checked(item, f"sections[{i}]", kinds) for i, item in enumerate(described)]
    sizes = {item["name"]: item["bytes"] for item in items}
    if len(sizes) != len(items) or any(size < 0 for size in sizes.values()):
        raise ProgramError(f"Sections must have distinct names and at least 0 bytes, not {shown(sizes)}")
    if _start_of_file(text, sizes) != data[:start].tobytes():
        raise ProgramError("Index must be the one that follows from the header, not another")
    if data.size != start + sum(sizes.values()):
        raise ProgramError(f"File must have {start + sum(sizes.values())} bytes, not {data.size}")
    result = {}
    for item in items:
        section = data[start : start + item["bytes"]]
        digest = _sha256(section)
        if digest != item["sha256"]:
            raise ProgramError(f"Checksum of {item['name']} must be {shown(item['sha256'])}, not {digest}")
        result[item["name"]] = section
        start += item["bytes"]
    return result
