# SPDX-License-Identifier: Apache-2.0
"""Tokens, and every way in which a run can fail."""

from __future__ import annotations

import random

import pytest

from catenary.hw.unit import started_limit
from catenary.isa.fields import Operand
from catenary.isa.instructions import Apply, End, Instruction, Load, LoadImmediate, MatrixVector, Nop, Store
from catenary.isa.opcodes import TOKEN_LIMIT, ApplyFunction, Buffer, MemoryFormat, Unit, Units
from catenary.isa.registers import ErrorCause
from tests.hw.control_bench import CORES, ODD, SMALL, Bench, word

LD = "ld buffer=v format=f32 memory=0 rows=1 elements=4"
APPLY = "apply function=relu dst=0 dst_stride=0 x=0 x_stride=0 rows=1 elements=4"
NESTED = "".join(f"loop count=1 length={length}\n" for length in (9, 8, 7, 6))
MV = "mv act=0 act_stride=1 tokens=1 depth=16 rows=16 out=0 out_stride=16 scales=0"


def plain(rng: random.Random) -> Instruction:
    """Something for a random unit, or a NOP."""
    one, four = Operand(0, 1), Operand(0, 4)
    zero = Operand(0, 0)
    transfer = {"buffer": Buffer.V, "format": MemoryFormat.F32, "rows": one, "elements": four}
    return rng.choice(
        [
            Load(**transfer),
            Store(**transfer),
            MatrixVector(act=zero, act_stride=1, tokens=one, depth=16, rows=one, out=zero, out_stride=1, scales=zero),
            Apply(function=ApplyFunction.RELU, dst=zero, dst_stride=0, x=zero, x_stride=0, rows=one, elements=four),
            LoadImmediate(rd=9, imm=0),
            Nop(target=rng.choice(list(Unit))),
        ]
    )


def with_tokens(insn: Instruction, wait: Units, release: Units) -> Instruction:
    values = {part.name: getattr(insn, part.name) for part in insn.body}
    return type(insn)(**values, wait=wait, release=release)


def finished_before(code: list[Instruction], index: int, before: list[set[int]]) -> set[int]:
    """Which of the same unit must have finished before ``code[index]`` starts; ``before`` says so for all earlier ones.

    Those that a core may run at the same time only have to start in order, and then with all that those before needed.
    """
    unit = code[index].executing_unit
    earlier = [other for other in range(index) if code[other].executing_unit is unit]
    if started_limit(unit) == 1 or isinstance(code[index], Nop):
        return set(earlier)
    return set().union(*(before[other] for other in earlier))


def random_token_program(rng: random.Random, size: int) -> tuple[list[Instruction], list[set[int]]]:
    """A sound program, and for each instruction those that must have finished before it starts."""
    code = [plain(rng) for _ in range(size)]
    waits, releases = [Units.NONE] * size, [Units.NONE] * size
    given: dict[tuple[Unit, Unit], list[int]] = {}
    before: list[set[int]] = []
    for index, insn in enumerate(code):
        unit = insn.executing_unit
        needed = finished_before(code, index, before)
        for source in Unit:
            queue = given.get((source, unit))
            if queue and rng.random() < 0.6:
                waits[index] |= Units(1 << source)
                needed.add(queue.pop(0))
        before.append(needed.union(*(before[other] for other in needed)))
        for target in Unit:
            later = [other for other in range(index + 1, size) if code[other].executing_unit is target]
            if target is not unit and later and rng.random() < 0.4:
                releases[index] |= Units(1 << target)
                given.setdefault((unit, target), []).append(index)
    tail = []
    for (source, target), queue in given.items():  # what nobody took
        tail += [with_tokens(Nop(target=target), Units(1 << source), Units.NONE) for _ in queue]
    return [*map(with_tokens, code, waits, releases), *tail, End()], before


@pytest.mark.parametrize("config", [SMALL, ODD], ids=["small", "odd"])
@pytest.mark.parametrize("seed", range(10))
def test_tokens_order_units(config, seed):
    rng = random.Random(seed)
    code, before = random_token_program(rng, 20)
    bench = Bench(config, seed, slowness=40)
    if len(code) > config.instruction_words:
        code = code[: len(before)]
        code = [with_tokens(insn, Units.NONE, Units.NONE) for insn in code] + [End()]
        before = []
        for index in range(len(code) - 1):
            before.append(finished_before(code, index, before))
    bench.run(code)
    started, finished = {}, {}
    for core in bench.cores.values():
        assert core.pcs == sorted(core.pcs)
        for arrival, end, pc in zip(core.arrivals, core.finished, core.pcs, strict=True):
            started[pc], finished[pc] = arrival.cycle, end
    assert len(started) == sum(insn.executing_unit in CORES and not isinstance(insn, Nop) for insn in code)
    for index in started:
        for other in before[index] & set(started):
            assert finished[other] < started[index], (seed, other, index)


