# SPDX-License-Identifier: Apache-2.0
"""What a host does at the registers, beside running programs: everything that it sees is one list of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from catenary.isa.config import AcceleratorConfig
from catenary.isa.csr import Access, Register
from catenary.isa.errors import DeviceError
from catenary.isa.registers import WATCHDOG_RESET, register_map
from catenary.runtime.devices.rtl import RtlDevice
from tests.programs.cases import Case, run_opened

Script = Callable[[RtlDevice], list[int]]

REFUSED = -1
"""Stands for a register that the core refuses to read or to write."""
PATTERNS = (0xFFFF_FFFF_FFFF_FFFF, 0xA5C3_9669_3C5A_0FF0, 0x5A3C_6996_C3A5_F00F, 0x0123_4567_89AB_CDEF, 0)
MOMENTS = (1, 150, 700, 2001)
"""Cycles after a start at which a run is disturbed."""
LONGEST = 12_000
"""Cycles after which a run that has not ended does not."""
PATIENT_SECONDS = 3600.0
"""For a run; what ends one is the number of cycles, which does not depend on who else is there."""
PARTS = 3
"""Places in memory that answer with errors, one after the other."""
PATIENCE = (1, 2, 5, 16, 77, 160, 1000, 1365, 2730, 5461)
"""Cycles of the watchdog; together they have every bit up to 2^12, set and not set."""


def settings(device: RtlDevice, config: AcceleratorConfig) -> list[int]:
    """Every setting with every pattern; all of them are read back each time."""
    places = [place for place in register_map(config) if _writable(place.register)]
    seen = []
    for shift, place in enumerate(places):
        for turn in range(len(PATTERNS)):
            device.driver.write(
                place.name, PATTERNS[(turn + shift) % len(PATTERNS)] & ((1 << place.register.width) - 1)
            )
            seen += [device.driver.read(other.name) for other in places]
    device.driver.write("WATCHDOG", WATCHDOG_RESET)
    return seen


def _writable(register: Register) -> bool:
    return any(field.access is Access.READ_WRITE for field in register.fields.values())


def every_word(device: RtlDevice, config: AcceleratorConfig) -> list[int]:
    """All words of the address space, those that mean nothing too; those that are only read are written first."""
    bus, known = device.simulator, register_map(config)
    kept = [place for place in known if any(f.access is not Access.READ for f in place.register.fields.values())]
    settings_of = {address for place in kept for address in range(place.address, place.end, 4)}
    addresses = range(0, 1 << known.address_bits, 4)
    written = (partial(bus.write_register, at, 0xFFFF_FFFF) for at in addresses if at not in settings_of)
    read = (partial(bus.read_register, at) for at in addresses)
    return [_asked(access) for access in (*written, *read)]


def _asked(access: Callable[[], int | None]) -> int:
    try:
        return access() or 0
    except DeviceError:
        return REFUSED


def captured_words(device: RtlDevice, config: AcceleratorConfig) -> list[int]:
    """High words of 64-bit registers after low words of others, twice, and without a low word before."""
    bus, seen = device.simulator, []
    wide = [place.address for place in register_map(config) if place.register.width == 64]
    for low, high in zip(wide, wide[1:] + wide[:1], strict=True):
        order = (low, high + 4, high, high + 4, low + 4, low, low + 4)
        seen += [bus.read_register(address) for address in order]
    return seen


def wrong_settings(device: RtlDevice, case: Case) -> list[int]:
    """Runs whose code is too long, lies behind memory, or does not have the entry."""
    config, seen = case.config, []
    tries = [("CODE_LENGTH", 1 << bit) for bit in range(config.instruction_words.bit_length(), 24)]
    tries += [("CODE_LENGTH", config.instruction_words + 1), ("CODE_LENGTH", 0)]
    tries += [("CODE_LINE", 1 << bit) for bit in range((config.memory_lines - 1).bit_length(), 40)]
    tries += [("ENTRY", 1 << bit) for bit in range(case.count.bit_length(), 24)]
    for register, value in tries:
        _load(device, case)
        device.driver.write(register, value)
        seen += _started(device)
    seen.append(_sound(device, case))
    return seen


def watchdog(device: RtlDevice, waiting: Case) -> list[int]:
    """How long it takes until a program that waits for ever is stopped, and 0, which is never."""
    seen = []
    for patience in (*PATIENCE, 0):
        _load(device, waiting)
        device.driver.write("WATCHDOG", patience)
        begin = device.simulator.cycles
        seen += _started(device, 8000)
        seen.append(device.simulator.cycles - begin)
    device.driver.write("WATCHDOG", WATCHDOG_RESET)
    return seen


def resets(device: RtlDevice, disturbed: Case, case: Case) -> list[int]:
    """Resets in the middle, by wire and by register, after which a program runs as ever."""
    seen = []
    for hard in (True, False):
        for cycles in MOMENTS:
            _load(device, disturbed)
            _press(device, start=1)
            device.simulator.run(cycles)
            seen.append(device.driver.read("STATUS"))
            if hard:
                device.simulator.reset()
                seen += [device.driver.read("WATCHDOG"), device.driver.read("CYCLES")]
            else:
                _press(device, soft_reset=1)
                _settle(device)
            seen.append(_sound(device, case))
    return seen


def starts(device: RtlDevice, disturbed: Case, case: Case) -> list[int]:
    """A start during a run, which is ignored; one with a soft reset, and one right behind it."""
    seen = []
    for cycles in MOMENTS:
        _load(device, disturbed)
        _press(device, start=1)
        device.simulator.run(cycles)
        seen += _started(device, LONGEST)
        for presses in (({"start": 1, "soft_reset": 1},), ({"soft_reset": 1}, {"start": 1})):
            _load(device, disturbed)
            _press(device, start=1)
            device.simulator.run(cycles)
            for press in presses:
                _press(device, **press)
            seen += _ended(device, LONGEST)
        seen.append(_sound(device, case))
    return seen


def bus_errors(device: RtlDevice, case: Case) -> list[int]:
    """Error responses of each port, for reads and for writes, at some lines."""
    config, seen = case.config, []
    lines = len(case.image) // config.line_bytes
    for port, width in enumerate(config.port_bytes):
        for kind in ("reads", "writes"):
            for part in range(PARTS):
                first = lines * part // PARTS
                device.simulator.fail_accesses(port, first * width, (first + 3 + lines // 12) * width, kind)
                outcome = run_opened(device, case, PATIENT_SECONDS)
                seen += [outcome.cause, outcome.pc]
                device.simulator.clear_failures()
                seen.append(_sound(device, case))
    return seen


def scripts(case: Case, disturbed: Case, waiting: Case) -> Mapping[str, Script]:
    """All of the above by name.

    Args:
        case: a program that runs to its end.
        disturbed: another, that runs longer.
        waiting: one that waits for ever.
    """
    return {
        "every word": partial(every_word, config=case.config),
        "settings": partial(settings, config=case.config),
        "captured words": partial(captured_words, config=case.config),
        "watchdog": partial(watchdog, waiting=waiting),
        "wrong settings": partial(wrong_settings, case=case),
        "resets": partial(resets, disturbed=disturbed, case=case),
        "starts": partial(starts, disturbed=disturbed, case=case),
        "bus errors": partial(bus_errors, case=case),
    }


def _load(device: RtlDevice, case: Case) -> None:
    device.driver.write("WATCHDOG", WATCHDOG_RESET)
    device.write(0, case.image)
    device.write(case.code_line, case.code)
    device.load_code(case.code_line, case.count)
    device.driver.write("ENTRY", case.entry)
    for index in range(8):
        device.driver.write(f"ARGUMENT{index}", case.arguments[index] if index < len(case.arguments) else 0)


def _press(device: RtlDevice, **buttons: int) -> None:
    device.driver.write("CONTROL", register_map()["CONTROL"].register.pack(**buttons))


def _started(device: RtlDevice, cycles: int = 3000) -> list[int]:
    _press(device, start=1)
    return _ended(device, cycles)


def _ended(device: RtlDevice, cycles: int) -> list[int]:
    """Status, error and result when a run has ended, or has not within ``cycles``; then the core is reset."""
    status = register_map()["STATUS"]
    end = device.simulator.cycles + cycles
    while device.simulator.cycles < end:
        if device.driver.read("STATUS") & status.register.pack(done=1, error=1):
            break
        device.simulator.run(16)
    seen = [device.driver.read(name) for name in ("STATUS", "ERROR", "RESULT")]
    if not seen[0] & status.register.pack(done=1):
        _press(device, soft_reset=1)
        _settle(device)
    return seen


def _settle(device: RtlDevice) -> None:
    for _ in range(1000):
        if not device.driver.read("STATUS"):
            return
        device.simulator.run(16)
    raise DeviceError("Soft reset must end, not wait for ever")


def _sound(device: RtlDevice, case: Case) -> int:
    """What a program leaves behind, as one number."""
    outcome = run_opened(device, case, PATIENT_SECONDS)
    return hash((int(outcome.cause), outcome.pc, outcome.result, outcome.numeric, outcome.memory))
