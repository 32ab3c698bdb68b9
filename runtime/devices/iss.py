# SPDX-License-Identifier: Apache-2.0
"""The device ``iss``: the instruction-set simulator behind the memory-level interface."""

from __future__ import annotations

from collections.abc import Sequence

from catenary.isa.errors import DeviceError
from catenary.isa.program import Program
from catenary.runtime.device import MemoryDevice, RunStatus
from catenary.runtime.devices import DeviceInfo
from catenary.runtime.engine import Counters
from catenary.runtime.host import ProgramEngine
from catenary.sim.iss import Machine


class IssDevice(MemoryDevice):
    """A simulated core with as much memory as the program plans.

    Args:
        program: gives the configuration and the memory map; its bytes arrive through :meth:`write`.
        check_hazards: whether to run the race detector.
    """

    def __init__(self, program: Program, check_hazards: bool = False) -> None:
        self._program = program
        self._check_hazards = check_hazards
        self._machine: Machine | None = None
        self._allocated = 0

    @property
    def machine(self) -> Machine:
        """The open machine.

        Raises:
            DeviceError: the device is not open.
        """
        if self._machine is None:
            raise DeviceError("Device iss must be open before it is used")
        return self._machine

    def open(self) -> None:
        """Make an empty machine.

        Raises:
            DeviceError: this computer has too little memory for it.
        """
        program = self._program
        try:
            self._machine = Machine(program.config, program.memory.lines, self._check_hazards)
        except MemoryError:
            needed = program.memory.lines * program.config.line_bytes
            raise DeviceError(f"Memory of iss must fit into this computer, not be {needed} bytes") from None
        self._machine.memory.map_regions(program.memory)
        self._allocated = 0

    def close(self) -> None:
        """Drop the machine and its memory."""
        self._machine = None

    def allocate(self, nbytes: int) -> int:
        """See :meth:`MemoryDevice.allocate`."""
        lines = self._program.config.lines(nbytes)
        left = self.machine.memory.lines - self._allocated
        if lines > left:
            raise DeviceError(
                f"Memory of iss must have {nbytes} bytes left, not {left * self._program.config.line_bytes}"
            )
        self._allocated += lines
        return self._allocated - lines

    def write(self, line: int, data: bytes | bytearray | memoryview) -> None:
        """See :meth:`MemoryDevice.write`."""
        self.machine.memory.host_write(line, data)

    def read(self, line: int, nbytes: int) -> bytes:
        """See :meth:`MemoryDevice.read`."""
        return self.machine.memory.host_read(line, nbytes)

    def load_code(self, line: int, count: int) -> None:
        """See :meth:`MemoryDevice.load_code`."""
        self.machine.load_code(line, count)

    def run(self, entry_pc: int, arguments: Sequence[int], timeout_s: float) -> RunStatus:
        """See :meth:`MemoryDevice.run`. A broken rule raises, with more to say than a status register has."""
        report = self.machine.run(entry_pc, arguments, timeout_s)
        return RunStatus(done=True, numeric=report.nan_seen, result=report.result)

    def counters(self) -> Counters:
        """Bytes over all ports; the simulator counts no cycles."""
        traffic = self.machine.memory.traffic
        ports = sum(self._program.config.port_bytes)
        return Counters(None, sum(traffic.read.values()), sum(traffic.written.values()), ports)


def _open(program: Program) -> ProgramEngine:
    return ProgramEngine("iss", "wall", program, IssDevice(program))


DEVICE = DeviceInfo(
    name="iss", source="wall", available=lambda: (True, "instruction-set simulator, bit exact"), open=_open
)
