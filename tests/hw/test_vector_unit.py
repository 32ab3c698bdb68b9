# SPDX-License-Identifier: Apache-2.0
"""The vector unit against the instruction-set simulator: every word of V and A, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from catenary.isa.instructions import Apply, Argmax, Combine, Norm, Quant, Rope, Softmax
from catenary.isa.opcodes import ApplyFunction, CombineFunction, NormFunction
from catenary.isa.registers import ErrorCause
from tests.hw.vector_bench import A_WORDS, V_WORDS, Machine
from tests.hw.vector_cases import at, random_case, random_words

KINDS = ("norm", "apply", "combine", "rope", "quant", "softmax", "argmax")
NOISE = (0.0, 0.2, 0.6)
"""How often others ask for the buffers."""

NORM = Norm(
    function=NormFunction.RMS, dst=at(2000), dst_stride=120, x=at(5), x_stride=120, rows=at(1), elements=120,
    weight=at(1000), has_bias=False, bias=at(0), eps=1e-5,
)  # fmt: skip
SILU = Apply(
    function=ApplyFunction.SILU, dst=at(2000), dst_stride=320, x=at(5), x_stride=320, rows=at(1), elements=at(320)
)
ADD = Combine(
    function=CombineFunction.ADD, dst=at(2000), dst_stride=120, a=at(3), a_stride=120, b=at(1001), b_stride=120,
    rows=at(1), elements=at(120),
)  # fmt: skip
ROPE = Rope(x=at(7), x_stride=120, rows=at(1), parts=6, elements=20, rotary=20, table=at(1000), table_stride=20)
QUANT = Quant(
    dst=at(3), dst_stride=8, x=at(5), x_stride=120, rows=at(1), parts=1, elements=120, scales=at(5000), scale_stride=1,
    scale_step=1,
)  # fmt: skip
SOFTMAX = Softmax(
    x=at(5), x_stride=120, rows=at(2), length=at(100), every=2, total=at(100), value_scales=at(1000), dst=at(4),
    dst_stride=7, scales=at(4000),
)  # fmt: skip
LONG_SOFTMAX = replace(SOFTMAX, rows=at(1), length=at(512), total=at(512), value_scales=at(3000), dst_stride=32)
SHORT_SOFTMAX = replace(LONG_SOFTMAX, rows=at(16), length=at(32), every=1, total=at(47), dst_stride=3)
ARGMAX = Argmax(rd=5, first=True, x=at(10), elements=at(512), base=at(1000))


def run_random(lanes: int, kind: str, seeds: range) -> None:
    machine = Machine(lanes, seeds.start)
    for seed in seeds:
        rng = np.random.default_rng([lanes, KINDS.index(kind), seed])
        machine.noise = NOISE[seed % len(NOISE)]
        with np.errstate(all="ignore"):
            machine.fill(random_words(rng, kind))
            machine.check(random_case(rng, kind))
            machine.check(random_case(rng, kind))  # on what the first one has left


@pytest.mark.parametrize("start", [0])
@pytest.mark.parametrize("kind", KINDS)
def test_random(kind: str, start: int) -> None:
    run_random(4, kind, range(start, start + 12))


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [1, 2, 4, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_random_at_length(kind: str, lanes: int) -> None:
    run_random(lanes, kind, range(1000, 1040))


@pytest.fixture
def machine() -> Machine:
    machine = Machine(4)
    machine.fill(np.random.default_rng(3).normal(size=6000).astype(np.float32))
    return machine


@pytest.mark.parametrize(
    "insn, most",
    [(NORM, 220), (SILU, 417), (ADD, 78), (ROPE, 103), (QUANT, 128), (replace(QUANT, parts=6, elements=20), 289),
     (replace(NORM, elements=256, rows=at(3)), 3 * 320), (replace(QUANT, x_stride=256, elements=256, rows=at(3)), 478),
     (SOFTMAX, 592), (LONG_SOFTMAX, 1140), (SHORT_SOFTMAX, 2200),
     (ARGMAX, 150)],
    ids=["norm", "silu", "add", "rope", "quant", "quant-parts", "norm-rows", "quant-rows", "softmax", "softmax-long",
         "softmax-rows", "argmax"],
)  # fmt: skip
def test_cycles(machine: Machine, insn: object, most: int) -> None:
    assert machine.check(insn).cycles <= most


@pytest.mark.parametrize("function", ApplyFunction)
def test_special_words(machine: Machine, function: ApplyFunction) -> None:
    bits = [
        0,
        1 << 31,
        0x7F800000,
        0xFF800000,
        0x7FC00000,
        0xFF800001,
        1,
        0x807FFFFF,
        0x00800000,
        0x7F7FFFFF,
        0x3F800000,
    ]
    words = np.array(bits, np.uint32).view(np.float32)
    machine.fill(words, 5)
    with np.errstate(all="ignore"):
        machine.check(replace(SILU, function=function, elements=at(len(words)), parameter=30.0))


def test_quantised_nan_is_reported(machine: Machine) -> None:
    assert not machine.check(QUANT).numeric
    machine.fill(np.array([np.nan], np.float32), 64)
    assert machine.check(QUANT).numeric
    assert not machine.check(replace(QUANT, x=at(65))).numeric


def test_search_goes_on(machine: Machine) -> None:
    machine.fill(np.zeros(4000, np.float32))
    machine.fill(np.array([2.0, 5.0], np.float32), 777)
    machine.fill(np.array([5.0, -np.inf, np.nan], np.float32), 1500)
    assert machine.check(replace(ARGMAX, x=at(100), elements=at(1000), base=at(100))).result == 778
    assert machine.check(replace(ARGMAX, first=False, x=at(1200), elements=at(1000), base=at(1200))).result == 778
    assert machine.check(replace(ARGMAX, first=False, elements=at(0))).result == 778
    assert machine.check(replace(ARGMAX, elements=at(0))).result == 1000
    assert machine.check(replace(ARGMAX, x=at(1501), elements=at(2), base=at(9))).result == 9


@pytest.mark.parametrize(
    "insn",
    [
        replace(NORM, rows=at(0)),
        replace(SILU, rows=at(0)),
        replace(SILU, elements=at(0)),
        replace(ADD, elements=at(0)),
        replace(ROPE, rows=at(0)),
        replace(ROPE, parts=0),
        replace(ROPE, rotary=0),
        replace(QUANT, rows=at(0)),
        replace(QUANT, parts=0),
        replace(SOFTMAX, rows=at(0)),
    ],
)
def test_nothing_to_do(machine: Machine, insn: object) -> None:
    assert machine.check(insn).cycles <= 2


@pytest.mark.parametrize(
    "insn",
    [
        replace(SOFTMAX, length=at(0)),
        replace(SOFTMAX, length=at(101)),
        replace(SOFTMAX, every=1),  # the second row is too long
        replace(SOFTMAX, dst=at(A_WORDS - 13)),
        replace(SOFTMAX, scales=at(V_WORDS - 3)),
        replace(QUANT, dst=at(A_WORDS - 7)),
        replace(QUANT, dst=at((1 << 16) - 1), dst_stride=1, rows=at(2), elements=16),
        replace(NORM, x=at(V_WORDS - 119)),
        replace(NORM, weight=at(V_WORDS - 1)),
        replace(SILU, dst=at(V_WORDS - 319)),
        replace(ADD, b=at((1 << 20) - 60)),
        replace(ADD, dst=at((1 << 20) - 60)),
        replace(ADD, rows=at(2), b_stride=(1 << 20) - 1000),
        replace(ARGMAX, x=at(V_WORDS - 511)),
    ],
)
def test_out_of_range(machine: Machine, insn: object) -> None:
    outcome = machine.run(insn)
    assert outcome.fault
    assert outcome.cause == ErrorCause.ADDRESS_RANGE


def test_up_to_the_end(machine: Machine) -> None:
    assert not machine.run(replace(ADD, b=at(V_WORDS - 120), dst=at(V_WORDS - 120))).fault
    assert not machine.run(replace(QUANT, dst=at(A_WORDS - 8), scales=at(V_WORDS - 1))).fault


def test_waiting_for_buffers_is_a_stall(machine: Machine) -> None:
    quiet = machine.check(NORM)
    machine.noise = 0.7
    busy = machine.check(NORM)
    assert quiet.stalled == 0
    assert 0 < busy.stalled <= busy.cycles
