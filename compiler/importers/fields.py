# SPDX-License-Identifier: Apache-2.0
"""Typed access to JSON objects that somebody else wrote; every broken rule is collected, not only the first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from catenary.isa.errors import CheckpointError, UnsupportedModelError

T = TypeVar("T")


def read_bytes(path: Path) -> bytes:
    """The content of ``path``.

    Raises:
        CheckpointError: the file is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"File {path} must be readable, not: {error.strerror or error}") from error


def parse_object(raw: bytes, where: str) -> dict[str, object]:
    """``raw`` as one JSON object without duplicate keys, ``NaN`` or ``Infinity``.

    Raises:
        CheckpointError: names ``where`` and what is wrong.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        result = dict(pairs)
        if len(result) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"key {twice!r} given twice")
        return result

    def constant(text: str) -> object:
        raise ValueError(f"number {text}")

    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} must be valid JSON, not: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} must be a JSON object, not {type(value).__name__}")
    return value


class Fields:
    """Reads named values of one JSON object and checks type and range of each.

    A value that is absent or null takes its default. A broken rule is appended to :attr:`problems` and a legal stand-in
    is returned, so that one pass finds all problems.

    Args:
        values: the JSON object.
        where: what to call it in messages, such as ``config.json``.
        defaults: values of absent keys; a key without a default must be there.
        problems: list to append to; a new one by default.
    """

    def __init__(
        self,
        values: Mapping[str, object],
        where: str,
        defaults: Mapping[str, object],
        problems: list[CheckpointError] | None = None,
    ) -> None:
        self.values = values
        self.where = where
        self.defaults = defaults
        self.problems: list[CheckpointError] = [] if problems is None else problems

    def raw(self, name: str) -> object:
        """The unchecked value of ``name``, or its default, or ``None``."""
        value = self.values.get(name)
        return self.defaults.get(name) if value is None else value

    def fail(self, name: str, rule: str, value: object, *, unsupported: bool = False) -> None:
        """Note that ``name`` breaks ``rule``."""
        kind = UnsupportedModelError if unsupported else CheckpointError
        shown = "missing" if value is None else repr(value)
        if len(shown) > 80:
            shown = shown[:77] + "..."
        self.problems.append(kind(f"{name} of {self.where} must be {rule}, not {shown}"))

    def integer(self, name: str, low: int, high: int) -> int:
        """An integer in ``low .. high``; ``low`` stands in for a bad one."""
        value = self.raw(name)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self.fail(name, f"an integer from {low} to {high}", value)
        return low

    def optional_integer(self, name: str, low: int, high: int) -> int | None:
        """As :meth:`integer`, or ``None`` where neither a value nor a default is given."""
        return None if self.raw(name) is None else self.integer(name, low, high)

    def number(self, name: str, above: float, most: float) -> float:
        """A number in ``(above, most]``; ``most`` stands in for a bad one."""
        value = self.raw(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and above < value <= most:
            return float(value)
        self.fail(name, f"a number above {above:g}, at most {most:g}", value)
        return most

    def boolean(self, name: str) -> bool:
        """True or false; false stands in for a bad one."""
        value = self.raw(name)
        if isinstance(value, bool):
            return value
        self.fail(name, "true or false", value)
        return False

    def choice(self, name: str, choices: Mapping[str, T]) -> T:
        """What ``choices`` holds for the value; its first entry stands in for a value that it does not hold."""
        value = self.raw(name)
        if isinstance(value, str) and value in choices:
            return choices[value]
        self.fail(name, f"one of {', '.join(choices)}", value, unsupported=isinstance(value, str))
        return next(iter(choices.values()))

    def mapping(self, name: str) -> Mapping[str, object]:
        """A JSON object, empty where absent or bad."""
        value = self.raw(name)
        if isinstance(value, dict):
            return value
        if value is not None:
            self.fail(name, "a JSON object", value)
        return {}