def test_loads_start_ahead_and_finish_in_order():
    """As many as the core may have, each with tokens of its own; a NOP waits for them all."""
    bench = Bench()
    bench.duration = lambda unit, bits: 300 if unit is Unit.LOAD else 5
    limit = started_limit(Unit.LOAD)
    loads = [f"{LD} release=vector", f"{LD} wait=matrix release=vector", *[LD] * limit]
    code = [f"{MV} release=load", *loads, "nop target=load release=store"]
    users = [f"{APPLY} wait=load", f"{APPLY} wait=load", "st buffer=v format=f32 memory=0 rows=1 elements=4 wait=load"]
    bench.run("\n".join([*code, *users, "end"]))
    core, vector = bench.cores[Unit.LOAD], bench.cores[Unit.VECTOR]
    starts = [arrival.cycle for arrival in core.arrivals]
    assert starts[limit - 1] < core.finished[0] < starts[limit]  # then one starts for each that is done
    assert all(start > end for start, end in zip(starts[limit:], core.finished, strict=False))
    assert core.pcs == list(range(1, len(loads) + 1))
    assert vector.arrivals[0].cycle > core.finished[0]
    assert vector.arrivals[1].cycle > core.finished[1]
    assert bench.cores[Unit.MATRIX].finished[0] < starts[1]
    assert bench.cores[Unit.STORE].arrivals[0].cycle > core.finished[-1]


@pytest.mark.parametrize("place", range(4))
def test_error_of_one_of_several_loads(place):
    """It is reported with the pc of the first that is not done."""
    bench = Bench()
    times = [40] * 4
    times[place] = ErrorCause.BUS_ERROR
    taken = iter(times)
    bench.duration = lambda unit, bits: next(taken)
    assert bench.fail("\n".join([LD] * 4 + ["end"])) == (ErrorCause.BUS_ERROR, Unit.LOAD, place)


def test_counters_count_to_their_limit():
    """As many tokens as a counter holds, taken one by one."""
    bench = Bench(slowness=1)
    code = f"""
        loop count={TOKEN_LIMIT} length=1
        nop target=load release=vector
        loop count={TOKEN_LIMIT} length=1
        nop target=vector wait=load
        end
    """
    bench.run(code)


@pytest.mark.parametrize("target", ["load", "control"])
def test_token_overflow(target):
    bench = Bench(slowness=1)
    code = f"""
        li rd=r9 imm=0
        loop count={TOKEN_LIMIT + 1} length=1
        nop target={target} release=vector
        end
    """
    assert bench.fail(code) == (ErrorCause.TOKEN_LEAK, Unit[target.upper()], 2)


@pytest.mark.parametrize(
    "code, cause, pc",
    [
        ([0], ErrorCause.ILLEGAL_INSTRUCTION, 0),
        ("nop target=load\n nop target=control", ErrorCause.CODE_RANGE, 2),
        ("loop count=2 length=9\n nop target=load", ErrorCause.CODE_RANGE, 2),
        ("loop count=0 length=9\n end", ErrorCause.CODE_RANGE, 10),
        ("loop count=0 length=4095\n end", ErrorCause.CODE_RANGE, 4096),
        ("loop count=2 length=1\n loop count=2 length=1\n end", ErrorCause.ILLEGAL_INSTRUCTION, 1),
        (NESTED + "loop count=1 length=1\n end", ErrorCause.ILLEGAL_INSTRUCTION, 4),
        (NESTED + "loop count=0 length=1\n end", ErrorCause.ILLEGAL_INSTRUCTION, 4),
        ("loop count=r1 length=1\n end", ErrorCause.ADDRESS_RANGE, 0),
        (f"li rd=r9 imm=0\n{LD.replace('rows=1', 'rows=r1')}\n end", ErrorCause.ADDRESS_RANGE, 1),
        ("nop target=load release=store\n end", ErrorCause.TOKEN_LEAK, 1),
        ("end release=store", ErrorCause.TOKEN_LEAK, 0),
        ("lds rd=r9 address=512\n end", ErrorCause.ADDRESS_RANGE, 0),
    ],
)
def test_errors_of_dispatch(code, cause, pc):
    bench = Bench()
    for _ in range(2):  # a soft reset makes it as good as new
        if isinstance(code, str):
            code = code.strip()
        assert bench.fail(code, [1 << 24]) == (cause, Unit.CONTROL, pc)
        bench.soft_reset()
        assert bench.read("ERROR") == bench.read("STATUS") == 0
        assert bench.run("end result=r1", [1 << 24]) == 1 << 24


def test_entry_outside_of_the_code():
    bench = Bench()
    assert bench.fail("end", entry=1) == (ErrorCause.CODE_RANGE, Unit.CONTROL, 1)
    bench.soft_reset()
    assert bench.fail("end", entry=(1 << 24) - 1) == (ErrorCause.CODE_RANGE, Unit.CONTROL, (1 << 24) - 1)
    bench.soft_reset()
    assert bench.fail([]) == (ErrorCause.CODE_RANGE, Unit.CONTROL, 0)
    bench.soft_reset()
    bench.run("end")


