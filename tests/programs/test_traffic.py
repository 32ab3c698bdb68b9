# SPDX-License-Identifier: Apache-2.0
"""What crosses the memory ports and the host interface, and how little code it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from catenary.compiler.pipeline import compile_graph
from catenary.isa.program import Program
from catenary.runtime.device import RunStatus
from catenary.runtime.devices.iss import IssDevice
from catenary.runtime.host import ProgramEngine
from tests.graphs import quantised_form, random_llama_graph
from tests.programs.support import ACCELERATORS, HBM_SLICE, SMALL, compiled, prompt

DOORBELL_LIMIT = 64
"""Bytes that the host may write between two decode steps."""


class RecordingDevice(IssDevice):
    """Notes what the host asks of the device, and which lines of weight streams it reads."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.written: list[int] = []
        self.runs: list[tuple[int, tuple[int, ...]]] = []
        self.streamed: list[tuple[int, int]] = []

    def open(self) -> None:
        super().open()
        memory, fetch = self.machine.memory, self.machine.memory.fetch

        def noting(line, count, stream):
            if stream and memory.kind(line) == "image":
                self.streamed.append((line, count))
            return fetch(line, count, stream)

        memory.fetch = noting

    def write(self, line: int, data: bytes | bytearray | memoryview) -> None:
        self.written.append(len(data))
        super().write(line, data)

    def run(self, entry_pc: int, arguments: Sequence[int], timeout_s: float) -> RunStatus:
        self.runs.append((entry_pc, tuple(arguments)))
        return super().run(entry_pc, arguments, timeout_s)

    def traffic(self) -> dict[str, int]:
        """Bytes so far, by ``read`` or ``written`` and kind."""
        traffic = self.machine.memory.traffic
        return {
            **{f"read {kind}": count for kind, count in traffic.read.items()},
            **{f"written {kind}": count for kind, count in traffic.written.items()},
        }


def opened(program: Program) -> tuple[ProgramEngine, RecordingDevice]:
    device = RecordingDevice(program)
    return ProgramEngine("iss", "wall", program, device), device


