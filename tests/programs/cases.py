# SPDX-License-Identifier: Apache-2.0
"""Small programs without a model: what one is, how any memory-level device runs it, and how to make a failing one less.

A :class:`Case` is instruction words and a memory image. Everything that a program leaves behind and that is defined is
in memory at its end, so two devices agree on a case if their :class:`Outcome` is equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from catenary.compiler.builder import LoopOp, Op, flatten
from catenary.compiler.tokens import assign_tokens
from catenary.isa.assembler import disassemble
from catenary.isa.config import AcceleratorConfig
from catenary.isa.encoding import encode_all
from catenary.isa.errors import EncodingError, ExecutionError
from catenary.isa.memory import MemoryMap, Range
from catenary.isa.opcodes import WORD_BYTES
from catenary.isa.registers import WATCHDOG_RESET, ErrorCause
from catenary.runtime.device import MemoryDevice
from catenary.runtime.devices.iss import IssDevice

Block = tuple[Op | LoopOp, ...]
"""Structured code without tokens that may be left out of a program as a whole."""


@dataclass(frozen=True, eq=False)
class Case:
    """One program and its memory.

    Attributes:
        name: says which it is, seed included.
        config: the accelerator.
        code: instruction words.
        code_line: where they lie; the image leaves room there.
        image: contents of memory from line 0 on, whole lines; all the memory that the program touches.
        entry: index of the first instruction to run.
        arguments: of the run.
        cause: the error that hardware must report, which for most is none.
        fault: the instruction that it must blame; ``None`` where that is left open.
        watchdog: cycles for the WATCHDOG register; ``None`` leaves its reset value.
        blocks: what ``code`` was made of, for :func:`shrink`.
    """

    name: str
    config: AcceleratorConfig
    code: bytes
    code_line: int
    image: bytes
    entry: int = 0
    arguments: tuple[int, ...] = ()
    cause: ErrorCause = ErrorCause.NONE
    fault: int | None = None
    watchdog: int | None = None
    blocks: tuple[Block, ...] = ()

    @property
    def count(self) -> int:
        """Instructions."""
        return len(self.code) // WORD_BYTES

    def describe(self) -> str:
        """The case as text, for a failure's message."""
        try:
            text = disassemble(self.code, {self.entry: "entry"})
        except EncodingError as error:
            text = f"({error})\n"
        head = f"{self.name} on {self.config.name}: arguments {self.arguments}, code at line {self.code_line}"
        return f"{head}, {len(self.image)} bytes of memory\n{text}"


@dataclass(frozen=True)
class Outcome:
    """What a run left behind, as far as the instruction set defines it.

    Attributes:
        cause: why it stopped; ``NONE`` at END.
        pc: after an error, the instruction to blame; nothing else is defined then.
        result: of END.
        numeric: a NaN was quantised.
        memory: all bytes of the case's memory.
    """

    cause: ErrorCause
    pc: int = 0
    result: int = 0
    numeric: bool = False
    memory: bytes = b""

    def difference(self, other: Outcome, line_bytes: int) -> str:
        """The first thing in which two outcomes differ, in words; empty if they are equal."""
        for name in ("cause", "pc", "result", "numeric"):
            if getattr(self, name) != getattr(other, name):
                return f"{name} is {getattr(self, name)!r} and {getattr(other, name)!r}"
        if self.memory == other.memory:
            return ""
        wrong = [at for at, (a, b) in enumerate(zip(self.memory, other.memory, strict=True)) if a != b]
        line, byte = divmod(wrong[0], line_bytes)
        values = f"{self.memory[wrong[0]]:#04x} and {other.memory[wrong[0]]:#04x}"
        return f"{len(wrong)} bytes of memory differ, the first in line {line}, byte {byte}: {values}"


@dataclass(frozen=True)
class CaseProgram:
    """What devices ask of a :class:`~catenary.isa.program.Program` before its bytes arrive."""

    config: AcceleratorConfig
    memory: MemoryMap

    @classmethod
    def of(cls, config: AcceleratorConfig, nbytes: int) -> CaseProgram:
        """A program that plans ``nbytes`` bytes of memory."""
        lines = config.lines(nbytes)
        none = Range(lines, 0)
        return cls(config, MemoryMap(none, none, Range(0, lines), none, none, none))


def iss_device(config: AcceleratorConfig, nbytes: int) -> MemoryDevice:
    """The instruction-set simulator with its race detector on, with ``nbytes`` bytes of memory."""
    return IssDevice(CaseProgram.of(config, nbytes), check_hazards=True)  # type: ignore[arg-type]


def run_case(device: MemoryDevice, case: Case, timeout_s: float = 60.0) -> Outcome:
    """Open ``device`` and run one case on it; errors as :func:`run_opened`."""
    [outcome] = run_cases(device, [case], timeout_s)
    return outcome


def run_cases(device: MemoryDevice, cases: Sequence[Case], timeout_s: float = 60.0) -> Iterator[Outcome]:
    """Open ``device`` and run cases on it one after the other; errors as :func:`run_opened`."""
    with device:
        start = device.allocate(max(len(case.image) for case in cases))
        assert start == 0, f"the first lines must be at 0, not {start}"
        for case in cases:
            yield run_opened(device, case, timeout_s)


def run_opened(device: MemoryDevice, case: Case, timeout_s: float = 60.0) -> Outcome:
    """Run one case on a device that is open and has allocated memory for it from line 0 on.

    Raises:
        CatenaryError: the device refuses the program; devices with status registers give its cause instead.
        DeviceError: the run takes more than ``timeout_s`` seconds.
    """
    driver = getattr(device, "driver", None)  # of devices with registers
    if driver is not None:
        driver.write("WATCHDOG", WATCHDOG_RESET if case.watchdog is None else case.watchdog)
    device.write(0, case.image)
    device.write(case.code_line, case.code)
    device.load_code(case.code_line, case.count)
    status = device.run(case.entry, case.arguments, timeout_s)
    if not status.done:
        return Outcome(status.cause, status.pc)
    return Outcome(ErrorCause.NONE, 0, status.result, status.numeric, device.read(0, len(case.image)))


def assemble_blocks(case: Case, blocks: Sequence[Block]) -> Case:
    """``case`` with the code of ``blocks``, tokens and all, from its entry on; what stands before that stays."""
    code = flatten(assign_tokens([item for block in blocks for item in block]))
    words = case.code[: case.entry * WORD_BYTES] + encode_all(code)
    return replace(case, code=words, blocks=tuple(blocks))


def shrink(case: Case, fails: Callable[[Case], bool]) -> Case:
    """Leave out blocks for as long as the rest is legal and still fails.

    Args:
        case: fails; its first block and its last one, which everything else relies on, stay.
        fails: whether a case shows the failure.
    """
    size = max(1, (len(case.blocks) - 2) // 2)
    while size:
        at = 1
        while at < len(case.blocks) - 1:
            end = min(at + size, len(case.blocks) - 1)
            smaller = assemble_blocks(case, case.blocks[:at] + case.blocks[end:])
            if _legal(smaller) and fails(smaller):
                case = smaller
            else:
                at = end
        size //= 2
    return case


def _legal(case: Case) -> bool:
    try:
        run_case(iss_device(case.config, len(case.image)), case)
    except ExecutionError:
        return False
    return True
