"""The tools that GPT-OSS was trained to call, one row for each: what a tool is to clients, servers and model.

Pure data. Every other module asks this table by type, label, namespace or recipient, and compares no names
itself (docs/adr/0027). Source of the browser's wording: `ToolNamespaceConfig` in
openai_harmony, which a test compares.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class HostedFunction:
    """`name` is the server's; `parameters` is a JSON schema, or None where the model writes plain text."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class HostedTool:
    server_label: str
    """The MCP server that runs it, and the label by which an `mcp` tool asks for it."""
    namespace: str
    """Its Harmony namespace."""
    functions: tuple[HostedFunction, ...]
    description: str
    """What the system message says of it; a request's `server_description` replaces it."""
    types: frozenset[str] = frozenset()
    """The `type` of each tool of the API that asks for it, besides `mcp` with its label."""
    text_argument: str | None = None
    """The one argument that holds all of what the model writes. Then the namespace itself is called, its only
    function is not declared, and arguments are no JSON."""
    channel: str = "analysis"
    """Of the model's calls."""
    content_type: str = "json"
    """Of the model's calls: `json`, or the word in its place."""
    echoed: Mapping[str, Any] = field(default_factory=dict)
    """What a tool of one of `types` says where the request leaves it out."""

    def recipient_of(self, name: str) -> str:
        """The Harmony recipient of a function, given its name as it stands in a recipient."""
        return self.namespace if self.text_argument else f"{self.namespace}.{name}"

    @property
    def declared(self) -> tuple[HostedFunction, ...]:
        """The functions that the system message declares in the namespace."""
        return () if self.text_argument else self.functions

    def function_of(self, recipient: str) -> HostedFunction | None:
        return next((f for f in self.functions if self.recipient_of(f.name) == recipient), None)

    def is_called(self, recipient: str) -> bool:
        """Whether the recipient is one of this namespace, known or not."""
        return (
            recipient == self.namespace if self.text_argument else recipient.startswith(f"{self.namespace}.")
        )


PYTHON = HostedTool(
    server_label="code_interpreter",
    namespace="python",
    functions=(HostedFunction("python"),),
    description="""\
Use this tool to execute Python code in your chain of thought. The code will not be shown to the \
user. This tool should be used for internal reasoning, but not for code that is intended to be \
visible to the user (e.g. when creating plots, tables, or files).

When you send a message containing Python code to python, it will be executed in a stateful \
notebook environment: what one call defines, the next one finds. python will respond with what was \
printed and the value of the last expression, or with the traceback. There are no files, no \
internet access and no packages beyond a part of the standard library.""",
    types=frozenset({"code_interpreter"}),
    text_argument="code",
    content_type="code",
    echoed={"container": {"type": "auto"}},
)
"""Its description is the trained one, made true of the sandbox."""

_NUMBER = {"type": "number", "default": -1}

BROWSER = HostedTool(
    server_label="web_search_preview",
    namespace="browser",
    functions=(
        HostedFunction(
            "search",
            "Searches for information related to `query` and displays `topn` results.",
            {
                "type": "object",
                "properties": {
                    "query": {"type": "string"},
                    "topn": {"type": "number", "default": 10},
                    "source": {"type": "string"},
                },
                "required": ["query"],
            },
        ),
        HostedFunction(
            "open",
            """\
Opens the link `id` from the page indicated by `cursor` starting at line number `loc`, \
showing `num_lines` lines.
Valid link ids are displayed with the formatting: `【{id}†.*】`.
If `cursor` is not provided, the most recent page is implied.
If `id` is a string, it is treated as a fully qualified URL associated with `source`.
If `loc` is not provided, the viewport will be positioned at the beginning of the document or centered on \
the most relevant passage, if available.
Use this function without `id` to scroll to a new location of an opened page.""",
            {
                "type": "object",
                "properties": {
                    "id": {"type": ["number", "string"], "default": -1},
                    "cursor": _NUMBER,
                    "loc": _NUMBER,
                    "num_lines": _NUMBER,
                    "view_source": {"type": "boolean", "default": False},
                    "source": {"type": "string"},
                },
            },
        ),
        HostedFunction(
            "find",
            "Finds exact matches of `pattern` in the current page, or the page given by `cursor`.",
            {
                "type": "object",
                "properties": {"pattern": {"type": "string"}, "cursor": _NUMBER},
                "required": ["pattern"],
            },
        ),
    ),
    description="""\
Tool for browsing.
The `cursor` appears in brackets before each browsing display: `[{cursor}]`.
Cite information from the tool using the following format:
`【{cursor}†L{line_start}(-L{line_end})?】`, for example: `【6†L9-L11】` or `【8†L3】`.
Do not quote more than 10 words directly from the tool output.
sources=web (default: web)""",
)
"""The API's own web search types do not ask for it yet: only an `mcp` tool with its label does."""

HOSTED_TOOLS = (PYTHON, BROWSER)

_BY_LABEL = {tool.server_label: tool for tool in HOSTED_TOOLS}
_BY_NAMESPACE = {tool.namespace: tool for tool in HOSTED_TOOLS}
_BY_TYPE = {kind: tool for tool in HOSTED_TOOLS for kind in tool.types}

RESERVED_LABELS = frozenset(
    {
        *_BY_NAMESPACE,
        *("functions", "container"),
        *("assistant", "user", "system", "developer", "tool", "all"),
        *("analysis", "commentary", "final", "code", "json"),
    }
)
"""No tool server may have one of these as its label, in any case: GPT-OSS was trained to know tools by them,
or they are words of a message's header."""


def by_label(server_label: str) -> HostedTool | None:
    return _BY_LABEL.get(server_label)


def by_type(kind: str) -> HostedTool | None:
    """The tool that a tool of the API's type `kind` asks for."""
    return _BY_TYPE.get(kind)


def by_namespace(namespace: str) -> HostedTool:
    """Raises KeyError for a namespace that the model was not trained to know."""
    return _BY_NAMESPACE[namespace]


def by_recipient(recipient: str) -> HostedTool | None:
    """The tool that the model calls by this Harmony recipient."""
    tool = _BY_NAMESPACE.get(recipient.partition(".")[0])
    return tool if tool is not None and tool.is_called(recipient) else None
