# SPDX-License-Identifier: Apache-2.0
"""JSON that is written in one way only, and read without trust.

:func:`dump` has one spelling for each value (sorted keys, no spaces, UTF-8), and :func:`parse` takes no other. That
refuses whatever JSON leaves to the reader: keys given twice, NaN and infinity, numbers out of range, half a surrogate
pair. :func:`checked` then makes sure of keys and types.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from catenary.isa.errors import CatenaryError, ProgramError

LARGEST_INTEGER = 1 << 53
"""Integers are below this, so that every JSON library can hold them."""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlong = 24


def shown(value: object) -> str:
    """``value`` for a message, shortened: whoever damages a file must not choose how long the message gets."""
    return _SHORT.repr(value)


def dump(value: Any, what: str) -> bytes:  # noqa: ANN401 - JSON is dynamically typed
    """The canonical JSON of ``value``.

    Raises:
        ProgramError: it holds something that JSON has no form for; the message names ``what``.
    """
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ProgramError(f"{what} must be plain JSON values, not with the fault: {error}") from None


def parse(data: bytes, what: str) -> Any:  # noqa: ANN401
    """Inverse of :func:`dump`.

    Raises:
        ProgramError: it is not JSON, or not written as :func:`dump` does; the message names ``what``.
    """
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ProgramError(f"{what} must be JSON, not with the fault: {error}") from None
    if dump(value, what) != data:
        raise ProgramError(f"{what} must be JSON in canonical form (no key twice), not otherwise")
    return value


def checked(
    data: Any,  # noqa: ANN401
    where: str,
    kinds: Mapping[str, Any],
    error: type[CatenaryError] = ProgramError,
) -> dict[str, Any]:
    """The values of JSON object ``data``, which must have exactly the keys of ``kinds`` and values of those types.

    A type is ``int``, ``float`` (which takes integers too), ``str``, ``bool``, ``list``, ``dict``, an enumeration of
    strings, ``list[T]``, ``dict[str, T]`` or ``T | None``.

    Raises:
        CatenaryError: of type ``error``; the message names ``where`` and the key.
    """
    if type(data) is not dict:
        raise error(f"{where} must be a JSON object, not {shown(data)}")
    if data.keys() != kinds.keys():
        odd = sorted(data.keys() ^ kinds.keys())
        raise error(f"Keys of {where} must be {sorted(kinds)}, not with {shown(odd)} missing or added")
    return {key: _value(data[key], kind, f"{where}.{key}", error) for key, kind in kinds.items()}


def _value(value: Any, kind: Any, where: str, error: type[CatenaryError]) -> Any:  # noqa: ANN401
    if isinstance(kind, UnionType):
        if value is None:
            return None
        [kind] = [option for option in get_args(kind) if option is not NoneType]
    if get_origin(kind) is list:
        [item] = get_args(kind)
        return [_value(v, item, f"{where}[{i}]", error) for i, v in enumerate(_value(value, list, where, error))]
    if get_origin(kind) is dict:
        _, item = get_args(kind)
        return {k: _value(v, item, f"{where}[{shown(k)}]", error) for k, v in _value(value, dict, where, error).items()}
    if issubclass(kind, Enum):
        names = [member.value for member in kind]
        if type(value) is not str or value not in names:
            raise error(f"{where} must be one of {names}, not {shown(value)}")
        return kind(value)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise error(f"{where} must be of type {kind.__name__}, not {shown(value)}")
    if type(value) is int and abs(value) >= LARGEST_INTEGER:
        raise error(f"{where} must be below {LARGEST_INTEGER} in magnitude, not {shown(value)}")
    return float(value) if kind is float else value
