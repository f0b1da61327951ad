"""Says in comments what a JSON schema says and its TypeScript type does not. Pure.

Owns which comments a schema has, and how values are written; `typescript.py` owns where they stand.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.json_schema_form import TYPES, is_text
from worker.harmony.schema_resources import REFERRING

_BREAK = re.compile("[\x7f-\x9f\u2028\u2029]")
"""Line breaks of Unicode, and controls, which JSON need not escape."""
_UNSAFE = re.compile('["\\\\\x00-\x1f\x7f-\x9f\u2028\u2029]')
_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")

IN_THE_TYPE = frozenset({
    *("type", "nullable", "enum", "const", "properties", "required", "items", "prefixItems"),
    *("additionalItems", "additionalProperties", "patternProperties", "anyOf", "oneOf", "allOf"),
})  # fmt: skip
"""Keywords that are said by the type."""
AS_TYPES = frozenset({
    *("not", "if", "then", "else", "contains", "propertyNames", "contentSchema"),
    *("unevaluatedItems", "unevaluatedProperties", "dependentSchemas"),
})  # fmt: skip
"""Keywords whose schemas are written as types, in a comment."""
_ABOVE: Mapping[str, type] = {"title": str, "description": str, "examples": list, "default": object}
"""Keywords with a place of their own, and the type of their values."""
_UNSAID = frozenset({
    *("$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary"),
    *("$comment", "$defs", "definitions", *REFERRING),
})  # fmt: skip
"""Keywords for readers of schemas: definitions are said where they are referred to."""


@dataclass(frozen=True, slots=True)
class Words:
    """A keyword whose schema is written as a type in a comment."""

    label: str
    schema: Any


Line = str | Words
"""A line of a comment, with its slashes."""


@dataclass(slots=True)
class Notes:
    """What schemas that apply at one place say besides the type, each text once."""

    known: set[str]
    """Titles said before."""
    are_defaults_quoted: bool = False
    """Also those of an enum, as behind a variant."""
    titles: list[str] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)
    defaults: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    _described: list[list[str]] = field(default_factory=list)

    def add(self, schema: Mapping[str, Any], *, followed: Collection[str]) -> None:
        """`followed`: the keywords of its references whose meaning is said too."""
        title, description = title_lines(schema), description_lines(schema)
        if "\n".join(title) not in self.known:
            self.known.add("\n".join(title))
            self.titles += title
        if description not in self._described:
            self._described.append(description)
            self.descriptions += description
        self.examples += example_lines(schema)
        self.words += words_of(schema)
        self.defaults += default_of(schema, is_quoted_always=self.are_defaults_quoted)
        self.others += facts_of(schema)
        for keyword in REFERRING:
            if keyword in schema and keyword not in followed:
                self.others.append(f"{keyword}: {literal(schema[keyword])}")

    @property
    def more(self) -> list[Line]:
        return [*self.examples, *self.words]

    @property
    def facts(self) -> list[str]:
        return list(dict.fromkeys((*self.defaults, *self.others)))

    @property
    def facts_line(self) -> list[str]:
        return [f"// {', '.join(self.facts)}"] if self.facts else []


def words_of(schema: Mapping[str, Any]) -> Iterator[Words]:
    for keyword, value in schema.items():
        if keyword not in AS_TYPES:
            continue
        if keyword == "dependentSchemas" and isinstance(value, dict):
            yield from (Words(f"with {property_name(name)}", inner) for name, inner in value.items())
        elif isinstance(value, dict) or value is True:
            yield Words(keyword, value)


def literal(value: Any) -> str:
    """Returns a value as JSON, which TypeScript reads alike, on one line."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _BREAK.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def property_name(name: str) -> str:
    return name if _IDENTIFIER.fullmatch(name) else literal(name)


def comment_lines(text: str) -> list[str]:
    """Returns the lines of a text as comments; whatever Unicode calls a line break ends a line."""
    if not text:
        return ["// "]
    return [f"// {line}" if line else "//" for line in text.splitlines()]


def title_lines(schema: Mapping[str, Any]) -> list[str]:
    title = schema.get("title")
    return comment_lines(title) if isinstance(title, str) else []


def description_lines(schema: Mapping[str, Any]) -> list[str]:
    description = schema.get("description")
    return comment_lines(description) if isinstance(description, str) else []


def example_lines(schema: Mapping[str, Any]) -> list[str]:
    examples = schema.get("examples")
    if not isinstance(examples, list) or not examples:
        return []
    return ["// Examples:", *(f"// - {literal(example)}" for example in examples)]


def default_of(schema: Mapping[str, Any], *, is_quoted_always: bool = False) -> list[str]:
    """Returns the default as a fact, if there is one.

    `is_quoted_always`: quote even a value of an enum.
    """
    if "default" not in schema:
        return []
    default, values = schema["default"], schema.get("enum")
    is_enum = isinstance(values, list) and bool(values)
    if isinstance(default, str) and is_enum and not is_quoted_always and not _UNSAFE.search(default):
        return [f"default: {default}"]
    return [f"default: {literal(default)}"]


def facts_of(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yields what the other keywords say, each as `keyword: value`; keywords that nobody defined too."""
    for keyword, value in schema.items():
        if keyword in IN_THE_TYPE:
            if (keyword == "required" and value is True) or (keyword == "type" and not _is_known(value)):
                yield f"{keyword}: {literal(value)}"
        elif keyword in _ABOVE:
            if not isinstance(value, _ABOVE[keyword]) and value is not None:
                yield f"{keyword}: {literal(value)}"
        elif keyword == "discriminator" and isinstance(value, dict) and "propertyName" in value:
            yield f"discriminator: {_plain(value['propertyName'])}"
        elif keyword not in _UNSAID and keyword not in AS_TYPES:
            yield f"{_plain(keyword)}: {_plain(value)}"


def _is_known(types: Any) -> bool:
    return all(name in TYPES for name in (types if isinstance(types, list) else [types]) if is_text(name))


def _plain(value: Any) -> str:
    """Returns text as it is, such as a pattern, if it is one line; else as JSON."""
    if isinstance(value, str) and value and value.isprintable() and value == value.strip():
        return value
    return literal(value)
