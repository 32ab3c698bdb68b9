# SPDX-License-Identifier: Apache-2.0
"""The microprograms of the vector instructions, as data.

A new activation is a new entry of :data:`PROGRAMS`. The formulas are those of ``docs/numerics.md``; the order of the
two operands of a product or a sum does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from catenary.hw.fp.function import Function
from catenary.hw.vector.layouts import PC_BITS, SCALAR_REGISTERS, C, Flow, MicroLayout, Order, P, Q, Scalar, Shape
from catenary.isa.functions import inverse_constant, to_fp32
from catenary.isa.numbers import CODE_LIMIT, PROBABILITY_LIMIT
from catenary.isa.opcodes import ApplyFunction, CombineFunction, NormFunction

ROUND: Final = 1.5 * 2.0**23
"""A number added to it is rounded to a whole one, ties to even, which the lowest bits of the sum hold."""

CONSTANTS: Final[Mapping[Scalar, float]] = {
    Scalar.ONE: 1.0,
    Scalar.MINUS_ZERO: -0.0,
    Scalar.HALF: 0.5,
    Scalar.SQRT_HALF: to_fp32(math.sqrt(0.5)),
    Scalar.SQRT_2_OVER_PI: to_fp32(math.sqrt(2 / math.pi)),
    Scalar.GELU_CUBIC: to_fp32(0.044715),
    Scalar.CODE_LIMIT: float(CODE_LIMIT),
    Scalar.PROBABILITY_LIMIT: float(PROBABILITY_LIMIT),
    Scalar.INVERSE_CODE_LIMIT: inverse_constant(CODE_LIMIT),
    Scalar.INVERSE_PROBABILITY_LIMIT: inverse_constant(PROBABILITY_LIMIT),
    Scalar.ROUND: ROUND,
}


@dataclass(frozen=True)
class V:
    """V at an address register, as an operand or as a target; ``ahead``: where the first one is in the next row."""

    pointer: int
    ahead: bool = False


@dataclass(frozen=True)
class R:
    """A vector register, as an operand or as a target; ``wrap``: it holds one block, for all blocks of the strip."""

    number: int
    wrap: bool = False


@dataclass(frozen=True)
class Partial:
    """The partial sums in a vector register."""

    number: int


@dataclass(frozen=True)
class Extreme:
    """The row's largest element, as a target; a scalar register when the row is through."""

    scalar: Scalar
    magnitude: bool = False
    floor: bool = False


class Same:
    """The first factor once more."""


class Codes:
    """The row of codes in A, as a target."""


Operand = V | R | Partial | Scalar | type[Same]
Target = V | R | Scalar | Extreme | type[Codes]


