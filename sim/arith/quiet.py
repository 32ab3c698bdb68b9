# SPDX-License-Identifier: Apache-2.0
"""Numpy's floating-point warnings, switched off once instead of in every operation.

Overflow, invalid results and divisions by zero are part of the arithmetic and have defined results. Setting numpy's
error state takes longer than a small array operation, so code that calls many of them, such as a simulator, holds
:func:`quiet` around all of its work; the operations then see that there is nothing left to switch off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_IS_QUIET: ContextVar[bool] = ContextVar("catenary_arith_is_quiet", default=False)


@contextmanager
def quiet() -> Iterator[None]:
    """No floating-point warnings inside. In there, nothing but this package may change numpy's error state."""
    token = _IS_QUIET.set(True)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        _IS_QUIET.reset(token)


def quietly(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Decorate ``function`` so that it always runs inside :func:`quiet`."""

    @wraps(function)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if _IS_QUIET.get():
            return function(*args, **kwargs)
        with quiet():
            return function(*args, **kwargs)

    return wrapper
