# SPDX-License-Identifier: Apache-2.0
"""What a program may cost: instruction bytes, bytes that the host writes, and what crosses the memory port in decode."""

from __future__ import annotations

from dataclasses import replace

import pytest

from catenary.isa.program import Program
from catenary.runtime.devices.iss import IssDevice
from catenary.runtime.host import ProgramEngine
from tests.graphs import build_graph, llama_recipe
from tests.programs.suite import compiled, prompt_of

CONTEXT = 64
DECODE_KINDS = {"weights", "kv", "constants", "tables", "logits"}


def program_of(context: int, layers: int, form: str = "w8") -> Program:
    """A Llama that could use 4,096 positions, with so many layers, planned for so much context."""
    recipe = llama_recipe(4, heads=4, kv_heads=2, head_dim=16, layers=layers, context=4096)
    return compiled(build_graph(replace(recipe, context=context), 4), form)


def test_instruction_bytes_do_not_depend_on_the_context() -> None:
    sizes = {context: program_of(context, 2).instruction_bytes for context in (256, 512, 1000, 4096)}
    assert len(set(sizes.values())) == 1, sizes


@pytest.mark.parametrize("form", ["w8", "w4-8of16", "w4-mixed"])
def test_a_layer_more_costs_one_descriptor_row(form: str) -> None:
    programs = [program_of(256, layers, form) for layers in (1, 2, 3)]
    assert len({len(program.code) for program in programs}) == 1
    growth = [len(b.tables) - len(a.tables) for a, b in zip(programs, programs[1:], strict=False)]
    assert growth[0] == growth[1] == 9 * 8, "two segments, constants and four lines of KV: nine words"


class RecordingDevice(IssDevice):
    """Counts what the host writes to memory."""

    written = 0

    def write(self, line: int, data: bytes | bytearray | memoryview) -> None:
        """Count, then write."""
        self.written += len(data)
        super().write(line, data)


def test_decode_steps_need_at_most_64_bytes_from_the_host() -> None:
    program = program_of(CONTEXT, 2)
    device = RecordingDevice(program)
    with ProgramEngine("iss", "wall", program, device) as engine:
        engine.run(prompt_of(program, 5, 1), 0)
        before, written = engine.doorbell_bytes, device.written
        for position in range(5, 15):
            engine.run([1], position)
        assert device.written == written, "a decode step writes registers, never memory"
        assert 0 < (engine.doorbell_bytes - before) / 10 <= 64


@pytest.mark.parametrize("form", ["w8", "w4", "w4-8of16"])
def test_only_what_must_crosses_the_memory_port_in_decode(form: str) -> None:
    program = program_of(CONTEXT, 2, form)
    device = IssDevice(program)
    with ProgramEngine("iss", "wall", program, device) as engine:
        engine.run(prompt_of(program, 9, 1), 0)
        traffic = device.machine.memory.traffic
        for position in range(9, 13):
            read, written = dict(traffic.read), dict(traffic.written)
            engine.run([2], position)
            moved = {kind: traffic.read[kind] - read.get(kind, 0) for kind in traffic.read}
            stored = {kind: traffic.written[kind] - written.get(kind, 0) for kind in traffic.written}
            assert {kind for kind, count in moved.items() if count} == DECODE_KINDS - {"logits"}, moved
            assert {kind for kind, count in stored.items() if count} == {"kv", "logits"}, stored
            assert moved["weights"] == program.weight_bytes, "each weight is read once"
            assert stored["logits"] == program.graph.vocab * 4
            assert stored["kv"] == program.counts.kv_bytes_per_token * 1
            assert moved["tables"] == program.memory.tables.lines * program.config.line_bytes
            assert moved["kv"] >= program.counts.kv_bytes_per_token * position
