# SPDX-License-Identifier: Apache-2.0
"""The program file (``.cat``): one safetensors container with everything that a device and a simulator need.

Four byte tensors: ``code`` (instruction words), ``tables`` (descriptor rows), ``image`` [lines, line_bytes] (constants
and weight streams as the memory ports see them; memory-mapped on load) and ``documents`` (JSON: the graph without its
tensors, where each tensor lies in the image, the tokenizer). The container's metadata hold a JSON header and the
header's SHA-256; the header holds versions, the accelerator configuration, the memory map, entry points, provenance and
the SHA-256 of every tensor. Loading verifies all of it and executes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import CatenaryError, ProgramError
from catenary.isa.graph import Graph
from catenary.isa.graph_json import from_json, to_json
from catenary.isa.instructions import ISA_VERSION, WORD_BYTES
from catenary.isa.memory import MemoryMap, Range
from catenary.isa.tensor_store import TensorRef, TensorStore

FORMAT_VERSION = 1
ENTRIES = ("prefill", "decode")
_TENSORS = ("code", "tables", "image", "documents")
_HEADER_LIMIT = 1 << 20


@dataclass(frozen=True)
class Counts:
    """Sizes that reports quote.

    Attributes:
        weight_bytes: what every decode step reads: block linears and head, no embedding.
        linear_weights: original number of weights behind ``weight_bytes``.
        constant_bytes: bytes of norms and rotary rows that a decode step reads, plus one embedding row.
        kv_bytes_per_token: bytes that one more token of context adds to a decode step's reads.
        logit_rows: rows of logits that one prefill can return.
        tile_tokens: tokens that one prefill pass handles.
    """

    weight_bytes: int
    linear_weights: int
    constant_bytes: int
    kv_bytes_per_token: int
    logit_rows: int
    tile_tokens: int


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled model.

    Attributes:
        config: the accelerator that it is made for.
        entries: instruction index of each entry point.
        memory: the memory map.
        code: instruction words.
        tables: descriptor rows, padded to lines.
        image: uint8 [lines, line_bytes].
        structure: the quantised graph as JSON values, without tensors.
        tensor_refs: where each tensor of the graph lies in the image.
        counts: sizes for reports.
        tokenizer_json: contents of a ``tokenizer.json``, if the checkpoint had one.
        tokenizer_config: what the runtime needs to know about special tokens.
        provenance: where the program came from (checkpoint hash, options, tool version).
    """

    config: AcceleratorConfig
    entries: Mapping[str, int]
    memory: MemoryMap
    code: bytes
    tables: bytes
    image: NDArray[np.uint8]
    structure: Mapping[str, Any]
    tensor_refs: Mapping[str, TensorRef]
    counts: Counts
    tokenizer_json: str | None
    tokenizer_config: Mapping[str, Any]
    provenance: Mapping[str, Any]

    isa_version = ISA_VERSION

    @cached_property
    def graph(self) -> Graph:
        """The typed quantised graph; its tensors are read from the image on demand."""
        return from_json(self.structure, TensorStore(self.image, self.tensor_refs, self.config))

    @property
    def config_hash(self) -> str:
        """Hash of the accelerator configuration."""
        return self.config.hash

    @property
    def instruction_bytes(self) -> int:
        """Code plus descriptor tables."""
        return len(self.code) + len(self.tables)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that every decode step reads."""
        return self.counts.weight_bytes

    @property
    def bits_per_weight(self) -> float:
        """All stored bits of the linear layers over their original weight count."""
        return self.counts.weight_bytes * 8 / self.counts.linear_weights

    def decode_bytes_per_token(self, context: int) -> int:
        """Bytes that one decode step reads with ``context`` tokens in the cache, tables included."""
        kv = self.counts.kv_bytes_per_token * context
        return self.counts.weight_bytes + self.counts.constant_bytes + len(self.tables) + kv

    def save(self, path: str | Path) -> None:
        """Write the file; it appears under its name only when complete.

        Raises:
            ProgramError: the folder is not writable or the disk is full; nothing is left behind.
        """
        path = Path(path)
        documents = {
            "graph": dict(self.structure),
            "tensors": {name: ref.to_json() for name, ref in self.tensor_refs.items()},
            "tokenizer": self.tokenizer_json,
        }
        tensors = {
            "code": np.frombuffer(self.code, np.uint8),
            "tables": np.frombuffer(self.tables, np.uint8),
            "image": np.ascontiguousarray(self.image),
            "documents": np.frombuffer(json.dumps(documents).encode(), np.uint8),
        }
        header = {
            "format_version": FORMAT_VERSION,
            "isa_version": ISA_VERSION,
            "config": self.config.to_dict(),
            "config_hash": self.config.hash,
            "entries": dict(self.entries),
            "memory": {name: list(region) for name, region in self.memory.regions().items()},
            "counts": {f.name: getattr(self.counts, f.name) for f in fields(Counts)},
            "tokenizer_config": dict(self.tokenizer_config),
            "provenance": dict(self.provenance),
            "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in tensors.items()},
        }
        text = json.dumps(header, sort_keys=True)
        metadata = {"catenary": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
        temporary = None
        try:
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            os.close(handle)
            save_file(tensors, temporary, metadata)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ProgramError(f"Program file must be writable, not {str(path)!r}: {reason}") from None
        finally:
            if temporary is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)

    @classmethod
    def load(cls, path: str | Path) -> Program:
        """Read and verify a file; the image stays memory-mapped.

        Raises:
            ProgramError: missing, damaged, of another format or ISA version, or inconsistent; the message says which.
        """
        path = Path(path)
        try:
            return _load(path)
        except FileNotFoundError:
            raise ProgramError(f"Program file must exist, not {str(path)!r}") from None
        except (OSError, SafetensorError) as error:
            raise ProgramError(f"Program file {str(path)!r} must be a readable container: {error}") from None
        except CatenaryError as error:
            raise ProgramError(f"Program file {str(path)!r}: {error}") from None


def _load(path: Path) -> Program:
    tensors, metadata = _container(path)
    header = _header(metadata)
    for name in _TENSORS:
        digest = hashlib.sha256(tensors[name]).hexdigest()
        if digest != header["sha256"].get(name):
            raise ProgramError(f"Checksum of {name} must match the header, not {digest[:16]}...")
    config = AcceleratorConfig.from_dict(header["config"])
    if config.hash != header["config_hash"]:
        raise ProgramError(f"Configuration hash must be {config.hash}, not {header['config_hash']!r}")
    image = tensors["image"]
    if image.ndim != 2 or image.shape[1] != config.line_bytes:
        raise ProgramError(f"Image must have lines of {config.line_bytes} bytes, not shape {image.shape}")
    memory = _memory(header["memory"], config)
    code, tables = tensors["code"].tobytes(), tensors["tables"].tobytes()
    for name, size in (("code", len(code)), ("tables", len(tables)), ("image", image.size)):
        region = getattr(memory, name)
        if config.lines(size) != region.lines:
            raise ProgramError(f"Region {name} must have {config.lines(size)} lines, not {region.lines}")
    entries = header["entries"]
    if set(entries) != set(ENTRIES) or any(not 0 <= e < len(code) // WORD_BYTES for e in entries.values()):
        raise ProgramError(f"Entries must be {ENTRIES} inside the code, not {entries!r}")
    documents = json.loads(tensors["documents"].tobytes())
    refs = {name: TensorRef.from_json(name, ref) for name, ref in documents["tensors"].items()}
    return Program(
        config=config,
        entries=entries,
        memory=memory,
        code=code,
        tables=tables,
        image=image,
        structure=documents["graph"],
        tensor_refs=refs,
        counts=Counts(**header["counts"]),
        tokenizer_json=documents["tokenizer"],
        tokenizer_config=header["tokenizer_config"],
        provenance=header["provenance"],
    )


def _container(path: Path) -> tuple[dict[str, NDArray[np.uint8]], dict[str, str]]:
    """Tensors, mapped where they lie, and metadata. safe_open has checked the layout before anything is mapped."""
    with safe_open(path, framework="numpy") as container:
        metadata = container.metadata() or {}
        names = set(container.keys())
    if names != set(_TENSORS):
        raise ProgramError(f"Tensors must be {sorted(_TENSORS)}, not {sorted(names)}")
    with open(path, "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        index = json.loads(file.read(start - 8))
    data = np.memmap(path, np.uint8, mode="r")
    tensors: dict[str, NDArray[np.uint8]] = {}
    for name in _TENSORS:
        entry = index[name]
        first, last = entry["data_offsets"]
        if entry["dtype"] != "U8":
            raise ProgramError(f"Tensor {name} must be of bytes, not {entry['dtype']}")
        tensors[name] = data[start + first : start + last].reshape(entry["shape"])
    return tensors, metadata


def _header(metadata: Mapping[str, str]) -> dict[str, Any]:
    text = metadata.get("catenary")
    if text is None:
        raise ProgramError("Metadata must hold a Catenary header, not none")
    digest = hashlib.sha256(text.encode()).hexdigest()
    if metadata.get("sha256") != digest:
        raise ProgramError(f"Checksum of the header must be {digest[:16]}..., not {metadata.get('sha256')!r:.20}")
    header: dict[str, Any] = json.loads(text)
    for name, expected in (("format_version", FORMAT_VERSION), ("isa_version", ISA_VERSION)):
        if header.get(name) != expected:
            raise ProgramError(f"{name} must be {expected}, not {header.get(name)!r}")
    return header


def _memory(regions: Mapping[str, list[int]], config: AcceleratorConfig) -> MemoryMap:
    memory = MemoryMap(**{name: Range(*region) for name, region in regions.items()})
    end = 0
    for name, region in memory.regions().items():
        if region.line < end or region.lines < 0:
            raise ProgramError(f"Region {name} must start at line {end} or later, not at {region.line}")
        end = region.end
    if end > config.memory_lines:
        raise ProgramError(f"Memory must be at most {config.memory_lines} lines, not {end}")
    return memory


def structure_of(graph: Graph) -> dict[str, Any]:
    """The ``structure`` of a program for ``graph``."""
    return to_json(graph)
