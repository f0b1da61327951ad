"""Writes tools as records of formats 1 and 2 had them: a response begun then goes on with its prompt. Pure.

Owns that form alone, which is the library's, with all that it leaves out (`typescript.py` writes every other
tool). It goes when no such record can be open any more: RECORD_FORMAT_OLDEST in `shared/record_format.py`.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

_DEPTH_MAX = 32
"""Deeper types were written as `any`."""


def write_earlier(name: str, description: str, schema: Any) -> Iterator[str]:
    """Yields a tool's description and declaration."""
    *ended, last = description.split("\n")
    for line in [line.removesuffix("\r") for line in ended] + ([last] if last else []):
        yield f"\n// {line}"
    if schema is None:
        yield f"\ntype {name} = () => any;\n"
        return
    yield f"\ntype {name} = (_: "
    yield from _write_type(schema, "", 0)
    yield ") => any;\n"


def _write_type(schema: Any, indent: str, depth: int) -> Iterator[str]:
    variants, kind = _get(schema, "oneOf"), _get(schema, "type")
    if depth > _DEPTH_MAX:
        yield "any"
    elif isinstance(variants, list):
        yield from _write_variants(variants, indent, depth)
    elif isinstance(kind, list) and (named := [name for name in kind if isinstance(name, str)]):
        yield " | ".join("number" if name == "integer" else name for name in named)
    elif kind == "object":
        yield from _write_object(schema, indent, depth)
    elif kind == "array" and "items" in schema:
        yield from _write_type(schema["items"], indent, depth + 1)
        yield "[]"
    elif kind == "string":
        yield from _write_enum(schema.get("enum"))
    else:
        simple = {"number": "number", "integer": "number", "boolean": "boolean", "array": "Array<any>"}
        yield simple.get(kind, "any") if isinstance(kind, str) else "any"


def _write_enum(values: Any) -> Iterator[str]:
    texts = [value for value in values if isinstance(value, str)] if isinstance(values, list) else []
    if not texts:
        yield "string"
    for place, text in enumerate(texts):
        yield f' | "{text}"' if place else f'"{text}"'


def _write_variants(variants: list[Any], indent: str, depth: int) -> Iterator[str]:
    for variant in variants:
        yield f"\n{indent} | "
        yield from _write_nullable(variant, indent + "   ", depth)
        yield _comment(_texts(variant, "description") + _default_of(variant, is_quoted_always=True))


def _write_nullable(schema: Any, indent: str, depth: int) -> Iterator[str]:
    if _get(schema, "nullable") is not True:
        yield from _write_type(schema, indent, depth + 1)
        return
    written = "".join(_write_type(schema, indent, depth + 1))
    yield written if "null" in written else f"{written} | null"


def _write_object(schema: Mapping[str, Any], indent: str, depth: int) -> Iterator[str]:
    for description in _texts(schema, "description"):
        yield f"{indent}// {description}\n"
    yield "{\n"
    properties, required = schema.get("properties"), schema.get("required")
    names = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    for name, value in properties.items() if isinstance(properties, dict) else ():
        yield from _write_property(name if name in names else f"{name}?", value, indent, depth)
    yield indent + "}"


def _write_property(name: str, schema: Any, indent: str, depth: int) -> Iterator[str]:
    for title in _texts(schema, "title"):
        yield f"{indent}// {title}\n{indent}//\n"
    variants, has_variants = _get(schema, "oneOf"), isinstance(schema, dict) and "oneOf" in schema
    if not has_variants:
        for description in _texts(schema, "description"):
            yield f"{indent}// {description}\n"
    yield from _write_examples(_get(schema, "examples"), indent)
    if isinstance(variants, list):
        yield from _write_choice(name, schema, variants, indent, depth)
        return
    yield f"{indent}{name}: "
    yield from _write_nullable(schema, indent + "    ", depth)
    yield "," + _comment([] if has_variants else _default_of(schema)) + "\n"


def _write_examples(examples: Any, indent: str) -> Iterator[str]:
    if isinstance(examples, list) and examples:
        yield f"{indent}// Examples:\n"
        for example in examples:
            if isinstance(example, str):
                yield f'{indent}// - "{example}"\n'


def _write_choice(
    name: str, schema: Mapping[str, Any], variants: list[Any], indent: str, depth: int
) -> Iterator[str]:
    """Yields a property with several variants, without repeating the first variant's description."""
    own = _texts(schema, "description")
    is_above = bool(own) and own != (_texts(variants[0], "description") if variants else [])
    if is_above:
        yield f"{indent}// {own[0]}\n"
    for default in _default_of(schema):
        yield f"{indent}// {default}\n"
    yield f"{indent}{name}:\n"
    for place, variant in enumerate(variants):
        yield f"{indent} | "
        yield from _write_nullable(variant, indent + "   ", depth)
        described = [] if place == 0 and is_above else _texts(variant, "description")
        yield _comment([text for text in described if [text] != own] + _default_of(variant)) + "\n"
    yield f"{indent},\n"


def _comment(parts: list[str]) -> str:
    return f" // {' '.join(parts)}" if parts else ""


def _default_of(schema: Any, *, is_quoted_always: bool = False) -> list[str]:
    """Returns the default as a comment, if there is one.

    `is_quoted_always`: quote even a value of an enum.
    """
    if not (isinstance(schema, dict) and "default" in schema):
        return []
    default, values = schema["default"], schema.get("enum")
    is_enum = isinstance(values, list) and bool(values)
    if isinstance(default, str) and not is_enum:
        return [f'default: "{default}"']
    if isinstance(default, str) and not is_quoted_always:
        return [f"default: {default}"]
    return [f"default: {json.dumps(default, ensure_ascii=False, separators=(',', ':'))}"]


def _texts(schema: Any, name: str) -> list[str]:
    """Returns a list of the text of that name, empty if there is none."""
    text = _get(schema, name)
    return [text] if isinstance(text, str) else []


def _get(schema: Any, name: str) -> Any:
    return schema.get(name) if isinstance(schema, dict) else None
