"""Whether a value can be a JSON schema at all, so that a client hears of a slip before anything runs.

Pure. Owns the form of a schema; what of it a model can be held to is the worker's matter. Source: JSON
Schema 2020-12, the keywords of the core, applicator and validation vocabularies.
"""

from collections.abc import Callable, Mapping
from typing import Any

from api.bodies.validation import Path, spell
from api.errors import invalid_value

_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
_SCHEMAS_BY_NAME = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_LISTS_OF_SCHEMAS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_SCHEMAS = frozenset(
    {"items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)


def check_schema(value: object, path: Path) -> None:
    """Raises ClientError naming the first part that is not of a schema's form."""
    _check(value, path, value)


def _check(value: object, path: Path, root: object) -> None:
    if isinstance(value, bool):
        return
    if not isinstance(value, dict):
        raise invalid_value(spell(path), "it should be a JSON schema: an object")
    for keyword, part in value.items():
        place = (*path, keyword)
        if keyword in _CHECKS:
            is_right, wanted = _CHECKS[keyword]
            if not is_right(part):
                raise invalid_value(spell(place), f"in a JSON schema it should be {wanted}")
        if keyword == "$ref" and not _leads_somewhere(part, root):
            raise invalid_value(spell(place), "it should lead to a part of this schema, as in '#/$defs/name'")
        for step, inner in _inner_schemas(keyword, part):
            _check(inner, (*place, *step), root)


def _inner_schemas(keyword: str, part: Any) -> list[tuple[Path, object]]:
    if keyword in _SCHEMAS_BY_NAME:
        return [((name,), inner) for name, inner in part.items()]
    if keyword in _LISTS_OF_SCHEMAS:
        return [((index,), inner) for index, inner in enumerate(part)]
    return [((), part)] if keyword in _SCHEMAS else []


def _leads_somewhere(reference: str, root: Any) -> bool:
    """Whether a JSON pointer in a URI fragment finds a schema; other documents are never fetched."""
    if not reference.startswith("#"):
        return False
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(root, list) and name.isdecimal() and int(name) < len(root):
            root = root[int(name)]
        elif isinstance(root, dict) and name in root:
            root = root[name]
        else:
            return False
    return isinstance(root, dict | bool)


def _is_type(value: object) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in _TYPES for name in names)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_filled_list(value: object) -> bool:
    return isinstance(value, list) and bool(value)


_Check = tuple[Callable[[object], bool], str]
_CHECKS: Mapping[str, _Check] = {
    "type": (_is_type, f"one of {', '.join(sorted(_TYPES))}, or a list of them"),
    "enum": (_is_filled_list, "a list of at least one value"),
    "required": (_are_names, "a list of names"),
    "pattern": (lambda value: isinstance(value, str), "a string"),
    "$ref": (lambda value: isinstance(value, str), "a string"),
    **dict.fromkeys(_SCHEMAS_BY_NAME, (lambda value: isinstance(value, dict), "an object of schemas")),
    **dict.fromkeys(_LISTS_OF_SCHEMAS, (_is_filled_list, "a list of at least one schema")),
    **dict.fromkeys(
        ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
        (_is_count, "a whole number from 0"),
    ),
    **dict.fromkeys(
        ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), (_is_number, "a number")
    ),
}
