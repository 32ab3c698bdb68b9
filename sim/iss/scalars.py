# SPDX-License-Identifier: Apache-2.0
"""Scalar registers and the control unit's arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from catenary.isa.errors import ExecutionError
from catenary.isa.fields import SCALAR_BITS, Operand
from catenary.isa.instructions import Alu
from catenary.isa.opcodes import AluFunction
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


class _Registers(dict[int, int]):
    """Values of the registers that were set, so that finding out about the others costs nothing."""

    def __missing__(self, register: int) -> int:
        raise ExecutionError(f"Register r{register} must be set before it is read")


class Scalars:
    """The registers; register 0 reads 0, and a register that was never set may not be read."""

    def __init__(self) -> None:
        self._values = _Registers()

    def reset(self, arguments: Sequence[int]) -> None:
        """Set the argument registers, as a doorbell does; all others are unset."""
        self._values.clear()
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
        return self._values[register]

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
        return self._values[operand.reg] + operand.imm & MASK

    def reader(self, *operands: Operand) -> Callable[[], tuple[int, ...]]:
        """What gives the values of ``operands`` whenever it is called; the same as :meth:`value` of each."""
        values, pairs = self._values, tuple(operands)
        if not any(operand.reg for operand in operands):
            fixed = tuple(operand.imm & MASK for operand in operands)
            return lambda: fixed
        return lambda: tuple([values[reg] + imm & MASK for reg, imm in pairs])

    def load_immediate(self, rd: int, imm: int) -> Callable[[], None]:
        """What executes LI."""
        return lambda: self.set(rd, imm)

    def alu(self, insn: Alu) -> Callable[[], None]:
        """What executes an ALU instruction."""
        values, function = self._values, _FUNCTIONS[insn.function]
        rd, ra, (rb, imm) = insn.rd, insn.ra, insn.b

        def refuse() -> None:
            self.set(rd, function(values[ra], values[rb]))

        def add() -> None:
            values[rd] = values[ra] + values[rb] + imm & MASK

        def other() -> None:
            values[rd] = function(values[ra], values[rb] + imm & MASK) & MASK

        if rd == 0:
            return refuse
        return add if insn.function is AluFunction.ADD else other
