# SPDX-License-Identifier: Apache-2.0
"""What the program suite shares: accelerators, ways to compile, and one generation on each of two devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from catenary.boards.loader import load_accelerator
from catenary.compiler.compress import SparsityChoice
from catenary.compiler.importers.model import ImportedModel
from catenary.compiler.pipeline import CompileOptions, compile_model, lowering_passes, run_pass
from catenary.compiler.state import Compilation
from catenary.isa.config import AcceleratorConfig
from catenary.isa.graph import Graph
from catenary.isa.program import Program
from catenary.isa.tensors import KEPT_CHOICES, FloatTensor
from catenary.runtime.devices.iss import IssDevice
from catenary.runtime.devices.reference import ReferenceEngine
from catenary.runtime.engine import Engine
from catenary.runtime.generate import generate
from catenary.runtime.host import ProgramEngine

SMALL = load_accelerator("small")
HBM_SLICE = load_accelerator("hbm-slice")
UNEVEN = load_accelerator("uneven")
ACCELERATORS: Mapping[str, AcceleratorConfig] = {
    "small": SMALL,
    "hbm-slice": HBM_SLICE,
    "uneven": UNEVEN,
    # Lines of 28 and of 16 bytes, tiles of an odd number of tokens, a stream FIFO of a few lines, queues of one entry.
    "ports-16-8-4": replace(
        SMALL, name="ports-16-8-4", port_bytes=(16, 8, 4), chains=3, mm_tokens=10, stream_bytes=64, stream_atom=4
    ),
    "ports-8-4-4": replace(
        SMALL, name="ports-8-4-4", port_bytes=(8, 4, 4), chains=5, mm_tokens=7, stream_bytes=32, queue_depth=1
    ),
    # Lines of 44 bytes, in which two keys are interleaved where they are long enough.
    "ports-16-16-8-4": replace(
        SMALL, name="ports-16-16-8-4", port_bytes=(16, 16, 8, 4), chains=16, mm_tokens=9, stream_bytes=440
    ),
    # Buffers that take a model of 64 positions two tokens at a time.
    "tiny": replace(
        SMALL, name="tiny", vector_words=2560, act_bytes=4096, stream_bytes=16, chains=4, mm_tokens=2, desc_words=128
    ),
}


def mixed_rows(name: str, weights: FloatTensor) -> NDArray[np.integer]:
    """N that varies from row block to row block, for the Python API's ``sparsity``."""
    rng = np.random.default_rng(crc32(name.encode()))
    rows = weights.shape[0]
    return np.repeat(rng.choice(KEPT_CHOICES, -(-rows // 16)), 16)[:rows]


FORMS: Mapping[str, tuple[int, SparsityChoice]] = {
    "w8": (8, "none"),
    "w4": (4, "none"),
    "w4-8:16": (4, "8:16"),
    "w4-mixed": (4, mixed_rows),
}
"""Weight bits and sparsity by name."""


def compiled(graph: Graph, form: str, config: AcceleratorConfig = SMALL) -> Program:
    """The program of a float graph, by the whole pipeline."""
    bits, sparsity = FORMS[form]
    model = ImportedModel(graph, None, {}, {}, "LlamaForCausalLM")
    return compile_model(model, config, CompileOptions(weight_bits=bits, sparsity=sparsity))


def lowered(graph: Graph, config: AcceleratorConfig = SMALL) -> Compilation:
    """The state behind the last pass for a graph in quantised form."""
    state = Compilation(config, graph)
    for step in lowering_passes():
        state = run_pass(step, state, lambda name, share: None)
    return state


def iss(program: Program, check_hazards: bool = False) -> ProgramEngine:
    """The program on the instruction-set simulator."""
    return ProgramEngine("iss", "wall", program, IssDevice(program, check_hazards))


def prompt(program: Program, length: int, seed: int = 0) -> list[int]:
    """Random token ids."""
    rng = np.random.default_rng([seed, length])
    return [int(token) for token in rng.integers(0, program.graph.vocab, length)]


def outcome(engine: Engine, ids: Sequence[int], new: int, chunk: int | None = None) -> tuple[Any, ...]:
    """What two devices must agree on: the generated ids, the hash of their logits, and why there are no more."""
    made = generate(engine, ids, new, ignore_eos=True, prefill_chunk=chunk)
    return made.ids, made.logits_sha256, made.stop_reason


def assert_agree(program: Program, lengths: Sequence[int] = (19,), new: int = 3, seed: int = 0) -> None:
    """One generation for each length of prompt, on the reference and on the simulator with its race detector."""
    reference, simulator = ReferenceEngine(program), iss(program, check_hazards=True)
    for length in lengths:
        ids = prompt(program, length, seed)
        expected = outcome(reference, ids, new)
        assert outcome(simulator, ids, new) == expected, f"{length} tokens, seed {seed}, {program.config.name}"
