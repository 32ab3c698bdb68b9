# SPDX-License-Identifier: Apache-2.0
"""The claim behind the static checks, tried out: a program that passes runs to its end with queues of any depth."""

import itertools
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from catenary.isa.assembler import assemble, parse_instruction
from catenary.isa.code_check import find_problems
from catenary.isa.encoding import decode_all
from catenary.isa.instructions import Instruction, Load, Loop, MatrixVector
from catenary.isa.opcodes import Buffer, Unit, Units

LD = "ld buffer=v format=f32 rows=1 elements=4"
LDW = "ld buffer=w format=lines"
MV = "mv act=0 act_stride=1 tokens=1 depth=16 rows=16 out=0 out_stride=16 scales=0"
RELU = "apply function=relu dst=0 dst_stride=0 x=0 x_stride=0 rows=1 elements=16"


def runs(code: list[Instruction], depth: int, fifo: int, scale: int) -> bool:
    """Whether ``code`` ends on five in-order units with queues of ``depth`` entries, the running one included.

    An LD into W of n rows pushes n * ``scale`` lines through a FIFO of ``fifo``; every MV takes ``scale`` of them.
    """
    trace = list(_unrolled(code, 0, len(code)))
    queues: dict[Unit, list[Instruction]] = {unit: [] for unit in Unit}
    tokens: Counter[tuple[Unit, Unit]] = Counter()
    lines_left: dict[Unit, int] = {}  # of the instruction that a unit has started
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
            pushes = isinstance(insn, Load) and insn.buffer is Buffer.W
            takes = isinstance(insn, MatrixVector)
            if unit not in lines_left:
                pairs = [(other, unit) for other in Unit if insn.wait & Units(1 << other)]
                if not all(tokens[pair] for pair in pairs):
                    continue
                tokens.subtract(pairs)
                lines_left[unit] = scale * (insn.rows.imm if pushes else takes)
                moved = True
            if lines_left[unit] and ((pushes and waiting < fifo) or (takes and waiting)):
                lines_left[unit] -= 1
                waiting += 1 if pushes else -1
                moved = True
            if not lines_left[unit]:
                tokens.update((unit, other) for other in Unit if insn.release & Units(1 << other))
                del lines_left[unit]
                queue.pop(0)
                moved = True
        if not moved:
            return False
    return True


def _unrolled(code: list[Instruction], start: int, end: int) -> Iterator[Instruction]:
    index = start
    while index < end:
        insn = code[index]
        yield insn
        index += 1
        if isinstance(insn, Loop):
            body = list(_unrolled(code, index, index + insn.length))
            yield from itertools.chain.from_iterable(body for _ in range(insn.count.imm))
            index += insn.length


def random_program(rng: random.Random) -> str:
    """Loads, streams and compute with tokens between them, mostly sound; a mutation then breaks half of them."""
    lines: list[list[str]] = []  # words of each line
    for _ in range(rng.randrange(1, 6)):
        if rng.random() < 0.4:
            uses = rng.randrange(1, 3)
            lines += [[f"{LDW} rows={uses}"], *([[RELU]] * rng.randrange(2)), *([MV] for _ in range(uses))]
        else:
            lines.append([rng.choice([LD, RELU, *(f"nop target={unit.name.lower()}" for unit in Unit)])])
    settings: list[dict[str, set[str]]] = [{"wait": set(), "release": set()} for _ in lines]
    for _ in range(rng.randrange(4)):
        giver, taker = sorted(rng.choices(range(len(lines)), k=2))
        source, target = _unit(lines[giver][0]), _unit(lines[taker][0])
        if source != target and target not in settings[giver]["release"] and source not in settings[taker]["wait"]:
            settings[giver]["release"].add(target)
            settings[taker]["wait"].add(source)
    for line, fields in zip(lines, settings, strict=True):
        line += [f"{name}={','.join(sorted(units))}" for name, units in fields.items() if units]
    if rng.random() < 0.5:
        a, b = rng.choices(range(len(lines)), k=2)
        lines[a], lines[b] = lines[b], lines[a]
    if rng.random() < 0.5:
        start = rng.randrange(len(lines))
        lines.insert(start, [f"loop count=3 length={rng.randrange(1, len(lines) - start + 1)}"])
    return "\n".join([*(" ".join(line) for line in lines), "end"])


def lengths_match(code: list[Instruction]) -> bool:
    """Whether every stream is as long as what is taken of it; a static check cannot know that."""
    left = 0
    for insn in _unrolled(code, 0, len(code)):
        if isinstance(insn, Load) and insn.buffer is Buffer.W:
            if left:
                return False
            left = insn.rows.imm
        elif isinstance(insn, MatrixVector):
            left -= 1
    return left == 0


def _unit(statement: str) -> str:
    return parse_instruction(statement).executing_unit.name.lower()


def test_programs_that_pass_never_deadlock():
    """Whenever the checker finds no problem in a random program, queues of depth 1 and a short FIFO suffice."""
    seed = 31
    rng = random.Random(seed)
    passed = hung = 0
    for number in range(3000):
        text = random_program(rng)
        code = decode_all(assemble(text))
        if not lengths_match(code):
            continue
        sound = not find_problems(code)
        completes = all(runs(code, depth, 2, 5) for depth in (1, 2))
        passed += sound
        hung += not completes
        assert completes or not sound, f"seed {seed}, program {number}:\n{text}"
    assert passed > 300, f"seed {seed}: {passed} programs passed"
    assert hung > 100, f"seed {seed}: {hung} programs hung"


@pytest.mark.parametrize(
    "lines",
    [
        [f"{LDW} rows=1 release=matrix", f"{MV} wait=load", "end"],
        [f"{LDW} rows=1", f"{LD} release=matrix", f"{MV} wait=load", "end"],
        [f"{LDW} rows=2", MV, LD, LD, MV, "end"],
    ],
    ids=["own token", "load behind it", "queue full"],
)
def test_the_rules_for_streams_are_needed(lines):
    """Every release is before its wait, and yet these hang, but for a FIFO that holds the whole stream."""
    code = decode_all(assemble("\n".join(lines)))
    assert find_problems(code)
    assert not runs(code, 1, 2, 5)
    assert runs(code, 1, 10, 5)
