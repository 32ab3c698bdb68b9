# SPDX-License-Identifier: Apache-2.0
"""The register driver against a register file that plays back what it is told."""

from __future__ import annotations

import pytest

from catenary.boards.loader import load_accelerator
from catenary.isa.errors import DeviceError
from catenary.isa.registers import ErrorCause, register_map
from catenary.runtime.core_driver import CoreDriver

CONFIG = load_accelerator("small")
MAP = register_map(CONFIG)


class Registers:
    """Words by address, as after reset; a soft reset clears STATUS unless the core is stuck."""

    def __init__(self, stuck: bool = False) -> None:
        self.words: dict[int, int] = {}
        self.log: list[tuple[int, int]] = []
        self.stuck = stuck
        for place in MAP:
            self.put(place.name, place.register.reset)

    def put(self, name: str, value: int) -> None:
        for word in range(MAP[name].register.width // 32):
            self.words[MAP[name].address + 4 * word] = value >> 32 * word & 0xFFFF_FFFF

    def read_register(self, address: int) -> int:
        return self.words[address]

    def write_register(self, address: int, value: int) -> None:
        self.log.append((address, value))
        if (address, value) == (MAP["CONTROL"].address, 2) and not self.stuck:
            self.put("STATUS", 0)

    def wait(self, address: int, mask: int, seconds: float) -> bool:
        return bool(self.words[address] & mask)


@pytest.mark.parametrize("name", ["IDENTITY", "ISA_VERSION", "CONFIG_HASH"])
def test_identity(name: str) -> None:
    registers = Registers()
    driver = CoreDriver(registers, CONFIG, "board")
    driver.check_identity()
    wanted = driver.read(name)
    registers.put(name, 0x1234)
    with pytest.raises(DeviceError, match=f"^{name} of board must be {wanted:#x}, not 0x1234$"):
        driver.check_identity()


def test_settings_come_before_start() -> None:
    registers = Registers()
    registers.put("STATUS", MAP["STATUS"].register.pack(done=1, numeric=1))
    registers.put("RESULT", 0x12_3456_789A)
    driver = CoreDriver(registers, CONFIG, "board")
    driver.load_code(0x1_0000_0002, 7)
    status = driver.run(5, [0xAB_0000_0001], 1)
    assert (status.done, status.result, status.numeric) == (True, 0x12_3456_789A, True)
    written = dict(registers.log)
    line = MAP["CODE_LINE"].address
    assert (written[line], written[line + 4], written[MAP["CODE_LENGTH"].address]) == (2, 1, 7)
    argument = MAP["ARGUMENT0"].address
    assert (written[argument], written[argument + 4], written[MAP["ARGUMENT7"].address]) == (1, 0xAB, 0)
    assert registers.log[-2:] == [(MAP["ENTRY"].address, 5), (MAP["CONTROL"].address, 1)]


def test_every_cause_is_told() -> None:
    for cause in ErrorCause:
        registers = Registers()
        registers.put("STATUS", MAP["STATUS"].register.pack(error=1))
        registers.put("ERROR", MAP["ERROR"].register.pack(cause=cause, unit=2, pc=99))
        status = CoreDriver(registers, CONFIG, "board").run(0, [], 1)
        assert (status.done, status.cause, status.pc) == (False, cause, 99)
        assert registers.words[MAP["STATUS"].address] == 0


def test_a_core_that_does_not_reset() -> None:
    registers = Registers(stuck=True)
    registers.put("STATUS", MAP["STATUS"].register.pack(error=1))
    with pytest.raises(DeviceError, match="Soft reset of board must end"):
        CoreDriver(registers, CONFIG, "board").run(0, [], 1)