@dataclass(frozen=True)
class Step:
    """A micro-operation: ``to = function(p * q + c)``, or ``- c``.

    ``name`` can be a ``goto``, which is where ``flow`` leads while there is more.
    """

    to: Sequence[Target] = ()
    p: Operand = Scalar.ONE
    q: Operand = Scalar.ONE
    c: Operand = Scalar.MINUS_ZERO
    subtract: bool = False
    function: Function | None = None
    relu: bool = False
    shape: Shape = Shape.STRIP
    order: Order = Order.FREE
    flow: Flow = Flow.NEXT
    goto: str = ""
    name: str = ""

    def fields(self, labels: Mapping[str, int]) -> dict[str, dict[str, object]]:
        """The members of the micro-operation's word.

        Raises:
            ValueError: the data path cannot do this.
        """
        compute: dict[str, object] = {"subtract": self.subtract}
        sink: dict[str, object] = {"relu": self.relu}
        plan: dict[str, object] = {"beats": self.shape, "order": self.order, "flow": self.flow}
        if self.flow is not Flow.NEXT:
            plan["target"] = labels[self.goto]
        if self.function is not None:
            compute |= {"apply": 1, "function": self.function}
        self._operands(compute, plan)
        for target in self.to:
            match target:
                case V(pointer):
                    sink["to_v"] = 1
                    _claim(plan, "write", pointer)
                case R(number):
                    sink["to_register"] = 1
                    _claim(sink, "target", number)
                case Scalar():
                    sink["to_scalar"] = 1
                    _claim(sink, "target", SCALAR_REGISTERS.index(target))
                case Extreme(scalar, magnitude, floor):
                    sink |= {"to_extreme": 1, "magnitude": magnitude, "floor": floor}
                    _claim(sink, "target", SCALAR_REGISTERS.index(scalar))
                case _:
                    sink["to_codes"] = 1
        return {"compute": compute, "sink": sink, "plan": plan}

    def _operands(self, compute: dict[str, object], plan: dict[str, object]) -> None:
        match self.p:
            case V(pointer, ahead):
                compute["p"] = P.V
                plan["ahead"] = ahead
                _claim(plan, "read", pointer)
            case R(number, wrap):
                compute |= {"p": P.REGISTER, "a": number}
                plan["wrap"] = wrap
            case Scalar():
                compute |= {"p": P.SCALAR, "scalar_c": self.p}
                if self.c is not Scalar.MINUS_ZERO or self.shape not in (Shape.ONE, Shape.NONE):
                    raise ValueError("A scalar that is the first factor must be of one element, without a summand")
            case _:
                raise ValueError(f"First factor must be V, a register or a scalar, not {self.p}")
        match self.q:
            case Scalar():
                compute |= {"q": Q.SCALAR, "scalar_q": self.q}
            case R(number, wrap) if not isinstance(self.p, R):
                compute |= {"q": Q.REGISTER, "a": number}
                plan["wrap"] = wrap
            case type() if not isinstance(self.p, Scalar):
                compute["q"] = Q.V if isinstance(self.p, V) else Q.REGISTER
            case _:
                raise ValueError(f"Second factor must be a scalar, the one register or the first factor, not {self.q}")
        match self.c:
            case Scalar.MINUS_ZERO:
                compute["c"] = C.MINUS_ZERO
            case R(number):
                compute["c"] = C.REGISTER
                _claim(compute, "b", number)
            case Partial(number):
                compute["c"] = C.PARTIAL
                _claim(compute, "b", number)
            case Scalar():
                compute |= {"c": C.SCALAR, "scalar_c": self.c}
            case _:
                raise ValueError(f"Summand must be a scalar or a register, not {self.c}")


def _claim(fields: dict[str, object], name: str, value: int) -> None:
    if fields.setdefault(name, value) != value:
        raise ValueError(f"A micro-operation must use one {name}, not {fields[name]} and {value}")


X, DST, AUX, BIAS = range(4)
"""Address registers: first operand, destination, second operand (or weights), bias."""
X2, TABLE, TABLE2 = 1, 2, 3
"""ROPE: the second half of x, and both halves of the table."""
SCALES, VALUE_SCALES, SCALES2 = 1, 2, 3
"""QUANT and SOFTMAX: the row's scales."""

_SUM, _D, _T, _U = R(0), R(1), R(2), R(3)
_S0, _S1, _S2 = SCALAR_REGISTERS
_AFTER: Final = Order.AFTER


def _total(name: str) -> Step:
    """The tree of a canonical sum, in place."""
    return Step([_SUM], _SUM, c=_SUM, shape=Shape.FOLD, order=_AFTER, flow=Flow.LEVELS, goto=name, name=name)


def _per_total(to: Target, q: Scalar, c: Scalar = Scalar.MINUS_ZERO, function: Function | None = None) -> Step:
    """A scalar made of the sum."""
    return Step([to], _SUM, q, c, function=function, shape=Shape.ONE, order=_AFTER)


def _scaled(bias: bool) -> list[Step]:
    """The end of a normalisation: times the weights, plus the bias."""
    if not bias:
        return [Step([V(DST)], V(AUX), _D, order=_AFTER, flow=Flow.STRIPS, goto="scale")]
    return [
        Step([_D], V(AUX), _D, order=_AFTER),
        Step([V(DST)], V(BIAS), c=_D, order=_AFTER, flow=Flow.STRIPS, goto="scale"),
    ]


_ROWS: Final = Step(shape=Shape.NONE, flow=Flow.ROWS, goto="start")


def _rms(bias: bool) -> list[Step]:
    return [
        Step([_SUM], V(X), Same, Partial(0), shape=Shape.PADDED, order=_AFTER, flow=Flow.STRIPS, goto="start"),
        _total("total"),
        _per_total(_S0, Scalar.INVERSE_LENGTH, Scalar.PARAMETER, Function.RSQRT),
        Step([_D], V(X), _S0, name="scale"),
        *_scaled(bias),
        _ROWS,
    ]


