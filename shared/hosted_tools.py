"""The tools that GPT-OSS was trained to call, one row for each: what a tool is to clients, servers and model.

Pure; the items that their calls leave stand above the rows. Every other module asks this table by type,
label, namespace, recipient or item, and compares no names itself
(docs/adr/0027-one-table-of-hosted-tools.md). Source of the browser's wording: `ToolNamespaceConfig` in
openai_harmony, which a test compares.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

Text = str | None | UnsetType
"""An optional text: UNSET where it was left out, and then it has no key."""


class CallItem(msgspec.Struct, frozen=True, tag_field="type"):
    """A call of the model's. `written` is what the model wrote, kept in a field of the item's own choice."""

    written_as: ClassVar[str] = "arguments"

    @property
    def written(self) -> str:
        return getattr(self, self.written_as) or ""


@dataclass(frozen=True, slots=True)
class ToldCall:
    """A call as the model reads it in a later prompt."""

    function: str
    written: str
    answer: str


class HostedCall(CallItem, frozen=True, kw_only=True):
    """A call of a hosted tool by an item type of its own; it has an id once it was adopted or made here."""

    prefix: ClassVar[str]
    """What its id begins with."""

    id: str = ""
    status: Text = UNSET

    def told(self) -> ToldCall:
        raise NotImplementedError


class CodeOutput(msgspec.Struct, frozen=True):
    type: Any = UNSET
    logs: str | UnsetType = UNSET
    url: Any = UNSET


class CodeInterpreterCall(HostedCall, frozen=True, kw_only=True, tag="code_interpreter_call"):
    prefix: ClassVar[str] = "ci"
    written_as: ClassVar[str] = "code"

    container_id: str
    code: Text = UNSET
    outputs: list[CodeOutput] | None | UnsetType = UNSET

    def told(self) -> ToldCall:
        return ToldCall("python", self.written, "".join(output.logs or "" for output in self.outputs or ()))


class WebSearchCall(HostedCall, frozen=True, kw_only=True, tag="web_search_call"):
    """Not accepted any more; records and conversations that were made before may hold one."""

    prefix: ClassVar[str] = "ws"
    written_as: ClassVar[str] = "query"

    action: dict[str, Any]

    @property
    def query(self) -> str:
        """What was looked for, as JSON."""
        what = {name: value for name, value in self.action.items() if name not in ("type", "sources")}
        return json.dumps(what, ensure_ascii=False)

    def told(self) -> ToldCall:
        """The item says what was looked for, and not what was found."""
        return ToldCall("search", self.written, "[What was found was not kept with this call.]")


MCP_CALL = "mcp_call"
"""The type of item that the call of any other tool leaves."""
HostedItem = CodeInterpreterCall | WebSearchCall
"""The items that calls of hosted tools leave under types of their own, here or with another service."""


@dataclass(frozen=True, slots=True)
class HostedFunction:
    """`name` is the server's; `parameters` is a JSON schema, or None where the model writes plain text."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    is_repeatable: bool = False
    """Whether our own server may run it again if it is unknown whether it ran."""


@dataclass(frozen=True, slots=True)
class HostedTool:
    server_label: str
    """The MCP server that runs it, and the label by which an `mcp` tool asks for it."""
    namespace: str
    """Its Harmony namespace."""
    functions: tuple[HostedFunction, ...]
    description: str
    """The system message's description of it; a request's `server_description` replaces it."""
    types: frozenset[str] = frozenset()
    """The `type` of each tool of the API that asks for it, besides `mcp` with its label."""
    unoffered_types: frozenset[str] = frozenset()
    """Other types of the API that mean it: they are accepted and echoed, and do not offer it to the model."""
    text_argument: str | None = None
    """The one argument that holds all of what the model writes. Then the namespace itself is called, its only
    function is not declared, and arguments are no JSON."""
    channel: str = "analysis"
    """Of the model's calls."""
    content_type: str = "json"
    """Of the model's calls: `json`, or the word in its place."""
    item_type: str = MCP_CALL
    """Of the item that a call leaves here; `worker/response/call_items.py` says how it is spoken of."""
    items: tuple[type[HostedCall], ...] = ()
    """What else a call may have left in a history."""
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
    functions=(HostedFunction("python", is_repeatable=True),),
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
    items=(CodeInterpreterCall,),
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
    unoffered_types=frozenset(
        {
            "web_search",
            "web_search_2025_08_26",
            "web_search_preview",
            "web_search_preview_2025_03_11",
        }
    ),
    items=(WebSearchCall,),
)
"""Only an `mcp` tool with its label offers it."""

HOSTED_TOOLS = (PYTHON, BROWSER)

_BY_LABEL = {tool.server_label: tool for tool in HOSTED_TOOLS}
_BY_NAMESPACE = {tool.namespace: tool for tool in HOSTED_TOOLS}
_BY_TYPE = {kind: tool for tool in HOSTED_TOOLS for kind in tool.types}
_BY_ANY_TYPE = {kind: tool for tool in HOSTED_TOOLS for kind in tool.types | tool.unoffered_types}
_BY_ITEM = {item: tool for tool in HOSTED_TOOLS for item in tool.items}

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


KINDS = frozenset(_BY_ANY_TYPE)
"""Every `type` of the API's tools that means a hosted tool."""
REPEATABLE = tuple(
    f"{tool.server_label}.{function.name}"
    for tool in HOSTED_TOOLS
    for function in tool.functions
    if function.is_repeatable
)
"""`label.function` of those that may be run again."""


def by_label(server_label: str) -> HostedTool | None:
    return _BY_LABEL.get(server_label)


def by_type(kind: str) -> HostedTool | None:
    """The tool that a tool of the API's type `kind` asks for."""
    return _BY_TYPE.get(kind)


def meant_by(kind: str) -> HostedTool | None:
    """The tool that the API's type `kind` means, whether or not it asks for it here."""
    return _BY_ANY_TYPE.get(kind)


def by_namespace(namespace: str) -> HostedTool:
    """Raises KeyError for a namespace that the model was not trained to know."""
    return _BY_NAMESPACE[namespace]


def by_item(item: HostedCall) -> HostedTool:
    """The tool whose call the item is."""
    return _BY_ITEM[type(item)]


def item_type_of(server_label: str) -> str:
    """The type of the item that a call on this server leaves."""
    tool = by_label(server_label)
    return tool.item_type if tool else MCP_CALL


def by_recipient(recipient: str) -> HostedTool | None:
    """The tool that the model calls by this Harmony recipient."""
    tool = _BY_NAMESPACE.get(recipient.partition(".")[0])
    return tool if tool is not None and tool.is_called(recipient) else None
