# SPDX-License-Identifier: Apache-2.0
"""Scalar registers and the control unit's arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from catenary.isa.errors import ExecutionError
from catenary.isa.fields import REGISTERS, SCALAR_BITS, Operand
from catenary.isa.instructions import AluFunction
from catenary.isa.registers import ARGUMENT_REGISTERS

MASK = (1 << SCALAR_BITS) - 1

_FUNCTIONS: dict[AluFunction, Callable[[int, int], int]] = {
    AluFunction.ADD: lambda a, b: a + b,
    AluFunction.SUB: lambda a, b: a - b,
    AluFunction.MUL: lambda a, b: a * b,
    AluFunction.SHL: lambda a, b: a << (b & 63),
    AluFunction.SHR: lambda a, b: a >> (b & 63),
    AluFunction.AND: lambda a, b: a & b,
    AluFunction.MIN: min,
    AluFunction.MAX: max,
    AluFunction.LESS: lambda a, b: int(a < b),
}


class Scalars:
    """The registers; register 0 reads 0, and a register that was never set may not be read."""

    def __init__(self) -> None:
        self._values: list[int | None] = [None] * REGISTERS

    def reset(self, arguments: Sequence[int]) -> None:
        """Set the argument registers, as a doorbell does; all others are unset."""
        self._values = [None] * REGISTERS
        self._values[0] = 0
        for register in ARGUMENT_REGISTERS:
            self._values[register] = 0
        for register, value in zip(ARGUMENT_REGISTERS, arguments, strict=False):
            self._values[register] = value & MASK

    def get(self, register: int) -> int:
        """Value of a register.

        Raises:
            ExecutionError: it was never set.
        """
        value = self._values[register]
        if value is None:
            raise ExecutionError(f"Register r{register} must be set before it is read")
        return value

    def set(self, register: int, value: int) -> None:
        """Set a register; writes to register 0 are refused.

        Raises:
            ExecutionError: ``register`` is 0.
        """
        if register == 0:
            raise ExecutionError("Register r0 must not be written")
        self._values[register] = value & MASK

    def value(self, operand: Operand) -> int:
        """Register plus immediate, as captured at dispatch; wraps at 40 bits."""
        return operand[1] if not operand[0] else (self.get(operand[0]) + operand[1]) & MASK

    def alu(self, function: AluFunction, rd: int, ra: int, b: Operand) -> None:
        """ALU."""
        self.set(rd, _FUNCTIONS[function](self.get(ra), self.value(b)))