def _layer(bias: bool) -> list[Step]:
    sums = {"shape": Shape.PADDED, "order": _AFTER, "flow": Flow.STRIPS}
    return [
        Step([_SUM], V(X), c=Partial(0), goto="start", **sums),
        _total("total"),
        _per_total(_S0, Scalar.INVERSE_LENGTH),
        Step([_D], V(X), c=_S0, subtract=True, name="difference"),
        Step([_SUM], _D, Same, Partial(0), goto="difference", **sums),
        _total("squares"),
        _per_total(_S1, Scalar.INVERSE_LENGTH, Scalar.PARAMETER, Function.RSQRT),
        Step([_D], V(X), c=_S0, subtract=True, name="scale"),
        Step([_D], _D, _S1, order=_AFTER),
        *_scaled(bias),
        _ROWS,
    ]


def _product(*last: Operand) -> Step:
    """The end of an activation, of two factors."""
    return Step([V(DST)], *last, order=_AFTER, flow=Flow.EACH, goto="start")


_ABSMAX: Final = Extreme(_S0, magnitude=True, floor=True)

_HALF_OF_ONE_MORE: Final = Step([_D], _D, Scalar.HALF, Scalar.HALF, order=_AFTER)
"""(1 + D) / 2, which times x is x / 2 times (1 + D), bit for bit: halving is exact but for numbers so small that here
1 + D is 1."""


def _rotate(flow: Flow, goto: str) -> list[Step]:
    """Both halves of one strip; registers 0 and 1 hold cosines and sines, once for all blocks."""
    cos, sin = R(0, wrap=True), R(1, wrap=True)
    return [
        Step([_T], V(X), sin, order=_AFTER, name="rotate"),
        Step([_U], V(X2), sin),
        Step([V(X)], V(X), cos, _U, subtract=True, order=_AFTER),
        Step([V(X2)], V(X2), cos, _T, flow=flow, goto=goto),
    ]


def _codes(goto: str) -> list[Step]:
    """The end of a row of softmax, S2 being the reciprocal of its largest weight."""
    return [
        _total("total"),
        Step(shape=Shape.NONE, order=Order.FENCE),  # the weights come back from V
        Step([_S2], _S2, Scalar.PROBABILITY_LIMIT, shape=Shape.ONE),
        Step([V(SCALES)], _S1, Scalar.INVERSE_PROBABILITY_LIMIT, shape=Shape.ONE),
        _per_total(V(SCALES2), Scalar.ONE, function=Function.RECIPROCAL),
        Step([Codes], V(X), _S2, Scalar.ROUND, flow=Flow.STRIPS, goto="codes", name="codes"),
        Step(shape=Shape.NONE, flow=Flow.ROWS, goto=goto),
    ]


_TABLE: Final = [Step([R(0)], V(TABLE), shape=Shape.BLOCK), Step([R(1)], V(TABLE2), shape=Shape.BLOCK)]

