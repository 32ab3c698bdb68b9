# SPDX-License-Identifier: Apache-2.0
"""Programs for corners of the stream's decoders: many rows of keys and values, and every damaged bit of a header."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from catenary.isa.config import AcceleratorConfig
from catenary.isa.fields import Operand
from catenary.isa.instructions import Context, Score
from catenary.isa.memory import RowLayout
from catenary.isa.opcodes import Source
from catenary.isa.stream_layout import HEADER_BYTES
from catenary.isa.tensors import BLOCK
from tests.programs.cases import Case
from tests.programs.directed_cases import Bench
from tests.programs.draft import code_words
from tests.programs.error_cases import damaged_header

ROWS = 600
"""Of keys; more than nine bits count."""
CONTEXT_ROWS = 190
WATCHDOG = 3000


def many_rows(config: AcceleratorConfig, depth: int, source: Source, extra_lines: int = 0) -> Case:
    """SCORE over many keys and CONTEXT over many values, one row a line or as many as fit.

    Args:
        config: the accelerator.
        depth: channels.
        source: where keys and values come from.
        extra_lines: lines of a row in the stream beyond those that it needs.
    """
    b = Bench(config, f"{ROWS} rows of {depth} from {source.name}, {extra_lines} lines more")
    numbers = np.random.default_rng(depth)
    words, room = code_words(depth), config.act_bytes // BLOCK
    keys = ROWS if source is Source.STREAM else min(ROWS, (room - 2 * words) // words)
    values = CONTEXT_ROWS if source is Source.STREAM else min(CONTEXT_ROWS, room // 2 // words)
    fit = max((pack for pack in range(1, 8) if depth << pack <= config.line_bytes), default=0)
    lines = 1 if fit and not extra_lines else config.lines(depth) + extra_lines
    layout = RowLayout(depth, 0 if extra_lines else fit, lines)
    scales, row_scales = b.numbers(np.float32([0.5, -3.0])), b.numbers(numbers.normal(size=keys).astype(np.float32))
    scores, out = b.space(2 * keys), b.space(2 * depth)
    acts = numbers.integers(-128, 128, (room, BLOCK)).astype(np.int8)
    b.codes(0, acts)
    kept = {"source": source, "rows_at": Operand(0, 2 * words), "rows_stride": words}
    if source is Source.STREAM:
        kept = {"source": source, "pack": layout.pack, "row_lines": layout.row_lines}
        raw = numbers.integers(0, 256, (keys, depth), dtype=np.uint8)
        b.stream(layout.scatter(raw, config.line_bytes).reshape(-1))
    b.run(
        Score(
            **kept, act=Operand(), act_stride=words, tokens=Operand(0, 2), depth=depth, rows=Operand(0, keys),
            out=Operand(0, scores), out_stride=keys, scales=Operand(0, scales), row_scales=Operand(0, row_scales),
        )
    )  # fmt: skip
    if config.context_rows(depth):
        if source is Source.STREAM:
            raw = numbers.integers(0, 256, (values, depth), dtype=np.uint8)
            b.stream(layout.scatter(raw, config.line_bytes).reshape(-1))
        b.run(
            Context(
                **kept, clear=True, emit=True, act=Operand(), act_stride=code_words(values + 5), depth=depth,
                tokens=Operand(0, 1), rows=Operand(0, values), first=Operand(0, 5), out=Operand(0, out),
                out_stride=depth, group=1, scales=Operand(0, scales),
            )
        )  # fmt: skip
    return b.done()


def header_bit(config: AcceleratorConfig, bit: int) -> Case:
    """A row block of whose header one bit is inverted; most are refused, a few are none that is looked at."""
    sound = damaged_header(config, "reserved_b", 0)
    image = bytearray(sound.image)
    image[bit // 8] ^= 1 << bit % 8
    return replace(sound, name=f"bit {bit} of a header", image=bytes(image), watchdog=WATCHDOG)


STREAMS: Mapping[str, Callable[[AcceleratorConfig], Case]] = {
    "rows-packed": partial(many_rows, depth=4, source=Source.STREAM),
    "rows-alone": partial(many_rows, depth=20, source=Source.STREAM),
    "rows-apart": partial(many_rows, depth=16, source=Source.STREAM, extra_lines=2),
    "rows-kept": partial(many_rows, depth=16, source=Source.BUFFER),
}
"""Makers of cases by name; all run to END."""

HEADER_BITS = range(8 * HEADER_BYTES)
