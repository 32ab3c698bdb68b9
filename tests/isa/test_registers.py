# SPDX-License-Identifier: Apache-2.0
"""The register map: no overlaps, every bit in one field, and addresses that hosts may rely on."""

import re
from itertools import pairwise

import pytest

from catenary.isa.config import AcceleratorConfig
from catenary.isa.csr import Access, Register, RegisterArray, RegisterField, RegisterMap
from catenary.isa.errors import EncodingError
from catenary.isa.fields import REGISTERS, SCALAR_BITS
from catenary.isa.opcodes import ISA_VERSION, Unit
from catenary.isa.registers import ARGUMENT_REGISTERS, MAGIC, ErrorCause, Stall, register_map
from tests.isa.test_config import CONFIG

MAPS = pytest.mark.parametrize(
    "registers", [register_map(), register_map(CONFIG)], ids=["without configuration", "with configuration"]
)


@MAPS
def test_registers_do_not_overlap_and_are_aligned(registers):
    for register in registers:
        assert register.address % (register.register.width // 8) == 0
        assert register.end - register.address == register.register.width // 8
    for before, after in pairwise(registers):
        assert before.end <= after.address
    assert registers.size == max(register.end for register in registers)
    assert 1 << registers.address_bits >= registers.size > 1 << registers.address_bits - 1


@MAPS
def test_every_bit_belongs_to_exactly_one_field(registers):
    for register in registers:
        assert register.register.width in (32, 64)
        bit = 0
        for part in register.register.layout:
            assert part.offset == bit
            assert part.width >= 1
            bit += part.width
        assert bit == register.register.width
        names = [part.name for part in register.register.layout]
        assert len(set(names)) == len(names)
        assert [part.field.access is Access.RESERVED for part in register.register.layout] == [
            name == "reserved" for name in names
        ]


@MAPS
def test_resets_fit_and_names_are_in_the_fields_enumeration(registers):
    for register in registers:
        assert register.register.pack(**register.register.unpack(register.register.reset)) == register.register.reset
        for part in register.register.layout:
            assert 0 <= part.field.reset < 1 << part.width
            if part.field.enum is not None:
                assert max(part.field.enum) < 1 << part.width


def test_names_are_unique_and_say_what_they_are():
    names = [register.name for register in register_map(CONFIG)]
    assert names[:3] == ["IDENTITY", "ISA_VERSION", "CONFIG_HASH"]
    assert [name for name in names if name.startswith("ARGUMENT")] == [f"ARGUMENT{i}" for i in range(8)]
    assert [name for name in names if name.startswith("BUSY")] == [f"BUSY_{unit.name}" for unit in Unit]
    assert len([name for name in names if name.startswith("STALL")]) == len(Stall) * len(Unit)
    assert names[-4:] == ["PORT_READ0", "PORT_READ1", "PORT_WRITTEN0", "PORT_WRITTEN1"]


def test_addresses_never_change():
    """Hosts and bitstreams of one ISA version must agree; a change here needs a new version."""
    registers = register_map(CONFIG)
    golden = {
        "IDENTITY": 0x000,
        "ISA_VERSION": 0x004,
        "CONFIG_HASH": 0x008,
        "PORTS": 0x010,
        "CONTROL": 0x014,
        "STATUS": 0x018,
        "ENTRY": 0x01C,
        "CODE_LENGTH": 0x020,
        "CODE_LINE": 0x028,
        "WATCHDOG": 0x030,
        "ERROR": 0x034,
        "RESULT": 0x038,
        "ARGUMENT0": 0x040,
        "ARGUMENT7": 0x078,
        "CYCLES": 0x080,
        "BUSY_LOAD": 0x088,
        "STALL_BUFFER_CONTROL": 0x148,
        "ARRAY": 0x150,
        "PORT_READ0": 0x158,
        "PORT_WRITTEN1": 0x170,
    }
    assert {name: registers[name].address for name in golden} == golden


def test_a_host_can_identify_a_device_that_it_does_not_know():
    common, special = register_map(), register_map(CONFIG)
    for register in common:
        assert special[register.name].address == register.address
    assert special["IDENTITY"].register.reset.to_bytes(4, "little") == b"CATN"
    assert common["IDENTITY"].register.reset == MAGIC
    assert special["ISA_VERSION"].register.reset == ISA_VERSION
    assert f"{special['CONFIG_HASH'].register.reset:016x}" == CONFIG.hash
    assert special["PORTS"].register.reset == 2


def test_every_port_has_its_counters():
    many = AcceleratorConfig(**{**CONFIG.to_dict(), "port_bytes": (64,) * 32, "stream_bytes": 4096})
    assert register_map(many)["PORT_WRITTEN31"].end == register_map(many).size


def test_arguments_fill_scalar_registers():
    registers = register_map()
    assert len(ARGUMENT_REGISTERS) == len([r for r in registers if r.name.startswith("ARGUMENT")])
    assert 0 not in ARGUMENT_REGISTERS
    assert max(ARGUMENT_REGISTERS) < REGISTERS
    assert (
        registers["ARGUMENT0"].register.layout[0].width == registers["RESULT"].register.layout[0].width == SCALAR_BITS
    )


def test_packs_and_unpacks_by_name():
    error = register_map()["ERROR"].register
    word = error.pack(cause=ErrorCause.STREAM_FORMAT, unit=Unit.MATRIX, pc=0x123456)
    assert word == 0x12345645
    values = error.unpack(word)
    assert values == {"cause": ErrorCause.STREAM_FORMAT, "unit": Unit.MATRIX, "pc": 0x123456}
    assert isinstance(values["cause"], ErrorCause)
    assert register_map()["CONTROL"].register.pack(soft_reset=1) == 2
    assert register_map()["STATUS"].register.unpack(0xFFFFFFFF) == {"running": 1, "done": 1, "error": 1, "numeric": 1}


@pytest.mark.parametrize(
    "values, message",
    [
        ({"speed": 1}, "Register field must be one of start, soft_reset, not speed"),
        ({"reserved": 1}, "Register field must be one of start, soft_reset, not reserved"),
        ({"start": 2}, "Register field start must be in 0..1, not 2"),
        ({"start": -1}, "Register field start must be in 0..1, not -1"),
    ],
)
def test_refuses_to_pack(values, message):
    with pytest.raises(EncodingError, match=f"^{re.escape(message)}$"):
        register_map()["CONTROL"].register.pack(**values)


@pytest.mark.parametrize(
    "word, message",
    [
        (1 << 32, "Register value must be in 0..4294967295, not 4294967296"),
        (-1, "Register value must be in 0..4294967295, not -1"),
        (31, "Register field cause must be one of [0, 1, 2, 3, 4, 5, 6, 7, 8], not 31"),
        (7 << 5, "Register field unit must be one of [0, 1, 2, 3, 4], not 7"),
    ],
)
def test_refuses_to_unpack(word, message):
    with pytest.raises(EncodingError, match=f"^{re.escape(message)}$"):
        register_map()["ERROR"].register.unpack(word)


def test_every_cause_says_what_it_means():
    assert [cause.value for cause in ErrorCause] == list(range(len(ErrorCause)))
    assert len({cause.meaning for cause in ErrorCause}) == len(ErrorCause)
    assert ErrorCause(8) is ErrorCause.WATCHDOG


def test_the_table_shows_every_field_once():
    registers = RegisterMap(
        (
            RegisterArray("MODE", Register({"fast": RegisterField(1, Access.READ_WRITE, "hurry", 1)})),
            RegisterArray("COUNT", Register({"n": RegisterField(40, Access.READ, "things")}), ("0", "1")),
        )
    )
    assert registers.render().splitlines() == [
        "| address | register | bits | field | access | reset | meaning |",
        "|---|---|---|---|---|---|---|",
        "| `0x000` | `MODE` | 0 | fast | rw | 0x1 | hurry |",
        "|  |  | 31:1 | reserved | - | 0 | reads 0; write 0 |",
        "| `0x008` .. `0x010` | `COUNT0` .. `COUNT1` | 39:0 | n | r | 0 | things |",
        "|  |  | 63:40 | reserved | - | 0 | reads 0; write 0 |",
    ]
