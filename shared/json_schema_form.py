"""The form of a JSON schema: the values that each keyword may have, and where schemas contain schemas. Pure.

Owns form only; the API and the engine word their refusals, and the engine decides what can be enforced.
Source: JSON Schema 2020-12, the core, applicator and validation vocabularies.
docs/adr/0029-schema-form-by-hand.md says why no library does this.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
BY_NAME = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
"""Keywords whose value is an object of schemas."""
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
"""Keywords whose value is a list of schemas."""
SINGLE = (
    *("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties"),
)
"""Keywords whose value is a schema."""


def inner_schemas(keyword: str, part: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yields the schemas directly within a keyword's value, each with its path from there.

    Yields nothing if the value does not have its keyword's form.
    """
    if keyword in SINGLE:
        yield (), part
    elif keyword in BY_NAME and isinstance(part, dict):
        for name, inner in part.items():
            yield (name,), inner
    elif keyword in LISTS and isinstance(part, list):
        for index, inner in enumerate(part):
            yield (index,), inner


def find_part(reference: str, root: Any) -> Any:
    """Returns the part of a document to which a `$ref` leads, or None; no other document is fetched.

    Source: RFC 6901, also for names that are percent-encoded, as some generators write them.
    """
    if not reference.startswith("#") or reference[1:2] not in ("", "/"):
        return None
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(root, dict):
            root = root.get(name if name in root else unquote(name))
        elif isinstance(root, list) and name.isdecimal() and int(name[:9]) < len(root):
            root = root[int(name[:9])]
        else:
            return None
    return root


def is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_type(value: object) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in TYPES for name in names)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def _is_filled_list(value: object) -> bool:
    return isinstance(value, list) and bool(value)


Form = tuple[Callable[[object], bool], str]
"""A check whether a value has the form, and the form's name, to follow "it should be"."""

FORMS: Mapping[str, Form] = {
    "type": (_is_type, f"one of {', '.join(sorted(TYPES))}, or a list of them"),
    "enum": (_is_filled_list, "a list of at least one value"),
    "required": (_are_names, "a list of names"),
    **dict.fromkeys(("pattern", "$ref"), (is_text, "a string")),
    **dict.fromkeys(BY_NAME, (lambda value: isinstance(value, dict), "an object of schemas")),
    **dict.fromkeys(LISTS, (_is_filled_list, "a list of at least one schema")),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
        (_is_count, "a whole number from 0"),
    ),
    **dict.fromkeys(
        ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), (_is_number, "a number")
    ),
}
"""The form that a keyword's value must have. Other keywords may have any value."""
