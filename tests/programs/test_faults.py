# SPDX-License-Identifier: Apache-2.0
"""Broken programs: the simulator refuses each by name of the instruction, and never hangs."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from catenary.isa.assembler import assemble
from catenary.isa.errors import CatenaryError, ExecutionError
from catenary.isa.fields import Operand
from catenary.isa.instructions import (
    Argmax,
    Combine,
    End,
    Load,
    LoadScalar,
    Loop,
    MatrixMatrix,
    MatrixVector,
    Norm,
    Quant,
    Store,
)
from catenary.isa.opcodes import WORD_BYTES, Buffer
from catenary.runtime import host
from catenary.sim.iss import Machine
from tests.instructions import random_value
from tests.programs.faults import SEED, Subject
from tests.programs.support import SMALL

AT = r"^Instruction \d+ \(.+\): "


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.make()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """A hung program fails its test."""
    monkeypatch.setattr(host, "TIMEOUT_S", 20.0)


def changed(subject: Subject, kind, change, which=0, where=lambda insn: True):
    """The code with instruction number ``which`` of a kind replaced by ``change`` of it."""
    code = list(subject.code)
    at = [i for i, insn in enumerate(code) if isinstance(insn, kind) and where(insn)][which]
    code[at] = change(code[at])
    return code


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_the_subject_is_sound_and_reaches_every_instruction(subject, full):
    expected = subject.expected
    assert np.isfinite(expected).all()
    assert (subject.run(subject.code) == expected).all()
    every = [at for at, insn in enumerate(subject.code) if not isinstance(insn, Loop)]
    for at in every if full else random.Random(SEED).sample(every, 12):
        code = [*subject.code]
        code[at] = Loop(count=Operand(31, 0), length=1)  # a register that nobody writes
        with pytest.raises(ExecutionError, match=rf"^Instruction {at} "):
            subject.run(code)


def with_imm(operand: Operand, change: int) -> Operand:
    return Operand(operand.reg, operand.imm + change)


FAULTS = {
    "norm reads behind its input": (
        Norm, lambda i: replace(i, x=Operand(0, 2800)), r"Word \d+ of buffer V must be written"),
    "combine reads elsewhere": (Combine, lambda i: replace(i, b=Operand(0, 2800)), r"Word \d+ of buffer V must be"),
    "quant reads behind V": (Quant, lambda i: replace(i, x=Operand(0, 40000)), r"Access to buffer V must end at word"),
    "mm reads behind A": (MatrixMatrix, lambda i: replace(i, act=Operand(0, 65000)), r"Access to buffer A must end"),
    "mm takes one row less": (
        MatrixMatrix, lambda i: replace(i, rows=with_imm(i.rows, -1)), r"Stream at line \d+: A row block must end"),
    "mm takes one row more": (MatrixMatrix, lambda i: replace(i, rows=with_imm(i.rows, 1)), r"Stream "),
    "mv takes another depth": (MatrixVector, lambda i: replace(i, depth=i.depth + 16), r"Stream at line \d+: blocks"),
    "mm of no tokens": (MatrixMatrix, lambda i: replace(i, tokens=Operand()), r"Word \d+ of buffer V must be written"),
    "descriptor behind the table": (LoadScalar, lambda i: replace(i, address=Operand(0, 500)), r"Word 500 of buffer D"),
    "argmax of what nobody computed": (
        Argmax, lambda i: replace(i, x=Operand(0, 0), elements=Operand(0, 3072)), r"Word \d+ of buffer V must be"),
    "store to lines that do not exist": (
        Store, lambda i: replace(i, memory=Operand(0, (1 << 32) - 1)), r"Memory access must end at line \d+ at most"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_operand_is_refused(subject, fault):
    kind, change, message = FAULTS[fault]
    with pytest.raises(ExecutionError, match=AT + message):
        subject.run(changed(subject, kind, change))


@pytest.mark.parametrize(
    "buffer, change, message",
    [
        (Buffer.W, {"memory": Operand(0, 1 << 31)}, r"Memory access must end at line \d+ at most, not \d+"),
        (Buffer.V, {"memory": Operand(0, 1 << 31)}, r"Memory access must end at line \d+ at most, not \d+"),
        (Buffer.D, {"elements": Operand(0, 1 << 19)}, r"Rows must fit in \d+ bytes of lines, not need \d+"),
        (Buffer.V, {"address": Operand(0, (1 << 20) - 1)}, r"Access to buffer V must end at word 3072 at most"),
        (Buffer.W, {"rows": Operand()}, r"Stream must hold what the instruction takes, not be empty"),
        (Buffer.W, {"rows": Operand(0, 1)}, r"Stream at line \d+: Row blocks of \d+ rows must have at least \d+ bytes"),
    ],
)
def test_a_wrong_load_is_refused(subject, buffer, change, message):
    code = changed(subject, Load, lambda insn: replace(insn, **change), where=lambda insn: insn.buffer is buffer)
    with pytest.raises(ExecutionError, match=AT + message):
        subject.run(code)


@pytest.mark.parametrize("change, message", [(-1, r"Stream at line|Stream must"), (1, r"Stream must|Stream at line")])
@pytest.mark.parametrize("segment", range(2))
def test_a_stream_of_another_length_is_refused(subject, segment, change, message):
    """A line too few or too many in the descriptor table."""
    words = np.frombuffer(subject.program.tables, "<i8").copy()
    row = subject.state.memory.rows["layers"]
    words[row.first + row.segment(segment) + 1] += change
    with pytest.raises(ExecutionError, match=AT + f"({message})"):
        subject.run(subject.code, words.tobytes())


def test_a_loop_that_does_not_run_is_refused_or_a_program_of_its_own(subject):
    """What a loop leaves undone is missed where it is read. Only whole layers, whose input is their output, are not."""
    silent = []
    loops = [at for at, insn in enumerate(subject.code) if isinstance(insn, Loop)]
    for at in loops:
        code = [*subject.code]
        code[at] = replace(code[at], count=Operand())
        error = subject.error(code)
        if error is None:
            silent.append(at)
        else:
            assert error.startswith("Instruction ")
    # The passes of a prefill, and the condition of its head, run no times in sound programs too: the logits in memory
    # stay. So do layers, which are a smaller model then. KV heads and tiles, embedding rows and tiles of logits do not.
    bodies = {at: subject.code[at].length for at in loops}
    inside_head = [at for at in silent if isinstance(subject.code[at + 1], Argmax)]
    assert not inside_head
    assert len(silent) == 4, [(at, bodies[at]) for at in silent]


def test_a_program_without_end_is_refused(subject):
    assert isinstance(subject.code[-1], End)
    code = subject.code[:-1]
    with pytest.raises(CatenaryError, match=r"^Program counter must stay in the code of \d+, not \d+ \(CODE_RANGE\)"):
        subject.run(code)


def test_random_changes_never_hang_or_crash(subject, monkeypatch):
    """One field of one instruction becomes any legal value: the run ends with an error of ours or with logits."""
    monkeypatch.setattr(host, "TIMEOUT_S", 2.0)
    rng = random.Random(SEED)
    refused = 0
    for _ in range(60):
        code = [*subject.code]
        at = rng.randrange(len(code))
        parts = (*code[at].prefix[1:], *code[at].body)
        if not parts:
            continue
        part = rng.choice(parts)
        code[at] = replace(code[at], **{part.name: random_value(rng, part)})
        refused += subject.error(code) is not None
    assert refused > 30, f"seed {SEED}"


def machine(text: str, hazards: bool = True, **changes) -> Machine:
    """A machine with 64 lines of memory that holds the code of ``text`` at line 0."""
    config = replace(SMALL, **changes)
    code = assemble(text)
    found = Machine(config, 64 + config.lines(len(code)), hazards)
    found.memory.host_write(64, code)
    found.load_code(64, len(code) // WORD_BYTES)
    return found


@pytest.mark.parametrize(
    "text, message",
    [
        ("nop target=vector wait=load\nend", r"Instruction 0 .*Wait for LOAD must follow a release by it"),
        ("nop target=load release=vector\nend", r"Instruction 1 .*Tokens must all be taken .*LOAD to VECTOR: 1"),
        ("ld buffer=w format=lines rows=3\nend", r"Instruction 1 .*Stream must be empty at the end, not hold 24 bytes"),
        ("li rd=r9 imm=1\nend result=r10", r"Instruction 1 .*Register r10 must be set before it is read"),
        ("loop count=3 length=2\nloop count=2 length=2\nli rd=r9 imm=1\nli rd=r9 imm=1\nend", r"Loop must end at"),
    ],
)
def test_a_bad_program_is_refused(text, message):
    with pytest.raises(ExecutionError, match=message):
        machine(text).run(0, [])


def test_the_watchdog_ends_a_run():
    endless = machine("loop count=16000000 length=2\nli rd=r9 imm=1\nli rd=r9 imm=1\nend", hazards=False)
    with pytest.raises(ExecutionError, match=r"Run must end within 0.05 seconds"):
        endless.run(0, [], timeout_s=0.05)


@pytest.mark.parametrize("depth", [1, 2, 8])
def test_loads_behind_a_full_stream_fifo_deadlock(depth):
    """A stream longer than the FIFO, then more loads than the queue holds before its consumer."""
    loads = "ld buffer=d format=u64 address=0 rows=1 elements=1 row_lines=1\n"
    text = "ld buffer=w format=lines rows=20\n{}score source=stream act=0 act_stride=1 tokens=0 depth=8 rows=20 out=0 "
    text += "out_stride=20 scales=0 row_scales=0 row_lines=1\nend"
    sizes = {"stream_bytes": 16, "queue_depth": depth}
    assert machine(text.format(loads * depth), **sizes).run(0, []).instructions == depth + 3
    with pytest.raises(ExecutionError, match=rf"At most {depth} loads must queue behind one that fills the stream"):
        machine(text.format(loads * (depth + 1)), **sizes).run(0, [])


def test_a_wait_for_a_load_behind_a_full_stream_fifo_deadlocks():
    text = (
        "ld buffer=w format=lines rows=20\nld buffer=d format=u64 rows=1 elements=1 release=matrix\n"
        "score source=stream act=0 act_stride=1 tokens=0 depth=8 rows=20 out=0 out_stride=20 scales=0 row_scales=0 "
        "wait=load\nend"
    )
    with pytest.raises(ExecutionError, match=r"Instruction 2 .*Wait for LOAD must not need a load behind one"):
        machine(text, stream_bytes=16).run(0, [])
    assert machine(text, stream_bytes=160).run(0, []).instructions == 4


def test_a_loop_that_is_skipped_ends_the_loop_around_it():
    """A loop of no turns as the last thing in another: the other still runs its turns."""
    text = (
        "li rd=r9 imm=0\nloop count=5 length=3\nalu function=add rd=r9 ra=r9 b=1\n"
        "loop count=r1 length=1\nli rd=r10 imm=0\nend result=r9"
    )
    assert machine(text).run(0, [0]).result == 5
    assert machine(text).run(0, [2]).result == 5


def test_neighbours_in_a_line_do_not_race_but_overlapping_rows_do():
    """Two rows in a line: row 1 may be stored while row 0 is loaded; without a token, row 1 may not be loaded."""
    start = "ld buffer=v format=f32 rows=1 elements=4 memory=4 row_lines=2 release=store\n"
    store = "st buffer=v format=f32 address=0 memory=8 row=1 rows=1 elements=1 pack=1 wait=load {}\n"
    load = "ld buffer=v format=f32 address=8 stride=1 memory=8 rows={} elements=1 pack=1 {}\nend"
    machine(start + store.format("") + load.format(1, "")).run(0, [])
    machine(start + store.format("release=load") + load.format(2, "wait=store")).run(0, [])
    with pytest.raises(ExecutionError, match=r"Instruction 2 .*Word 8 of memory must not be read by LOAD before STORE"):
        machine(start + store.format("") + load.format(2, "")).run(0, [])


@pytest.mark.parametrize("row", [1, 3])
def test_pieces_of_interleaved_rows_are_neighbours_in_all_lines_of_their_block(row):
    """Four rows of 32 bytes in two lines: one may be stored while those before it are loaded, but not itself."""
    text = (
        "ld buffer=a format=i8 rows=1 elements=32 memory=4 release=store\n"
        f"st buffer=a format=i8 address=0 memory=8 row={row} rows=1 elements=32 pack=2 row_lines=2 wait=load {{}}\n"
        "ld buffer=w format=lines memory=8 rows=2 {}\n"
        "score source=stream act=0 act_stride=2 tokens=0 depth=32 rows={} out=0 out_stride=1 scales=0 row_scales=0 "
        "pack=2 row_lines=2\nend"
    )
    sizes = {"port_bytes": (64,), "chains": 16}
    machine(text.format("", "", row), **sizes).run(0, [])
    machine(text.format("release=load", "wait=store", row + 1), **sizes).run(0, [])
    with pytest.raises(ExecutionError, match=r"Instruction 3 .*Word 8 of memory must not be read by LOAD before STORE"):
        machine(text.format("", "", row + 1), **sizes).run(0, [])
    with pytest.raises(ExecutionError, match=r"Instruction 3 .*Interleaved rows .* must have pack 0, not 2"):
        machine(text.format("", "", row), port_bytes=(64,)).run(0, [])


def test_how_much_of_a_streamed_line_counts_is_seen_when_it_is_taken():
    """The same through the stream FIFO: a line whose second row is being stored may be loaded for its first row."""
    text = (
        "ld buffer=a format=i8 rows=1 elements=4 memory=4 release=store\n"
        "st buffer=a format=i8 address=0 memory=8 row=1 rows=1 elements=4 pack=1 wait=load\n"
        "ld buffer=w format=lines memory=8 rows=1\n"
        "score source=stream act=0 act_stride=1 tokens=0 depth=4 rows={} out=0 out_stride=1 scales=0 row_scales=0 "
        "pack=1\nend"
    )
    machine(text.format(1)).run(0, [])
    with pytest.raises(ExecutionError, match=r"Instruction 3 .*Word 8 of memory must not be read by LOAD before STORE"):
        machine(text.format(2)).run(0, [])
