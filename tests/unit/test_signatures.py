"""Tools are rendered exactly as by the library, and in linear time."""

import time
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from openai_harmony import RenderOptions

from worker.harmony.signatures import DEPTH_MAX, ToolSignature, write_tools
from worker.harmony.tokens import DeveloperPart, HarmonyMessage, SystemPart, encode, render_steps, to_library
from worker.harmony.tokens import _encoding as encoding

_text = st.text(max_size=12) | st.sampled_from(["a\r\nb\n", "null", "x", "\n", "\r", "it's"])
_numbers = st.integers(-5, 5) | st.integers(-40, 40).map(lambda n: n / 4)  # the library rounds finer ones
_leaf = st.none() | st.booleans() | _numbers | _text
_json = st.recursive(
    _leaf, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3), max_leaves=5
)
_kinds = st.sampled_from(["object", "string", "number", "integer", "boolean", "array", "null", "x"])


def _schema(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": _kinds | st.lists(_kinds | _leaf, max_size=3) | _leaf,
            "properties": st.dictionaries(_text, inner, max_size=4) | _leaf,
            "items": inner,
            "required": st.lists(_text | _leaf, max_size=3) | _leaf,
            "enum": st.lists(_leaf, max_size=4) | _leaf,
            "oneOf": st.lists(inner, max_size=3) | _leaf,
            "description": _text | _leaf,
            "title": _text | _leaf,
            "default": _json,
            "nullable": st.booleans() | _leaf,
            "examples": st.lists(_leaf, max_size=3) | _leaf,
        },
    )


_schemas: st.SearchStrategy[Any] = st.recursive(st.just({}) | _leaf, _schema, max_leaves=12)
_tools = st.builds(ToolSignature, _text, _text, st.none() | _schema(_schemas))
_namespaces = st.dictionaries(
    _text.filter(bool) | st.just("functions"),
    st.tuples(st.none() | _text, st.lists(_tools, max_size=3).map(tuple)),
    max_size=3,
)


@examples(max_examples=200)
@given(
    st.none() | _text,
    _namespaces,
    st.dictionaries(st.sampled_from(["python", "browser"]), st.none() | _text, max_size=2),
)
def test_a_rendered_signature_matches_the_librarys(
    instructions: str | None, namespaces: Any, trained: dict[str, str | None]
) -> None:
    conversation: list[HarmonyMessage] = [
        SystemPart("high", "2026-01-01", trained),
        DeveloperPart(instructions, namespaces),
    ]
    options = RenderOptions(conversation_has_function_tools="functions" in namespaces)
    for message in conversation:
        told = list(chain.from_iterable(render_steps(message, conversation)))
        assert told == encoding.render(to_library(message), options)


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "nullable": True}
    for _ in range(depth):
        schema = {"type": "object", "nullable": True, "properties": {"a": schema}}
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
}


@pytest.mark.parametrize("kind", _HARD)
def test_a_schema_takes_time_in_proportion_to_its_length(kind: str) -> None:
    """Ten times the length: with quadratic time a hundred times the work, which no load explains."""
    small, large = (_time_to_tell(_HARD[kind](n)) for n in (2_000, 20_000))
    assert large < 50 * small


def _time_to_tell(schema: dict[str, Any]) -> float:
    """The CPU's time, at best."""
    times = []
    for _ in range(3):
        begun = time.thread_time()
        encode("".join(write_tools({"functions": (None, [ToolSignature("f", "", schema)])})))
        times.append(time.thread_time() - begun)
    return min(times)


def test_what_is_nested_too_deep_is_any() -> None:
    told = "".join(write_tools({"functions": (None, [ToolSignature("f", "", _nested(DEPTH_MAX + 50))])}))
    assert told.count("a?: ") == DEPTH_MAX + 1
    assert "a?: any | null," in told
