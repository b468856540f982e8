from __future__ import annotations

import datetime as dt
from typing import Any, NotRequired, TypedDict

import pytest
from pydantic import BaseModel, ConfigDict, Field

from tasker.workflows.schemas import Schema, SchemaInvalid, compile_schema, pointer
from tasker.workflows.typed import TypedValue, TypeUnusable


def test_draft_07_is_understood_where_the_schema_says_so() -> None:
    # In draft-07 a `$ref` hides its neighbours; in 2020-12 both hold.
    document: dict[str, Any] = {
        "definitions": {"any": {}},
        "properties": {"a": {"$ref": "#/definitions/any", "type": "string"}},
    }
    assert not Schema(document).fits({"a": 1})
    assert Schema({"$schema": "http://json-schema.org/draft-07/schema#", **document}).fits({"a": 1})


@pytest.mark.parametrize(
    ("schema", "path", "message"),
    [
        ({"type": "strin"}, "type", "must be array, boolean, integer, null, number, object, string"),
        ({"properties": {"a": {"minimum": "x"}}}, "properties.a.minimum", 'is not of type "number"'),
        ({"items": {"$ref": "#/$defs/item"}}, "items.$ref", "refers to #/$defs/item, which is not there"),
        ({"$ref": "http://127.0.0.1:9/a"}, "$ref", "a schema may refer to its own parts only"),
        ({"allOf": [{}, {"$ref": "file:///etc/passwd"}]}, "allOf[1].$ref", "a schema may refer to its own parts only"),
        ({"$schema": 7}, "$schema", "must be one of"),
        ({"pattern": "("}, "", "regex"),
    ],
)
def test_a_wrong_schema_is_refused_with_the_place(schema: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(SchemaInvalid) as caught:
        Schema(schema)
    assert pointer(caught.value.path) == path
    assert message in caught.value.message


def test_a_schema_may_refer_to_its_own_parts() -> None:
    schema = Schema({"$defs": {"id": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/id"}}})
    assert schema.explain({"a": "x"}) == ('a: "x" is not of type "integer"', ("a",))
    assert schema.explain({"a": 1}) is None


def test_equal_schemas_are_compiled_once() -> None:
    assert compile_schema({"type": "object", "required": ["a"]}) is compile_schema(
        {"type": "object", "required": ["a"]}
    )


def test_a_long_value_does_not_make_a_long_message() -> None:
    message, _ = Schema({"type": "integer"}).explain("x" * 100_000) or ("", ())
    assert len(message) <= 300


def test_a_pattern_that_backtracks_for_ever_ends() -> None:
    schema = Schema({"pattern": "^(?=a)(a+)+$"})
    assert not schema.fits("a" * 60 + "!")


# -- types of Python ------------------------------------------------------------------------------------------


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    at: dt.datetime


def test_a_strict_model_takes_what_json_has_for_its_types() -> None:
    found = TypedValue(Strict).from_json({"at": "2026-01-02T00:00:00Z"})
    assert found == Strict(at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC))


class Inner(TypedDict):
    sku: str


class Outer(TypedDict, total=False):
    inner: Inner
    note: str


class Partly(TypedDict):
    needed: int
    optional: NotRequired[int]


def test_typed_dicts_of_the_standard_library_are_understood_with_their_required_keys() -> None:
    assert TypedValue(Partly).schema("validation") == {
        "type": "object",
        "properties": {"needed": {"type": "integer"}, "optional": {"type": "integer"}},
        "required": ["needed"],
    }
    assert TypedValue(Outer).from_json({"inner": {"sku": "a"}}) == {"inner": {"sku": "a"}}


class Clock(BaseModel):
    at: dt.datetime
    time: dt.time
    lasts: dt.timedelta


def test_a_models_own_values_fit_the_schema_derived_from_it() -> None:
    value = Clock(at=dt.datetime(2026, 1, 2), time=dt.time(3), lasts=dt.timedelta(days=-1))  # noqa: DTZ001
    kind = TypedValue(Clock)
    schema = kind.schema("serialization")
    assert schema is not None
    assert Schema(schema).explain(kind.to_json(value)) is None


class Titled(BaseModel):
    """Described."""

    title: str = Field(title="A title", description="said twice", examples=["x"])
    properties: dict[str, int] = Field(default={"title": 1})


def test_only_annotations_are_left_out_of_a_derived_schema() -> None:
    assert TypedValue(Titled).schema("validation") == {
        "type": "object",
        "properties": {
            "title": {"type": "string", "examples": ["x"]},
            "properties": {"type": "object", "additionalProperties": {"type": "integer"}, "default": {"title": 1}},
        },
        "required": ["title"],
    }


@pytest.mark.parametrize("annotation", [Any, object])
def test_a_type_that_allows_everything_has_no_schema(annotation: Any) -> None:
    assert TypedValue(annotation).schema("serialization") is None


def test_a_class_without_a_json_form_is_refused() -> None:
    with pytest.raises(TypeUnusable, match="Schema, which has no JSON form"):
        TypedValue(Schema)
