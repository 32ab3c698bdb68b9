# SPDX-License-Identifier: Apache-2.0
"""The instruction-set simulator, telling what it executes: each instruction with the values of its operands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from catenary.isa.config import AcceleratorConfig
from catenary.isa.fields import Operand
from catenary.isa.instructions import INSTRUCTIONS, Instruction, Loop
from catenary.isa.opcodes import Opcode
from catenary.isa.stream_layout import HEADER_BYTES, BlockLayout
from catenary.runtime.devices.iss import IssDevice
from catenary.sim.iss.fifo import StreamWeights
from catenary.sim.iss.machine import Machine
from tests.programs.cases import Case, CaseProgram, Outcome, run_opened

OPERANDS: dict[Opcode, tuple[str, ...]] = {
    opcode: tuple(part.name for part in cls.body if part.type is Operand) for opcode, cls in INSTRUCTIONS.items()
}
"""Names of the operands of each instruction."""


@dataclass(frozen=True, slots=True)
class Executed:
    """One execution of an instruction.

    Attributes:
        pc: where it stands.
        insn: the instruction.
        values: of its operands, register and immediate together, in the order of :data:`OPERANDS`.
        held: what their registers held.
        depth: loops that were open.
        inner: of a LOOP: whether it ends where the loop around it ends.
    """

    pc: int
    insn: Instruction
    values: tuple[int, ...]
    held: tuple[int, ...]
    depth: int
    inner: bool = False

    def value(self, name: str) -> int:
        """The value of a field, which may be an operand."""
        names = OPERANDS[self.insn.opcode]
        return self.values[names.index(name)] if name in names else int(getattr(self.insn, name))


@dataclass(frozen=True, slots=True)
class TakenBlock:
    """A row block that MM or MV has taken off the stream.

    Attributes:
        taker: what took it.
        columns: of it.
        at: byte of memory where its header begins.
        layout: what the header says.
    """

    taker: Executed
    columns: int
    at: int
    layout: BlockLayout


@dataclass
class Trace:
    """What a run executed, in program order."""

    config: AcceleratorConfig
    executed: list[Executed] = field(default_factory=list)
    blocks: list[TakenBlock] = field(default_factory=list)


class TracedMachine(Machine):
    """A machine with its race detector on, which writes down what it executes.

    Attributes:
        trace: of the run that goes on, or of the last one.
    """

    def __init__(self, config: AcceleratorConfig, memory_lines: int) -> None:
        super().__init__(config, memory_lines, check_hazards=True)  # so every instruction is executed by itself
        self.trace = Trace(config)
        self._loops: list[Any] = []
        self._take_plainly = self.storage.fifo.take_weights
        self.storage.fifo.take_weights = self._take_weights  # type: ignore[method-assign]

    def load_code(self, line: int, count: int) -> None:
        """See :meth:`Machine.load_code`."""
        super().load_code(line, count)
        for pc, item in enumerate(self._code):
            if item.loop is None:
                item.execute = self._told(pc, item.insn, item.execute)

    def _told(self, pc: int, insn: Instruction, execute: Callable[[], None] | None) -> Callable[[], None]:
        values_of, held_of = self._readers(insn)

        def run() -> None:
            self.trace.executed.append(Executed(pc, insn, values_of(), held_of(), len(self._loops)))
            if execute is not None:
                execute()

        return run

    def _readers(self, insn: Instruction) -> tuple[Callable[[], tuple[int, ...]], Callable[[], tuple[int, ...]]]:
        operands = [getattr(insn, name) for name in OPERANDS[insn.opcode]]
        reader = self.storage.scalars.reader
        return reader(*operands), reader(*(Operand(operand.reg, 0) for operand in operands))

    def _run(self, entry: int, arguments: Any, timeout_s: float) -> Any:
        self.trace = Trace(self.config)
        self._loops = []
        return super()._run(entry, arguments, timeout_s)

    def _enter(self, loop: Loop, pc: int, loops: list[Any]) -> bool:
        self._loops = loops
        values_of, held_of = self._readers(loop)
        inner = bool(loops) and loops[-1].last == pc + loop.length
        self.trace.executed.append(Executed(pc, loop, values_of(), held_of(), len(loops), inner))
        return super()._enter(loop, pc, loops)

    def _take_weights(self, depth: int, rows: int) -> StreamWeights:
        chunk = self.storage.fifo._front()
        data, at = chunk.data, chunk.offset
        taken = self._take_plainly(depth, rows)
        end = at + taken.consumed
        while at < end:
            layout = BlockLayout.decode(data[at : at + HEADER_BYTES].tobytes(), self.config.stream_atom)
            place = chunk.line * self.config.line_bytes + at
            self.trace.blocks.append(TakenBlock(self.trace.executed[-1], depth, place, layout))
            at += layout.stored_bytes
        return taken


class TracedDevice(IssDevice):
    """A device whose machine is a :class:`TracedMachine`."""

    def open(self) -> None:
        """See :meth:`IssDevice.open`."""
        super().open()
        self._machine = TracedMachine(self._program.config, self._program.memory.lines)
        self._machine.memory.map_regions(self._program.memory)


def traced(case: Case) -> tuple[Outcome, Trace]:
    """What a case leaves behind, and what was executed.

    Raises:
        CatenaryError: the simulator refuses the case.
    """
    device = TracedDevice(CaseProgram.of(case.config, len(case.image)))  # type: ignore[arg-type]
    with device:
        device.allocate(len(case.image))
        outcome = run_opened(device, case)
        assert isinstance(device.machine, TracedMachine)
        return outcome, device.machine.trace
