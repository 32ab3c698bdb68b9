# SPDX-License-Identifier: Apache-2.0
"""Every bit of an instruction: one of each kind, with one bit of its word inverted after the other.

Words that the instruction-set simulator carries out are put together in programs that store the buffers after each;
hardware must leave the same behind. What the simulator refuses is a program of its own, and hardware must refuse it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from catenary.compiler.builder import Region
from catenary.isa.config import AcceleratorConfig
from catenary.isa.encoding import decode_all, encode
from catenary.isa.errors import CatenaryError
from catenary.isa.fields import Operand
from catenary.isa.instructions import (
    Apply,
    Argmax,
    Combine,
    Context,
    End,
    Instruction,
    Load,
    LoadScalar,
    Norm,
    Quant,
    Rope,
    Score,
    Softmax,
    Store,
)
from catenary.isa.opcodes import (
    WORD_BITS,
    WORD_BYTES,
    ApplyFunction,
    Buffer,
    CombineFunction,
    MemoryFormat,
    NormFunction,
    Source,
    Units,
)
from catenary.isa.tensors import BLOCK
from tests.programs.cases import Case
from tests.programs.compare import expected
from tests.programs.draft import Draft
from tests.programs.flipped_cases import WATCHDOG
from tests.programs.random_programs import finished

ARGUMENTS = (7, 1, 3, 20, 2, 5, 40, 6)
"""In registers 1 to 8: an inverted bit of a register's number makes another of these of it, or 0."""
TOGETHER = 12
"""Inverted bits of a program that runs to its end."""
V_WORDS, A_WORDS = 1024, 128
"""Words, at most, that are stored behind each instruction; all of them would take most of the time."""
STUCK = 1000
"""Cycles of the watchdog of a changed instruction that is alone."""
POOL_LINES = 64
"""Lines of memory that are loaded from and stored to."""


