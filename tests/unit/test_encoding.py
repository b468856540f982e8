"""Strict JSON: refused by path, shown in bounds, and read however far a number reaches."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest

from tasker.encoding import MAX_PATH_SHOWN, decode, encode
from tasker.errors import PayloadTooLarge, ValueNotStorable


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, math.nan]}, "$.a[1]"),
        ({"a": {"b": -math.inf}}, "$.a.b"),
        ({"a": "x\0"}, "$.a"),
        ({"a\0": 1}, "$['a\\x00']"),
        ({"a": ["\ud800"]}, "$.a[0]"),
        ({"a": {2: 1}}, "$.a[2]"),
        ({"a": 2**64}, "$.a"),
        ({"a": object()}, "$.a"),
    ],
)
def test_what_cannot_be_stored_is_named_by_its_path(value: Any, path: str) -> None:
    with pytest.raises(ValueNotStorable) as caught:
        encode(value, what="the context")
    assert caught.value.field == path
    assert str(caught.value).startswith(f"the context cannot be stored as JSON at {path}: ")


def test_a_long_path_is_shown_in_part() -> None:
    value: Any = math.nan
    for _ in range(150):
        value = {"key": value}
    with pytest.raises(ValueNotStorable) as caught:
        encode(value)
    assert len(str(caught.value)) < MAX_PATH_SHOWN + 300
    assert "…: NaN" in str(caught.value)


def test_null_and_text_that_looks_like_an_escape_are_no_reason_to_refuse() -> None:
    assert encode({"a": None, "b": "\\u0000"}) == b'{"a":null,"b":"\\\\u0000"}'


def test_what_is_too_large_is_told_both_sizes() -> None:
    with pytest.raises(PayloadTooLarge, match=r"the result is 12 bytes of JSON; 10 are allowed"):
        encode("x" * 10, what="the result", max_bytes=10)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1" + "0" * 400, 10**400),
        ("-1" + "0" * 400, -(10**400)),
        ("1" + "0" * 5000, 10**5000),
        ("1" + "0" * 400 + ".5", 10**400),
    ],
    ids=["large", "small", "too long to be printed", "with a fraction"],
)
def test_a_number_that_no_double_holds_is_read_as_a_whole_one_and_its_neighbours_as_ever(text: str, value: int) -> None:
    found = decode(f'{{"wild": {text}, "int": -5, "float": 1.5, "long": 1{"0" * 30}, "text": "é"}}')
    assert found["wild"] == value
    assert (found["int"], found["float"], found["long"], found["text"]) == (-5, 1.5, 1e30, "é")
    assert [type(found[name]) for name in ("int", "float", "long")] == [int, float, float]
    assert decode(memoryview(text.encode())) == value


@pytest.mark.parametrize("text", ["", "{", "nul", "[1,]", "[" * 5000 + "]" * 5000], ids=len)
def test_what_is_no_json_or_too_deep_is_a_value_error(text: str) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        decode(text)