PROGRAMS: Final[Mapping[object, Sequence[Step]]] = {
    (NormFunction.RMS, False): _rms(False),
    (NormFunction.RMS, True): _rms(True),
    (NormFunction.LAYER, False): _layer(False),
    (NormFunction.LAYER, True): _layer(True),
    ApplyFunction.SILU: [Step([_D], V(X), function=Function.SIGMOID), _product(V(X), _D)],
    ApplyFunction.GELU_ERF: [
        Step([_D], V(X), Scalar.SQRT_HALF, function=Function.ERF),
        _HALF_OF_ONE_MORE,
        _product(V(X), _D),
    ],
    ApplyFunction.GELU_TANH: [
        Step([_T], V(X)),
        Step([_D], V(X), Same),
        Step([_D], V(X), _D, order=_AFTER),
        Step([_D], _D, Scalar.GELU_CUBIC, _T, order=_AFTER),
        Step([_D], _D, Scalar.SQRT_2_OVER_PI, function=Function.TANH, order=_AFTER),
        _HALF_OF_ONE_MORE,
        _product(V(X), _D),
    ],
    ApplyFunction.RELU: [Step([V(DST)], V(X), relu=True, flow=Flow.EACH, goto="start")],
    ApplyFunction.TANH: [Step([V(DST)], V(X), function=Function.TANH, flow=Flow.EACH, goto="start")],
    ApplyFunction.SOFT_CAP: [
        Step([_S0], Scalar.PARAMETER, function=Function.RECIPROCAL, shape=Shape.ONE),
        Step([_D], V(X), _S0, function=Function.TANH, name="each"),
        Step([V(DST)], _D, Scalar.PARAMETER, order=_AFTER, flow=Flow.EACH, goto="each"),
    ],
    CombineFunction.ADD: [Step([_D], V(X)), _product(V(AUX), Scalar.ONE, _D)],
    CombineFunction.MUL: [Step([_D], V(X)), _product(V(AUX), _D)],
    "rope": [*_TABLE, *_rotate(Flow.PARTS, "rotate"), _ROWS],
    "long rope": [*_TABLE, *_rotate(Flow.EACH, "start")],
    "quant": [
        Step([_ABSMAX], V(X), flow=Flow.STRIPS, goto="start"),
        Step([_S1], _S0, function=Function.RECIPROCAL, shape=Shape.ONE, name="row"),
        Step([_S2], _S0, Scalar.INVERSE_CODE_LIMIT, shape=Shape.ONE, flow=Flow.LAST, goto="scale"),
        Step([_ABSMAX], V(X, ahead=True), flow=Flow.STRIPS, goto="ahead", name="ahead"),
        Step([_S1], _S1, Scalar.CODE_LIMIT, shape=Shape.ONE, name="scale"),
        Step([V(SCALES)], _S2, Scalar.PARAMETER, shape=Shape.ONE),
        Step([Codes], V(X), _S1, Scalar.ROUND, flow=Flow.STRIPS, goto="codes", name="codes"),
        Step(shape=Shape.NONE, flow=Flow.ROWS, goto="row"),
    ],
    "softmax": [
        Step([Extreme(_S0)], V(X), flow=Flow.STRIPS, goto="start"),
        Step([_D], V(X), c=_S0, subtract=True, function=Function.EXP, name="weights"),
        Step([_SUM], _D, c=Partial(0), shape=Shape.PADDED, order=_AFTER),
        Step([V(X), Extreme(_S1, floor=True)], V(VALUE_SCALES), _D, flow=Flow.STRIPS, goto="weights"),
        Step([_SUM], _SUM, c=_SUM, shape=Shape.FOLD, order=_AFTER),
        Step([_S2], _S1, function=Function.RECIPROCAL, shape=Shape.ONE, flow=Flow.LAST, goto="total"),
        Step([Extreme(_S0)], V(X, ahead=True), flow=Flow.STRIPS, goto="ahead", name="ahead"),
        *_codes("weights"),
    ],
    "short softmax": [  # of one strip: the function unit has the next row while the tree goes on with this one
        Step([Extreme(_S0)], V(X)),
        Step([_D], V(X), c=_S0, subtract=True, function=Function.EXP),
        Step([_SUM], _D, c=Partial(0), shape=Shape.PADDED, order=Order.APPLIED, name="row"),
        Step([V(X), Extreme(_S1, floor=True)], V(VALUE_SCALES), _D),
        Step([_SUM], _SUM, c=_SUM, shape=Shape.FOLD, order=_AFTER),
        Step([_S2], _S1, function=Function.RECIPROCAL, shape=Shape.ONE, flow=Flow.LAST, goto="total"),
        Step([Extreme(_S0)], V(X, ahead=True)),
        Step([_SUM], _SUM, c=_SUM, shape=Shape.FOLD, order=_AFTER),
        Step([_D], V(X, ahead=True), c=_S0, subtract=True, function=Function.EXP, flow=Flow.STRIPS, goto="total"),
        *_codes("row"),
    ],
    "argmax": [
        Step([Extreme(_S0)], V(X), flow=Flow.STRIPS, goto="start"),
        _ROWS,
    ],
}
"""Microprograms, by function or by instruction. ``start`` is the first step."""


def _assemble() -> tuple[dict[object, int], list[int]]:
    entries: dict[object, int] = {}
    words: list[int] = []
    for key, steps in PROGRAMS.items():
        base = entries[key] = len(words)
        labels = {"start": base} | {step.name: base + at for at, step in enumerate(steps) if step.name}
        words += [MicroLayout.const(step.fields(labels)).as_bits() for step in steps]
    if len(words) > 1 << PC_BITS:
        raise ValueError(f"Microprograms must have at most {1 << PC_BITS} steps, not {len(words)}")
    return entries, words


ENTRIES, WORDS = _assemble()
"""Where each microprogram begins, and all of them as words of :data:`~catenary.hw.vector.layouts.MicroLayout`."""
