"""Whatever a schema says is in the prompt, as a type or in a comment, and in proportion to its length."""

import json
import re
from collections.abc import Iterator
from enum import Enum
from functools import cache
from typing import Any, Literal, Optional
from urllib.parse import urljoin

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import BaseModel, Field, Json

from shared.json_schema_form import find_part, inner_schemas
from worker.engines.scripted.prompt import read_tools
from worker.harmony import schema_resources
from worker.harmony.schema_notes import literal, property_name
from worker.harmony.signatures import ToolSignature, write_tools

_BREAKS = ("\n", "\r\n", "\r", "\u2028", "\x85", "\x0b", "\n\n# Tools\n")
_DESCRIPTIONS = st.lists(st.integers(0, 999), min_size=1, max_size=3).flatmap(
    lambda numbers: st.sampled_from(_BREAKS).map(lambda end: end.join(f"D{n}" for n in numbers))
)
_names = st.sampled_from(["a", "b", "naïve", "a-b", "a b", "1", "", 'a"b', "a\nb", "//"])
_texts = _names | st.text(max_size=6)
_numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_json = st.recursive(
    st.none() | st.booleans() | _numbers | _texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_texts, inner, max_size=2),
    max_leaves=4,
)
_DEFINED = ("A", "B", "C d")
_NAMED: dict[str, dict[str, str]] = {
    "A": {"$anchor": "A"},
    "B": {"$dynamicAnchor": "B"},
    "C d": {"$id": "c.json"},
}
"""The names that each definition has besides its place."""
_REFERENCES = st.sampled_from(["#", *(f"#/$defs/{name}" for name in _DEFINED), "#A", "#B", "c.json"])
_MORE = {
    "description": _DESCRIPTIONS,
    "title": _texts,
    "default": _json,
    "examples": st.lists(_json, min_size=1, max_size=2),
    "deprecated": st.booleans(),
    "x-order": _json,
}


