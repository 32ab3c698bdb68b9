# SPDX-License-Identifier: Apache-2.0
"""What does not fit is refused with the sizes that it takes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from catenary.boards.loader import load_accelerator
from catenary.compiler.builder import CodeBuilder
from catenary.compiler.legalise import ACT_REACH, VECTOR_REACH
from catenary.compiler.pipeline import CompileOptions, compile_graph
from catenary.isa.errors import CatenaryError, CompileError, UsageError
from catenary.isa.fields import Operand
from catenary.isa.graph import Attention, Binary, Combine, Graph, Linear
from tests.graphs import quantised_form, random_llama_graph

SMALL = load_accelerator("small")
LARGE = replace(load_accelerator("hbm-slice"), vector_words=1 << 24, act_bytes=1 << 24, memory_bytes=1 << 36)
SEED = 3


def graph(**overrides) -> Graph:
    return quantised_form(random_llama_graph(SEED, **overrides), SEED)


def refusal(made: Graph, config=SMALL) -> str:
    with pytest.raises(CatenaryError) as error:
        compile_graph(made, config)
    return str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"memory_bytes": 1 << 15},
            r"Program must need at most the 32768 bytes of memory of 'small', not \d+ \(code \d+, tables \d+, .*",
        ),
        (
            {"vector_words": 384},
            r"Buffer V must hold \d+ words for 1 tokens and 1 score rows of 64 positions, not the 384 of 'small'",
        ),
        (
            {"act_bytes": 64},
            r"Buffer A must hold \d+ words for 1 tokens and 1 score rows of 64 positions, not the 4 of 'small'",
        ),
        (
            {"desc_words": 16},
            r"Descriptor buffer must hold \d+ words for the tables and a pass of ids, not the 16 of 'small'",
        ),
        (
            {"instruction_words": 64},
            r"Program must have at most the 64 instructions that 'small' holds, not \d+",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_model_that_is_too_large(change, message):
    assert re.fullmatch(message, refusal(graph(), replace(SMALL, **change)))


def test_sizes_in_the_message_are_those_that_would_do():
    """What the message asks for is enough, and a bit less is not."""
    needed = int(re.search(r"not (\d+) \(", refusal(graph(), replace(SMALL, memory_bytes=1 << 15)))[1])
    compile_graph(graph(), replace(SMALL, memory_bytes=needed))
    assert str(needed) in refusal(graph(), replace(SMALL, memory_bytes=needed - SMALL.line_bytes))
    words = int(re.search(r"hold (\d+) words", refusal(graph(), replace(SMALL, desc_words=16)))[1])
    one_token = replace(SMALL, mm_tokens=2)
    compile_graph(graph(), replace(one_token, desc_words=words))


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"context": 1 << 15}, r"Buffer V must hold \d+ words for 1 tokens and 1 score rows of 32768 .*"),
        ({"context": 65521, "rotary_dim": 0}, r"Context must be at most 65520, not 65521"),
        ({"layers": 80}, r"Descriptor buffer must hold \d+ words for the tables and a pass of ids, not the 512 of .*"),
        ({"head_dim": 258, "heads": 1, "kv_heads": 1}, r"head_dim of layers\.mixed must be at most 256, not 258"),
        ({"heads": 300, "kv_heads": 1}, r"Heads per KV head of layers\.mixed must be at most 255, not 300"),
        ({"heads": 1100, "kv_heads": 5, "head_dim": 8}, r"Heads of layers\.mixed must be at most 1023, not 1100"),
        ({"ffn": 66000}, r"Columns of the weight of layers\.down must be at most 65520, not 66000"),
        ({"vocab": 131072, "hidden": 16}, r"Lines of a row of logits must be at most 65535, not 65536"),
    ],
)  # fmt: skip
def test_a_size_that_no_instruction_can_express(overrides, message):
    assert re.fullmatch(message, refusal(graph(**{"layers": 1, **overrides})))


def test_buffers_beyond_the_reach_of_addresses_are_used_as_far_as_it_goes():
    program = compile_graph(graph(context=1 << 14, layers=1, head_dim=8, rotary_dim=8), LARGE)
    assert program.counts.tile_tokens >= 1
    assert VECTOR_REACH == 1 << 20
    assert ACT_REACH == 1 << 16


def changed(made: Graph, stage: int, **fields) -> Graph:
    stages = list(made.stages)
    stages[stage] = replace(stages[stage], **fields)
    return replace(made, stages=tuple(stages))


def test_a_rotary_table_for_each_layer():
    made = graph(layers=2)
    [attention] = [node for node in made.stages[1].nodes if isinstance(node, Attention)]
    nodes = tuple(replace(n, rope="rope.{layer}") if n is attention else n for n in made.stages[1].nodes)
    tensors = {**made.tensors, "rope.0": made.tensors["rope"], "rope.1": made.tensors["rope"]}
    del tensors["rope"]
    message = refusal(replace(changed(made, 1, nodes=nodes), tensors=tensors))
    assert message == "Table 'rope.{layer}' must be one for all layers, not one for each"


def test_a_head_that_does_not_end_with_a_linear_layer():
    made = graph()
    nodes = made.stages[-1].nodes
    twice = Combine("twice", nodes[-1].out, nodes[-1].out, Binary.ADD)
    message = refusal(changed(made, -1, nodes=(*nodes, twice), output="twice"))
    assert message == f"Stage 'head' must end with a linear layer and elementwise functions of it, not {twice}"


def test_an_output_that_is_not_the_last_value():
    made = graph()
    h2 = next(node.a for node in made.stages[1].nodes if node.out == made.stages[1].output)
    message = refusal(changed(made, 1, output=h2))
    assert message == f"Output of stage 'layers' must be its last value, not {h2!r}"


def test_a_weight_that_breaks_its_format():
    made = graph()
    name = next(node.weight.format(layer=0) for node in made.stages[1].nodes if isinstance(node, Linear))
    weight = made.tensors[name]
    kept = weight.kept.copy()
    kept[0] = 3
    message = refusal(replace(made, tensors={**made.tensors, name: replace(weight, kept=kept)}))
    assert message.startswith(f"N of {name} must be one of ")


def test_options():
    with pytest.raises(UsageError, match=r"^KV bits must be 8, not 4$"):
        CompileOptions(kv_bits=4)


def test_scalar_registers_run_out():
    builder = CodeBuilder()
    message = r"^Program must need at most 31 scalar registers, not 9 more$"
    with builder.scope(10), pytest.raises(CompileError, match=message), builder.scope(22):
        pass


@pytest.mark.parametrize("divisor", [1, 2, 3, 5, 7, 12, 16, 100])
def test_ceil_div_is_exact(divisor):
    """The instructions compute ceil(n / divisor) for all n up to the largest, in the same number for every divisor."""
    largest = 5000
    builder = CodeBuilder()
    builder.ceil_div(9, Operand(2, 0), divisor, largest)
    add, multiply, shift = (op.insn for op in builder.code)
    for n in range(largest + 1):
        product = (n + add.b.imm) * multiply.b.imm
        assert product < 1 << 40
        assert product >> shift.b.imm == -(-n // divisor), n


def test_ceil_div_refuses_what_it_cannot_divide():
    with pytest.raises(CompileError, match=r"^Length must be at most what 40-bit scalars divide by 3, not 1073741824$"):
        CodeBuilder().ceil_div(9, Operand(2, 0), 3, 1 << 30)
