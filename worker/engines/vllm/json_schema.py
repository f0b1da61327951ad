"""Reduces a JSON schema to what a grammar can enforce: rejects the rest, or drops it.

Pure. Owns which keywords are enforced; `json_grammar.py` makes the grammars. Checked against xgrammar 0.2.8,
which silently ignores what it does not support.
"""

import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from worker.engines.protocol import Unfulfillable
from worker.engines.vllm.json_schema_form import check_form, check_size

_ANNOTATIONS = frozenset(
    [
        "$schema",
        "$id",
        "$comment",
        "$defs",
        "definitions",
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "contentEncoding",
        "contentMediaType",
    ]
)
_KEYWORDS = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}
_OF_TYPES = frozenset[str]().union(*_KEYWORDS.values())
_ALONE = ("$ref", "const", "enum", "anyOf")
"""Next to one of these, xgrammar ignores other keywords, except `type` next to `const` or `enum`."""
_FORMATS = frozenset(
    [
        "email",
        "date",
        "time",
        "date-time",
        "duration",
        "ipv4",
        "ipv6",
        "hostname",
        "uuid",
        "uri",
        "uri-reference",
        "uri-template",
    ]
)
"""Without the two for JSON pointers, which let unescaped quotes through (xgrammar 0.2.8)."""
_LENGTHS = frozenset({"minLength", "maxLength"})
_LENGTHS_MAX = 8
"""The number of different string length bounds in a schema: each one costs seconds of compiling."""
_PATTERN_LENGTH_MAX = 512
_UNKNOWN_TO_PATTERNS = re.compile(r"\(\?(?!:)|\\[1-9bBpPkcuU]")
"""Lookaround, named groups, back references, word boundaries and Unicode classes, which xgrammar ignores or
rejects."""
_NEEDS_ESCAPES = re.compile(r'["\x00-\x1f]|\\[\\nrtfvx0]')
"""Characters that JSON escapes, but that a pattern would generate unescaped."""
_COUNTS = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_REPEATED_GROUP = re.compile(r"[)}]\{")
_COUNT_MAX = 128
"""The largest repeat count. Above it, a character class lets unescaped quotes through, and xgrammar's own
length bounds let control characters through (0.2.8)."""
_REPEATS_MAX = 1_024
"""The number of repeats in all different patterns together; 512 take 1.3 s to compile."""

Schema = dict[str, Any]


def make_enforceable(schema: Any, *, is_strict: bool) -> Any:
    """Returns the schema reduced to what a grammar enforces.

    If something cannot be enforced, raises Unfulfillable naming the keyword and its place; with `is_strict`
    False, drops it, and the output may then violate it. Either way raises Unfulfillable for what is not a
    JSON schema, cannot be satisfied by any value, or is too large to compile in seconds.
    """
    check_size(schema)
    return _Walk(is_strict).convert(schema, "#")


class _Walk:
    def __init__(self, is_strict: bool) -> None:
        self._is_strict = is_strict
        self._lengths: set[tuple[Any, Any]] = set()
        self._patterns: dict[str, int] = {}

    def convert(self, schema: Any, place: str) -> Any:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise Unfulfillable(f"{place} is not a JSON schema")
        check_form(schema, place)
        kept = dict(schema)
        for keyword, reason in [*_unknown_in(schema), *_misunderstood_in(schema)]:
            self._leave_out(kept, keyword, f"{place}: {reason}")
        self._bound_patterns(kept, place)
        self._bound_lengths(kept, place)
        _keep_possible_values(kept, place)
        return {key: self._convert_within(key, value, place) for key, value in kept.items()}

    def _convert_within(self, key: str, value: Any, place: str) -> Any:
        place = f"{place}/{key}"
        match key, value:
            case "properties" | "$defs" | "definitions", dict():
                return {name: self.convert(part, f"{place}/{name}") for name, part in value.items()}
            case "anyOf" | "oneOf" | "allOf" | "prefixItems", list():
                return [self.convert(part, f"{place}/{index}") for index, part in enumerate(value)]
            case "items" | "additionalProperties", _:
                return self.convert(value, place)
            case _:
                return value

    def _bound_patterns(self, schema: Schema, place: str) -> None:
        if "pattern" not in schema:
            return
        patterns = {**self._patterns, schema["pattern"]: _repeats_in(schema["pattern"])}
        if sum(patterns.values()) > _REPEATS_MAX:
            reason = f"at most {_REPEATS_MAX} repeats in all 'pattern's together can be enforced"
            self._leave_out(schema, "pattern", f"{place}: {reason}")
        else:
            self._patterns = patterns

    def _bound_lengths(self, schema: Schema, place: str) -> None:
        for keyword in sorted(_LENGTHS & schema.keys()):
            if schema[keyword] > _COUNT_MAX:
                reason = f"a {keyword!r} above {_COUNT_MAX} cannot be enforced"
                self._leave_out(schema, keyword, f"{place}: {reason}")
        if not _LENGTHS & schema.keys():
            return
        lengths = schema.get("minLength"), schema.get("maxLength")
        if len(self._lengths | {lengths}) > _LENGTHS_MAX:
            for keyword in _LENGTHS & schema.keys():
                reason = f"at most {_LENGTHS_MAX} different bounds of string lengths can be enforced"
                self._leave_out(schema, keyword, f"{place}: {reason}")
        else:
            self._lengths.add(lengths)
            _spell_lengths(schema)

    def _leave_out(self, schema: Schema, keyword: str, reason: str) -> None:
        if self._is_strict:
            raise Unfulfillable(reason)
        schema.pop(keyword, None)


