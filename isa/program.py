# SPDX-License-Identifier: Apache-2.0
"""The program file (``.cat``): one safetensors container with everything that a device and a simulator need.

Byte tensors: ``image`` [lines * line_bytes] (constants and weight streams as the memory ports see them; memory-mapped
on load), ``code`` (instruction words), ``tables`` (descriptor words), ``documents`` (JSON: the graph without its
tensors, and where each tensor lies in the image) and, if there is one, ``tokenizer``. The header holds versions, the
accelerator configuration, the memory map, entry points and provenance. :mod:`catenary.isa.container` says how checksums
cover each byte, :mod:`catenary.isa.program_check` what else a loader verifies. Loading executes nothing from a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catenary.isa.config import AcceleratorConfig
from catenary.isa.container import INDEX_LIMIT, map_file, read_container, write_container
from catenary.isa.errors import CatenaryError, ProgramError
from catenary.isa.graph import Graph
from catenary.isa.graph_json import from_json, to_json
from catenary.isa.json_values import checked, dump, parse, shown
from catenary.isa.memory import MemoryMap
from catenary.isa.opcodes import ISA_VERSION
from catenary.isa.program_check import check_program
from catenary.isa.tensor_store import TensorRef, TensorStore

FORMAT_VERSION = 1
ENTRIES = ("prefill", "decode")
DOCUMENTS_LIMIT = INDEX_LIMIT
"""Bytes of the longest ``documents``: far more than any graph takes, and few enough to parse without care."""

MESSAGE_LIMIT = 1000
"""Characters of the longest message about a file's contents."""

_SECTIONS = ("image", "code", "tables", "documents")
_TOKENIZER = "tokenizer"
_HEADER = {
    "format_version": int,
    "isa_version": int,
    "config": dict,
    "config_hash": str,
    "entries": dict,
    "memory": dict,
    "counts": dict,
    "tokenizer_config": dict,
    "provenance": dict,
}


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

    def stream_sizes(self) -> dict[str, int]:
        """Bytes of all weight streams by what they hold; see :meth:`TensorStore.stream_sizes`."""
        return TensorStore(self.image, self.tensor_refs, self.config).stream_sizes()

    @property
    def bits_per_weight(self) -> float:
        """All stored bits of the linear layers over their original weight count."""
        return self.counts.weight_bytes * 8 / self.counts.linear_weights

    def decode_bytes_per_token(self, context: int) -> int:
        """Bytes that one decode step reads with ``context`` tokens in the cache, tables included."""
        kv = self.counts.kv_bytes_per_token * context
        return self.counts.weight_bytes + self.counts.constant_bytes + len(self.tables) + kv

    def check(self) -> None:
        """Verify that all parts agree with one another; see :mod:`catenary.isa.program_check`.

        Raises:
            CatenaryError: names what breaks a rule.
        """
        check_program(self)

    def save(self, path: str | Path) -> None:
        """Write the file; it appears under its name only when complete, and equal programs give equal bytes.

        Raises:
            ProgramError: the folder is not writable, the disk is full, or the program holds what a file cannot; nothing
                is left behind.
        """
        refs = {name: ref.to_json() for name, ref in self.tensor_refs.items()}
        documents = dump({"graph": dict(self.structure), "tensors": refs}, "Graph of the program")
        if len(documents) > DOCUMENTS_LIMIT:
            raise ProgramError(f"Graph of the program must have at most {DOCUMENTS_LIMIT} bytes, not {len(documents)}")
        sections = {
            "image": np.ascontiguousarray(self.image).reshape(-1),
            "code": np.frombuffer(self.code, np.uint8),
            "tables": np.frombuffer(self.tables, np.uint8),
            "documents": np.frombuffer(documents, np.uint8),
        }
        if self.tokenizer_json is not None:
            sections[_TOKENIZER] = np.frombuffer(_encoded(self.tokenizer_json), np.uint8)
        header = {
            "format_version": FORMAT_VERSION,
            "isa_version": ISA_VERSION,
            "config": self.config.to_dict(),
            "config_hash": self.config.hash,
            "entries": dict(self.entries),
            "memory": self.memory.to_json(),
            "counts": asdict(self.counts),
            "tokenizer_config": dict(self.tokenizer_config),
            "provenance": dict(self.provenance),
        }
        write_container(Path(path), header, sections)

    @classmethod
    def load(cls, path: str | Path) -> Program:
        """Read and verify a file.

        The image stays memory-mapped, so the file may be replaced by another, but must not be changed in place while
        the program is in use. Contents of weight streams are verified when they are first decoded.

        Raises:
            ProgramError: missing, damaged, of another format or ISA version, or inconsistent; the message says which.
        """
        data = map_file(Path(path))
        try:
            program = _from_sections(*read_container(data, _VERSIONS))
            program.check()
        except CatenaryError as error:
            message = str(error)[:MESSAGE_LIMIT]  # names in it come from the file
            raise ProgramError(f"Program file {str(path)!r}: {message}") from None
        return program


_VERSIONS = {"format_version": FORMAT_VERSION, "isa_version": ISA_VERSION}


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ProgramError(f"Tokenizer must be valid Unicode, not with the fault: {error}") from None


def _from_sections(header: Mapping[str, Any], sections: Mapping[str, NDArray[np.uint8]]) -> Program:
    """The program of an undamaged container; every value has the right type, but nothing else is known of it."""
    if set(sections) not in ({*_SECTIONS}, {*_SECTIONS, _TOKENIZER}):
        raise ProgramError(f"Sections must be {_SECTIONS} and perhaps {_TOKENIZER}, not {shown(sorted(sections))}")
    values = checked(header, "header", _HEADER)
    config = AcceleratorConfig.from_dict(values["config"])
    if config.hash != values["config_hash"]:
        raise ProgramError(f"Configuration hash must be {config.hash}, not {shown(values['config_hash'])}")
    image = sections["image"]
    if not image.size or image.size % config.line_bytes:
        raise ProgramError(f"Image must have lines of {config.line_bytes} bytes, not {image.size} bytes")
    if sections["documents"].size > DOCUMENTS_LIMIT:
        raise ProgramError(f"Documents must have at most {DOCUMENTS_LIMIT} bytes, not {sections['documents'].size}")
    documents = parse(sections["documents"].tobytes(), "Documents")
    kinds = {"graph": dict, "tensors": dict}
    documents = checked(documents, "Documents", kinds)
    tokenizer = sections.get(_TOKENIZER)
    try:
        text = None if tokenizer is None else tokenizer.tobytes().decode()
    except UnicodeDecodeError as error:
        raise ProgramError(f"Tokenizer must be UTF-8, not with the fault: {error}") from None
    return Program(
        config=config,
        entries=checked(values["entries"], "entries", dict.fromkeys(ENTRIES, int)),
        memory=MemoryMap.from_json(values["memory"]),
        code=sections["code"].tobytes(),
        tables=sections["tables"].tobytes(),
        image=image.reshape(-1, config.line_bytes),
        structure=documents["graph"],
        tensor_refs={name: TensorRef.from_json(name, ref) for name, ref in documents["tensors"].items()},
        counts=Counts(**checked(values["counts"], "counts", {f.name: int for f in fields(Counts)})),
        tokenizer_json=text,
        tokenizer_config=values["tokenizer_config"],
        provenance=values["provenance"],
    )


def structure_of(graph: Graph) -> dict[str, Any]:
    """The ``structure`` of a program for ``graph``."""
    return to_json(graph)
