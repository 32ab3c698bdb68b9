# SPDX-License-Identifier: Apache-2.0
"""What each pass made, as text: for reading, and for tests that compare it with what it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from catenary.compiler.buffers import BufferPlan, Slot
from catenary.compiler.builder import LoopOp, Op, Region
from catenary.compiler.memory_plan import MemoryPlan
from catenary.compiler.schedule import LinearStep, LogitsStep, StageSchedule, Step
from catenary.compiler.state import Compilation
from catenary.isa.assembler import disassemble, format_instruction
from catenary.isa.graph import tensor_inputs, value_inputs
from catenary.isa.memory import RowLayout


def dump_types(state: Compilation) -> str:
    """Behind ``legalise``: the type of every value."""
    assert state.types is not None
    lines = []
    for stage, types in state.types.items():
        lines.append(f"stage {stage}")
        lines += [f"  {name}: {kind.kind} [{kind.width}]" for name, kind in types.items()]
    return _text(lines)


def dump_schedule(state: Compilation) -> str:
    """Behind ``fuse``: the steps of every stage."""
    assert state.schedules is not None
    return _text(line for plan in state.schedules for line in _schedule(plan))


def _schedule(plan: StageSchedule) -> Iterator[str]:
    stage = plan.stage
    yield f"stage {stage.name}: {stage.input or 'token ids'} -> {stage.output}, {stage.repeat} times"
    for index, step in enumerate(plan.steps):
        yield f"  {index:>2}  {_step(step)}"
    for index, segment in enumerate(plan.linears()):
        yield f"  stream segment {index}: {', '.join(node.weight for node in segment) or 'nothing'}"


def _step(step: Step) -> str:
    match step:
        case LinearStep():
            return f"linear {', '.join(node.out for node in step.nodes)} <- {step.x}"
        case LogitsStep():
            tail = "".join(f", then {node.function.name.lower()}" for node in step.tail)
            return f"logits {step.linear.out} <- {step.x}{tail}"
    node = step.node
    inputs = [*value_inputs(node), *tensor_inputs(node)]
    return f"{type(node).__name__.lower()} {node.out} <- {', '.join(inputs)}"


def dump_memory(state: Compilation) -> str:
    """Behind ``plan-memory``: regions, descriptor rows, layouts and the places of tensors, in lines."""
    assert state.memory is not None
    return _text(_memory(state.memory))


def _memory(plan: MemoryPlan) -> Iterator[str]:
    for name, region in plan.map.regions().items():
        yield f"region {name}: lines {region.line} to {region.end}"
    for stage, table in plan.rows.items():
        yield f"descriptor rows of {stage}: from word {table.first}, {table.words} words each"
        for index in range(table.segments):
            yield f"  +{table.segment(index)}: line and lines of stream segment {index}"
        yield f"  +{table.constants}: line of the constants"
        for index in range(table.attentions):
            yield f"  +{table.kv(index)}: lines of K codes, K scales, V codes and V scales of attention {index}"
        for name, offset in plan.constants[stage].offsets.items():
            yield f"  constants + {offset}: {name}"
    yield f"descriptor words: {' '.join(str(word) for word in plan.tables.tolist())}"
    for (stage, name), kv in plan.kv.items():
        yield f"KV cache of {stage}.{name}: keys {_layout(kv.keys)}; values {_layout(kv.values)}"
        yield f"  scales {_layout(kv.scales)}"
        yield f"  lines: {kv.head_keys}, {kv.head_values} and {kv.head_scales} a head, {kv.layer} a layer"
    for name, (line, layout) in plan.floats.items():
        yield f"table {name}: from line {line}, {_layout(layout)}"
    yield f"ids: {_layout(plan.ids)}"
    yield f"logits: {plan.logit_rows} rows, {_layout(plan.logits)}"
    for name, ref in plan.refs.items():
        place = f"image line {ref.line} + {ref.offset}"
        yield f"tensor {name}: {ref.kind} {list(ref.shape)} at {place}{f', {ref.nbytes} bytes' if ref.nbytes else ''}"
    yield f"weight bytes: {plan.weight_bytes}"


def _layout(layout: RowLayout) -> str:
    if layout.pack and layout.row_lines > 1:
        return f"{1 << layout.pack} rows of {layout.row_bytes} bytes interleaved in {layout.row_lines} lines"
    if layout.pack:
        return f"{1 << layout.pack} rows of {layout.row_bytes} bytes in a line"
    return f"{layout.row_lines} lines for a row of {layout.row_bytes} bytes"


def dump_buffers(state: Compilation) -> str:
    """Behind ``allocate-buffers``: places on chip, by entry point."""
    assert state.buffers is not None
    return _text(line for entry, plan in state.buffers.items() for line in _buffers(entry, plan))


def _buffers(entry: str, plan: BufferPlan) -> Iterator[str]:
    yield (
        f"entry {entry}: {plan.tokens} tokens, {plan.tile_rows} score rows, {plan.logit_tile} logits a tile, "
        f"{plan.vector_words} words of V, {plan.act_words} words of A"
    )
    yield f"  residual stream: {_slot(plan.carry)}"
    for name, region in plan.rope.items():
        yield f"  {name}: {_region(region)}"
    for name, stage in plan.stages.items():
        yield f"  stage {name}"
        for value, slot in stage.values.items():
            yield f"    {value}: {_slot(slot)}"
        if stage.constants.size:
            yield f"    constants: {_region(stage.constants)}"
        for when, scratches in (("", stage.attention), (" of every other head", stage.ahead)):
            for attention, scratch in scratches.items():
                for field, region in vars(scratch).items():
                    yield f"    {attention}.{field}{when}: {_region(region)}"
        if stage.logits is not None:
            yield f"    logits: {_region(stage.logits[0])} and {_region(stage.logits[1])}"


def _slot(slot: Slot) -> str:
    scales = f", scales {_region(slot.scales)}" if slot.scales else ""
    return f"{slot.space}[{slot.start}], {slot.stride} from row to row, inside {_region(slot.region)}{scales}"


def _region(region: Region) -> str:
    return f"{region.space}[{region.start}:{region.start + region.size}]"


def dump_code(state: Compilation) -> str:
    """Behind ``emit`` and ``assign-tokens``: instructions, and what each reads and writes as far as tokens care."""
    assert state.code is not None
    lines: list[str] = []
    for entry, code in state.code.items():
        lines += [f"{entry}:", *_code(code, 1)]
    return _text(lines)


def _code(code: Sequence[Op | LoopOp], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for item in code:
        if isinstance(item, LoopOp):
            count = f"r{item.count.reg}" if item.count.reg else str(item.count.imm)
            yield f"{indent}{'if' if item.once else 'loop'} {count}"
            yield from _code(item.body, depth + 1)
            continue
        reads = [f"{_region(region)} ->" for region in item.reads]
        touched = ", ".join([*reads, *(f"-> {_region(region)}" for region in item.writes)])
        yield f"{indent}{format_instruction(item.insn)}{'  ; ' if touched else ''}{touched}"


def dump_words(state: Compilation) -> str:
    """Behind ``encode``: the disassembled words."""
    assert state.words is not None
    assert state.entries is not None
    return disassemble(state.words, {index: name for name, index in state.entries.items()})


DUMPS: Mapping[str, Callable[[Compilation], str]] = MappingProxyType({
    "legalise": dump_types,
    "fuse": dump_schedule,
    "plan-memory": dump_memory,
    "allocate-buffers": dump_buffers,
    "emit": dump_code,
    "assign-tokens": dump_code,
    "encode": dump_words,
})  # fmt: skip
"""What to show behind each pass, by its name."""


def _text(lines: Iterator[str] | Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
