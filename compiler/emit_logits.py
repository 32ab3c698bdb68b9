# SPDX-License-Identifier: Apache-2.0
"""Emission of the head: logits in vocabulary tiles, alternating between two halves of a buffer, stored as they come."""

from __future__ import annotations

from catenary.compiler.builder import Region
from catenary.compiler.emit_frame import Frame
from catenary.compiler.emit_steps import linear_instruction
from catenary.compiler.schedule import LogitsStep
from catenary.isa.fields import Operand
from catenary.isa.instructions import Apply, Argmax, Store
from catenary.isa.opcodes import AluFunction, ApplyFunction, Buffer, MemoryFormat


def emit_logits(frame: Frame, step: LogitsStep, segment: int, row: Operand, result: int) -> None:
    """Append the head: logits rows from ``row`` on in region ``logits``, the last row's arg-max in ``R[result]``."""
    b, memory = frame.b, frame.plans.memory
    vocab, tile = frame.plans.graph.vocab, frame.plans.buffers.logit_tile
    halves = frame.buffers.logits
    assert halves is not None
    tile_lines = tile * 4 // frame.plans.config.line_bytes
    pairs = -(-vocab // (2 * tile))
    frame.load_stream(segment)
    with b.scope(4) as (base, line, rows, last):
        b.set(base, 0)
        b.set(line, memory.map.logits.line)
        b.set(last, frame.tokens)
        b.alu(AluFunction.SUB, last, last, 1)
        b.alu(AluFunction.MUL, last, last, tile)
        b.emit(Argmax(rd=result, first=True, x=Operand(), elements=Operand(), base=Operand()))
        with b.loop(Operand(0, pairs)):
            for half in halves:
                # How many rows are left, at most a tile; none when the last pair has an odd half.
                b.set(rows, Operand(base))
                b.alu(AluFunction.MAX, rows, rows, vocab)
                b.alu(AluFunction.SUB, rows, rows, Operand(base))
                b.alu(AluFunction.MIN, rows, rows, tile)
                _tile(frame, step, half, (base, line, rows, last), row, result)
                b.alu(AluFunction.ADD, base, base, tile)
                b.alu(AluFunction.ADD, line, line, tile_lines)


def _tile(
    frame: Frame, step: LogitsStep, half: Region, registers: tuple[int, int, int, int], row: Operand, result: int
) -> None:
    base, line, rows, last = registers
    memory, tile = frame.plans.memory, frame.plans.buffers.logit_tile
    x = frame.slot(step.x)
    assert x.scales is not None
    matrix = linear_instruction(frame, step.x, Operand(rows), Operand(0, half.start), tile)
    frame.emit(matrix, [x.region, x.scales], [half])
    for node in step.tail:
        apply = Apply(
            function=ApplyFunction[node.function.name], dst=Operand(0, half.start), dst_stride=tile,
            x=Operand(0, half.start), x_stride=tile, rows=frame.tokens, elements=Operand(rows),
            parameter=node.parameter,
        )  # fmt: skip
        frame.emit(apply, [half], [half])
    best = Argmax(rd=result, first=False, x=Operand(last, half.start), elements=Operand(rows), base=Operand(base))
    frame.emit(best, [half], [])
    store = Store(
        buffer=Buffer.V, format=MemoryFormat.F32, address=Operand(0, half.start), stride=tile, memory=Operand(line),
        row=row, rows=frame.tokens, elements=Operand(rows), pack=memory.logits.pack, row_lines=memory.logits.row_lines,
    )  # fmt: skip
    frame.emit(store, [half], [Region("logits", 0, 1)])
