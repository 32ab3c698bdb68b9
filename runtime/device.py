# SPDX-License-Identifier: Apache-2.0
"""The memory-level device interface: anything that has memory behind its ports and registers to start it.

The instruction-set simulator, the simulated RTL and boards implement it; the host program that loads a ``.cat`` file
and drives a decode loop is written once, against this class. Memory is addressed in *lines*, one beat of every port
together (:attr:`catenary.isa.config.AcceleratorConfig.line_bytes` bytes), as in the instructions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from catenary.isa.registers import ErrorCause
from catenary.runtime.engine import Counters


@dataclass(frozen=True)
class RunStatus:
    """How a run ended, as the status registers tell it.

    Attributes:
        done: the program reached its end.
        cause: why it did not, else ``NONE``.
        pc: index of the instruction at fault, or of the last one dispatched.
        result: the scalar that the program returned at its end.
        numeric: a NaN was quantised to 0; the run went on.
    """

    done: bool
    cause: ErrorCause = ErrorCause.NONE
    pc: int = 0
    result: int = 0
    numeric: bool = False


class MemoryDevice(ABC):
    """One accelerator core with its memory.

    The methods are called in this order: open, allocate, write and load_code, then run, read and counters as often as
    wanted, close. A device that is not open raises DeviceError from every other method.
    """

    @abstractmethod
    def open(self) -> None:
        """Take hold of the device, reset the core and free all of its memory.

        Raises:
            DeviceError: absent, in use by another process, or of another configuration or ISA version than expected.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop the core and let go of the device. Closing twice, or a device that never opened, is harmless."""

    @abstractmethod
    def allocate(self, nbytes: int) -> int:
        """Reserve memory until the device closes; its contents are undefined.

        Args:
            nbytes: size, at least 0; rounded up to whole lines.

        Returns:
            The address of the first line. Addresses of successive calls rise, with no two areas overlapping; the first
            call after :meth:`open` returns line 0.

        Raises:
            DeviceError: the memory is full; the message names the bytes wanted and those left.
        """

    @abstractmethod
    def write(self, line: int, data: bytes | bytearray | memoryview) -> None:
        """Copy ``data`` to memory, beginning at line address ``line``.

        The bytes after the end of ``data`` in its last line keep their value.

        Raises:
            DeviceError: part of the data would lie outside the memory.
        """

    @abstractmethod
    def read(self, line: int, nbytes: int) -> bytes:
        """The ``nbytes`` bytes of memory that begin at line address ``line``.

        Raises:
            DeviceError: part of them lies outside the memory.
        """

    @abstractmethod
    def load_code(self, line: int, count: int) -> None:
        """Tell the core where its program lies (registers CODE_LINE and CODE_LENGTH); it is fetched once, then cached.

        Args:
            line: memory line of the first instruction, which :meth:`write` has filled.
            count: instructions.

        Raises:
            ExecutionError: an instruction is illegal, or there are more than the instruction buffer holds.
        """

    @abstractmethod
    def run(self, entry_pc: int, arguments: Sequence[int], timeout_s: float) -> RunStatus:
        """Run the loaded program from ``entry_pc`` until it ends, breaks a rule, or time is up.

        Args:
            entry_pc: index of the first instruction word, from the program's entries.
            arguments: values of the registers ARGUMENT0, ARGUMENT1 ..., at most eight unsigned 40-bit integers; the
                rest are 0.
            timeout_s: seconds of host time after which the core is stopped and reset.

        Returns:
            The status that the core reported. An error in the program is a status, not an exception.

        Raises:
            DeviceError: time is up, or the device stopped answering.
        """

    @abstractmethod
    def counters(self) -> Counters:
        """Counts since the device was opened, over all runs."""

    def __enter__(self) -> Self:
        """Open the device."""
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the device."""
        self.close()