_Complaint = tuple[str, str]
"""A keyword, and why it cannot be enforced."""


def _unknown_in(schema: Mapping[str, Any]) -> Iterator[_Complaint]:
    for keyword in schema.keys() - _ANNOTATIONS - _OF_TYPES - {"type", *_ALONE}:
        if keyword == "allOf" and isinstance(schema["allOf"], list) and len(schema["allOf"]) == 1:
            continue
        if keyword == "oneOf":
            yield keyword, "'oneOf' cannot be enforced; use 'anyOf'"
        else:
            yield keyword, f"{keyword!r} cannot be enforced"


def _misunderstood_in(schema: Mapping[str, Any]) -> Iterator[_Complaint]:
    """Yields the keywords that are supported, but not in this combination or with this value."""
    yield from _overlooked_in(schema)
    if not f"{schema.get('$ref', '#')}/".startswith("#/"):
        yield "$ref", "a '$ref' can be followed if it is a pointer within the schema, as '#/$defs/name'"
    if {"pattern", "format"} <= schema.keys():
        yield "format", "'format' beside 'pattern' cannot be enforced"
    if {"pattern", "format"} & schema.keys():
        for keyword in _LENGTHS & schema.keys():
            yield keyword, f"{keyword!r} beside 'pattern' or 'format' cannot be enforced"
    if "format" in schema and schema["format"] not in _FORMATS:
        yield "format", f"the format {schema['format']!r} cannot be enforced"
    if "pattern" in schema and (reason := _trouble_with(schema["pattern"])):
        yield "pattern", reason
    missing = set(_listed(schema.get("required"))) - set(schema.get("properties") or ())
    if missing:
        yield "required", f"'required' names {min(missing)!r}, which 'properties' does not describe"


def _overlooked_in(schema: Mapping[str, Any]) -> Iterator[_Complaint]:
    alone = [keyword for keyword in (*_ALONE, "allOf") if keyword in schema]
    heeded = {"type"} if alone and alone[0] in ("const", "enum") else set()
    if alone:
        for keyword in (schema.keys() & (_OF_TYPES | {"type", *alone[1:]})) - heeded:
            yield keyword, f"{keyword!r} beside {alone[0]!r} cannot be enforced"
        return
    types = _listed(schema.get("type"))
    known = frozenset[str]().union(*(_KEYWORDS[kind] for kind in types))
    for keyword in schema.keys() & (_OF_TYPES - known):
        yield keyword, f"{keyword!r} needs a 'type' that it belongs to"


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _trouble_with(pattern: Any) -> str | None:
    if not isinstance(pattern, str) or len(pattern) > _PATTERN_LENGTH_MAX:
        return f"a 'pattern' of more than {_PATTERN_LENGTH_MAX} characters cannot be enforced"
    if _UNKNOWN_TO_PATTERNS.search(pattern):
        return "a 'pattern' with lookaround, references, boundaries or Unicode classes cannot be enforced"
    if _NEEDS_ESCAPES.search(pattern):
        return "a 'pattern' with quotes, backslashes or control characters cannot be enforced"
    if not (pattern.startswith("^") and pattern.endswith("$")):
        return "a 'pattern' must begin with '^' and end with '$' to be enforced"
    if max(_counts_in(pattern), default=0) > _COUNT_MAX:
        return f"a 'pattern' that repeats more than {_COUNT_MAX} times cannot be enforced"
    return None


def _counts_in(pattern: str) -> list[int]:
    return [max(int(least), int(most or 0)) for least, most in _COUNTS.findall(pattern)]


def _repeats_in(pattern: str) -> int:
    """Returns an upper bound on the pattern's repeats, written out: a group's count may multiply others."""
    counts = [max(1, count) for count in _counts_in(pattern)]
    return prod(counts) if _REPEATED_GROUP.search(pattern) else sum(counts)


def _spell_lengths(schema: Schema) -> None:
    """Replaces the length bounds with a pattern, whose masks take 0.1 ms instead of up to 30 ms."""
    longest = schema.get("maxLength")
    count = f"{{{schema.get('minLength', 0)},{'' if longest is None else longest}}}"
    schema["pattern"] = rf'^[^"\\\x00-\x1f]{count}$'
    schema.pop("minLength", None)
    schema.pop("maxLength", None)


def _keep_possible_values(schema: Schema, place: str) -> None:
    """Removes values excluded by the `type` next to `enum` or `const`, which xgrammar (0.2.8) ignores."""
    types = _listed(schema.get("type"))
    for keyword in {"enum", "const"} & schema.keys() if types else ():
        values = schema["enum"] if keyword == "enum" else [schema["const"]]
        possible = [value for value in values if any(_is_of(kind, value) for kind in types)]
        if not possible:
            raise Unfulfillable(f"{place}: no value of {keyword!r} is of the 'type' beside it")
        if keyword == "enum":
            schema["enum"] = possible


def _is_of(kind: str, value: object) -> bool:
    match value:
        case None:
            return kind == "null"
        case bool():
            return kind == "boolean"
        case int():
            return kind in ("integer", "number")
        case float():
            return kind == "number" or (kind == "integer" and value.is_integer())
        case str():
            return kind == "string"
        case list():
            return kind == "array"
        case _:
            return kind == "object"
