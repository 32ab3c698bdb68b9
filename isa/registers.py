# SPDX-License-Identifier: Apache-2.0
"""The host interface: what the registers behind the AXI4-Lite port are.

Words are 32 bits. A 64-bit register is two words, low word first; reading the low word captures the high word for the
read that follows, so a running counter is read whole. A host writes both words of a setting before it starts a run.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, IntEnum
from typing import Self

from catenary.isa.config import AcceleratorConfig
from catenary.isa.csr import Access, Register, RegisterArray, RegisterField, RegisterMap
from catenary.isa.fields import SCALAR_BITS
from catenary.isa.opcodes import ISA_VERSION, Unit

MAGIC = int.from_bytes(b"CATN", "little")
"""What IDENTITY reads."""

ARGUMENT_REGISTERS = range(1, 9)
"""Scalar registers that hold ARGUMENT0, ARGUMENT1 ... when a run starts; a program writes the others before use."""

PC_BITS = 24
"""Width of a program counter, which counts instructions."""

WATCHDOG_RESET = 1 << 28
"""Cycles without progress after which a run is stopped, until the host writes another number."""


class ErrorCause(IntEnum):
    """Why a run stopped early; each member carries its ``meaning``."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Self:
        """A member ``value`` that knows its ``meaning``."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    NONE = 0, "no error"
    ILLEGAL_INSTRUCTION = 1, "an opcode, enumeration value or reserved bit that is not defined, or badly nested loops"
    CODE_RANGE = 2, "the program counter left the code: END is missing, or ENTRY is too large"
    ADDRESS_RANGE = 3, "an address behind the end of memory or of a buffer, or a value too large for its field"
    BUS_ERROR = 4, "a memory port answered with an error response"
    STREAM_FORMAT = 5, "a row block's header or outlier is damaged, or rows or columns are not those of the instruction"
    STREAM_LEAK = 6, "lines were left in the stream FIFO at END"
    TOKEN_LEAK = 7, "tokens were left at END, or a token counter overflowed"
    WATCHDOG = 8, "no instruction finished and no line moved for WATCHDOG cycles"


class Stall(Enum):
    """What a unit that holds an instruction can be waiting for."""

    TOKENS = "tokens of other units"
    STREAM = "the stream FIFO (load: it is full; matrix: it is empty)"
    MEMORY = "a memory port"
    BUFFER = "an on-chip buffer that another unit uses"


def _single(name: str, width: int, access: Access, doc: str, reset: int = 0) -> Register:
    return Register({name: RegisterField(width, access, doc, reset)})


def _per_unit(name: str, doc: str) -> RegisterArray:
    return RegisterArray(name, _single("cycles", 64, Access.READ, doc), tuple(f"_{unit.name}" for unit in Unit))


_ARGUMENTS = tuple(str(index) for index in range(len(ARGUMENT_REGISTERS)))

_COMMON = (
    RegisterArray("IDENTITY", _single("magic", 32, Access.READ, 'the bytes "CATN"', MAGIC)),
    RegisterArray("ISA_VERSION", _single("version", 32, Access.READ, "version of this instruction set", ISA_VERSION)),
    RegisterArray("CONFIG_HASH", _single("hash", 64, Access.READ, "hash of the accelerator configuration")),
    RegisterArray("PORTS", _single("count", 8, Access.READ, "memory ports")),
    RegisterArray(
        "CONTROL",
        Register(
            {
                "start": RegisterField(1, Access.WRITE, "start a run at ENTRY; ignored while one is running"),
                "soft_reset": RegisterField(1, Access.WRITE, "stop, finish open bus transfers, reset all but settings"),
            }
        ),
    ),
    RegisterArray(
        "STATUS",
        Register(
            {
                "running": RegisterField(1, Access.READ, "a run or a soft reset is going on"),
                "done": RegisterField(1, Access.READ, "the last run reached END; cleared by the next start"),
                "error": RegisterField(
                    1, Access.READ, "the last run stopped early, see ERROR; cleared by the next start"
                ),
                "numeric": RegisterField(1, Access.READ, "a NaN was quantised to 0 in the last run, which went on"),
            }
        ),
    ),
    RegisterArray("ENTRY", _single("pc", PC_BITS, Access.READ_WRITE, "index of the first instruction to run")),
    RegisterArray("CODE_LENGTH", _single("count", PC_BITS, Access.READ_WRITE, "instructions of the program")),
    RegisterArray("CODE_LINE", _single("line", SCALAR_BITS, Access.READ_WRITE, "memory line where the program begins")),
    RegisterArray("WATCHDOG", _single("cycles", 32, Access.READ_WRITE, "patience; 0 is endless", WATCHDOG_RESET)),
    RegisterArray(
        "ERROR",
        Register(
            {
                "cause": RegisterField(5, Access.READ, "first cause, see below", enum=ErrorCause),
                "unit": RegisterField(3, Access.READ, "unit that found it", enum=Unit),
                "pc": RegisterField(PC_BITS, Access.READ, "instruction at fault, or the last one dispatched"),
            }
        ),
    ),
    RegisterArray("RESULT", _single("value", SCALAR_BITS, Access.READ, "the scalar that END returned")),
    RegisterArray(
        "ARGUMENT", _single("value", SCALAR_BITS, Access.READ_WRITE, "copied to a scalar register at start"), _ARGUMENTS
    ),
    RegisterArray("CYCLES", _single("cycles", 64, Access.READ, "cycles in which a run was going on")),
    _per_unit("BUSY", "cycles in which the unit held an instruction, stalled or not"),
    *(_per_unit(f"STALL_{stall.name}", f"cycles of BUSY in which it waited for {stall.value}") for stall in Stall),
    RegisterArray("ARRAY", _single("cycles", 64, Access.READ, "cycles in which the multipliers took on tokens")),
)


def register_map(config: AcceleratorConfig | None = None) -> RegisterMap:
    """The register map of an accelerator, with the reset values that identify it.

    Args:
        config: without one, the map ends before the counters of the memory ports. Those come last, so a host may read
            all other registers of a device whose configuration it does not know.
    """
    if config is None:
        return RegisterMap(_COMMON)
    known = {"CONFIG_HASH": int(config.hash, 16), "PORTS": len(config.port_bytes)}
    arrays = []
    for array in _COMMON:
        if array.name in known:
            [(name, field)] = array.register.fields.items()
            array = replace(array, register=Register({name: replace(field, reset=known[array.name])}))
        arrays.append(array)
    ports = tuple(str(index) for index in range(len(config.port_bytes)))
    for name, verb in (("PORT_READ", "read"), ("PORT_WRITTEN", "written")):
        arrays.append(RegisterArray(name, _single("bytes", 64, Access.READ, f"bytes {verb} through the port"), ports))
    return RegisterMap(tuple(arrays))
