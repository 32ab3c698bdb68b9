# SPDX-License-Identifier: Apache-2.0
"""Random legal programs over the whole instruction set, to compare devices with.

``random_case(config, size, seed)`` is a program of about ``size`` blocks, each of one to a few instructions: transfers,
vector operations, matrix products out of streams and buffers, scalars, loops up to four deep. It is legal (it passes
:mod:`catenary.isa.code_check` and has no race) and what it leaves behind is defined: in the end all of V and A that it
works on is stored, and its result depends on every scalar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from catenary.boards.loader import load_accelerator
from catenary.isa.config import AcceleratorConfig
from catenary.isa.encoding import encode_all
from catenary.isa.instructions import End, Nop
from catenary.isa.opcodes import LOOP_DEPTH, WORD_BYTES, Buffer, MemoryFormat, Unit
from catenary.isa.tensors import BLOCK
from tests.programs.cases import Block, Case, assemble_blocks
from tests.programs.draft import Draft
from tests.programs.random_blocks import COMPUTE, TRANSFER, try_block
from tests.programs.random_matrix import MATRIX

SMALL = load_accelerator("small")

CONFIGS: Mapping[str, AcceleratorConfig] = {
    "small": SMALL,
    # Lines of 12 bytes, 96 lanes, an odd number of tokens in CONTEXT, a stream FIFO of four lines, short queues.
    "odd": replace(
        SMALL, name="odd", port_bytes=(4, 8), memory_bytes=12 << 18, chains=3, chain_length=32, mm_tokens=6,
        stream_atom=4, stream_bytes=48, vector_words=3072, vector_lanes=2, act_bytes=4096, desc_words=96, queue_depth=2,
    ),
    # The least of everything: one chain, one vector lane, queues of one entry, two lines of stream.
    "least": replace(
        SMALL, name="least", memory_bytes=1 << 21, chains=1, mm_tokens=2, stream_bytes=16, vector_words=2048,
        vector_lanes=1, act_bytes=3072, desc_words=64, queue_depth=1,
    ),
    # Wide lines of many ports, many lanes, two tokens side by side, of which the last may be alone.
    "wide": replace(
        SMALL, name="wide", port_bytes=(16, 16, 8, 4), memory_bytes=44 << 16, chains=8, chain_length=32, mm_tokens=9,
        packed=True, stream_atom=16, stream_bytes=1024, vector_words=4096, vector_lanes=16, queue_depth=4,
    ),
}  # fmt: skip
"""Accelerators for the comparison, by name."""

MOST_TURNS = 18
"""Of the innermost of loops that are nested at once."""


def random_case(config: AcceleratorConfig, size: int, seed: int, words: int = 2048) -> Case:
    """A random legal program.

    Args:
        config: the accelerator that it is for.
        size: number of blocks.
        seed: of everything.
        words: of V that it works on; filling and storing them takes most of the time of a short program.
    """
    d = Draft(config, seed, words)
    blocks = [taken(d, fill_arenas), *(taken(d, any_block) for _ in range(size)), taken(d, finish)]
    dead = encode_all([Nop(target=Unit.VECTOR), End()])  # another entry, before this one
    return finished(d, f"random program {seed} of {size} blocks", blocks, dead if seed % 3 == 0 else b"")


def finished(d: Draft, name: str, blocks: Sequence[Block], before: bytes = b"") -> Case:
    """The case of a draft whose code is ``blocks``, with other code before it."""
    case = Case(name, d.config, before, 0, b"", len(before) // WORD_BYTES, d.arguments)
    case = assemble_blocks(case, [block for block in blocks if block])
    code_line = d.keep(np.zeros(len(case.code), np.uint8))
    return replace(case, code_line=code_line, image=d.image().tobytes())


def taken(d: Draft, make: Callable[[Draft], None]) -> Block:
    """What ``make`` appends to the code of ``d``."""
    start = len(d.b.code)
    make(d)
    return tuple(d.b.code[start:])


def any_block(d: Draft) -> None:
    """A block of any kind; loops nest as deep as they may."""
    if d.depth < LOOP_DEPTH and d.often(0.15):
        if d.depth < LOOP_DEPTH - 1 and d.often(0.3):
            _nest(d)
        else:
            _loop(d)
    else:
        try_block(d, d.rng.choice([TRANSFER, COMPUTE, COMPUTE, MATRIX]))


def _loop(d: Draft) -> None:
    with d.loop(d.rng.choice([0, 1, 2, 2, 3])):
        for _ in range(d.rng.randint(1, 3)):
            any_block(d)


def _nest(d: Draft) -> None:
    counts = [d.rng.choice([0, 1, 2, 2, 3]) for _ in range(d.rng.randint(2, LOOP_DEPTH - d.depth))]
    if prod(counts) > MOST_TURNS:
        counts = [min(count, 2) for count in counts]
    with d.nest(counts):
        for _ in range(d.rng.randint(1, 2)):
            any_block(d)


def fill_arenas(d: Draft) -> None:
    """Give every word of the arenas a value, and the result a start."""
    d.b.set(d.total, d.rng.getrandbits(40))
    table = d.numbers.integers(0, 1 << 63, d.arenas["D"].size)
    table[: len(d.fixed)] = d.fixed + (d.numbers.integers(0, 1 << 23, len(d.fixed)) << 40)
    d.fill(Buffer.D, MemoryFormat.U64, d.arenas["D"].start, table.astype("<u8").view(np.uint8))
    arena = d.arenas["V"]
    for start in range(0, arena.size, 512):  # in pieces, so that other units start before all of it is there
        values = d.floats(min(512, arena.size - start)).astype("<f4")
        d.fill(Buffer.V, MemoryFormat.F32, arena.start + start, values.view(np.uint8))
    arena = d.arenas["A"]
    d.fill(Buffer.A, MemoryFormat.I8, arena.start, d.numbers.integers(0, 256, arena.size * BLOCK, dtype=np.uint8))


def finish(d: Draft) -> None:
    """Store the arenas and end."""
    for buffer in (Buffer.V, Buffer.A):
        d.dump(buffer, d.arenas[buffer.name].start, d.arenas[buffer.name].size)
    d.b.emit(End(result=d.total))
