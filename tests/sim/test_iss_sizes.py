# SPDX-License-Identifier: Apache-2.0
"""Sizes in registers can be anything below 2**40: what is too large is refused before anything of that size is made."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from catenary.isa.encoding import encode_all
from catenary.isa.errors import ExecutionError
from catenary.isa.fields import Operand
from catenary.isa.instructions import (
    Apply,
    Context,
    End,
    Instruction,
    Load,
    LoadImmediate,
    MatrixVector,
    Norm,
    Score,
    Softmax,
    Store,
)
from catenary.isa.opcodes import ApplyFunction, Buffer, MemoryFormat, NormFunction, Source, Unit, Units
from catenary.sim.iss import Machine
from tests.isa.small_programs import SMALL

HUGE = Operand(5, 0)
"""A register that holds 2**39."""
LOAD_V = Load(buffer=Buffer.V, format=MemoryFormat.F32, address=Operand(), stride=16, memory=Operand(0, 64),
              rows=Operand(0, 4), elements=Operand(0, 16), pack=0, row_lines=8, release=Units.VECTOR)  # fmt: skip


def run(*code: Instruction) -> Machine:
    """Run ``code`` behind LI of the register above; memory holds zeros."""
    machine = Machine(SMALL, 256)
    words = encode_all([LoadImmediate(rd=5, imm=1 << 39), *code, End(result=0)])
    machine.memory.host_write(0, words)
    machine.load_code(0, len(words) // 32)
    machine.run(0, [])
    return machine


SOFTMAX = {"x": Operand(), "x_stride": 16, "rows": Operand(0, 2), "length": Operand(0, 4), "every": 1,
           "total": Operand(0, 8), "value_scales": Operand(), "dst": Operand(), "dst_stride": 1,
           "scales": Operand(0, 128)}  # fmt: skip
CONTEXT = {"source": Source.BUFFER, "clear": True, "emit": False, "act": Operand(), "act_stride": 1, "depth": 8,
           "rows": Operand(), "first": Operand(), "out": Operand(), "out_stride": 8, "group": 1,
           "scales": Operand()}  # fmt: skip
LINEAR = {"act": Operand(), "act_stride": 1, "depth": 16, "out": Operand(), "out_stride": 16, "scales": Operand()}
NORM = {"function": NormFunction.RMS, "dst": Operand(), "x": Operand(), "weight": Operand(), "bias": Operand(),
        "has_bias": False, "elements": 16, "eps": 1e-5, "x_stride": 0, "dst_stride": 0}  # fmt: skip
APPLY = {"function": ApplyFunction.RELU, "dst": Operand(), "x": Operand(), "parameter": 0.0, "x_stride": 0,
         "dst_stride": 0}  # fmt: skip
ONE = Operand(0, 1)
STREAM = Load(buffer=Buffer.W, format=MemoryFormat.LINES, memory=Operand(0, 64), rows=Operand(0, 4))
TAKEN = {"wait": Units(1 << Unit.LOAD)}

REFUSED: dict[str, tuple[Instruction, ...]] = {
    "rows of NORM": (LOAD_V, Norm(**NORM, rows=HUGE, **TAKEN)),
    "rows of APPLY": (LOAD_V, Apply(**APPLY, rows=HUGE, elements=ONE, **TAKEN)),
    "rows of SOFTMAX": (LOAD_V, Softmax(**{**SOFTMAX, "rows": HUGE, "every": 4095}, **TAKEN)),
    "total of SOFTMAX": (LOAD_V, Softmax(**{**SOFTMAX, "total": HUGE}, **TAKEN)),
    "length of SOFTMAX": (LOAD_V, Softmax(**{**SOFTMAX, "length": HUGE}, **TAKEN)),
    "length of SOFTMAX's last row": (LOAD_V, Softmax(**{**SOFTMAX, "length": Operand(0, 8)}, **TAKEN)),
    "tokens of CONTEXT": (Context(**CONTEXT, tokens=HUGE),),
    "tokens of SCORE": (Score(**LINEAR, source=Source.BUFFER, tokens=HUGE, rows=ONE, row_scales=Operand()),),
    "rows of MV": (STREAM, MatrixVector(**LINEAR, tokens=ONE, rows=HUGE)),
    "rows of LD": (replace(LOAD_V, rows=HUGE, stride=0),),
    "lines of LD": (replace(STREAM, rows=HUGE),),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_too_large_is_refused_at_once(name):
    tracemalloc.start()
    start = time.monotonic()
    with pytest.raises(ExecutionError, match=rf"^Instruction {len(REFUSED[name])} \("):
        run(*REFUSED[name])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.monotonic() - start < 5
    assert peak < 64 << 20


@pytest.mark.parametrize("row_lines", [0, 1])
def test_lines_of_a_row_do_not_count_where_rows_share_a_line(row_lines):
    """As the loop nests of LD and ST say."""
    place = {"stride": 1, "address": Operand(), "rows": Operand(0, 5), "elements": ONE, "pack": 1}
    load = Load(buffer=Buffer.V, format=MemoryFormat.F32, memory=Operand(0, 100), row=Operand(0, 1),
                row_lines=row_lines, release=Units.STORE, **place)  # fmt: skip
    store = Store(buffer=Buffer.V, format=MemoryFormat.F32, memory=Operand(0, 200), row=Operand(0, 1),
                  row_lines=row_lines, **TAKEN, **place)  # fmt: skip
    machine = Machine(SMALL, 256)
    words = encode_all([load, store, End(result=0)])
    machine.memory.host_write(0, words)
    values = np.arange(1, 7, dtype="<f4")
    machine.memory.host_write(100, values.tobytes())
    machine.load_code(0, len(words) // 32)
    machine.run(0, [])
    assert np.frombuffer(machine.memory.host_read(200, 28), "<f4").tolist() == [0, 2, 3, 4, 5, 6, 0]