def change(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {kind: count - before.get(kind, 0) for kind, count in after.items() if count != before.get(kind, 0)}


@pytest.mark.parametrize("accelerator", ["small", "hbm-slice", "ports-16-8-4"])
@pytest.mark.parametrize("form", ["w8", "w4-mixed"])
def test_decode_reads_weights_once_and_moves_nothing_else(form, accelerator):
    """Weights, KV cache, constants and descriptor rows in; new keys and values and a row of logits out."""
    config, seed = ACCELERATORS[accelerator], 4
    graph = random_llama_graph(seed, layers=2, heads=4, kv_heads=2)
    program = compiled(graph, form, config)
    engine, device = opened(program)
    for token in prompt(program, 11, seed):  # so that decoding needs no other entry point
        engine.run([token], engine._length)
    [attention] = [node for stage in graph.stages for node in stage.nodes if hasattr(node, "kv_heads")]
    for position in range(11, 14):
        before = device.traffic()
        device.streamed.clear()
        engine.run([1], position)
        moved = change(before, device.traffic())
        assert moved.keys() == {
            "read weights", "read kv", "read constants", "read tables", "written kv", "written logits",
        }  # fmt: skip
        assert moved["read weights"] == program.weight_bytes
        assert moved["read constants"] == program.counts.constant_bytes
        assert moved["read tables"] == config.lines(len(program.tables)) * config.line_bytes
        assert moved["written logits"] == program.graph.vocab * 4
        assert moved["written kv"] == program.counts.kv_bytes_per_token
        # Keys, values and their scales are read in whole lines.
        areas = 4 * attention.kv_heads * graph.stages[1].repeat
        useful = program.counts.kv_bytes_per_token * position
        assert useful <= moved["read kv"]
        assert moved["read kv"] <= 2 * useful + areas * config.line_bytes  # more than half of a line holds rows
        once = sorted(device.streamed)
        assert sum(count for _, count in once) * config.line_bytes == program.weight_bytes
        assert all(line + count <= after for (line, count), (after, _) in pairwise(once))


def test_code_is_fetched_once():
    program = compiled(random_llama_graph(4), "w8")
    engine, device = opened(program)
    code = {kind: count for kind, count in device.traffic().items() if "code" in kind}
    assert code == {"read code": SMALL.lines(len(program.code)) * SMALL.line_bytes}
    engine.run(prompt(program, 20), 0)
    engine.run([1], 20)
    assert device.traffic()["read code"] == code["read code"]


def test_prefill_reads_weights_once_a_pass():
    """A pass reads every block weight once, and the head only in the pass whose logits are wanted."""
    program = compiled(random_llama_graph(4, layers=2), "w8")
    engine, device = opened(program)
    tokens = program.counts.tile_tokens
    engine.run(prompt(program, tokens), 0)
    one = device.traffic()["read weights"]
    assert one == program.weight_bytes
    engine.reset()
    engine.run(prompt(program, 3 * tokens), 0)
    three = device.traffic()["read weights"] - one
    device.streamed.clear()
    engine.run([1], 3 * tokens)
    head = device.streamed[-1][1] * SMALL.line_bytes
    assert three == 3 * (one - head) + head


def test_the_host_writes_a_doorbell_between_decode_steps():
    """An id, a position and the doorbell: at most 64 bytes, and no memory."""
    program = compiled(random_llama_graph(4), "w8")
    engine, device = opened(program)
    engine.run(prompt(program, 20), 0)
    for position in range(20, 24):
        bytes_before, writes = engine.doorbell_bytes, len(device.written)
        engine.run([7], position)
        entry, arguments = device.runs[-1]
        assert (entry, arguments) == (program.entries["decode"], (position, 7))
        assert len(device.written) == writes
        assert engine.doorbell_bytes - bytes_before == 8 * len(arguments) + 8 <= DOORBELL_LIMIT


MODELS = {
    "llama": {},
    "large_group": {"heads": 12, "kv_heads": 1, "head_dim": 16},
    "whole_groups": {"heads": 8, "kv_heads": 1, "head_dim": 16},
}


# The last one holds the scores of a whole group for 256 positions, but not for 4,096.
CONTEXT_CONFIGS = (SMALL, HBM_SLICE, ACCELERATORS["ports-16-8-4"], replace(SMALL, name="less-act", act_bytes=32768))


@pytest.mark.parametrize("config", CONTEXT_CONFIGS, ids=lambda config: config.name)
@pytest.mark.parametrize("model", MODELS)
def test_instruction_bytes_do_not_depend_on_the_context(model, config):
    """Code and tables of a model of 4,096 positions, compiled for 256, for 4,096 and for something odd in between."""
    programs = [
        compile_graph(quantised_form(random_llama_graph(3, context=context, **MODELS[model]), 3), config)
        for context in (256, 1000, 4096)
    ]
    assert len({program.instruction_bytes for program in programs}) == 1
    assert len({len(program.tables) for program in programs}) == 1


@pytest.mark.parametrize("config", [SMALL, HBM_SLICE], ids=lambda config: config.name)
def test_a_layer_costs_its_descriptor_row(config):
    """From one layer to two to three only the descriptor table grows."""
    sizes = []
    for layers in (1, 2, 3, 7):
        program = compile_graph(quantised_form(random_llama_graph(6, layers=layers), 6), config)
        sizes.append((len(program.code), len(program.tables)))
    assert len({code for code, _ in sizes}) == 1
    row = sizes[1][1] - sizes[0][1]
    assert row == 8 * 9  # two stream segments (line, lines), the line of the constants, four lines of KV
    assert [tables for _, tables in sizes] == [sizes[0][1] + row * more for more in (0, 1, 2, 6)]


def test_a_model_of_the_size_of_llama_2_7b_needs_64_kib():
    """The layout of LLaMA-2-7B (32 layers, 4,096 positions), with narrow matrices so that it compiles in seconds."""
    graph = random_llama_graph(
        2, layers=32, heads=32, kv_heads=32, head_dim=8, hidden=256, ffn=688, vocab=1000, context=4096
    )
    program = compile_graph(quantised_form(graph, bits=8), HBM_SLICE)
    assert program.instruction_bytes <= 64 << 10
