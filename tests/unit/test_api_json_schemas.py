"""Invalid schemas are refused before anything runs, and the mistake is named."""

from typing import Any

import msgspec
import pytest

from api.bodies.json_schemas import check_schema
from api.bodies.requests import Birth, RequestLimits, read_create
from api.errors import ClientError

RECURSIVE = {
    "$defs": {"a/b": {"type": "object", "properties": {"next": {"$ref": "#/$defs/a~1b"}}}},
    "anyOf": [{"$ref": "#/$defs/a~1b"}, {"type": ["string", "null"], "maxLength": 3}],
}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"type": {"type": "string"}, "enum": True}, "required": ["type"]},
        {"enum": [None]},
        {"type": "object", "properties": {"me": {"$ref": "#"}}},
        {"x-unknown": {"type": 3}, "default": {"required": 5}},
        RECURSIVE,
    ],
)
def test_a_schema_passes(schema: Any) -> None:
    check_schema(schema, ("schema",))


@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ([], "schema"),
        ({"type": "strnig"}, "schema.type"),
        ({"type": []}, "schema.type"),
        ({"properties": []}, "schema.properties"),
        ({"properties": {"a": "string"}}, "schema.properties.a"),
        ({"properties": {"a": {"items": {"enum": []}}}}, "schema.properties.a.items.enum"),
        ({"anyOf": [{}, {"required": "a"}]}, "schema.anyOf[1].required"),
        ({"minLength": -1}, "schema.minLength"),
        ({"maximum": "9"}, "schema.maximum"),
        ({"$ref": "#/$defs/missing"}, "schema.$ref"),
        ({"$ref": "https://elsewhere.example/schema.json"}, "schema.$ref"),
    ],
)
def test_what_is_no_schema_is_refused_where_it_goes_wrong(schema: Any, param: str) -> None:
    with pytest.raises(ClientError) as refused:
        check_schema(schema, ("schema",))
    assert refused.value.param == param


def refuse(**body: Any) -> str | None:
    with pytest.raises(ClientError) as refused:
        read_create(
            msgspec.json.encode({"input": "Hi", **body}),
            Birth("resp_1", 0),
            ["m"],
            RequestLimits(1, 1, 1_000_000),
        )
    return refused.value.param


def test_formats_and_strict_functions_are_checked() -> None:
    wrong = {"type": "object", "properties": {"a": {"type": "text"}}}
    text = {"format": {"type": "json_schema", "name": "it", "schema": wrong}}
    assert refuse(text=text) == "text.format.schema.properties.a.type"
    function = {"type": "function", "name": "f", "parameters": wrong, "strict": True}
    assert refuse(tools=[function]) == "tools[0].parameters.properties.a.type"
