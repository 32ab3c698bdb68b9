# SPDX-License-Identifier: Apache-2.0
"""Dispatch through the whole control, with units that do nothing: programs, loops, registers, records."""

from __future__ import annotations

import random

import pytest

from catenary.hw.words import value_width
from catenary.isa.assembler import format_instruction
from catenary.isa.encoding import encode_all
from catenary.isa.fields import SCALAR_BITS, Operand, Reg
from catenary.isa.instructions import INSTRUCTIONS, Alu, End, Instruction, LoadImmediate, Loop, Nop
from catenary.isa.opcodes import AluFunction, Opcode, Unit
from catenary.isa.registers import ErrorCause
from catenary.sim.iss.machine import Machine
from tests.hw.control_bench import CORES, ODD, SMALL, Bench, lawful, operand_values, record

RESULT = 31
"""Register that ARGMAX writes in these tests, and nothing reads."""
MASK = (1 << SCALAR_BITS) - 1
APPLY = "apply function=relu dst={} dst_stride=0 x=0 x_stride=0 rows=1 elements=4"


def test_arguments_and_result():
    bench = Bench()
    for index in range(8):
        assert bench.run(f"end result=r{index + 1}", [MASK - n for n in range(8)]) == MASK - index
    assert bench.run("end") == 0


def test_end_waits_for_everything():
    bench = Bench()
    bench.duration = lambda unit, bits: 50 + 10 * unit
    bench.run(f"""
        ld buffer=v format=f32 memory=0 rows=1 elements=4
        st buffer=v format=f32 memory=0 rows=1 elements=4
        {APPLY.format(0)}
        end
    """)
    assert all(len(bench.cores[unit].finished) == 1 for unit in (Unit.LOAD, Unit.STORE, Unit.VECTOR))


@pytest.mark.parametrize("function", AluFunction)
def test_alu(function):
    """Every function on edges and random values, against the simulator's definition."""
    rng = random.Random(function.value)
    edges = [0, 1, 2, 39, 40, 63, 64, MASK, MASK - 1, 1 << 39, 0xFFFFF, 0x100001]
    pairs = [(rng.choice(edges), rng.choice(edges)) for _ in range(30)]
    pairs += [(rng.getrandbits(40), rng.getrandbits(rng.choice([3, 6, 20, 40]))) for _ in range(20)]
    bench = Bench()
    expected = run_iss([Alu(function=function, rd=9, ra=1, b=Operand(2, 0)), End(result=9)], pairs)
    bench.load([Alu(function=function, rd=9, ra=1, b=Operand(2, 0)), End(result=9)])
    for pair, result in zip(pairs, expected, strict=True):
        bench.start(0, pair)
        assert bench.wait()["done"]
        assert bench.read("RESULT") == result, pair


def run_iss(code: list[Instruction], runs: list[tuple[int, ...]]) -> list[int]:
    """Results in the instruction set simulator."""
    machine = Machine(SMALL, 1 << 12)
    machine.memory.host_write(0, encode_all(code))
    machine.load_code(0, len(code))
    return [machine.run(0, list(arguments)).result for arguments in runs]


def random_scalar_program(rng: random.Random) -> list[Instruction]:
    """LI, ALU, NOP and nested loops, with every register mixed into the result."""
    counts = [0, 1, 2, 3]
    code: list[Instruction] = [LoadImmediate(rd=reg, imm=rng.getrandbits(40)) for reg in range(9, 28)]
    code += [LoadImmediate(rd=28 + n, imm=n) for n in counts]

    def block(size: int, depth: int) -> list[Instruction]:
        body: list[Instruction] = []
        while len(body) < size:
            if depth < 4 and size - len(body) >= 2 and rng.random() < 0.3:
                inner = block(rng.randint(1, min(size - len(body) - 1, 8)), depth + 1)
                reg = rng.choice([0, 28, 29, 30])
                count = Operand(reg, rng.choice(counts) if not reg else rng.choice([0, 0, 1]))
                body += [Loop(count=count, length=len(inner)), *inner]
            elif rng.random() < 0.1:
                body.append(Nop(target=rng.choice(list(Unit))))
            else:
                b = Operand(rng.randrange(32), rng.choice([0, 1, rng.getrandbits(40)]))
                ra = rng.randrange(32)
                body.append(Alu(function=rng.choice(list(AluFunction)), rd=rng.randint(1, 27), ra=ra, b=b))
        return body

    code += block(12, 0)
    for reg in range(1, 32):  # any difference shows
        code += [
            Alu(function=AluFunction.MUL, rd=9, ra=9, b=Operand(0, 5)),
            Alu(function=AluFunction.ADD, rd=9, ra=9, b=Operand(reg, 0)),
        ]
    return [*code, End(result=9)]


@pytest.mark.parametrize("seed", range(12))
def test_scalar_programs(seed):
    rng = random.Random(seed)
    code = random_scalar_program(rng)
    arguments = tuple(rng.getrandbits(40) for _ in range(8))
    [expected] = run_iss(code, [arguments])
    assert Bench(SMALL, seed).run(code, arguments) == expected, seed


