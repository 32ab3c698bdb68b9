# SPDX-License-Identifier: Apache-2.0
"""Weights in safetensors files, mapped into memory once their headers are known to keep the rules of the format.

Layout: 8 bytes N, little endian; N bytes of JSON that give each tensor's dtype, shape and byte range; then the bytes,
without holes or overlaps. The safetensors package checks the same, but does not say where a tensor lies.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from catenary.compiler.importers.fields import parse_object, read_bytes
from catenary.isa.errors import CheckpointError, UnsupportedModelError
from catenary.isa.tensors import FloatFormat, FloatTensor

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_HEADER = 100 << 20
"""Largest header in bytes, as in the safetensors package."""

_FORMATS = {"F32": FloatFormat.F32, "F16": FloatFormat.F16, "BF16": FloatFormat.BF16}
_ELEMENT_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
_EXPONENT = {FloatFormat.F32: 0x7F800000, FloatFormat.F16: 0x7C00, FloatFormat.BF16: 0x7F80}  # all set: infinity or NaN
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: ``start`` and ``stop`` are byte offsets in ``file``."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class WeightFiles:
    """Every tensor of a checkpoint: headers read and checked at once, data mapped on demand.

    Attributes:
        files: the weight files, by name.
        entries: every tensor by its name in the checkpoint.
    """

    def __init__(self, files: Sequence[Path], entries: Mapping[str, Entry]) -> None:
        self.files = tuple(files)
        self.entries = dict(entries)
        self._maps: dict[Path, NDArray[np.uint8]] = {}

    def tensor(self, name: str) -> FloatTensor:
        """The tensor called ``name``: a read-only view of the mapped file, dtype :attr:`FloatFormat.dtype`.

        Raises:
            CheckpointError: it is not there, or not in a supported format.
        """
        if name not in self.entries:
            raise CheckpointError(f"Tensor {name!r} must be in the checkpoint, not missing")
        entry = self.entries[name]
        if entry.dtype not in _FORMATS:
            raise _unsupported(name, entry)
        if entry.file not in self._maps:
            self._maps[entry.file] = np.asarray(np.memmap(entry.file, np.uint8, "r"))
        form = _FORMATS[entry.dtype]
        return FloatTensor(form, self._maps[entry.file][entry.start : entry.stop].view(form.dtype).reshape(entry.shape))

    def mismatches(self, shapes: Mapping[str, tuple[int, ...]], spare: Sequence[str]) -> list[CheckpointError]:
        """How the tensors differ from ``shapes`` (name to shape); names with an ending in ``spare`` are allowed."""
        problems: list[CheckpointError] = []
        for name, shape in shapes.items():
            entry = self.entries.get(name)
            if entry is None:
                problems.append(CheckpointError(f"Tensor {name!r} must be in the checkpoint, not missing"))
            elif entry.shape != shape:
                problems.append(CheckpointError(f"Tensor {name!r} must have shape {shape}, not {entry.shape}"))
            elif entry.dtype not in _FORMATS:
                problems.append(_unsupported(name, entry))
        extra = (name for name in self.entries if name not in shapes and not name.endswith(tuple(spare)))
        wanted = "those that config.json calls for"
        problems += [CheckpointError(f"Tensors of the model must be {wanted}, not {name!r} as well") for name in extra]
        return problems

    def sha256(self) -> str:
        """SHA-256 over the bytes of all files, one after the other, in the order of their names."""
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        return digest.hexdigest()


def open_weights(directory: Path) -> WeightFiles:
    """The weights of a Hugging Face directory: ``model.safetensors``, or the shards that its index names.

    Raises:
        CheckpointError: no weights, a damaged file, or an index that disagrees with its shards.
    """
    if (directory / SINGLE_FILE).exists():
        path = directory / SINGLE_FILE
        return WeightFiles([path], read_header(path))
    if not (directory / INDEX_FILE).exists():
        wanted = f"{SINGLE_FILE}, or shards with {INDEX_FILE}"
        raise CheckpointError(f"Weights in {directory} must be {wanted}, not missing")
    placed = parse_object(read_bytes(directory / INDEX_FILE), INDEX_FILE).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise CheckpointError(f"weight_map of {INDEX_FILE} must name a file for each tensor, not {str(placed)[:60]}")
    names = sorted(set(placed.values()))
    for name in names:
        if Path(name).name != name:  # an index must not reach outside its directory
            raise CheckpointError(f"Files of {INDEX_FILE} must be plain names, not {name!r}")
    entries: dict[str, Entry] = {}
    for name in names:
        for tensor, entry in read_header(directory / name).items():
            if placed.get(tensor) != name:
                wanted = f"in {placed[tensor]}" if tensor in placed else "nowhere"
                raise CheckpointError(f"Tensor {tensor!r} must be {wanted} as {INDEX_FILE} says, not in {name}")
            entries[tensor] = entry
    for tensor, name in placed.items():
        if tensor not in entries:
            raise CheckpointError(f"Tensor {tensor!r} must be in {name} as {INDEX_FILE} says, not missing")
    return WeightFiles([directory / name for name in names], entries)


def read_header(path: Path) -> dict[str, Entry]:
    """Every tensor of the safetensors file ``path``, its header checked.

    Raises:
        CheckpointError: the file is missing or truncated, or its header breaks a rule of the format.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            raw = file.read(length) if len(start) == 8 and length <= min(MAX_HEADER, size - 8) else None
    except OSError as error:
        raise CheckpointError(f"File {path} must be readable, not: {error.strerror or error}") from error
    if raw is None:
        wanted = f"8 bytes of length and a header of at most {MAX_HEADER} bytes within the file"
        raise CheckpointError(f"File {path} must start with {wanted}, not a length of {length} in {size} bytes")
    header = parse_object(raw, f"Header of {path}")
    header.pop("__metadata__", None)
    base = 8 + length
    entries = {name: _entry(path, name, value, base) for name, value in header.items()}
    position, last = base, "header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != position:
            wanted = f"at byte {position}, where {last!r} ends"
            raise CheckpointError(f"Tensor {name!r} of {path} must start {wanted}, not at byte {entry.start}")
        position, last = entry.stop, name
    if position > size:
        raise CheckpointError(f"File {path} must have {position} bytes as its header says, not {size} (truncated?)")
    if position < size:
        raise CheckpointError(f"File {path} must end with its last tensor at {position} bytes, not at {size}")
    return entries


