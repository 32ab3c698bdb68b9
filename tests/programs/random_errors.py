# SPDX-License-Identifier: Apache-2.0
"""Random programs with an error in the middle: what hardware must report is known, and it must be sound afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from catenary.isa.config import AcceleratorConfig
from catenary.isa.encoding import encode
from catenary.isa.fields import Operand
from catenary.isa.instructions import Instruction, Load, LoadScalar, Store
from catenary.isa.opcodes import WORD_BITS, WORD_BYTES, Buffer, Opcode
from catenary.isa.registers import ErrorCause
from catenary.isa.tensors import BLOCK
from tests.programs.cases import Case
from tests.programs.coverage_rules import bases
from tests.programs.coverage_transfers import lines_of
from tests.programs.error_cases import ERRORS
from tests.programs.random_programs import random_case
from tests.programs.traced import Executed, Trace, traced


class Failure(NamedTuple):
    """Bytes ``first .. end - 1`` behind a memory port that answer with an error."""

    port: int
    first: int
    end: int
    kind: Literal["reads", "writes"]


@dataclass(frozen=True, eq=False)
class Broken:
    """A program that hardware must refuse, with the cause and mostly the instruction to blame.

    Attributes:
        case: the program.
        failure: memory that does not work.
    """

    case: Case
    failure: Failure | None = None


def broken_case(config: AcceleratorConfig, seed: int) -> Broken:
    """A program with an error: one of the directed ones, or a random one that is sound up to some instruction."""
    rng = random.Random(seed)
    if rng.random() < 0.3:
        name = rng.choice(sorted(ERRORS))
        return Broken(replace(ERRORS[name](config), name=f"program with an error: {name}"))
    while True:
        case = random_case(config, rng.randint(1, 6), rng.getrandbits(32), 128)
        broken = rng.choice(_WAYS)(case, traced(case)[1], rng)
        if broken is not None:
            return broken


def _with_word(case: Case, pc: int, word: bytes, cause: ErrorCause, what: str) -> Broken:
    code = case.code[: pc * WORD_BYTES] + word + case.code[(pc + 1) * WORD_BYTES :]
    name = f"{case.name} with {what} at {pc}"
    return Broken(replace(case, name=name, code=code, cause=cause, fault=pc, blocks=()))


def _illegal(case: Case, trace: Trace, rng: random.Random) -> Broken:
    """A word that means nothing instead of one that is executed."""
    chosen = rng.choice(trace.executed)
    used = max(part.offset + part.width for part in chosen.insn.body)
    free = sorted(set(range(64)) - {opcode.value for opcode in Opcode})
    word = int.from_bytes(encode(chosen.insn), "little")
    kinds = {"no instruction": 0, "a free opcode": word & ~63 | rng.choice(free)}
    if used < WORD_BITS:
        kinds["a reserved bit"] = word | 1 << rng.randrange(used, WORD_BITS)
    what = rng.choice(sorted(kinds))
    return _with_word(case, chosen.pc, kinds[what].to_bytes(WORD_BYTES, "little"), ErrorCause.ILLEGAL_INSTRUCTION, what)


def _outside(case: Case, trace: Trace, rng: random.Random) -> Broken | None:
    """An instruction that works behind the end of a buffer or of memory."""
    config = case.config
    sizes = {Buffer.V: config.vector_words, Buffer.A: config.act_bytes // BLOCK, Buffer.D: config.desc_words}
    places: list[tuple[Executed, str, int]] = []
    for e in trace.executed:
        places += [(e, span.base, sizes[span.buffer]) for span, _ in bases(e)]
        if isinstance(e.insn, Load | Store) and lines_of(e)[1]:
            places.append((e, "memory", config.memory_lines))
        if isinstance(e.insn, LoadScalar):
            places.append((e, "address", config.desc_words))
    if not places:
        return None
    e, name, size = rng.choice(places)
    insn: Instruction = replace(e.insn, **{name: Operand(0, size)})  # type: ignore[arg-type]
    return _with_word(case, e.pc, encode(insn), ErrorCause.ADDRESS_RANGE, f"{name} behind the end")


def _damaged(case: Case, trace: Trace, rng: random.Random) -> Broken | None:
    """A row block whose header is none."""
    if not trace.blocks:
        return None
    at = rng.choice(trace.blocks).at
    taker = next(block.taker for block in trace.blocks if block.at == at)
    image = bytearray(case.image)
    image[at] ^= 1 << rng.randrange(8)
    name = f"{case.name} with a damaged row block at byte {at}"
    return Broken(
        replace(case, name=name, image=bytes(image), cause=ErrorCause.STREAM_FORMAT, fault=taker.pc, blocks=())
    )


def _failing(case: Case, trace: Trace, rng: random.Random) -> Broken | None:
    """A port that answers with an error where a load or a store works."""
    cls = rng.choice([Load, Load, Store])
    uses = [e for e in trace.executed if isinstance(e.insn, cls) and lines_of(e)[1]]
    if not uses:
        return None
    line, count = lines_of(rng.choice(uses))
    line += rng.randrange(count)
    first = next(e for e in uses if lines_of(e)[0] <= line < sum(lines_of(e)))
    port = rng.randrange(len(case.config.port_bytes))
    width = case.config.port_bytes[port]
    kind: Literal["reads", "writes"] = "reads" if cls is Load else "writes"
    name = f"{case.name} with {kind} of line {line} failing at port {port}"
    failure = Failure(port, line * width, (line + 1) * width, kind)
    return Broken(replace(case, name=name, cause=ErrorCause.BUS_ERROR, fault=first.pc, blocks=()), failure)


_WAYS: Sequence[Callable[[Case, Trace, random.Random], Broken | None]] = (_illegal, _outside, _damaged, _failing)
