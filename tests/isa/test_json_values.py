# SPDX-License-Identifier: Apache-2.0
"""JSON in canonical form, and its typed reading."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catenary.isa.errors import GraphError, ProgramError
from catenary.isa.json_values import checked, dump, parse, shown

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
)


@given(VALUES)
def test_parse_is_the_inverse_of_dump(value: Any) -> None:
    data = dump(value, "x")
    assert parse(data, "x") == value
    assert dump(parse(data, "x"), "x") == data
    assert json.loads(data) == value


def test_equal_objects_are_written_alike() -> None:
    assert dump({"b": 1, "a": [1, 2.5, None, "ü"]}, "x") == '{"a":[1,2.5,null,"ü"],"b":1}'.encode()
    assert dump({"a": 1, "b": 2}, "x") == dump({"b": 2, "a": 1}, "x")


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), {1, 2}, b"x", {"a": object()}, "\ud800", {1: 2, "a": 3}, 10**5000],
    ids=range(8),
)
def test_what_json_has_no_form_for_is_refused(value: Any) -> None:
    with pytest.raises(ProgramError, match=r"^Thing must be plain JSON values, not with the fault: "):
        dump(value, "Thing")


def test_what_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: Any = None
    for _ in range(100_000):
        deep = [deep]
    for value in (loop, deep):
        with pytest.raises(ProgramError, match=r"^Thing must be plain JSON values"):
            dump(value, "Thing")


@pytest.mark.parametrize(
    "data",
    [b"", b" ", b"{", b"nul", b'"\xff"', b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"{}x"],
    ids=lambda data: str(data[:8]),
)
def test_what_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(ProgramError, match=r"^Thing must be JSON, not with the fault: ") as caught:
        parse(data, "Thing")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "data",
    [
        b"{ }", b"{}\n", b'{"b":1,"a":2}', b'{"a":1,"a":1}', b'{"a":1,"a":2}', b"1e2", b"1.50", b"-0.00", b'"\\u0041"',
        b'"\\ud83d\\ude00"', b'"\\/"', b"[1, 2]",
    ],
)  # fmt: skip
def test_another_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(ProgramError, match=r"^Thing must be JSON in canonical form \(no key twice\), not otherwise$"):
        parse(data, "Thing")


@pytest.mark.parametrize("data", [b"NaN", b"[Infinity]", b"-Infinity", b"1e999", b'"\\ud800"'])
def test_what_python_takes_for_json_is_refused(data: bytes) -> None:
    with pytest.raises(ProgramError, match=r"^Thing must be plain JSON values, not with the fault: "):
        parse(data, "Thing")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


KINDS = {
    "i": int, "f": float, "s": str, "b": bool, "l": list, "d": dict, "c": Colour, "li": list[int], "di": dict[str, int],
    "oi": int | None, "os": str | None,
}  # fmt: skip
GOOD = {
    "i": 1, "f": 1.5, "s": "x", "b": True, "l": [None], "d": {"a": None}, "c": "red", "li": [1, 2], "di": {"a": 1},
    "oi": None, "os": "x",
}  # fmt: skip


def test_values_of_the_right_types_are_taken() -> None:
    assert checked(GOOD, "T", KINDS) == {**GOOD, "c": Colour.RED}
    whole = checked({**GOOD, "f": 2}, "T", KINDS)["f"]
    assert (whole, type(whole)) == (2.0, float)


WRONG = {
    "i": [True, 1.0, "1", None, [], {}, 1 << 53, -(1 << 53), 10**400],
    "f": [True, "1", None, 1 << 60, 10**400],
    "s": [1, None, ["x"]],
    "b": [0, 1, None, "true"],
    "l": [{}, None, "x"],
    "d": [[], None, "x"],
    "c": ["green", 1, None, ["red"], {"red": 1}],
    "li": [[1, True], [1.0], 1, {"a": 1}, [None]],
    "di": [{"a": True}, {"a": None}, [1], {"a": [1]}],
    "oi": [True, "1", 1.0, [None]],
    "os": [1, True],
}


@pytest.mark.parametrize("key, value", [(key, value) for key, values in WRONG.items() for value in values])
def test_values_of_other_types_are_refused(key: str, value: Any) -> None:
    with pytest.raises(GraphError, match=rf"^T\.{key}.* must be .*, not ") as caught:
        checked({**GOOD, key: value}, "T", KINDS, GraphError)
    assert len(str(caught.value)) < 200


def test_messages_name_the_place() -> None:
    for changed, message in (
        ({"i": "1"}, "T.i must be of type int, not '1'"),
        ({"i": 1 << 53}, "T.i must be below 9007199254740992 in magnitude, not 9007199254740992"),
        ({"c": "green"}, "T.c must be one of ['red', 'blue'], not 'green'"),
        ({"li": [1, None]}, "T.li[1] must be of type int, not None"),
        ({"di": {"a": "x"}}, "T.di['a'] must be of type int, not 'x'"),
    ):
        with pytest.raises(ProgramError, match=f"^{re.escape(message)}$"):
            checked({**GOOD, **changed}, "T", KINDS)


def test_keys_must_be_exactly_the_known_ones() -> None:
    with pytest.raises(ProgramError, match=r"^Keys of T must be \['a', 'b'\], not with \['b', 'c'\] missing or added$"):
        checked({"a": 1, "c": 2}, "T", {"a": int, "b": int})
    for value in ([], None, "x", 1):
        with pytest.raises(ProgramError, match=rf"^T must be a JSON object, not {re.escape(repr(value))}$"):
            checked(value, "T", {"a": int})


def test_long_values_are_shortened() -> None:
    for value in ("x" * 10_000, ["x" * 10_000] * 10_000, {str(i): i for i in range(10_000)}, 10**4000):
        assert len(shown(value)) < 800
    assert shown("layers.12.attention.norm.weight") == "'layers.12.attention.norm.weight'"
