# SPDX-License-Identifier: Apache-2.0
"""What the program suite shares: accelerators, compiled random models, and one generation as a comparable result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from catenary.boards.loader import load_accelerator
from catenary.compiler import compile_graph
from catenary.compiler.compress import Compress, SparsityChoice
from catenary.isa.config import AcceleratorConfig
from catenary.isa.graph import Graph
from catenary.isa.program import Program
from catenary.isa.tensors import FloatTensor
from catenary.runtime.devices import device_info
from catenary.runtime.devices.iss import IssDevice
from catenary.runtime.engine import Engine
from catenary.runtime.generate import generate
from catenary.runtime.host import ProgramEngine
from catenary.runtime.sampling import make_sampler

SMALL = load_accelerator("small")

ODD = AcceleratorConfig(
    name="odd",
    port_bytes=(16, 8, 4),
    memory_bytes=1 << 24,
    chains=3,
    chain_length=16,
    mm_tokens=6,
    packed=False,
    stream_atom=4,
    stream_bytes=512,
    vector_words=12288,
    vector_lanes=2,
    act_bytes=16384,
    desc_words=256,
    instruction_words=1024,
    queue_depth=2,
)
"""Unequal ports, lines of 28 bytes, few accumulators, a stream FIFO of 18 lines."""


def mixed_rows(name: str, tensor: FloatTensor) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """N by row block, drawn from the tensor's name: every legal N occurs."""
    rng = np.random.default_rng(list(name.encode()))
    return np.repeat(rng.choice([1, 2, 4, 8, 16], -(-tensor.shape[0] // 8)), 8)[: tensor.shape[0]]


FORMATS: dict[str, tuple[int, SparsityChoice]] = {
    "w8": (8, "none"),
    "w4": (4, "none"),
    "w4-8of16": (4, "8:16"),
    "w4-mixed": (4, mixed_rows),
}
"""Weight bits and sparsity by name."""


def compiled(graph: Graph, form: str, config: AcceleratorConfig = SMALL) -> Program:
    """A float graph, compressed to ``form`` and compiled."""
    bits, sparsity = FORMATS[form]
    return compile_graph(Compress(bits, None, sparsity).apply(graph), config)


@dataclass(frozen=True)
class Result:
    """What two devices must agree on."""

    ids: tuple[int, ...]
    logits_sha256: str


def iss(program: Program, check_hazards: bool = False) -> ProgramEngine:
    """The simulator, with the race detector if asked for."""
    return ProgramEngine("iss", "wall", program, IssDevice(program, check_hazards))


def reference(program: Program) -> Engine:
    """The reference."""
    return device_info("reference").open(program)


def run(engine: Engine, prompt: Sequence[int], new_tokens: int = 4, chunk: int | None = None) -> Result:
    """Generate greedily from position 0."""
    result = generate(
        engine, list(prompt), new_tokens, make_sampler(0.0, 1.0, 0), eos_ids=(), ignore_eos=True, prefill_chunk=chunk
    )
    return Result(tuple(result.ids), result.logits_sha256)


def prompt_of(program: Program, length: int, seed: int) -> list[int]:
    """Random ids."""
    return np.random.default_rng(seed).integers(0, program.graph.vocab, length).tolist()
