# SPDX-License-Identifier: Apache-2.0
"""Models of DSP primitives, written from their manuals, to stand in for instances in tests.

Each takes what ``Instance`` takes. A parameter, port or mode that a model does not know is an error, so that nothing a
wrapper asks for is taken for granted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from catenary.hw.dsp import dsp48e2, ecp5

_WIDE = {"A": 30, "ACIN": 30, "ALUMODE": 4, "B": 18, "BCIN": 18, "C": 48, "D": 27, "PCIN": 48, "CARRYINSEL": 3}
_ENABLED = ("A1", "A2", "AD", "ALUMODE", "B1", "B2", "C", "CARRYIN", "CTRL", "D", "INMODE", "M", "P")
_RESET = ("A", "ALLCARRYIN", "ALUMODE", "B", "C", "CTRL", "D", "INMODE", "M", "P")
DSP48E2_INPUTS = {
    **_WIDE,
    "INMODE": 5,
    "OPMODE": 9,
    **dict.fromkeys(("CARRYCASCIN", "CARRYIN", "CLK", "MULTSIGNIN"), 1),
    **{f"CE{name}": 1 for name in _ENABLED},
    **{f"RST{name}": 1 for name in _RESET},
}
"""Every input of a DSP48E2 and its width (AMD UG974)."""
TIED = ("ACIN", "BCIN", "C", "ALUMODE", "CARRYIN", "CARRYINSEL", "CARRYCASCIN", "MULTSIGNIN")
"""What the model of a DSP48E2 wants to be 0."""


class _Arguments:
    """Arguments of an instance, each to be asked for once."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._left = dict(arguments)

    def parameter(self, name: str, default: Any) -> Any:
        return self._left.pop(f"p_{name}", default)

    def input(self, name: str, width: int) -> Value:
        value = Value.cast(self._left.pop(f"i_{name}"))
        assert len(value) == width, f"{name} must have {width} bits, not {len(value)}"
        return value

    def output(self, name: str) -> Any:
        return self._left.pop(f"o_{name}", None)

    def finish(self) -> None:
        assert not self._left, f"unknown: {sorted(self._left)}"


def _constant(value: Value) -> int:
    assert isinstance(value, Const), "the model wants a constant"
    return int(value.value)


def model_of_dsp48e2(**arguments: Any) -> Module:
    """AMD UG579: figure 2-1 with the attributes and modes that multiplication and cascade need."""
    given = _Arguments(arguments)
    for name, value in (("USE_MULT", "MULTIPLY"), ("PREADDINSEL", "A"), ("BMULTSEL", "B"), ("A_INPUT", "DIRECT")):
        assert given.parameter(name, value) == value
    selected = given.parameter("AMULTSEL", "A")
    staged = ("A", "B", "C", "D", "AD", "M", "P", "OPMODE", "INMODE", "ALUMODE", "CARRYIN", "CARRYINSEL")
    stages = {name: given.parameter(f"{name}REG", 1) for name in staged}
    assert given.parameter("ACASCREG", 1) == stages["A"], "UG579, table 3-2: ACASCREG follows AREG"
    assert given.parameter("BCASCREG", 1) == stages["B"]
    assert all(stages[name] in (0, 1) for name in stages)
    inputs = {name: given.input(name, width) for name, width in DSP48E2_INPUTS.items()}
    p_out, pc_out = given.output("P"), given.output("PCOUT")
    given.finish()
    assert not any(_constant(inputs[name]) for name in TIED)
    assert not any(_constant(inputs[name]) for name in inputs if name.startswith("RST"))
    inmode = _constant(inputs["INMODE"])
    assert inmode & ~0b00100 == 0, "A2, not A1; neither A nor the sum negated or gated; B2"

    m = Module()

    def register(name: str, value: Value, enable: str) -> Value:
        if not stages[name]:
            return value
        signal = Signal(value.shape(), name=f"{name.lower()}_register")
        with m.If(inputs[enable]):
            m.d.sync += signal.eq(value)
        return signal

    a = register("A", inputs["A"].as_signed(), "CEA2")
    b = register("B", inputs["B"].as_signed(), "CEB2")
    d = register("D", inputs["D"].as_signed(), "CED")
    added = Signal(signed(27))
    m.d.comb += added.eq((d if inmode & 0b00100 else 0) + a[:27].as_signed())
    ad = register("AD", added, "CEAD")
    product = Signal(signed(45))
    m.d.comb += product.eq({"A": a[:27].as_signed(), "AD": ad}[selected] * b)
    multiplied = register("M", product, "CEM")
    opmode = register("OPMODE", inputs["OPMODE"], "CECTRL")
    total, p = Signal(48), Signal(48)
    x = Mux(opmode[:4] == 0b0101, multiplied, 0)
    z = Mux(opmode[4:7] == 0b001, inputs["PCIN"], 0)
    m.d.comb += total.eq(x + z)
    with m.If((opmode[:4] != 0b0101) | ((opmode[4:7] != 0) & (opmode[4:7] != 0b001)) | (opmode[7:] != 0)):
        m.d.comb += total.eq(0xBAD0_BAD0_BAD0)  # a mode of which nothing is said here
    m.d.comb += p.eq(register("P", total, "CEP"))
    for out in (p_out, pc_out):
        if out is not None:
            m.d.comb += out.eq(p)
    return m