@pytest.mark.parametrize(
    "body, turns",
    [
        ("loop count=3 length=1\n alu function=add rd=r9 ra=r9 b=1", 3),
        ("loop count=0 length=1\n alu function=add rd=r9 ra=r9 b=1", 0),
        ("loop count=r1 length=1\n alu function=add rd=r9 ra=r9 b=1", 5),
        ("loop count=2 length=2\n loop count=3 length=1\n alu function=add rd=r9 ra=r9 b=1", 6),
        ("loop count=2 length=2\n loop count=r2 length=1\n alu function=add rd=r9 ra=r9 b=1", 0),
        ("loop count=0 length=2\n loop count=3 length=1\n alu function=add rd=r9 ra=r9 b=1", 0),
        ("loop count=2 length=3\n alu function=add rd=r9 ra=r9 b=100\n loop count=r2 length=1\n nop target=load", 200),
        ("loop count=2 length=3\n loop count=3 length=1\n alu function=add rd=r9 ra=r9 b=1\n nop target=store", 6),
        ("".join(f"loop count=2 length={n}\n" for n in (4, 3, 2, 1)) + "alu function=add rd=r9 ra=r9 b=1", 16),
    ],
)
def test_loops(body, turns):
    assert Bench(ODD).run(f"li rd=r9 imm=0\n{body}\n end result=r9", [5, 0]) == turns


def test_loads_of_scalars():
    bench = Bench(ODD)
    bench.descriptors = [(1 << 63) + 7 * n for n in range(ODD.desc_words)]
    for index in range(ODD.desc_words):
        assert bench.run("lds rd=r9 address=r1+1\n end result=r9", [index - 1 & MASK]) == 7 * index
    assert bench.fail("lds rd=r9 address=r1\n end result=r9", [ODD.desc_words]) == (
        ErrorCause.ADDRESS_RANGE,
        Unit.CONTROL,
        0,
    )


def random_queued(rng: random.Random, registers: list[int]) -> Instruction:
    """An instruction of a unit, without tokens, whose operands fit."""
    cls = rng.choice([cls for cls in INSTRUCTIONS.values() if cls.unit in CORES])
    insn = lawful(rng, cls)
    values = {part.name: getattr(insn, part.name) for part in cls.body}
    for part in cls.body:
        if isinstance(part.kind, Reg) and not (cls.opcode is Opcode.MV and part.name == "tokens"):
            operand = values[part.name]
            value = registers[operand.reg] + operand.imm & MASK
            if value >= 1 << value_width(part) or operand.reg == RESULT:
                values[part.name] = Operand(0, operand.imm)
    if "rd" in values:
        values["rd"] = RESULT
    return cls(**values)


@pytest.mark.parametrize("config", [SMALL, ODD], ids=["small", "odd"])
@pytest.mark.parametrize("seed", range(5))
def test_records(config, seed):
    """Every field of every instruction arrives with the values that registers had at dispatch."""
    rng = random.Random(seed)
    first = [0, *(rng.getrandbits(rng.choice([4, 11, 15, 19, 23, 39, 40])) for _ in range(8))]
    registers = first + [rng.getrandbits(rng.choice([1, 8, 12, 16, 40])) for _ in range(32 - len(first))]
    registers[10] = MASK  # with an immediate of 1 or more, it wraps around
    expected: dict[Unit, list[tuple[int, dict[str, int], Instruction]]] = {unit: [] for unit in CORES}
    code: list[Instruction] = [LoadImmediate(rd=reg, imm=registers[reg]) for reg in range(9, 31)]
    while len(code) < 48:
        insn = random_queued(rng, registers)
        expected[insn.executing_unit].append((len(code), record(insn, operand_values(insn, registers)), insn))
        code.append(insn)
        if rng.random() < 0.3 and len(code) < 48:  # a later write does not reach what is in a queue
            reg = rng.randint(9, 30)
            registers[reg] = rng.getrandbits(12)
            code.append(LoadImmediate(rd=reg, imm=registers[reg]))
    bench = Bench(config, seed, slowness=30)
    bench.run([*code, End()], first[1:])
    for unit, wanted in expected.items():
        arrived = bench.cores[unit].arrivals
        assert len(arrived) == len(wanted)
        for got, shown, (pc, fields, insn) in zip(arrived, bench.cores[unit].pcs, wanted, strict=True):
            assert (shown, got.record) == (pc, fields), (seed, pc, format_instruction(insn))


def test_every_operand_field():
    """Each operand of each instruction by itself, with all its bits set."""
    bench = Bench()
    rng = random.Random(1)
    for cls in INSTRUCTIONS.values():
        if cls.unit not in CORES:
            continue
        for part in (part for part in cls.body if isinstance(part.kind, Reg)):
            if cls.opcode is Opcode.MV and part.name == "tokens":
                continue
            insn = lawful(rng, cls)
            values = {field.name: getattr(insn, field.name) for field in cls.body}
            for field in cls.body:
                if isinstance(field.kind, Reg):
                    values[field.name] = Operand(0, values[field.name].imm)
            top = (1 << value_width(part)) - 1
            insn = cls(**{**values, part.name: Operand(5, 3)})
            registers = [0] * 32
            registers[5] = top - 3
            bench.run([insn, End()], registers[1:9])
            assert bench.cores[insn.executing_unit].arrivals[-1].record == record(
                insn, operand_values(insn, registers)
            ), (cls.opcode, part.name)
            if value_width(part) < SCALAR_BITS:
                registers[5] += 1
                error = bench.fail([insn, End()], registers[1:9])
                assert error == (ErrorCause.ADDRESS_RANGE, Unit.CONTROL, 0), (cls.opcode, part.name)
                bench.soft_reset()


