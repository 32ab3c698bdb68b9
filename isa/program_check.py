# SPDX-License-Identifier: Apache-2.0
"""What a loader verifies of a program whose file is undamaged: that its parts agree with one another.

Weight streams are only walked from header to header, so that a large model takes no longer than its checksum. Their
contents (``|(q - z) s| <= 127``, indices that ascend, padding of zeros) are verified whenever a stream is decoded, by
:func:`~catenary.isa.stream_decode.decode_blocks`, from which every device on the host takes its weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from catenary.isa.code_check import check_code, check_fits
from catenary.isa.encoding import decode_all
from catenary.isa.errors import ProgramError
from catenary.isa.graph import Attention, Graph, Linear, tensor_inputs, verify
from catenary.isa.graph_json import from_json
from catenary.isa.json_values import shown
from catenary.isa.memory import row_layout
from catenary.isa.opcodes import WORD_BYTES
from catenary.isa.tensor_store import STREAMS, TensorStore

if TYPE_CHECKING:
    from catenary.isa.program import Program

MOST_INSTRUCTIONS = 1 << 13
"""Instructions that a loader looks at: no program has nearly as many, because their number depends on no length."""
MOST_NODE_RUNS = 1 << 20
"""Nodes that a loader looks at, those of a repeated stage counted each time."""
ID_BYTES = 8
"""A token id in the mailbox is one 64-bit word."""
TABLE_WORD_BYTES = 8
"""A word of the descriptor table."""


def check_program(program: Program) -> None:
    """Verify everything about ``program`` but the contents of its weight streams.

    Raises:
        CatenaryError: names what breaks a rule.
    """
    contents = {"code": len(program.code), "tables": len(program.tables), "image": program.image.size}
    program.memory.check(program.config, contents)
    if len(program.tables) % TABLE_WORD_BYTES:
        raise ProgramError(f"Tables must be words of {TABLE_WORD_BYTES} bytes, not {len(program.tables)} bytes")
    _check_code(program)
    store = TensorStore(program.image, program.tensor_refs, program.config)
    store.check()
    graph = from_json(program.structure, store.outline())
    _check_graph(graph)
    _check_regions(program, graph)
    _check_counts(program, graph)


def _check_code(program: Program) -> None:
    most = min(MOST_INSTRUCTIONS, program.config.instruction_words)
    if len(program.code) > most * WORD_BYTES:
        raise ProgramError(f"Code must have at most {most} instructions, not {len(program.code) // WORD_BYTES}")
    instructions = decode_all(program.code)
    check_code(instructions, program.entries.values())
    check_fits(instructions, program.config)


def _check_graph(graph: Graph) -> None:
    """Verify the graph, and that its tensors are the ones that are there."""
    runs = sum(stage.repeat * max(1, len(stage.nodes)) for stage in graph.stages)
    if runs > MOST_NODE_RUNS:
        raise ProgramError(f"Graph must run at most {MOST_NODE_RUNS} nodes, not {runs}")
    verify(graph, "quantised")
    used = {
        stage.tensor(template, layer)
        for stage, layer in graph.runs()
        for node in stage.nodes
        for template in tensor_inputs(node)
    }
    unused = sorted(set(graph.tensors) - used)
    if unused:
        raise ProgramError(f"Tensors must all be used by the graph, not {shown(unused[0])}")


def _check_regions(program: Program, graph: Graph) -> None:
    """Verify that the regions without contents hold what the host and the KV cache put there."""
    config, memory, counts = program.config, program.memory, program.counts
    if not 1 <= counts.logit_rows <= graph.max_context:
        raise ProgramError(f"counts.logit_rows must be in 1..{graph.max_context}, not {counts.logit_rows}")
    needed = {
        "ids": row_layout(config, ID_BYTES).lines(graph.max_context),
        "kv": config.lines(_kv_bytes_per_token(graph) * graph.max_context),
        "logits": row_layout(config, graph.vocab * 4).lines(counts.logit_rows),
    }
    for name, lines in needed.items():
        found = memory.regions()[name].lines
        if found < lines:
            raise ProgramError(f"Region {name} must have at least {lines} lines, not {found}")


def _check_counts(program: Program, graph: Graph) -> None:
    """Verify what reports quote, as far as it follows from the graph and the image."""
    counts, image = program.counts, program.image.size
    linears = [
        graph.tensors[stage.tensor(node.weight, layer)].shape
        for stage, layer in graph.runs()
        for node in stage.nodes
        if isinstance(node, Linear)
    ]
    streams = sum({(r.line, r.offset): r.nbytes for r in program.tensor_refs.values() if r.kind in STREAMS}.values())
    weights, kv = sum(rows * columns for rows, columns in linears), _kv_bytes_per_token(graph)
    legal = {
        "linear_weights": (max(1, weights), weights),
        "kv_bytes_per_token": (kv, kv),
        "weight_bytes": (streams, image),
        "constant_bytes": (0, image),
        "tile_tokens": (1, program.config.mm_tokens),
    }
    for name, (low, high) in legal.items():
        value = getattr(counts, name)
        if not low <= value <= high:
            raise ProgramError(f"counts.{name} must be in {low}..{high}, not {value}")


def _kv_bytes_per_token(graph: Graph) -> int:
    """Codes and scales of one position in every cache."""
    nodes = (node for stage, _ in graph.runs() for node in stage.nodes if isinstance(node, Attention))
    return sum(2 * node.kv_heads * (node.head_dim + 4) for node in nodes)
