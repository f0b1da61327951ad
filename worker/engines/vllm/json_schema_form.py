"""Whether a value is a JSON schema at all, and one small enough to compile while others wait.

Pure. Owns the form and the size of a schema; what of it can be enforced is `json_schema`'s matter.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from worker.engines.protocol import Unfulfillable

TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
_PARTS_MAX = 2_000
_OPTIONAL_MAX = 500
_VALUES_MAX = 1_000
_CHARACTERS_MAX = 50_000
"""What is within all four compiles in less than 5 s on one core (each alone in about 1 s)."""
_BY_NAME = ("properties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_INNER = ("items", "additionalProperties")


def inner_schemas(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every schema directly within one, with its place in it; whatever has not their form is passed over."""
    for key, value in schema.items():
        match value:
            case dict() if key in _BY_NAME:
                yield from ((f"{key}/{name}", part) for name, part in value.items())
            case list() if key in _LISTS:
                yield from ((f"{key}/{index}", part) for index, part in enumerate(value))
            case _:
                if key in _INNER:
                    yield key, value


def check_form(schema: Mapping[str, Any], place: str) -> None:
    """Raises Unfulfillable naming a keyword whose value has not its form; inner schemas are not looked at."""
    for keyword, value in schema.items():
        is_right = _FORMS.get(keyword)
        if is_right is not None and not is_right(value):
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
    """Of all of a schema."""

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


def _is_type(value: object) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in TYPES for name in names)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


_FORMS: Mapping[str, Callable[[object], bool]] = {
    "type": _is_type,
    "enum": lambda value: isinstance(value, list) and bool(value),
    "required": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    **dict.fromkeys(("pattern", "format", "$ref"), _is_text),
    **dict.fromkeys(_BY_NAME, lambda value: isinstance(value, dict)),
    **dict.fromkeys(_LISTS, lambda value: isinstance(value, list) and bool(value)),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _is_count),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
}
