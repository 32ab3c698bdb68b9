# SPDX-License-Identifier: Apache-2.0
"""The host's side of a core's registers: who are you, run this, what happened, what did you count.

Written once for everything that has the real registers: the simulated RTL and boards. How a register is reached is the
device's business, behind :class:`RegisterBus`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import DeviceError, ExecutionError, UsageError
from catenary.isa.fields import SCALAR_BITS
from catenary.isa.opcodes import ISA_VERSION, Unit
from catenary.isa.registers import ARGUMENT_REGISTERS, MAGIC, ErrorCause, Stall, register_map
from catenary.runtime.device import RunStatus
from catenary.runtime.engine import CoreCounters, UnitCounters

RESET_READS = 1000
"""Looks at STATUS after a soft reset, which waits for open bus transfers, before the core counts as stuck."""


class RegisterBus(Protocol):
    """Access to 32-bit registers by byte address."""

    def read_register(self, address: int) -> int:
        """The register's value.

        Raises:
            DeviceError: no answer.
        """
        ...

    def write_register(self, address: int, value: int) -> None:
        """Set the register.

        Raises:
            DeviceError: no answer.
        """
        ...

    def wait(self, address: int, mask: int, seconds: float) -> bool:
        """Whether one of the bits in ``mask`` was set within ``seconds`` seconds.

        Raises:
            DeviceError: no answer.
        """
        ...


class CoreDriver:
    """Drives one core.

    Args:
        bus: to its registers.
        config: what it should be.
        name: of the device, for messages.
    """

    def __init__(self, bus: RegisterBus, config: AcceleratorConfig, name: str) -> None:
        self._bus = bus
        self._config = config
        self._name = name
        self._map = register_map(config)
        self._lost = CoreCounters(0, 0, 0)  # counted before the last soft reset, which clears the registers

    def read(self, name: str) -> int:
        """The value of the register ``name``, whole also where it has two words."""
        place = self._map[name]
        value = self._bus.read_register(place.address)
        if place.register.width == 64:
            value |= self._bus.read_register(place.address + 4) << 32
        return value

    def write(self, name: str, value: int) -> None:
        """Set the register ``name``."""
        place = self._map[name]
        for word in range(place.register.width // 32):
            self._bus.write_register(place.address + 4 * word, value >> 32 * word & 0xFFFF_FFFF)

    def check_identity(self) -> None:
        """Check that this is a Catenary core of the expected configuration.

        Raises:
            DeviceError: it is something else; the message names both.
        """
        expected = {"IDENTITY": MAGIC, "ISA_VERSION": ISA_VERSION, "CONFIG_HASH": int(self._config.hash, 16)}
        for register, wanted in expected.items():
            found = self.read(register)
            if found != wanted:
                raise DeviceError(f"{register} of {self._name} must be {wanted:#x}, not {found:#x}")

    def load_code(self, line: int, count: int) -> None:
        """Tell the core where its program lies.

        Raises:
            ExecutionError: it is longer than the instruction buffer.
        """
        if count > self._config.instruction_words:
            raise ExecutionError(f"Code must have at most {self._config.instruction_words} instructions, not {count}")
        self.write("CODE_LINE", line)
        self.write("CODE_LENGTH", count)

    def run(self, entry: int, arguments: Sequence[int], timeout_s: float) -> RunStatus:
        """Run from instruction ``entry`` until the end, an error, or ``timeout_s`` seconds; see ``MemoryDevice.run``.

        After anything but a good end the core is reset, so that the next run finds it sound.
        """
        if len(arguments) > len(ARGUMENT_REGISTERS):
            raise UsageError(f"Arguments must be at most {len(ARGUMENT_REGISTERS)}, not {len(arguments)}")
        for index in range(len(ARGUMENT_REGISTERS)):
            value = arguments[index] if index < len(arguments) else 0
            if not 0 <= value < 1 << SCALAR_BITS:
                raise UsageError(f"Argument {index} must be in 0..2^{SCALAR_BITS} - 1, not {value}")
            self.write(f"ARGUMENT{index}", value)
        self.write("ENTRY", entry)
        self._press("start")
        status = self._map["STATUS"]
        if not self._bus.wait(status.address, status.register.pack(done=1, error=1), timeout_s):
            self.soft_reset()
            raise DeviceError(f"Run on {self._name} must end within {timeout_s:g} seconds, not go on")
        flags = status.register.unpack(self.read("STATUS"))
        if flags["done"]:
            return RunStatus(done=True, result=self.read("RESULT"), numeric=bool(flags["numeric"]))
        error = self._map["ERROR"].register.unpack(self.read("ERROR"))
        self.soft_reset()
        [cause] = (member for member in ErrorCause if member == error["cause"])
        return RunStatus(False, cause, error["pc"], numeric=bool(flags["numeric"]))

    def soft_reset(self) -> None:
        """Stop whatever goes on; settings stay, and what was counted is remembered.

        Raises:
            DeviceError: the core does not come to rest.
        """
        self._lost = self.counters()
        self._press("soft_reset")
        for _ in range(RESET_READS):
            if not self.read("STATUS"):
                return
        raise DeviceError(f"Soft reset of {self._name} must end, not wait for open bus transfers")

    def counters(self) -> CoreCounters:
        """Counts since the driver was made."""
        lost, ports = self._lost, range(len(self._config.port_bytes))
        cycles = self.read("CYCLES")
        return CoreCounters(
            cycles + (lost.cycles or 0),
            sum(self.read(f"PORT_READ{port}") for port in ports) + (lost.bytes_read or 0),
            sum(self.read(f"PORT_WRITTEN{port}") for port in ports) + (lost.bytes_written or 0),
            self._config.line_bytes,
            {unit.name.lower(): self._unit(unit, cycles) for unit in Unit},
        )

    def _unit(self, unit: Unit, cycles: int) -> UnitCounters:
        none = UnitCounters(0, 0, {stall.name.lower(): 0 for stall in Stall})
        lost = self._lost.units.get(unit.name.lower(), none)
        busy = self.read(f"BUSY_{unit.name}")
        stalled = {
            stall.name.lower(): self.read(f"STALL_{stall.name}_{unit.name}") + lost.stalled[stall.name.lower()]
            for stall in Stall
        }
        return UnitCounters(busy + lost.busy, cycles - busy + lost.idle, stalled)

    def _press(self, button: str) -> None:
        self.write("CONTROL", self._map["CONTROL"].register.pack(**{button: 1}))