def model_of_mult18x18d(**arguments: Any) -> Module:
    """Lattice FPGA-TN-02205: the multiplier of a slice, with the registers that are on."""
    given = _Arguments(arguments)
    enables = {}
    for register in ("INPUTA", "INPUTB", "INPUTC", "PIPELINE", "OUTPUT"):
        clock = given.parameter(f"REG_{register}_CLK", "NONE")
        assert clock in ("NONE", "CLK0")
        enable = given.parameter(f"REG_{register}_CE", "CE0")
        assert given.parameter(f"REG_{register}_RST", "RST0") == "RST0"
        if clock != "NONE":
            enables[register] = enable
    assert given.parameter("GSR", "ENABLED") == "DISABLED"
    ports = {name: Cat(given.input(f"{name}{bit}", 1) for bit in range(18)) for name in "ABC"}
    assert all(_constant(given.input(name, 1)) == 1 for name in ("SIGNEDA", "SIGNEDB"))
    assert all(_constant(given.input(name, 1)) == 0 for name in ("SOURCEA", "SOURCEB", "RST0"))
    given.input("CLK0", 1)
    chip_enables = {f"CE{number}": given.input(f"CE{number}", 1) for number in range(3)}
    outputs = [given.output(f"P{bit}") for bit in range(36)]
    given.finish()

    m = Module()

    def register(name: str, value: Value) -> Value:
        if name not in enables:
            return value
        signal = Signal(value.shape(), name=name.lower())
        with m.If(chip_enables[enables[name]]):
            m.d.sync += signal.eq(value)
        return signal

    product = Signal(signed(36))
    a, b = register("INPUTA", ports["A"].as_signed()), register("INPUTB", ports["B"].as_signed())
    m.d.comb += product.eq(a * b)
    p = register("OUTPUT", register("PIPELINE", product))
    for bit, out in enumerate(outputs):
        if out is not None:
            m.d.comb += out.eq(p[bit])
    return m


MODELS: dict[str, Callable[..., Module]] = {"DSP48E2": model_of_dsp48e2, "MULT18X18D": model_of_mult18x18d}


def instance(kind: str, **arguments: Any) -> Module:
    """What ``Instance`` makes, but of the model of the primitive."""
    return MODELS[kind](**arguments)


def use_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrappers make models instead of instances from now on."""
    for module in (dsp48e2, ecp5):
        monkeypatch.setattr(module, "Instance", instance)
