"""Checks that a value is a JSON schema, and small enough to compile in seconds.

Pure. Owns the form and the size of a schema; `json_schema.py` owns which parts of it can be enforced.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shared import json_schema_form
from shared.json_schema_form import FORMS, is_text
from worker.engines.protocol import Unfulfillable

_PARTS_MAX = 2_000
_OPTIONAL_MAX = 500
_VALUES_MAX = 1_000
_CHARACTERS_MAX = 50_000
"""A schema within all four limits compiles in less than 5 s on one core; each limit alone costs about 1 s."""
_BY_NAME = ("properties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_HOLDERS = frozenset((*_BY_NAME, *_LISTS, "items", "additionalProperties"))
"""Keywords whose inner schemas can be enforced."""


def inner_schemas(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields the enforceable schemas directly within one, with their places; skips malformed keywords."""
    for keyword, value in schema.items():
        if keyword in _HOLDERS:
            for step, inner in json_schema_form.inner_schemas(keyword, value):
                yield "/".join(map(str, (keyword, *step))), inner


def check_form(schema: Mapping[str, Any], place: str) -> None:
    """Raises Unfulfillable naming a keyword with a malformed value; does not look at inner schemas."""
    for keyword, value in schema.items():
        if keyword in _ENFORCED and not _ENFORCED[keyword](value):
            raise Unfulfillable(f"{place}: this is not a JSON schema: {keyword!r} has a value it cannot have")


def check_size(schema: object) -> None:
    """Raises Unfulfillable naming the bound that a schema with all its parts exceeds."""
    size = _Size()
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            size.add(part)
            waiting += [inner for _, inner in inner_schemas(part)]
    bounds = [
        (size.parts, _PARTS_MAX, "properties and other parts"),
        (size.optional, _OPTIONAL_MAX, "properties that are not required"),
        (size.values, _VALUES_MAX, "values in 'enum'"),
        (size.characters, _CHARACTERS_MAX, "characters in names and values"),
    ]
    for count, most, what in bounds:
        if count > most:
            raise Unfulfillable(f"it has {count:,} {what}; at most {most:,} can be enforced")


@dataclass
class _Size:
    """The size of a whole schema."""

    parts: int = 0
    optional: int = 0
    values: int = 0
    characters: int = 0

    def add(self, schema: Mapping[str, Any]) -> None:
        self.parts += sum(1 for _ in inner_schemas(schema))
        names, required, values = (schema.get(key) for key in ("properties", "required", "enum"))
        if isinstance(names, dict):
            needed = required if isinstance(required, list) else []
            self.optional += len(names.keys() - {name for name in needed if isinstance(name, str)})
        self.values += len(values) if isinstance(values, list) else 0
        for key in _BY_NAME:
            if isinstance(schema.get(key), dict):
                self.characters += sum(map(len, schema[key]))
        for key in ("enum", "const"):
            if key in schema:
                self.characters += len(str(schema[key]))


_ENFORCED = {
    keyword: FORMS[keyword][0]
    for keyword in (
        *("type", "enum", "required", "pattern", "$ref"),
        *_BY_NAME,
        *_LISTS,
        *("minLength", "maxLength", "minItems", "maxItems"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    )
} | {"format": is_text}
"""The keywords that can be enforced. Others are rejected or dropped whatever their value is."""