@pytest.mark.parametrize("config", [SMALL, ODD], ids=["small", "odd"])
def test_code_that_does_not_fit(config):
    bench = Bench(config)
    end = word(End())
    assert bench.fail([end] * (config.instruction_words + 1)) == (ErrorCause.CODE_RANGE, Unit.CONTROL, 0)
    assert bench.fetches == []
    bench.soft_reset()
    assert bench.run([end] * config.instruction_words, entry=config.instruction_words - 1) == 0
    nops = [word(Nop(target=Unit.CONTROL))] * config.instruction_words
    assert bench.fail(nops) == (ErrorCause.CODE_RANGE, Unit.CONTROL, config.instruction_words)


def test_stream_leak():
    bench = Bench()
    bench.stream_empty = False
    assert bench.fail("nop target=load\n end release=load") == (ErrorCause.STREAM_LEAK, Unit.CONTROL, 1)


@pytest.mark.parametrize("unit", CORES)
def test_errors_of_units(unit):
    bench = Bench()
    for cause in (ErrorCause.BUS_ERROR, ErrorCause.ADDRESS_RANGE, ErrorCause.STREAM_FORMAT):
        texts = {Unit.LOAD: LD, Unit.STORE: f"st{LD[2:]}", Unit.MATRIX: MV, Unit.VECTOR: APPLY}
        seen = []

        def duration(which, bits, cause=cause, seen=seen):
            seen.append(which)
            return cause if seen.count(unit) == 3 else 5

        bench.duration = duration
        code = "\n".join([*texts.values()] * 4 + ["end"])
        pc = 4 * 2 + list(texts).index(unit)
        assert bench.fail(code) == (cause, unit, pc)
        taken = {core: len(bench.cores[core].arrivals) for core in CORES}
        bench.cycles(100)
        assert {core: len(bench.cores[core].arrivals) for core in CORES} == taken  # nothing starts after an error
        bench.soft_reset()
        bench.duration = lambda which, bits: 3
        bench.run(code)


def test_error_while_code_is_fetched():
    bench = Bench()
    bench.answer_fetch = False
    bench.load("end")
    bench.start()
    bench.cycles(40)
    assert bench.status()["running"]
    bench.cores[Unit.LOAD].left = -ErrorCause.BUS_ERROR
    assert bench.wait()["error"]
    assert bench.error()[:2] == (ErrorCause.BUS_ERROR, Unit.LOAD)
    bench.answer_fetch = True
    bench.soft_reset()
    bench.start()
    assert bench.wait()["done"]
    assert len(bench.fetches) == 2


@pytest.mark.parametrize(
    "code, stuck, expected",
    [
        (f"nop target=load\n{LD}\n end", {Unit.LOAD}, (Unit.LOAD, 1)),
        (f"nop target=load\n{APPLY} release=load\n{LD} wait=vector\n end", {Unit.VECTOR}, (Unit.VECTOR, 1)),
        (f"{LD}\n{MV}\n end", {Unit.LOAD, Unit.MATRIX}, (Unit.MATRIX, 1)),  # the load waits for the stream
        (f"{LD} wait=vector\n{APPLY} wait=load\n end", set(), (Unit.LOAD, 0)),
        ("nop target=vector\n li rd=r9 imm=0 wait=vector\n end", set(), (Unit.CONTROL, 1)),
    ],
)
@pytest.mark.parametrize("patience", [1000, 57])
def test_watchdog(code, stuck, expected, patience):
    bench = Bench()
    bench.stall[Unit.LOAD] = "stream" if Unit.MATRIX in stuck else ""
    bench.duration = lambda unit, bits: None if unit in stuck else 5
    bench.write("WATCHDOG", patience)
    unit, pc = expected
    assert bench.fail(code) == (ErrorCause.WATCHDOG, unit, pc)
    cycles = bench.read("CYCLES")
    assert patience < cycles < patience + 200


def test_watchdog_is_patient_while_lines_move():
    bench = Bench()
    bench.duration = lambda unit, bits: 500
    bench.write("WATCHDOG", 50)
    bench.hooks.append(lambda: bench.poke("moved", bench.now % 40 == 0))
    bench.run(f"{LD}\n end")
    bench.hooks.clear()
    bench.poke("moved", 0)
    assert bench.fail(f"{LD}\n end") == (ErrorCause.WATCHDOG, Unit.LOAD, 0)
    bench.soft_reset()
    assert bench.read("WATCHDOG") == 50
    bench.write("WATCHDOG", 0)
    bench.run(f"{LD}\n end")


def test_watchdog_over_fetching():
    bench = Bench()
    bench.answer_fetch = False
    bench.write("WATCHDOG", 60)
    assert bench.fail("end")[:2] == (ErrorCause.WATCHDOG, Unit.LOAD)


def test_first_fault_is_reported():
    bench = Bench()
    bench.duration = lambda unit, bits: ErrorCause.BUS_ERROR if unit is Unit.LOAD else ErrorCause.STREAM_FORMAT
    assert bench.fail(f"{LD}\n{MV}\n{MV}\n end") == (ErrorCause.BUS_ERROR, Unit.LOAD, 0)
    bench.cycles(50)
    assert bench.error() == (ErrorCause.BUS_ERROR, Unit.LOAD, 0)