def _made(kind: str | None, **keywords: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fixed: dict[str, st.SearchStrategy[Any]] = {} if kind is None else {"type": st.just(kind)}
    return st.fixed_dictionaries(fixed, optional={**keywords, **_MORE})


@st.composite
def _schemas(draw: st.DrawFn, depth: int) -> Any:
    """Draws a schema with at most so many levels below it."""
    return draw(_leaves if depth == 0 or draw(st.booleans()) else _with_parts(depth - 1))


@cache
def _with_parts(depth: int) -> st.SearchStrategy[Any]:
    inner = _schemas(depth)
    several = st.lists(inner, min_size=1, max_size=3)
    shapes = {
        "properties": st.dictionaries(_names, inner, max_size=3),
        "required": st.lists(_names, max_size=2),
        "additionalProperties": inner,
        "patternProperties": st.dictionaries(_texts, inner, max_size=2),
        "propertyNames": inner,
        "minProperties": st.integers(0, 9),
    }
    conditions = {
        "if": inner,
        "then": inner,
        "else": inner,
        "not": inner,
        "dependentSchemas": st.dictionaries(_names, inner, max_size=2),
        "dependentRequired": st.dictionaries(_names, st.lists(_names, max_size=2), max_size=2),
        "contentSchema": inner,
    }
    lists = {"minItems": st.integers(0, 9), "contains": inner, "uniqueItems": st.booleans()}
    return st.one_of(
        _made("object", **shapes),
        _made("object", **conditions, anyOf=several),
        _made("array", items=inner, **lists),
        _made("array", items=inner, prefixItems=several, **lists),
        st.tuples(several, inner).map(
            lambda each: {"type": "array", "items": each[0], "additionalItems": each[1]}
        ),
        _made(None, anyOf=several, oneOf=several, nullable=st.booleans()),
        _made(None, allOf=several, properties=shapes["properties"]),
        _made(None, **{"not": inner, "$ref": _REFERENCES, "$dynamicRef": _REFERENCES}),
    )


_leaves = st.one_of(
    _made("string", enum=st.lists(_texts, min_size=1, max_size=3), format=_texts, pattern=_texts),
    _made("integer", minimum=_numbers, maximum=_numbers, multipleOf=_numbers),
    _made(None, enum=st.lists(_json, min_size=1, max_size=3)),
    _made(None, const=_json),
    st.lists(st.sampled_from(["string", "integer", "null", "object", "array"]), min_size=1, unique=True).map(
        lambda types: {"type": types}
    ),
    st.sampled_from([True, {}, {"type": "null"}, {"$ref": "#/$defs/A"}, {"$ref": "#/nowhere"}]),
)


@st.composite
def _with_definitions(draw: st.DrawFn) -> dict[str, Any]:
    schema = draw(_schemas(2).filter(lambda schema: isinstance(schema, dict)))
    definitions = {name: draw(_schemas(1)) for name in _DEFINED}
    for name, part in definitions.items():
        if isinstance(part, dict):
            definitions[name] = {**part, **_NAMED[name]}
    return {**schema, "$defs": definitions}


def told(schema: Any, description: str = "") -> str:
    return "".join(write_tools({"functions": (None, [ToolSignature("f", description, schema)])}))


def declared(schema: Any) -> str:
    """Returns a tool's declaration alone."""
    text = told(schema)
    return text[text.index("type f") : text.index("\n} // namespace")]


def _parts(schema: Any) -> list[dict[str, Any]]:
    """Returns the schemas that apply somewhere: all but definitions that nothing refers to."""
    found: dict[int, dict[str, Any]] = {}
    waiting = [(schema, schema)]
    while waiting:
        part, resource = waiting.pop()
        if not isinstance(part, dict) or id(part) in found:
            continue
        resource = part if "$id" in part else resource
        found[id(part)] = part
        for keyword, value in part.items():
            inner: list[Any] = []
            if keyword in ("$ref", "$dynamicRef"):
                waiting.append(_meant(value, schema, resource))
            elif keyword == "items" and isinstance(value, list):
                inner = value
            elif keyword in ("additionalItems", "contentSchema"):
                inner = [value]
            elif keyword != "$defs":
                inner = [within for _, within in inner_schemas(keyword, value)]
            waiting += [(within, resource) for within in inner]
    return list(found.values())


def _meant(reference: str, schema: Any, resource: Any) -> tuple[Any, Any]:
    """Returns what a reference in a resource of the schema means, and the resource of that."""
    defined = schema["$defs"]
    if reference == "#":
        return resource, resource
    if reference == "c.json":
        return (defined["C d"] if isinstance(defined["C d"], dict) else None), None
    if reference in ("#A", "#B"):
        return (defined[reference[1:]] if resource is schema else None), schema
    return find_part(reference, schema), schema


def _said(schema: dict[str, Any], *, unsaid: str | None) -> Iterator[str]:
    """Yields what must be found of one schema, one line each. `unsaid`: the title of the whole."""
    title = schema.get("title")
    for text in [schema.get("description"), None if title == unsaid else title]:
        yield from (text or "").splitlines()
    values = [*schema.get("enum", ()), *schema.get("examples", ())]
    values += [schema[keyword] for keyword in ("const", "default", "x-order") if keyword in schema]
    yield from map(literal, values)
    yield from (name + ":" for name in _named(schema))
    numbers = ("minimum", "maximum", "multipleOf", "minItems", "minProperties")
    for keyword in (*numbers, "format", "pattern", "deprecated", "dependentRequired"):
        if keyword in schema:
            yield f"{keyword}: "


def _named(schema: dict[str, Any]) -> Iterator[str]:
    for name in schema.get("properties", {}):
        yield property_name(name) + ("" if name in schema.get("required", ()) else "?")
    yield from map(property_name, schema.get("required", ()))


@examples(max_examples=100)
@given(_with_definitions())
def test_every_literal_name_and_description_is_in_the_prompt(schema: dict[str, Any]) -> None:
    text = declared_with_comments(schema)
    for part in _parts(schema):
        for said in _said(part, unsaid=schema.get("title")):
            raw = json.loads(said) if said.startswith('"') and said.endswith('"') else said
            assert said in text or raw in text, said


def test_an_object_that_stands_at_several_places_of_a_schema_that_contains_itself_ends() -> None:
    reference = {"$ref": "#/$defs/A"}
    schema = {"type": "object", "if": reference, "$defs": {"A": {"type": "object", "if": reference}}}
    assert declared_with_comments(schema) == declared_with_comments(json.loads(json.dumps(schema)))


def test_a_reference_is_followed_wherever_the_writer_goes() -> None:
    referring = {"type": "array", "items": [{"type": "object"}], "additionalItems": {"$ref": "#/$defs/A"}}
    named = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert "a?: string" in told({**referring, "$defs": {"A": named}})


def declared_with_comments(schema: Any) -> str:
    text = told(schema)
    return text[text.index("namespace functions {") : text.index("\n} // namespace")]


@examples(max_examples=100)
@given(_with_definitions(), _DESCRIPTIONS)
def test_every_line_of_a_description_is_a_comment_and_what_remains_is_a_type(
    schema: dict[str, Any], description: str
) -> None:
    text = told(schema, description)
    for line in text.splitlines():
        if re.search(r"D\d+", line) and '"' not in line:
            assert "//" in line.partition("D")[0], line
    assert [line for line in text.splitlines() if line.startswith("#")] == ["# Tools", "## functions"]
    code = "".join(_code_of(text[text.index("type f") :]))
    assert _is_balanced(code), code


def _code_of(text: str) -> Iterator[str]:
    """Yields the text without its comments and literals."""
    place = 0
    for found in re.finditer(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*', text):
        yield text[place : found.start()]
        place = found.end()
    yield text[place:]


def _is_balanced(code: str) -> bool:
    ends = {"(": ")", "[": "]", "{": "}"}
    awaited: list[str] = []
    for character in code.removesuffix("\n} "):
        if character in ends:
            awaited.append(ends[character])
        elif character in ends.values() and (not awaited or awaited.pop() != character):
            return False
    return not awaited


@examples(max_examples=100)
@given(_with_definitions())
def test_the_length_is_in_proportion_to_the_schemas(schema: dict[str, Any]) -> None:
    assert len(told(schema)) < 200 + 20 * len(json.dumps(schema))


def test_references_that_multiply_are_written_once() -> None:
    depth = 200
    definitions = {
        f"d{i}": {"type": "object", "properties": {name: {"$ref": f"#/$defs/d{i + 1}"} for name in "abc"}}
        for i in range(depth)
    }
    schema = {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{depth}": {"description": "The end."}}}
    text = told(json.loads(json.dumps(schema)))
    assert text.count("The end.") == 1
    assert len(text) < 20 * len(json.dumps(schema))


def written(properties: dict[str, Any], **more: Any) -> str:
    return declared({"type": "object", "properties": properties, **more})


NODE = {"type": "object", "properties": {"v": {"const": 1}}}


@pytest.mark.parametrize(
    ("reference", "definition", "more"),
    [
        ({"$ref": "#node"}, {"$anchor": "node"}, {}),
        ({"$ref": "#node"}, {"$dynamicAnchor": "node"}, {}),
        ({"$ref": "#node"}, {"$id": "#node"}, {}),
        ({"$dynamicRef": "#node"}, {"$dynamicAnchor": "node"}, {}),
        ({"$dynamicRef": "#node"}, {"$anchor": "node"}, {}),
        ({"$dynamicRef": "#/$defs/N"}, {}, {}),
        ({"$ref": "node.json"}, {"$id": "node.json"}, {}),
        ({"$ref": "/node.json#"}, {"$id": "node.json"}, {"$id": "https://e.example/whole"}),
        ({"$ref": "https://e.example/node.json"}, {"$id": "node.json"}, {"$id": "https://e.example/whole"}),
        ({"$ref": "node.json#n"}, {"$id": "node.json", "$anchor": "n"}, {"$id": "https://e.example/whole"}),
        ({"$ref": "whole#/$defs/N"}, {}, {"$id": "https://e.example/whole"}),
        ({"$ref": "urn:node"}, {"$id": "urn:node"}, {"$id": "urn:whole"}),
    ],
)
def test_a_name_within_the_schema_is_followed(
    reference: dict[str, str], definition: dict[str, str], more: dict[str, Any]
) -> None:
    text = written({"p": reference}, **more, **{"$defs": {"N": {**NODE, **definition}}})
    assert text == "type f = (_: {\np?: {\n    v?: 1,\n    },\n}) => any;\n"


@pytest.mark.parametrize(
    "reference",
    [
        {"$ref": "#nowhere"},
        {"$ref": "other.json"},
        {"$ref": "https://[e/"},
        {"$ref": "node.json#nowhere"},
        {"$dynamicRef": "#nowhere"},
        {"$recursiveRef": "#/$defs/N"},
        {"$ref": "x" * 1_001},
    ],
)
def test_a_name_that_is_not_in_the_schema_is_told(reference: dict[str, str]) -> None:
    text = written({"p": reference}, **{"$defs": {"N": {**NODE, "$id": "node.json"}}})
    ((keyword, name),) = reference.items()
    assert f'p?: any, // {keyword}: "{name}"' in text


def test_a_schema_with_an_id_is_a_whole_to_what_it_holds() -> None:
    inner = {
        "$id": "list.json",
        "type": "object",
        "properties": {"next": {"$ref": "#"}, "item": {"$ref": "#/$defs/item"}, "w": {"$ref": "#/$defs/w"}},
        "$defs": {"item": {"const": "inner"}},
    }
    text = written(
        {"p": {"$ref": "list.json"}}, **{"$defs": {"l": inner, "item": {"const": 1}, "w": {"const": 2}}}
    )
    assert 'next?: list,\n    item?: "inner",\n    w?: 2,\n' in text


def test_a_dynamic_name_means_the_outermost_one_if_that_is_the_same_on_every_way() -> None:
    tree = {
        "$id": "tree",
        "$dynamicAnchor": "node",
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$dynamicRef": "#node"}}},
    }
    strict = declared({"$id": "strict", "$dynamicAnchor": "node", "$ref": "tree", "$defs": {"t": tree}})
    assert "// type node\n" in strict
    assert "children?: node[]" in strict
    other = {"$id": "other", "$dynamicAnchor": "node", "$ref": "tree"}
    either = written({"a": {"$ref": "other"}, "b": {"$ref": "tree"}}, **{"$defs": {"t": tree, "o": other}})
    assert '$dynamicRef: "#node"' in either
    recursive = {"type": "object", "properties": {"self": {"$recursiveRef": "#"}}, "title": "Tree"}
    assert "self?: Tree" in declared(recursive)


def test_names_are_found_in_proportion_to_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a long base, to which each reference would be joined, nor bases within bases cost more."""
    joined = 0

    def count(base: str, address: str) -> str:
        nonlocal joined
        joined += len(base) + len(address)
        return urljoin(base, address)

    monkeypatch.setattr(schema_resources, "urljoin", count)
    definitions = {f"d{i}": {"$id": f"{'x' * 50}/{i}.json", "const": i} for i in range(500)}
    references = {f"p{i}": {"$ref": f"{'x' * 50}/{i}.json"} for i in range(500)}
    nested: dict[str, Any] = {"const": "deep"}
    for _ in range(200):
        nested = {"$id": "y" * 500 + "/", "properties": {"n": nested}}
    long = "https://e.example/" + "z" * 100_000
    schema = {"$id": long, "properties": {**references, "n": nested}, "$defs": definitions}
    text = declared(schema)
    assert "p499?: 499," in text
    assert '"deep"' in text
    assert joined < 20 * len(json.dumps(schema))


# --- what generators write --------------------------------------------------------------------


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Item(BaseModel):
    """An item.

    It is sold."""

    sku: str = Field(description="Its number.", min_length=3, pattern=r"^\d+$")
    quantity: int = Field(1, ge=1, le=10)
    colour: Colour = Colour.RED


class Node(BaseModel):
    value: float
    children: list["Node"] = []


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Letter(BaseModel):
    items: Json[list[Item]]


class Order(BaseModel):
    items: list[Item]
    when: Optional[str] = None  # noqa: UP045  as users write it
    colour: Colour
    root: Node
    pet: Cat | Dog
    point: tuple[int, float]
    labels: dict[str, list[str]] = {}


def test_the_models_of_pydantic_and_of_the_agents_sdk_say_all_that_they_hold() -> None:
    assert (
        declared(Order.model_json_schema())
        == r"""type f = (_: {
// Items
//
items:     // Item
    // An item.
    //
    // It is sold.
{
    // Sku
    //
    // Its number.
    sku: string, // minLength: 3, pattern: ^\d+$
    // Quantity
    //
    quantity?: number, // default: 1, maximum: 10, minimum: 1
    // Colour
    //
    colour?: "red" | "blue", // default: "red"
    }[],
// When
//
when?: string | null, // default: null
colour: "red" | "blue",
root:     // type Node
{
    // Value
    //
    value: number,
    // Children
    //
    children?: Node[], // default: []
    },
// Pet
//
pet:
 |    // Cat
{
   // Kind
   //
   kind: "cat",
   }
 |    // Dog
{
   // Kind
   //
   kind: "dog",
   }
,
// Point
//
point: [number, number], // maxItems: 2, minItems: 2
// Labels
//
labels?: {
    [key: string]: string[],
    }, // default: {}
}) => any;
"""
    )


def test_what_a_text_holds_is_said_with_all_that_it_refers_to() -> None:
    assert "// // Its number.\n// sku: string, // minLength: 3" in declared(Letter.model_json_schema())


ZOD = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {
        "first": {"type": "object", "properties": {"x": {"type": "number"}}, "additionalProperties": False},
        "second": {"$ref": "#/properties/first"},
        "size": {"type": ["string", "null"], "enum": ["s", "m", None]},
        "mode": {"anyOf": [{"type": "string", "const": "fast"}, {"type": "number", "exclusiveMinimum": 0}]},
        "record": {"type": "object", "additionalProperties": {"type": "boolean"}},
        "both": {"allOf": [{"$ref": "#/properties/first"}, {"type": "object", "required": ["y"]}]},
        "pair": {
            "type": "array",
            "items": [{"type": "string"}, {"type": "number"}],
            "minItems": 2,
            "maxItems": 2,
        },
        "no-name": {"type": "string", "format": "date-time", "description": "When\nit was."},
        "except": {"not": {"const": 0}},
    },
    "required": ["first", "no-name"],
    "additionalProperties": False,
}
"""In the forms of zod-to-json-schema (draft 7, references into properties) and of zod 4."""


def test_the_schemas_of_zod_say_all_that_they_hold() -> None:
    assert (
        declared(ZOD)
        == """type f = (_: {
first:     // type first
{
    x?: number,
    },
second?: first,
size?: "s" | "m" | null,
mode?:
 | "fast"
 | number // exclusiveMinimum: 0
,
record?: {
    [key: string]: boolean,
    },
both?: first & {
    y: any,
    },
pair?: [string, number], // minItems: 2, maxItems: 2
// When
// it was.
"no-name": string, // format: date-time
// not: 0
except?: any,
}) => any;
"""
    )


@pytest.mark.parametrize(
    "schema",
    [
        None,
        {},
        {"type": "object"},
        {"type": "object", "properties": {}, "title": "fArguments"},
        {"$schema": "x", "type": "object", "properties": {}, "additionalProperties": False, "required": []},
    ],
)
def test_a_tool_without_arguments_is_written_as_the_guide_writes_it(schema: Any) -> None:
    assert declared(schema) == "type f = () => any;\n"


def test_what_the_schema_of_no_arguments_says_stands_above_the_tool() -> None:
    schema = {"type": "object", "properties": {}, "description": "Nothing\nat all."}
    assert "// What it does.\n// Nothing\n// at all.\ntype f = () => any;\n" in told(schema, "What it does.")


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"type": "array", "items": {"enum": ["a", "b"]}}, '("a" | "b")[]'),
        (
            {"type": "array", "items": {"type": "null", "description": "D"}},
            "(\n    // D\n    null)[]",
        ),
        ({"enum": [1, "1", None, {"a": [True]}]}, '1 | "1" | null | {"a":[true]}'),
        ({"type": ["array", "null"], "items": {"type": "integer"}}, "number[] | null"),
        ({"type": "string", "anyOf": [{"format": "ipv4"}, {"pattern": "a|b"}]}, None),
        ({"$ref": "#/$defs/a%20b"}, '"x"'),
        ({"$ref": "https://elsewhere/schema"}, "any"),
        (True, "any"),
        (False, "never"),
    ],
)
def test_a_type_says_what_its_schema_says(schema: Any, written: str | None) -> None:
    whole = {"type": "object", "properties": {"p": schema}, "$defs": {"a b": {"const": "x"}}}
    text = declared(whole)
    if written is None:
        assert "p?:\n | string // format: ipv4\n | string // pattern: a|b\n,\n" in text
    else:
        assert f"p?: {written}," in text.replace("\n    )", ")")


def test_the_scripted_engine_reads_the_parameters_whatever_their_types() -> None:
    (order,) = read_tools(told(Order.model_json_schema()), is_system=False)
    assert [parameter.name for parameter in order.parameters] == list(Order.model_fields)
    assert [p.name for p in order.parameters if not p.is_required] == ["when", "labels"]
    (zod,) = read_tools(told(ZOD), is_system=False)
    assert [p.name for p in zod.parameters] == list(ZOD["properties"])  # type: ignore[call-overload]
    types = {parameter.name: parameter.type for parameter in zod.parameters}
    assert (types["first"], types["mode"], types["no-name"]) == ("{", '"fast"', "string")
    one_of_both = [{"required": ["a"]}, {"required": ["b"]}]
    either = {"type": "object", "properties": {"a": {}, "b": {}}, "anyOf": one_of_both}
    (tool,) = read_tools(told(either), is_system=False)
    assert [p.name for p in tool.parameters] == ["a", "b"]
