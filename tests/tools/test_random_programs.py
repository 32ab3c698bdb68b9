# SPDX-License-Identifier: Apache-2.0
"""tools.random_programs: programs follow from their numbers, and a difference does not go by unnoticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from catenary.isa.config import AcceleratorConfig
from catenary.isa.errors import CatenaryError
from catenary.isa.opcodes import WORD_BYTES, Opcode
from catenary.isa.registers import ErrorCause
from catenary.runtime.devices.iss import IssDevice
from catenary.sim.rtl.memory_model import MemoryModel
from tests.programs.cases import CaseProgram, iss_device, run_case
from tests.programs.coverage import Coverage
from tests.programs.coverage_crosses import CROSSES
from tests.programs.random_errors import broken_case
from tests.programs.random_programs import CONFIGS
from tests.programs.random_sessions import MEMORIES, PROGRAMS, sessions
from tools import random_programs
from tools.random_programs import main, write_page

MEMORY = 1 << 18
SMALL = ["--config", "small", "--jobs", "1", "--holes", "1"]


def simulator(config: AcceleratorConfig, model: MemoryModel) -> IssDevice:
    """The simulator in the place of the hardware."""
    return IssDevice(CaseProgram.of(config, MEMORY))


class BrokenDevice(IssDevice):
    """Programs with a ROPE leave a wrong byte behind."""

    def load_code(self, line: int, count: int) -> None:
        super().load_code(line, count)
        code = self.read(line, count * WORD_BYTES)
        self._wrong = any(code[at] & 63 == Opcode.ROPE for at in range(0, len(code), WORD_BYTES))

    def read(self, line: int, nbytes: int) -> bytes:
        data = super().read(line, nbytes)
        return data[:-1] + bytes([data[-1] ^ 1]) if line == 0 and self._wrong else data


def broken(config: AcceleratorConfig, model: MemoryModel) -> IssDevice:
    return BrokenDevice(CaseProgram.of(config, MEMORY))


def test_programs_that_agree(capsys):
    assert main(["--seed", "7", "--count", "3", *SMALL], simulator) == 0
    text = capsys.readouterr().out
    assert "3 programs equal to the simulator, 0 not" in text
    assert "| modes | instruction and mode x places in V x memory |" in text
    assert "- modes: and" in text


def test_a_difference_is_shown_with_its_program_and_how_to_run_it_again(capsys):
    assert main(["--seed", "0x7", "--count", "16", *SMALL], broken) == 1
    text = capsys.readouterr().out
    [line, *_] = [line for line in text.splitlines() if line.startswith("again: ")]
    seed, only = line.split("SEED=")[1].split()[0], line.split("ONLY=")[1].split()[0]
    assert line == f"again: make test-random SEED={seed} ONLY={only} CONFIG=small"
    assert (seed, f"DIFFERENCE: program {only} of seed 0x00000007 on small" in text) == ("0x00000007", True)
    assert "1 bytes of memory differ, the first in line" in text
    small = text.split("DIFFERENCE")[1]
    assert small.count(" rope ") == 1
    assert not any(word in small for word in (" mm ", " softmax ", " context ", " quant "))  # left out
    assert main(["--seed", seed, "--only", only, "--config", "small"], broken) == 1
    assert f"program {only} of seed 0x00000007 on small" in capsys.readouterr().out
    assert main(["--seed", seed, "--only", only, "--config", "small"], simulator) == 0


def test_only_the_simulator(capsys, tmp_path):
    path = tmp_path / "coverage.json"
    assert main(["--seed", "1", "--count", "4", "--no-hardware", "--json", str(path), *SMALL]) == 0
    assert "4 programs legal, 0 not" in capsys.readouterr().out
    found = json.loads(path.read_text())
    assert set(found) == {cross.name for cross in CROSSES}
    assert found["modes"]["covered"] + len(found["modes"]["holes"]) == found["modes"]["total"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config", "small,huge"], "config must be some of small, odd, least, wide, not huge"),
        (["--record", "--only", "3"], "record must be of all programs on the hardware of every config, not of some"),
    ],
)
def test_wrong_arguments(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        main(arguments, simulator)
    assert message in capsys.readouterr().err


def test_a_session_follows_from_seed_and_number_alone():
    few, many = (list(sessions(5, count, ["small", "odd"])) for count in (3 * PROGRAMS, 30 * PROGRAMS))
    assert few == many[:3]
    assert {(session.config, session.memory) for session in many} == {
        (c, m) for c in ("small", "odd") for m in MEMORIES
    }
    assert [session.first for session in few] == [0, PROGRAMS, 2 * PROGRAMS]
    assert [session.count for session in sessions(5, PROGRAMS + 1, ["least"])] == [PROGRAMS, 1]
    one, other = few[1].case(2), many[1].case(2)
    assert (one.code, one.image) == (other.code, other.image)
    assert len({few[0].case(index).code for index in range(4)}) == 4
    assert [each.case.code for each in few[0].errors(3)] == [each.case.code for each in many[0].errors(3)]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_program_with_an_error_is_refused_at_the_instruction_to_blame(name):
    causes = set()
    for seed in range(24):
        made = broken_case(CONFIGS[name], seed)
        case = made.case
        causes.add(case.cause)
        if made.failure is not None:  # the simulator has no ports
            assert case.cause is ErrorCause.BUS_ERROR
            run_case(iss_device(case.config, len(case.image)), case)
            continue
        with pytest.raises(CatenaryError) as refused:
            run_case(iss_device(case.config, len(case.image)), case)
        if case.cause in (ErrorCause.ADDRESS_RANGE, ErrorCause.STREAM_FORMAT) and case.fault is not None:
            assert str(refused.value).startswith(f"Instruction {case.fault} "), case.describe()
    assert len(causes) > 4


def test_the_page_is_rewritten_between_its_markers(tmp_path):
    page = tmp_path / "random.md"
    page.write_text(
        "a\n<!-- coverage:begin -->\nold\n<!-- coverage:end -->\nb\n<!-- holes:begin -->\n<!-- holes:end -->\n"
    )
    rows = Coverage(CROSSES).rows([CONFIGS["small"]], list(MEMORIES))
    write_page(rows, page)
    text = page.read_text()
    assert "old" not in text
    assert "| waits | unit x what for x memory | 0 | 91 | 91 |" in text
    assert "- waits: control · tokens · any\n" in text
    write_page(rows, page)
    assert page.read_text() == text


def test_the_committed_page_has_the_markers():
    text = random_programs.PAGE.read_text(encoding="utf-8")
    for name in ("coverage", "holes"):
        assert f"<!-- {name}:begin -->" in text
        assert f"<!-- {name}:end -->" in text


def test_the_seed_is_that_of_the_commit():
    assert 0 < random_programs.default_seed() < 1 << 32


@pytest.mark.slow
@pytest.mark.timeout(1200)  # the core is built
def test_the_hardware_agrees_and_says_what_it_waited_for(capsys, tmp_path: Path):
    path = tmp_path / "coverage.json"
    assert main(["--seed", "11", "--count", "64", "--config", "least", "--json", str(path)]) == 0
    assert "64 programs equal to the simulator, 0 not" in capsys.readouterr().out
    found = json.loads(path.read_text())
    assert found["waits"]["covered"] > 40
    assert found["errors"]["covered"] > 4
    assert not [name for name, row in found.items() if row["beyond"]]
