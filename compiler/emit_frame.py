# SPDX-License-Identifier: Apache-2.0
"""What the emitters of one stage share: the plans, the registers in force, and shorthands for operands and regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from catenary.compiler.buffer_requests import words16
from catenary.compiler.buffers import BufferPlan, Slot, StageBuffers
from catenary.compiler.builder import CodeBuilder, Region
from catenary.compiler.memory_plan import MemoryPlan, StageTable
from catenary.compiler.schedule import StageSchedule
from catenary.isa.config import AcceleratorConfig
from catenary.isa.fields import Operand
from catenary.isa.graph import Graph, ValueType
from catenary.isa.instructions import Instruction, Load, LoadScalar
from catenary.isa.opcodes import Buffer, MemoryFormat
from catenary.isa.tensors import FloatFormat

POSITION = 1
"""Register of the position of the first token of the pass."""
COUNT = 2
"""Register of the number of tokens (prefill) or of the token id (decode)."""
FIRST_ROW = 3
"""Register of the first row of the call whose logits are wanted (prefill)."""

LOAD_FORMATS = {
    FloatFormat.F32: MemoryFormat.F32,
    FloatFormat.F16: MemoryFormat.F16,
    FloatFormat.BF16: MemoryFormat.BF16,
}


@dataclass(frozen=True)
class Plans:
    """All plans of one entry point."""

    graph: Graph
    types: Mapping[str, Mapping[str, ValueType]]
    config: AcceleratorConfig
    memory: MemoryPlan
    buffers: BufferPlan


@dataclass(frozen=True)
class Frame:
    """One stage under emission.

    Attributes:
        b: where code goes.
        plans: all plans.
        schedule: the stage's steps.
        tokens: rows that the pass handles in this stage.
        row: word address of the stage's descriptor row in D.
        input_offset: register with the word offset of the first wanted row of the stage's input, or 0.
    """

    b: CodeBuilder
    plans: Plans
    schedule: StageSchedule
    tokens: Operand
    row: Operand
    input_offset: int = 0

    @property
    def buffers(self) -> StageBuffers:
        """Places of this stage."""
        return self.plans.buffers.stages[self.schedule.stage.name]

    @property
    def table(self) -> StageTable:
        """What the stage's descriptor row holds."""
        return self.plans.memory.rows[self.schedule.stage.name]

    def constants(self, start: int, words: int) -> Region:
        """Place of some of the stage's constants."""
        return Region("V", self.buffers.constants.start + start, words)

    def slot(self, name: str) -> Slot:
        """Place of value ``name``; its region is that of one row if the pass handles a single token."""
        slot = self.buffers.values[name]
        if self.tokens != Operand(0, 1):
            return slot
        words = self.width(name) if slot.space == "V" else words16(self.width(name))
        scales = slot.scales and Region(slot.scales.space, slot.scales.start, 1)
        return slot._replace(region=Region(slot.space, slot.start, words), scales=scales)

    def width(self, name: str) -> int:
        """Elements per token of value ``name``."""
        return self.plans.types[self.schedule.stage.name][name].width

    def at(self, name: str) -> Operand:
        """First word of value ``name``."""
        offset = self.input_offset if name == self.schedule.stage.input else 0
        return Operand(offset, self.slot(name).start)

    def descriptor(self, rd: int, word: int) -> None:
        """``R[rd]`` = word ``word`` of the descriptor row."""
        load = LoadScalar(rd=rd, address=Operand(self.row.reg, self.row.imm + word))
        self.b.emit(load, reads=[self.tables()])

    def tables(self) -> Region:
        """The descriptor table in D."""
        return Region("D", 0, self.plans.memory.tables.size)

    def load_stream(self, segment: int) -> None:
        """Push stream segment ``segment`` of the descriptor row into W."""
        with self.b.scope(2) as (line, lines):
            self.descriptor(line, self.table.segment(segment))
            self.descriptor(lines, self.table.segment(segment) + 1)
            self.b.emit(stream_load(Operand(line), Operand(lines)))

    def emit(self, insn: Instruction, reads: list[Region], writes: list[Region]) -> None:
        """Append ``insn``."""
        self.b.emit(insn, reads, writes)


def stream_load(line: Operand, lines: Operand) -> Load:
    """A load of whole lines into W."""
    return Load(buffer=Buffer.W, format=MemoryFormat.LINES, memory=line, rows=lines)
