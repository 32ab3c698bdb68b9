# SPDX-License-Identifier: Apache-2.0
"""A program that is small enough to load thousands of times, and its file taken apart and put together again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catenary.boards.loader import load_accelerator
from catenary.compiler.pipeline import compile_graph
from catenary.isa.container import map_file, read_container, write_container
from catenary.isa.json_values import dump
from catenary.isa.program import Program
from tests.graphs import Recipe, build_graph, quantised_form

SMALL = load_accelerator("small")
RECIPE = Recipe(
    hidden=16, ffn=20, heads=2, kv_heads=1, head_dim=8, layers=2, vocab=24, context=16, rotary_dim=8, bias=True
)


@cache
def small_program(bits: int = 4) -> Program:
    """Two layers with biases, of random weights with N of N:16 mixed."""
    return compile_graph(quantised_form(build_graph(RECIPE, 1), seed=1, bits=bits), SMALL)


@dataclass
class Parts:
    """A program file taken apart; :meth:`write` puts it together with checksums that are right.

    Attributes:
        header: JSON values, without the list of sections.
        documents: JSON values.
        arrays: the sections ``image``, ``code`` and ``tables``, writable.
        raw: contents of further sections, which replace those above.
    """

    header: dict[str, Any]
    documents: dict[str, Any]
    arrays: dict[str, NDArray[np.uint8]]
    raw: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path) -> Parts:
        """The parts of the file at ``path``."""
        header, sections = read_container(map_file(path), {})
        documents = json.loads(sections["documents"].tobytes())
        raw = {name: sections[name].tobytes() for name in sections if name == "tokenizer"}
        return cls(header, documents, {name: sections[name].copy() for name in ("image", "code", "tables")}, raw)

    def write(self, path: Path) -> None:
        """Write the file."""
        contents: Mapping[str, bytes] = {
            **{name: array.tobytes() for name, array in self.arrays.items()},
            "documents": dump(self.documents, "documents"),
            **self.raw,
        }
        write_container(path, self.header, {name: np.frombuffer(data, np.uint8) for name, data in contents.items()})
