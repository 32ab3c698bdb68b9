# SPDX-License-Identifier: Apache-2.0
"""The claim behind the static checks, tried out: a program that passes runs to its end with queues of any depth."""

import itertools
import random
from collections import Counter

from catenary.isa.assembler import assemble
from catenary.isa.code_check import find_problems
from catenary.isa.instructions import Instruction, Loop, Unit, Units, decode_all

LD = "ld buffer=v format=f32 rows=1 elements=4"
LDW = "ld buffer=w format=lines rows=4"
MV = "mv act=0 act_stride=1 tokens=1 depth=16 rows=16 out=0 out_stride=16 scales=0"
RELU = "apply function=relu dst=0 dst_stride=0 x=0 x_stride=0 rows=1 elements=16"


def runs(code: list[Instruction], depth: int, fifo: int, load_lines: int) -> bool:
    """Whether ``code`` ends on five in-order units with queues of ``depth`` entries, the running one included.

    An LD into W pushes ``load_lines`` lines through a FIFO of ``fifo``; every MV takes as many.
    """
    trace = list(_unrolled(code, 0, len(code)))
    queues: dict[Unit, list[Instruction]] = {unit: [] for unit in Unit}
    tokens: Counter[tuple[Unit, Unit]] = Counter()
    state: dict[Unit, int] = {}  # started instructions, and the lines that they still have to move
    waiting = position = 0
    while position < len(trace) or any(queues.values()):
        moved = False
        if position < len(trace) and len(queues[trace[position].executing_unit]) < depth:
            queues[trace[position].executing_unit].append(trace[position])
            position, moved = position + 1, True
        for unit, queue in queues.items():
            if not queue:
                continue
            insn = queue[0]
            pushes = getattr(insn, "buffer", None) is not None and insn.buffer.name == "W"
            takes = insn.opcode.name == "MV"
            if unit not in state:
                pairs = [(other, unit) for other in Unit if insn.wait & Units(1 << other)]
                if not all(tokens[pair] for pair in pairs):
                    continue
                tokens.subtract(pairs)
                state[unit] = load_lines if pushes or takes else 0
                moved = True
            if pushes and state[unit] and waiting < fifo:
                state[unit], waiting, moved = state[unit] - 1, waiting + 1, True
            if takes and state[unit] and waiting:
                state[unit], waiting, moved = state[unit] - 1, waiting - 1, True
            if not state[unit]:
                tokens.update((unit, other) for other in Unit if insn.release & Units(1 << other))
                del state[unit]
                queue.pop(0)
                moved = True
        if not moved:
            return False
    return True


def _unrolled(code: list[Instruction], start: int, end: int):
    index = start
    while index < end:
        insn = code[index]
        yield insn
        index += 1
        if isinstance(insn, Loop):
            body = list(_unrolled(code, index, index + insn.length))
            yield from itertools.chain.from_iterable(body for _ in range(insn.count.imm))
            index += insn.length


def test_programs_that_pass_never_deadlock():
    """Whenever the checker finds no problem in a random program, queues of depth 1 and a short FIFO suffice."""
    seed = 31
    rng = random.Random(seed)
    units = [unit.name.lower() for unit in Unit if unit is not Unit.CONTROL]
    passed = hung = 0
    for number in range(1500):
        lines = []
        for _ in range(rng.randrange(2, 9)):
            line = rng.choice([LD, LDW, LDW, MV, MV, RELU, f"nop target={rng.choice(units)}"])
            for field in rng.sample(["wait", "release"], rng.randrange(3)):
                line += f" {field}={rng.choice(units)}"
            lines.append(line)
        if rng.random() < 0.5:
            lines.insert(rng.randrange(len(lines)), "loop count=3 length=2")
        code = decode_all(assemble("\n".join([*lines, "end"])))
        sound = not find_problems(code)
        completes = all(runs(code, depth, 2, 5) for depth in (1, 2))
        passed += sound
        hung += not completes
        assert completes or not sound, f"seed {seed}, program {number}:\n" + "\n".join(lines)
    assert passed > 20, f"seed {seed}: {passed} programs passed"
    assert hung > 20, f"seed {seed}: {hung} programs hung"


def test_the_simulation_hangs_where_the_stream_rules_are_broken():
    """The rules are needed: each of these has every release before its wait, and hangs in a FIFO of two lines."""
    for lines in (
        [f"{LDW} release=matrix", f"{MV} wait=load", "end"],
        [LDW, f"{LD} release=matrix", f"{MV} wait=load", "end"],
    ):
        code = decode_all(assemble("\n".join(lines)))
        assert find_problems(code)
        assert not runs(code, 1, 2, 5)
        assert runs(code, 1, 5, 5) or "ld buffer=v" in lines[1]