def first_not_finite(tensor: FloatTensor) -> tuple[int, ...] | None:
    """Index of the first NaN or infinity of ``tensor``, or ``None``; reads a bounded piece at a time."""
    bits = tensor.data.reshape(-1).view(f"<u{tensor.format.bytes}")
    mask = bits.dtype.type(_EXPONENT[tensor.format])
    for start in range(0, bits.size, _CHUNK):
        bad = (bits[start : start + _CHUNK] & mask) == mask
        if bad.any():
            return tuple(int(i) for i in np.unravel_index(start + int(bad.argmax()), tensor.shape))
    return None


def _entry(path: Path, name: str, value: object, base: int) -> Entry:
    where = f"tensor {name!r} in the header of {path}"
    if not isinstance(value, dict):
        raise CheckpointError(f"Description of {where} must be an object, not {value!r}")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in _ELEMENT_BYTES:
        raise CheckpointError(f"dtype of {where} must be {_one_of(_ELEMENT_BYTES)}, not {dtype!r}")
    if not _are_counts(shape):
        raise CheckpointError(f"shape of {where} must be a list of sizes, not {shape!r}")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise CheckpointError(f"data_offsets of {where} must be two positions, not {offsets!r}")
    size = math.prod(shape) * _ELEMENT_BYTES[dtype]
    if offsets[1] - offsets[0] != size:
        raise CheckpointError(f"data_offsets of {where} must span {size} bytes, not {offsets[1] - offsets[0]}")
    return Entry(path, dtype, tuple(shape), base + offsets[0], base + offsets[1])


def _unsupported(name: str, entry: Entry) -> UnsupportedModelError:
    return UnsupportedModelError(f"Tensor {name!r} must be {_one_of(_FORMATS)}, not {entry.dtype}")


def _are_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _one_of(names: Mapping[str, object]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"
