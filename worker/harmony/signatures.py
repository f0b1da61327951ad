"""Writes the text of the system and developer messages, with tools as TypeScript signatures. Pure.

Owns the wording around the types (`typescript.py`), that of the library's renderer, on which
the model was trained; the library itself takes quadratic time for nested or long schemas. Yields the text in
parts, so that a reader may stop. Source: openai_harmony, which tests compare, and the format guide.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from worker.harmony.earlier_types import write_earlier
from worker.harmony.typescript import write_parameters

FUNCTIONS = "functions"
"""The namespace of the tools that the client runs."""


@dataclass(frozen=True, slots=True)
class ToolSignature:
    """A tool as the model reads it. `parameters`: a JSON schema, or None."""

    name: str
    description: str
    parameters: dict[str, Any] | None
    is_earlier: bool = False
    """Written as in records of formats 1 and 2."""


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
        for line in (description or "").splitlines():
            yield f"\n// {line}" if tools else f"\n{line}"
        if not tools:
            continue
        yield f"\nnamespace {name} {{\n"
        yield from chain.from_iterable(map(_write_tool, tools))
        yield f"\n}} // namespace {name}"


def _write_tool(tool: ToolSignature) -> Iterator[str]:
    if tool.is_earlier:
        yield from write_earlier(tool.name, tool.description, tool.parameters)
        return
    for line in tool.description.splitlines():
        yield f"\n// {line}"
    yield from write_parameters(tool.name, tool.parameters)