def bases(config: AcceleratorConfig, line: int) -> Mapping[str, Instruction]:
    """An instruction of each kind that the load, store, vector and matrix units carry out.

    Args:
        config: the accelerator.
        line: first line of the pool.
    """
    one, two = Operand(0, 1), Operand(5)
    memory, row = Operand(4, line - ARGUMENTS[3]), Operand(0, 1)
    flat = {"memory": memory, "row": row, "row_lines": config.lines(60)}
    dense = {"memory": memory, "row": Operand(3), "pack": 1, "row_lines": 1}
    rows = {"dst": Operand(0, 700), "dst_stride": 21, "x": Operand(1, 200), "x_stride": 19}
    tokens = {"tokens": two, "depth": 21, "out": Operand(0, 640), "out_stride": 33, "scales": Operand(2, 30)}
    kept = {"source": Source.BUFFER, "rows_at": Operand(0, 50), "rows_stride": 3, "act": Operand(3, 2)}
    half = config.line_bytes // 2
    return {
        "ld-v": Load(buffer=Buffer.V, format=MemoryFormat.F32, address=Operand(1, 300), stride=40, rows=Operand(3),
                     elements=Operand(0, 15), **flat),
        "ld-v-packed": Load(buffer=Buffer.V, format=MemoryFormat.BF16, address=Operand(0, 512), stride=9,
                            rows=Operand(8), elements=Operand(0, half // 2), **dense),
        "ld-a": Load(buffer=Buffer.A, format=MemoryFormat.I8, address=Operand(1, 60), stride=5, rows=Operand(3),
                     elements=Operand(0, 37), **flat),
        "ld-a-packed": Load(buffer=Buffer.A, format=MemoryFormat.I8, address=Operand(0, 9), stride=1, rows=Operand(8),
                            elements=Operand(0, half), **dense),
        "ld-d": Load(buffer=Buffer.D, format=MemoryFormat.U64, address=Operand(1, 3), stride=5, rows=two,
                     elements=Operand(3), **flat),
        "st-v": Store(buffer=Buffer.V, format=MemoryFormat.F32, address=Operand(1, 300), stride=40, rows=Operand(3),
                      elements=Operand(0, 15), **flat),
        "st-v-packed": Store(buffer=Buffer.V, format=MemoryFormat.F32, address=Operand(0, 512), stride=9,
                             rows=Operand(8), elements=one, **dense),
        "st-a": Store(buffer=Buffer.A, format=MemoryFormat.I8, address=Operand(1, 60), stride=5, rows=Operand(3),
                      elements=Operand(0, 37), **flat),
        "norm": Norm(function=NormFunction.LAYER, rows=two, elements=18, weight=Operand(0, 400), has_bias=True,
                     bias=Operand(2, 450), eps=2.0**-17, **rows),
        "apply": Apply(function=ApplyFunction.GELU_TANH, rows=two, elements=Operand(4), **rows),
        "combine": Combine(function=CombineFunction.ADD, dst=Operand(0, 700), dst_stride=21, a=Operand(1, 200),
                           a_stride=19, b=Operand(0, 330), b_stride=25, rows=two, elements=Operand(4)),
        "rope": Rope(x=Operand(1, 200), x_stride=50, rows=two, parts=2, elements=20, rotary=12, table=Operand(0, 400),
                     table_stride=17),
        "quant": Quant(dst=Operand(0, 21), dst_stride=3, x=Operand(1, 200), x_stride=50, rows=two, parts=2,
                       elements=20, scales=Operand(0, 700), scale_stride=5, scale_step=2, multiplier=0.75),
        "softmax": Softmax(x=Operand(1, 200), x_stride=50, rows=Operand(3), length=Operand(4, 1), every=2,
                           total=Operand(7), value_scales=Operand(0, 400), dst=Operand(0, 21), dst_stride=3,
                           scales=Operand(0, 700)),
        "argmax": Argmax(rd=10, first=True, x=Operand(1, 200), elements=Operand(7), base=Operand(2, 1000)),
        "score": Score(rows=Operand(3), act_stride=4, row_scales=Operand(0, 90), **tokens, **kept),
        "context": Context(rows=Operand(3), act_stride=4, clear=True, emit=True, first=Operand(0, 3), group=1,
                           **tokens, **kept),
    }  # fmt: skip


def with_bits(config: AcceleratorConfig, name: str, bits: Sequence[int | None]) -> Case:
    """A program with one instruction of :func:`bases` after the other, one bit of each inverted, or none for ``None``.

    Behind each of them the first words of V and A are stored, and registers and a part of D go into the result.
    """
    d = Draft(config, 5)
    d.arguments = ARGUMENTS
    size = config.line_bytes
    line = d.keep(d.floats(POOL_LINES * size // 4).view(np.uint8))
    insn = bases(config, line)[name]
    codes = d.numbers.integers(0, 256, config.act_bytes, dtype=np.uint8)
    d.b.set(d.total, 1)
    d.fill(Buffer.V, MemoryFormat.F32, 0, d.floats(config.vector_words).view(np.uint8))
    d.fill(Buffer.A, MemoryFormat.I8, 0, codes)
    d.fill(Buffer.D, MemoryFormat.U64, 0, d.numbers.integers(0, 256, 8 * config.desc_words, dtype=np.uint8))
    everything = [Region(space, 0, 1 << 32) for space in "VADM"]
    matrix, scalar = name in ("score", "context"), name == "argmax"
    with d.b.scope(4) as registers:
        for reg in registers:
            d.b.set(reg, reg)
        for _ in bits:
            d.b.emit(insn, everything, everything)
            if not name.startswith("st"):
                d.dump(Buffer.V, 0, min(V_WORDS, config.vector_words))
            if name.startswith("ld-a") or name in ("quant", "softmax"):
                d.dump(Buffer.A, 0, min(A_WORDS, config.act_bytes // BLOCK))
            if name == "ld-d":
                for at in range(0, 40, 3):
                    d.b.emit(LoadScalar(rd=registers[0], address=Operand(0, at)), [Region("D", at, 1)])
                    d.mix(registers[0])
            if scalar or matrix:
                for reg in registers:
                    d.mix(reg)
        d.b.emit(End(result=d.total))
    case = finished(d, f"{name} with bits {', '.join(map(str, bits))} inverted", [tuple(d.b.code)])
    code = bytearray(case.code)
    places = [index for index, found in enumerate(decode_all(case.code)) if _without_tokens(found) == insn]
    for index, bit in zip(places, bits, strict=True):
        if bit is not None:
            code[index * WORD_BYTES + bit // 8] ^= 1 << bit % 8
    return replace(case, code=bytes(code), watchdog=WATCHDOG, blocks=())


def _without_tokens(insn: Instruction) -> Instruction:
    return replace(insn, wait=Units.NONE, release=Units.NONE)


def alone(config: AcceleratorConfig, name: str, bit: int) -> Case:
    """A program of little else than one changed instruction."""
    word = int.from_bytes(encode(bases(config, max(ARGUMENTS))[name]), "little") ^ 1 << bit
    code = word.to_bytes(WORD_BYTES, "little") + encode(End())
    lines = np.zeros((POOL_LINES + config.lines(len(code))) * config.line_bytes, np.uint8).tobytes()
    named = f"{name}, bit {bit} inverted"
    return Case(named, config, code, POOL_LINES, lines, arguments=ARGUMENTS, watchdog=STUCK)


def _runs(case: Case) -> bool:
    """Whether the simulator carries out a program."""
    try:
        expected(case)
    except CatenaryError:
        return False
    return True


@cache
def sound_and_refused(config: AcceleratorConfig, name: str) -> tuple[list[Case], list[Case]]:
    """Programs with every bit of an instruction inverted: those that run to END, and those that must be refused."""
    good = [bit for bit in range(WORD_BITS) if _runs(with_bits(config, name, [bit]))]
    together = []
    for at in range(0, len(good), TOGETHER):
        bits = good[at : at + TOGETHER]
        case = with_bits(config, name, bits)
        # A bit may bring in a register that those before it have changed.
        together += [case] if _runs(case) else [with_bits(config, name, [bit]) for bit in bits]
    return together, [alone(config, name, bit) for bit in range(WORD_BITS) if bit not in good]
