# SPDX-License-Identifier: Apache-2.0
"""Segments of DSP slices against the behavioural one: equal sums, for all operands, weights, cuts and gaps.

The primitives are the models of ``tests/hw/dsp_models.py``, written from the manuals. Segments are never reset.

Multipliers are not looked into. That their operands are equal is proved; that equal factors have equal products, that
``(a1 * 2**18 + a0) * w`` is ``a1 * w * 2**18 + a0 * w``, and how large such products are, is arithmetic and assumed.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType

import pytest
from amaranth.hdl import Cat, Mux, Signal, Value, signed

from catenary.hw.dsp import dsp48e2, ecp5, segment
from catenary.hw.dsp.segment import DspSegment, Primitive
from tests.formal.harness import Build, Harness
from tests.formal.proofs import Record, mutant, prove
from tests.hw.dsp_models import instance, use_models

LOW_BITS = 18
"""Of a pair, for token 0."""


def harness(length: int, packed: bool, primitive: Primitive, module: ModuleType | None = None) -> Harness:
    """Two segments with the same inputs, driven as :class:`catenary.hw.dsp.segment.SegmentSignature` says.

    Args:
        length: positions.
        packed: two tokens.
        primitive: of one of the two; the other is behavioural.
        module: where a changed wrapper comes from.
    """
    h = Harness(resets=False)
    m = h.m
    plain, sliced = DspSegment(length, packed), DspSegment(length, packed, primitive)
    one = h.add(plain, "plain")
    same = {
        "__".join(map(str, path)): value.as_value() if hasattr(value, "as_value") else value
        for path, member, value in plain.signature.flatten(plain)
        if member.flow.name == "In"
    }
    with pytest.MonkeyPatch.context() as patch:
        use_models(patch)
        if module is not None:
            patch.setattr(module, "Instance", instance)
            for name in ("Dsp48e2Segment", "Ecp5Multiplier"):
                if hasattr(module, name):
                    patch.setattr(segment, name, getattr(module, name))
        two = h.add(sliced, "sliced", inputs=same)

    adds = h.past(plain.multiply, "multiply")
    h.assume(plain.add == adds)
    for i in range(length):
        for token in range(1 + packed):
            h.assume(~plain.take[i] | (plain.a[i][token] != -128))
        if i:
            h.assume(plain.multiply[i] == plain.add[i - 1])  # one step behind

    for i in range(length):
        ends = plain.cut[i + 1] if i + 1 < length else 1
        shown = Signal(name=f"shown_{i}")
        with m.If(plain.add[i]):
            m.d.sync += shown.eq(ends)
        first = plain.sums[i][0] == sliced.sums[i][0]
        h.implies(f"sum of token 0 at {i}", shown, first)
        if packed:
            carried = Signal(signed(24), name=f"carried_{i}")
            m.d.comb += carried.eq(sliced.sums[i][1] + sliced.carries[i])
            h.claim(f"sum of token 1 at {i}", ~shown | (plain.sums[i][1] + plain.carries[i] == carried))
        if primitive is Primitive.DSP48E2:
            _registers(h, one, two, i, packed, adds)
        else:
            multiplier = (
                f"cascade.multiplier_{i}." if f"cascade.multiplier_{i}.dsp.inputa" in two else f"multiplier_{i}."
            )
            h.claim(f"activation at {i}", two[f"{multiplier}dsp.inputa"].as_signed() == one[f"a_{i}_0"])
            h.claim(f"weight at {i}", two[f"{multiplier}dsp.inputb"].as_signed() == one[f"w_{i}"])
            h.assume(two[f"{multiplier}dsp.output"].as_signed() == one[f"product_{i}_0"])
            h.claim(f"passed at {i}", two[f"passed_{i}_0"] == one[f"passed_{i}_0"])
    return h


def _pair(values: list[Value]) -> Value:
    """What a slice holds for the values of one or two tokens."""
    return values[0] + (values[1] << LOW_BITS) if len(values) > 1 else values[0]


def _registers(
    h: Harness, one: dict[str, Signal], two: dict[str, Signal], i: int, packed: bool, multiplied: Value
) -> None:
    """How the registers of slice ``i`` stand to those of the behavioural segment; this makes the claims inductive."""
    tokens = range(1 + packed)

    def slice_(name: str) -> Value:
        return two[f"cascade.dsp_{i}.{name}_register"]

    def pair(name: str, at: int = i) -> Value:
        return _pair([one[f"{name}_{at}_{token}"] for token in tokens])

    for token in tokens:
        h.claim(f"activation {token} at {i} is legal", one[f"a_{i}_{token}"] != -128)
    h.claim(f"activations at {i}", slice_("ad" if packed else "a").as_signed() == pair("a"))
    h.claim(f"weight at {i}", slice_("b").as_signed() == one[f"w_{i}"])
    h.assume(slice_("m").as_signed() == pair("product"))
    for token in tokens:
        product = one[f"product_{i}_{token}"]
        h.assume((product <= 127 * 128) & (product >= -127 * 128))
        passed, most = one[f"passed_{i}_{token}"], 127 * 128 * (i + 1)
        h.claim(f"sum {token} at {i} is in range", (passed <= most) & (passed >= -most))
    opmode, adds = slice_("opmode"), multiplied[i]
    goes_on = Signal(name=f"goes_on_{i}")
    h.m.d.comb += goes_on.eq(opmode[4])
    h.claim(f"mode at {i}", ~adds | (opmode == Mux(goes_on, dsp48e2.OPMODE_M | dsp48e2.OPMODE_PCIN, dsp48e2.OPMODE_M)))
    if i == 0:
        h.claim("the first one begins", ~adds | ~goes_on)
        return
    before = two[f"cascade.dsp_{i - 1}.p_register"].as_signed()
    h.claim(f"sum before {i}", ~adds | ~goes_on | (before == pair("passed", i - 1)))
    nothing = Cat([one[f"passed_{i - 1}_{token}"] for token in tokens]) == 0
    h.claim(f"nothing before {i}", ~adds | goes_on | nothing)


CASES = [(Primitive.DSP48E2, True, 8), (Primitive.DSP48E2, True, 2), (Primitive.DSP48E2, False, 2)]
CASES += [(Primitive.ECP5, False, 2)]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("primitive", "packed", "length"), CASES)
def test_segment(record: Record, primitive: Primitive, packed: bool, length: int) -> None:
    controls: dict[str, Build] = {}
    if primitive is Primitive.DSP48E2:
        wrong = mutant(dsp48e2, ("Const(0) if i == 0 else ~self.cut[i]", "Const(0) if i == 0 else self.cut[i]"))
        controls["a cut goes on"] = partial(harness, 2, packed, primitive, wrong)
        late = mutant(dsp48e2, ("i_CEB2=self.load[i]", "i_CEB2=self.take[i]"))
        controls["a weight is loaded with the activations"] = partial(harness, 1, packed, primitive, late)
    else:
        swapped = mutant(ecp5, ('"INPUTA": "take", "INPUTB": "load"', '"INPUTA": "load", "INPUTB": "take"'))
        controls["registers have each other's enables"] = partial(harness, 1, packed, primitive, swapped)
    prove(
        record,
        f"DspSegment({length}, packed={packed}, {primitive.name})",
        "sums as those of the behavioural segment, but for the multipliers themselves",
        partial(harness, length, packed, primitive),
        steps=2,
        cut="$mul",
        reached=partial(harness, min(length, 2), packed, primitive),
        controls=controls,
    )
