"""Tools of records of formats 1 and 2 are rendered as they were: exactly as by the library."""

from itertools import chain
from typing import Any

from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from openai_harmony import RenderOptions

from worker.harmony.signatures import ToolSignature
from worker.harmony.tokens import DeveloperPart, render_steps, to_library
from worker.harmony.tokens import _encoding as encoding

_line = st.text("abc d", max_size=12)
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
_tools = st.builds(ToolSignature, _text, _text, st.none() | _schema(_schemas), st.just(True))
_namespaces = st.dictionaries(
    _text.filter(bool) | st.just("functions"),
    st.tuples(st.none() | _line, st.lists(_tools, max_size=3).map(tuple)),
    max_size=3,
)


@examples(max_examples=200)
@given(st.none() | _line, _namespaces)
def test_a_signature_of_an_earlier_record_matches_the_librarys(
    instructions: str | None, namespaces: Any
) -> None:
    message = DeveloperPart(instructions, namespaces)
    options = RenderOptions(conversation_has_function_tools="functions" in namespaces)
    told = list(chain.from_iterable(render_steps(message, [message])))
    assert told == encoding.render(to_library(message), options)
