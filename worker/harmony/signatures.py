"""Writes the text of the system and developer messages, with tools as TypeScript signatures. Pure.

Owns the wording, which is that of the library's renderer, on which the model was trained; the library itself
takes quadratic time for nested or long schemas. Yields the text in parts, so that a reader may stop. Source:
`json_schema_to_typescript` and related functions in openai_harmony, which tests compare.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

FUNCTIONS = "functions"
"""The namespace of the tools that the client runs."""

DEPTH_MAX = 32
"""Deeper types are written as `any`, because each line of a type is indented by its depth."""


@dataclass(frozen=True, slots=True)
class ToolSignature:
    """A tool as the model reads it. `parameters`: a JSON schema, or None."""

    name: str
    description: str
    parameters: dict[str, Any] | None


Namespaces = Mapping[str, tuple[str | None, Sequence[ToolSignature]]]
"""Name -> (description, tools). A namespace without tools is itself a tool, such as `python`."""


def write_system(
    opening: str, hosted: Namespaces, channels: Sequence[str], called_in_commentary: str | None
) -> Iterator[str]:
    """Yields the system message.

    `called_in_commentary`: the namespace whose tools are called there, if any.
    """
    yield opening
    if hosted:
        yield "\n\n"
        yield from write_tools(hosted)
    yield f"\n\n# Valid channels: {', '.join(channels)}. Channel must be included for every message."
    if called_in_commentary is not None:
        yield f"\nCalls to these tools must go to the commentary channel: '{called_in_commentary}'."


def write_developer(
    instructions: str | None, namespaces: Namespaces, response_formats: str | None
) -> Iterator[str]:
    """Yields the developer message. `response_formats`: its last section, or None."""
    sections: list[Iterable[str]] = []
    if instructions:
        sections.append([f"# Instructions\n\n{instructions}"])
    if namespaces:
        sections.append(write_tools(namespaces))
    if response_formats:
        sections.append([response_formats])
    for place, section in enumerate(sections):
        if place:
            yield "\n\n"
        yield from section


def write_tools(namespaces: Namespaces) -> Iterator[str]:
    """Yields the section `# Tools` of a system or developer message."""
    yield "# Tools"
    for name in sorted(namespaces):
        description, tools = namespaces[name]
        yield f"\n\n## {name}\n"
        for line in _lines(description or ""):
            yield f"\n// {line}" if tools else f"\n{line}"
        if not tools:
            continue
        yield f"\nnamespace {name} {{\n"
        yield from chain.from_iterable(map(_write_tool, tools))
        yield f"\n}} // namespace {name}"


def _write_tool(tool: ToolSignature) -> Iterator[str]:
    for line in _lines(tool.description):
        yield f"\n// {line}"
    if tool.parameters is None:
        yield f"\ntype {tool.name} = () => any;\n"
        return
    yield f"\ntype {tool.name} = (_: "
    yield from _write_type(tool.parameters, "", 0)
    yield ") => any;\n"


def _lines(text: str) -> list[str]:
    """Returns the lines of a text, without their ends; only a line feed ends a line."""
    *ended, last = text.split("\n")
    return [line.removesuffix("\r") for line in ended] + ([last] if last else [])


# --- types --------------------------------------------------------------------------------------


def _write_type(schema: Any, indent: str, depth: int) -> Iterator[str]:
    variants, kind = _get(schema, "oneOf"), _get(schema, "type")
    if depth > DEPTH_MAX:
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
