"""Tools are rendered exactly as by the library where it says all, and in linear time."""

import time
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from openai_harmony import RenderOptions

from worker.harmony.signatures import ToolSignature, write_tools
from worker.harmony.tokens import (
    DeveloperPart,
    HarmonyMessage,
    SystemPart,
    decode,
    encode,
    render_steps,
    to_library,
    to_wire,
)
from worker.harmony.tokens import _encoding as encoding

_word = st.text("abcAZ09_$", min_size=1, max_size=8).filter(lambda text: not text[0].isdigit())
_line = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters='"\\'), max_size=12
) | st.sampled_from(["x", "it's", "a b"])
_numbers = st.integers(-5, 5) | st.integers(-40, 40).map(lambda n: n / 4)  # the library rounds finer ones
_leaf = st.none() | st.booleans() | _numbers | _line
_json = st.recursive(
    _leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_line, inner, max_size=3), max_leaves=5
)
_literal = _line.filter(lambda text: "null" not in text)  # the library takes that for the type null
_described = {"description": _line, "nullable": st.booleans()}
_titled = {"title": _line, "default": _json, "examples": st.lists(_line, max_size=3)}
"""What the library says of properties only."""


def _plain(**more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Schemas of which the library says everything, if they are properties with `more`, or variants."""
    kinds = st.sampled_from(["number", "integer", "boolean", "array", "string"])
    lists = st.lists(
        st.sampled_from(["number", "integer", "boolean", "string", "object", "null"]), min_size=1
    )
    simple = st.fixed_dictionaries({"type": kinds | lists}, optional=more)
    literals = st.fixed_dictionaries(
        {"type": st.just("string")}, optional={"enum": st.lists(_literal, max_size=4), **more}
    )
    return simple | literals


def _object(inner: st.SearchStrategy[Any], **more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.dictionaries(_word, st.tuples(inner, st.booleans()), min_size=1, max_size=4)
    return st.builds(_object_of, properties, st.fixed_dictionaries({}, optional=more))


def _object_of(properties: dict[str, tuple[Any, bool]], more: dict[str, Any]) -> dict[str, Any]:
    """`properties`: name -> (schema, whether it is required)."""
    required = [name for name, (_, is_required) in properties.items() if is_required]
    named = {name: schema for name, (schema, _) in properties.items()}
    return {"type": "object", "properties": named, "required": required, **more}


def _array(inner: st.SearchStrategy[Any], **more: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    simple = st.sampled_from([{"type": "string"}, {"type": "number"}, {"type": "boolean"}, {}])
    of_simple = st.fixed_dictionaries({"type": st.just("array"), "items": simple}, optional=more)
    is_null_said = {keyword: value for keyword, value in more.items() if keyword != "nullable"}
    objects = _object(inner, description=_line)
    return of_simple | st.fixed_dictionaries(
        {"type": st.just("array"), "items": objects}, optional=is_null_said
    )


def _property(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    said = _described | _titled
    variants = st.lists(_plain(default=_json, description=_line), min_size=1, max_size=3)
    choice = st.fixed_dictionaries({"oneOf": variants}, optional={"default": _json, "title": _line})
    return _plain(**said) | _object(inner, **_titled, description=_line) | _array(inner, **said) | choice


_properties: st.SearchStrategy[Any] = st.recursive(_plain(**_described, **_titled), _property, max_leaves=12)
_tools = st.builds(ToolSignature, _word, _line, st.none() | _object(_properties, description=_line))
_namespaces = st.dictionaries(
    _word | st.just("functions"),
    st.tuples(st.none() | _line, st.lists(_tools, max_size=3).map(tuple)),
    max_size=3,
)


@examples(max_examples=200)
@given(
    st.none() | _line,
    _namespaces,
    st.none() | st.just("# Response Formats\n\n## a\n\n{}"),
    st.dictionaries(st.sampled_from(["python", "browser"]), st.none() | _line, max_size=2),
)
def test_a_rendered_message_matches_the_librarys_where_that_says_all(
    instructions: str | None, namespaces: Any, formats: str | None, trained: dict[str, str | None]
) -> None:
    conversation: list[HarmonyMessage] = [
        SystemPart("high", "2026-01-01", trained),
        DeveloperPart(instructions, namespaces, formats),
    ]
    options = RenderOptions(conversation_has_function_tools="functions" in namespaces)
    for message in conversation:
        told = list(chain.from_iterable(render_steps(message, conversation)))
        rendered = encoding.render(to_library(message), options)
        assert decode(told) == decode(rendered)
        assert told == rendered or formats, "a section of its own may begin with other tokens"


def test_a_developer_message_is_shown_in_the_order_in_which_the_model_reads_it() -> None:
    formats = "# Response Formats\n\n## a\n\n{}"
    message = DeveloperPart("Be kind.", {"functions": (None, (ToolSignature("f", "", None),))}, formats)
    first, last = to_wire(message)["content"]
    assert (first["instructions"], list(first["tools"])) == ("Be kind.", ["functions"])
    assert last == {"type": "text", "text": f"\n\n{formats}"}
    assert to_wire(DeveloperPart(None, {}, formats))["content"] == [{"type": "text", "text": formats}]
    (before,) = to_wire(message, has_formats_last=False)["content"]
    assert before["instructions"] == f"Be kind.\n\n{formats}"


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "nullable": True}
    for _ in range(depth):
        schema = {"type": "object", "nullable": True, "properties": {"a": schema}}
    return schema


def _referring(n: int) -> dict[str, Any]:
    """Definitions that each refer to the next one twice."""
    properties = [{"a": {"$ref": f"#/$defs/d{i + 1}"}, "b": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(n)]
    definitions = {f"d{i}": {"type": "object", "properties": each} for i, each in enumerate(properties)}
    return {"$ref": "#/$defs/d0", "$defs": definitions | {f"d{n}": {"enum": ["end"]}}}


def _negated(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "not": schema}
    return schema


_HARD: dict[str, Callable[[int], dict[str, Any]]] = {
    "20,000 properties": lambda n: {
        "type": "object",
        "properties": {f"p{i}": {"type": "string"} for i in range(n)},
        "required": [f"p{i}" for i in range(n)],
    },
    "a long name": lambda n: {"type": "object", "properties": {"a" * n: {}}},
    "a long description": lambda n: {"type": "object", "description": "a" * n},
    "long enumeration": lambda n: {"type": "string", "enum": ["a" * n]},
    "a long default": lambda n: {"type": "object", "properties": {"a": {"default": "ก" * n}}},
    "many variants": lambda n: {"oneOf": [_nested(8)] * (n // 10)},
    "many lines": lambda n: {"type": "object", "description": "a\n" * n},
    "a long enumeration that is referred to": lambda n: {
        "$defs": {"E": {"enum": [f"v{i}" for i in range(n)]}},
        "prefixItems": [{"$ref": "#/$defs/E"} for _ in range(n)],
    },
    "many references": lambda n: {
        "$defs": {"E": {"type": "string"}},
        "prefixItems": [{"$ref": "#/$defs/E"} for _ in range(n)],
    },
    "references that multiply": lambda n: _referring(n // 20),
    "nesting": lambda n: _nested(n // 10),
    "nesting within comments": lambda n: _negated(n // 10),
}


@pytest.mark.parametrize("kind", _HARD)
def test_a_schema_takes_time_in_proportion_to_its_length(kind: str) -> None:
    """Ten times the length: with quadratic time a hundred times the work, which no load explains."""
    small, large = (_time_to_tell(_HARD[kind](n)) for n in (1_000, 10_000))
    assert large < 50 * small


def _time_to_tell(schema: dict[str, Any]) -> float:
    """The CPU's time, at best."""
    times = []
    for _ in range(3):
        begun = time.thread_time()
        encode("".join(write_tools({"functions": (None, [ToolSignature("f", "", schema)])})))
        times.append(time.thread_time() - begun)
    return min(times)


def test_what_is_nested_deep_is_written_and_not_indented_for_ever() -> None:
    told = "".join(write_tools({"functions": (None, [ToolSignature("f", "", _nested(500))])}))
    assert told.count("a?: ") == 500
    assert told.count("string | null") == 1
    assert max(len(line) for line in told.splitlines()) < 200
