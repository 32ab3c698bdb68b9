# SPDX-License-Identifier: Apache-2.0
"""Emission: a scheduled graph, a memory plan and a buffer plan become the code of one entry point.

One program serves every position and length, and one layer body every layer: sizes and addresses come from registers
and descriptor rows. Registers 1 to 3 hold the arguments that :mod:`catenary.compiler.emit_frame` names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from catenary.compiler.builder import CodeBuilder, LoopOp, Op, Region
from catenary.compiler.emit_attention import KV_SPACE, emit_attention
from catenary.compiler.emit_frame import COUNT, FIRST_ROW, LOAD_FORMATS, POSITION, Frame, Plans
from catenary.compiler.emit_logits import emit_logits
from catenary.compiler.emit_steps import emit_linear, emit_node
from catenary.compiler.schedule import LinearStep, LogitsStep, NodeStep, StageSchedule
from catenary.isa.fields import Operand
from catenary.isa.graph import Attention, Embed
from catenary.isa.instructions import End, Load, LoadScalar, Nop
from catenary.isa.opcodes import AluFunction, Buffer, MemoryFormat, Unit
from catenary.isa.tensors import FloatTensor

RESULT = 4
"""Register that END reports: the arg-max of the last row of logits."""


def emit_decode(plans: Plans, schedules: Sequence[StageSchedule]) -> list[Op | LoopOp]:
    """Code of entry ``decode``: one token at one position, one row of logits."""
    b = CodeBuilder()
    _load_tables(b, plans)
    one = Operand(0, 1)
    _load_rope(b, plans, one)
    _stages(b, plans, schedules, one, lambda frame, node: _embed_row(frame, node, Operand(COUNT), Operand()))
    b.emit(End(result=RESULT))
    return b.code


def emit_prefill(plans: Plans, schedules: Sequence[StageSchedule]) -> list[Op | LoopOp]:
    """Code of entry ``prefill``: any number of tokens in passes of at most ``tokens``, ids from the mailbox."""
    b = CodeBuilder()
    _load_tables(b, plans)
    most = plans.buffers.tokens
    ids = Region("D", plans.memory.tables.size, most)
    layout, mailbox = plans.memory.ids, plans.memory.map.ids
    b.set(RESULT, 0)
    with b.scope(3) as (tokens, left, done):
        b.set(left, Operand(COUNT))
        b.set(done, 0)
        with b.scope(1) as (passes,):
            b.ceil_div(passes, Operand(COUNT), most, plans.graph.max_context)
            pass_loop = b.loop(Operand(passes))
        with pass_loop:
            b.set(tokens, Operand(left))
            b.alu(AluFunction.MIN, tokens, tokens, most)
            # Keys and values that the last pass stored are loaded by this one: the only dependence through memory.
            b.emit(Nop(target=Unit.LOAD), reads=[Region(KV_SPACE, 0, 1)])
            load = Load(
                buffer=Buffer.D, format=MemoryFormat.U64, address=Operand(0, ids.start), stride=1,
                memory=Operand(0, mailbox.line), row=Operand(done), rows=Operand(tokens), elements=Operand(0, 1),
                pack=layout.pack, row_lines=layout.row_lines,
            )  # fmt: skip
            b.emit(load, writes=[ids])
            _load_rope(b, plans, Operand(tokens))
            _stages(
                b, plans, schedules[:-1], Operand(tokens), lambda frame, node: _embed_rows(frame, node, ids, tokens)
            )
            _wanted_rows(b, plans, schedules[-1], tokens, done)
            b.alu(AluFunction.ADD, POSITION, POSITION, Operand(tokens))
            b.alu(AluFunction.SUB, left, left, Operand(tokens))
            b.alu(AluFunction.ADD, done, done, Operand(tokens))
    b.emit(End(result=RESULT))
    return b.code


def _wanted_rows(b: CodeBuilder, plans: Plans, head: StageSchedule, tokens: int, done: int) -> None:
    """The last stage, on the rows of this pass whose logits are wanted; skipped when there are none."""
    with b.scope(4) as (first, count, offset, row):
        b.set(first, Operand(FIRST_ROW))
        b.alu(AluFunction.MAX, first, first, Operand(done))
        b.set(row, Operand(first))
        b.alu(AluFunction.SUB, row, row, Operand(FIRST_ROW))
        b.alu(AluFunction.SUB, first, first, Operand(done))
        b.alu(AluFunction.MUL, offset, first, plans.buffers.carry.stride)
        b.alu(AluFunction.MIN, count, first, Operand(tokens))
        b.alu(AluFunction.LESS, first, count, Operand(tokens))
        condition = b.loop(Operand(first), once=True)
        with condition:
            b.alu(AluFunction.SUB, count, tokens, Operand(count))
            frame = _frame(b, plans, head, Operand(count), Operand(0, plans.memory.rows[head.stage.name].first), offset)
            _stage_body(frame, None, Operand(row))


def _load_tables(b: CodeBuilder, plans: Plans) -> None:
    words = plans.memory.tables.size
    load = Load(
        buffer=Buffer.D, format=MemoryFormat.U64, memory=Operand(0, plans.memory.map.tables.line), rows=Operand(0, 1),
        elements=Operand(0, words), row_lines=plans.config.lines(words * MemoryFormat.U64.bytes),
    )  # fmt: skip
    b.emit(load, writes=[Region("D", 0, words)])


def _load_rope(b: CodeBuilder, plans: Plans, tokens: Operand) -> None:
    for name, place in plans.buffers.rope.items():
        line, layout = plans.memory.floats[name]
        width = place.size // plans.buffers.tokens
        load = Load(
            buffer=Buffer.V, format=MemoryFormat.F32, address=Operand(0, place.start), stride=width,
            memory=Operand(0, line), row=Operand(POSITION), rows=tokens, elements=Operand(0, width),
            pack=layout.pack, row_lines=layout.row_lines,
        )  # fmt: skip
        b.emit(load, writes=[place])


EmbedEmitter = Callable[[Frame, Embed], None]


def _embed_row(frame: Frame, node: Embed, row: Operand, offset: Operand) -> None:
    line, layout = frame.plans.memory.floats[node.table]
    slot = frame.slot(node.out)
    tensor = frame.plans.graph.tensors[node.table]
    assert isinstance(tensor, FloatTensor)
    load = Load(
        buffer=Buffer.V, format=LOAD_FORMATS[tensor.format], address=Operand(offset.reg, slot.start),
        memory=Operand(0, line), row=row, rows=Operand(0, 1), elements=Operand(0, frame.width(node.out)),
        pack=layout.pack, row_lines=layout.row_lines,
    )  # fmt: skip
    frame.emit(load, [], [slot.region])


def _embed_rows(frame: Frame, node: Embed, ids: Region, tokens: int) -> None:
    b = frame.b
    with b.scope(3) as (entry, offset, token_id):
        b.set(entry, ids.start)
        b.set(offset, 0)
        with b.loop(Operand(tokens)):
            b.emit(LoadScalar(rd=token_id, address=Operand(entry)), reads=[ids])
            _embed_row(frame, node, Operand(token_id), Operand(offset))
            b.alu(AluFunction.ADD, entry, entry, 1)
            b.alu(AluFunction.ADD, offset, offset, frame.slot(node.out).stride)


def _frame(
    b: CodeBuilder, plans: Plans, schedule: StageSchedule, tokens: Operand, row: Operand, input_offset: int = 0
) -> Frame:
    return Frame(b, plans, schedule, tokens, row, input_offset)


def _stages(
    b: CodeBuilder, plans: Plans, schedules: Sequence[StageSchedule], tokens: Operand, embed: EmbedEmitter
) -> None:
    for schedule in schedules:
        table = plans.memory.rows[schedule.stage.name]
        if not any("{layer}" in name for name in schedule.tensor_names()):
            for _ in range(schedule.stage.repeat):
                _stage_body(_frame(b, plans, schedule, tokens, Operand(0, table.first)), embed, Operand())
            continue
        with b.scope(1) as (row,):
            b.set(row, table.first)
            with b.loop(Operand(0, schedule.stage.repeat)):
                _stage_body(_frame(b, plans, schedule, tokens, Operand(row)), embed, Operand())
                b.alu(AluFunction.ADD, row, row, table.words)


def _stage_body(frame: Frame, embed: EmbedEmitter | None, logit_row: Operand) -> None:
    _load_constants(frame)
    segment = attention = 0
    streamed = -1
    for step in frame.schedule.steps:
        if isinstance(step, LinearStep) and streamed != segment:
            frame.load_stream(segment)
            streamed = segment
        match step:
            case LinearStep():
                emit_linear(frame, step)
            case LogitsStep():
                if streamed == segment:
                    segment += 1
                emit_logits(frame, step, segment, logit_row, RESULT)
            case NodeStep(node=Attention() as node):
                emit_attention(frame, node, attention)
                attention += 1
                segment += 1
            case NodeStep(node=Embed() as node):
                assert embed is not None
                embed(frame, node)
            case NodeStep(node=node):
                assert not isinstance(node, Attention | Embed)
                emit_node(frame, node)


def _load_constants(frame: Frame) -> None:
    """Those of each node by themselves, so that the first one can begin."""
    parts, config = frame.plans.memory.constants[frame.schedule.stage.name].parts, frame.plans.config
    if not parts:
        return
    with frame.b.scope(1) as (line,):
        frame.descriptor(line, frame.table.constants)
        for start, words in parts:
            place = frame.constants(start, words)
            load = Load(
                buffer=Buffer.V, format=MemoryFormat.F32, address=Operand(0, place.start),
                memory=Operand(line, config.lines(start * MemoryFormat.F32.bytes)), rows=Operand(0, 1),
                elements=Operand(0, words), row_lines=config.lines(words * MemoryFormat.F32.bytes),
            )  # fmt: skip
            frame.emit(load, [], [place])
