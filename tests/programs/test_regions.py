# SPDX-License-Identifier: Apache-2.0
"""What the compiler says that an instruction reads and writes covers what it does: tokens are assigned from that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from catenary.compiler.builder import LoopOp, Op, Region
from catenary.compiler.pipeline import build_program
from catenary.compiler.state import Compilation
from catenary.isa.config import AcceleratorConfig
from catenary.isa.program import ENTRIES, Program
from catenary.isa.tensors import BLOCK
from catenary.runtime.devices.iss import IssDevice
from catenary.runtime.host import ProgramEngine
from catenary.sim.iss.hazards import Hazards
from tests.graphs import quantised_form, random_graph, random_llama_graph
from tests.programs.support import ACCELERATORS, lowered, prompt

BUFFERS = ("V", "A", "D")


class Recorder(Hazards):
    """Compares every access with what the instruction at ``index`` declares."""

    def __init__(self, config: AcceleratorConfig, memory_lines: int, declared: Sequence[Op | None]) -> None:
        sizes = {"V": config.vector_words, "A": config.act_bytes // BLOCK, "D": config.desc_words}
        super().__init__({**sizes, "memory": memory_lines})
        self.index = 0
        self.seen: set[int] = set()
        self.declared = declared

    def read(self, name, start, stride, rows, words):
        super().read(name, start, stride, rows, words)
        self.check("reads", name, start, stride, rows, words)

    def write(self, name, start, stride, rows, words):
        super().write(name, start, stride, rows, words)
        self.check("writes", name, start, stride, rows, words)

    def check(self, kind: str, name: str, start: int, stride: int, rows: int, words: int) -> None:
        op = self.declared[self.index]
        assert op is not None
        self.seen.add(self.index)
        touched = {start + row * stride + word for row in range(rows) for word in range(words)}
        for region in getattr(op, kind):
            if region.space == name:
                touched -= set(range(region.start, region.start + region.size))
        assert not touched, f"instruction {self.index} {kind} word {min(touched)} of {name} undeclared: {op.insn}"


class RecordingDevice(IssDevice):
    """The simulator with a :class:`Recorder` in place of its race detector."""

    def __init__(self, program: Program, declared: Sequence[Op | None]) -> None:
        super().__init__(program, check_hazards=True)
        self._recorder = Recorder(program.config, program.memory.lines, declared)

    @property
    def recorder(self) -> Recorder:
        return self._recorder

    def load_code(self, line: int, count: int) -> None:
        self.machine.storage.hazards = self._recorder
        super().load_code(line, count)
        for index, item in enumerate(self.machine._code):
            if item.execute is not None:
                item.execute = self._noting(index, item.execute)

    def _noting(self, index, execute):
        def run():
            self._recorder.index = index
            execute()

        return run


def declarations(state: Compilation) -> list[Op | None]:
    """What is declared for each instruction of the program; None for a LOOP."""
    found: list[Op | None] = []

    def walk(code: Sequence[Op | LoopOp]) -> None:
        for item in code:
            if isinstance(item, Op):
                found.append(item)
            else:
                found.append(None)
                walk(item.body)

    for entry in ENTRIES:
        walk(state.code[entry])
    return found


@pytest.mark.parametrize("accelerator", ["small", "ports-16-8-4", "tiny"])
@pytest.mark.parametrize("graph", ["llama", "decoder", "large_group"])
def test_accesses_are_declared(graph, accelerator):
    seed = 9
    floats = {
        "llama": lambda: random_llama_graph(seed),
        "decoder": lambda: random_graph(seed, attention_cap=4.0, bias=True),
        "large_group": lambda: random_llama_graph(seed, heads=12, kv_heads=1),
    }[graph]()
    state = lowered(quantised_form(floats, seed), ACCELERATORS[accelerator])
    program = build_program(state, None, {}, {})
    device = RecordingDevice(program, declarations(state))
    engine = ProgramEngine("iss", "wall", program, device)
    engine.run(prompt(program, 19, seed), 0)
    engine.run(prompt(program, 18, seed), 19)
    engine.run([1], 37)
    assert len(device.recorder.seen) > 40


@pytest.mark.parametrize(
    "a, b, expected",
    [((0, 4), (3, 2), True), ((0, 4), (4, 2), False), ((2, 0), (0, 8), False), ((0, 8), (3, 0), False)],
)
def test_overlap(a, b, expected):
    """Regions overlap if they share a word; an empty one shares none."""
    assert Region("V", *a).overlaps(Region("V", *b)) is Region("V", *b).overlaps(Region("V", *a)) is expected
    assert not Region("V", *a).overlaps(Region("A", *b))


def test_the_recorder_sees_what_is_not_declared():
    state = lowered(quantised_form(random_llama_graph(9), 9))
    program = build_program(state, None, {}, {})
    declared = declarations(state)
    norm = next(i for i, op in enumerate(declared) if op is not None and op.insn.opcode.name == "NORM")
    declared[norm] = Op(declared[norm].insn, declared[norm].reads[:-1], declared[norm].writes)
    engine = ProgramEngine("iss", "wall", program, RecordingDevice(program, declared))
    with pytest.raises(AssertionError, match=f"instruction {norm} reads word .* of V undeclared"):
        engine.run(list(np.arange(5)), 0)