@pytest.mark.parametrize("seed", range(4))
def test_argmax_result_is_waited_for(seed):
    bench = Bench(SMALL, seed, slowness=80)
    bench.argmax = lambda index: 1000 + index
    code = """
        argmax rd=r10 first=true x=0 elements=1 base=0
        argmax rd=r11 first=true x=0 elements=1 base=0
        alu function=add rd=r12 ra=r10 b=r11            ; reads both
        argmax rd=r10 first=true x=0 elements=1 base=0
        argmax rd=r10 first=true x=0 elements=1 base=0  ; writes again
        li rd=r11 imm=7
        argmax rd=r11 first=true x=0 elements=1 base=r10
        li rd=r11 imm=5                                 ; writes what waits for the unit
        alu function=mul rd=r12 ra=r12 b=r11
        argmax rd=r13 first=true x=0 elements=1 base=r11
        alu function=add rd=r12 ra=r12 b=r13
        argmax rd=r13 first=true x=0 elements=1 base=r11
        end result=r12
    """
    assert bench.run(code) == 2001 * 5 + 1005
    assert bench.run(code) == ((1007 + 1008) * 5 + 1012)
    bases = [arrival.record["base"] for arrival in bench.cores[Unit.VECTOR].arrivals]
    assert bases[:7] == [0, 0, 0, 0, 1003, 5, 5]


def test_argmax_result_may_come_at_any_time():
    """Also in the very cycle in which dispatch writes another register."""
    code = ["argmax rd=r10 first=true x=0 elements=1 base=0", *(f"li rd=r{n} imm={n}" for n in range(11, 17))]
    total = ["alu function=add rd=r9 ra=r9 b=r" + str(n) for n in range(10, 17)]
    for cycles in range(1, 40):
        bench = Bench()
        bench.duration = lambda unit, bits, cycles=cycles: cycles
        bench.argmax = lambda index: 100
        assert bench.run("\n".join(["li rd=r9 imm=0", *code, *total, "end result=r9"])) == 100 + sum(range(11, 17))


@pytest.mark.parametrize("config", [SMALL, ODD], ids=["small", "odd"])
def test_queue_holds_queue_depth_behind_the_running_instruction(config):
    bench = Bench(config)
    bench.duration = lambda unit, bits: None
    depth = config.queue_depth
    lines = [APPLY.format(0)] * (depth + 1)
    bench.load("\n".join([*lines, "end"]))
    bench.start()
    bench.cycles(40 * (depth + 2) + 100)
    assert bench.top.peek("trace.control.pc") == depth + 1
    assert bench.top.peek("trace.control.active") == 1  # END, which waits: all others are in the queue
    assert len(bench.cores[Unit.VECTOR].arrivals) == 1


def test_entry_points_and_second_runs():
    bench = Bench()
    code = "li rd=r9 imm=1\n end result=r9\n li rd=r9 imm=2\n end result=r9"
    assert bench.run(code) == 1
    bench.start(2)
    assert bench.wait()["done"]
    assert bench.read("RESULT") == 2
    assert bench.fetches == [(3, 4)]
    bench.memory[9] = bench.memory[3][2:]
    bench.write("CODE_LINE", 9)
    bench.start(0)
    assert bench.wait()["done"]
    assert (bench.read("RESULT"), bench.fetches) == (2, [(3, 4), (9, 4)])
    bench.soft_reset()
    bench.start(0)
    bench.wait()
    assert bench.fetches == [(3, 4), (9, 4), (9, 4)]


def test_scalar_loads_wait_for_tokens():
    """LDS runs in dispatch, and only after the load that it waits for."""
    bench = Bench()
    bench.duration = lambda unit, bits: 200
    bench.descriptors = [1]

    def fill():
        if bench.cores[Unit.LOAD].finished:
            bench.descriptors = [2]

    bench.hooks.append(fill)
    code = """
        ld buffer=d format=u64 memory=0 rows=1 elements=1 release=control
        lds rd=r9 address=0 wait=load
        end result=r9
    """
    assert bench.run(code) == 2


def test_loops_take_and_give_tokens():
    bench = Bench()
    bench.duration = lambda unit, bits: 100
    code = f"""
        ld buffer=v format=f32 memory=0 rows=1 elements=1 release=control
        loop count=2 length=1 wait=load release=vector
        nop target=store
        {APPLY.format(0)} wait=control
        end
    """
    bench.run(code)
    [taken] = bench.cores[Unit.VECTOR].arrivals
    assert taken.cycle > bench.cores[Unit.LOAD].finished[0]
