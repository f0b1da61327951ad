"""The table of hosted tools: a row describes a tool to clients, servers and model.

Pure; also owns the items of their calls. Every other module looks up this table by type, label, namespace,
recipient or item, and compares no names itself (docs/adr/0027-one-table-of-hosted-tools.md). A tool that
GPT-OSS was not trained on may have a row as well: the system message declares its functions. Source of the
browser's wording: `ToolNamespaceConfig` in openai_harmony, which a test compares.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import msgspec
from msgspec import UNSET, UnsetType

from shared import web_search
from shared.in_turn import Noted
from shared.web_search import Display

Text = str | None | UnsetType
"""An optional text; UNSET if it was omitted, and then it has no key."""


class CallItem(msgspec.Struct, frozen=True, tag_field="type"):
    """A call made by the model, as an item: the base of every item that is a call, whoever runs it.

    `written`: the text of the call that the item shows; what runs is `RunningCall.written`.
    """

    written_as: ClassVar[str] = "arguments"
    """The field that the item's `CallDelta` and `CallWritten` events fill. An item that does not show what
    the model wrote has no such events, and needs no such field."""

    @property
    def written(self) -> str:
        """The item's text of the call. What is executed is `RunningCall.written`."""
        return getattr(self, self.written_as) or ""

    def with_written(self, text: str) -> Self:
        """Returns the item with this text of the call."""
        return msgspec.structs.replace(self, **{self.written_as: text})


@dataclass(frozen=True, slots=True)
class RenderedCall:
    """A call as the model reads it in a later prompt: the function, the text that it wrote, and the
    answer."""

    function: str
    written: str
    answer: str


class HostedToolCall(CallItem, frozen=True, kw_only=True):
    """A call of a hosted tool whose calls have their own item type: the base of these types.

    `shared/responses.py` imports this module, so a subclass cannot hold an `McpError`: of a failure, it keeps
    the sentence that `describe` (`shared/tool_calls.py`) makes, which is what the model reads.
    """

    prefix: ClassVar[str]
    """The prefix of its id. The class in `worker/response/call_items.py` has the same, or the item would be
    refused as input."""

    id: str = ""
    """Empty if a client omitted it, until the API has completed the item."""
    status: Text = UNSET
    """Clients must give it with such an item (`api/bodies/input_items.py`)."""
    approval_request_id: Text = UNSET
    """Set on a call that a client has approved, so that it is not run again."""
    in_turn: Noted = UNSET

    def render(self) -> RenderedCall:
        """Returns the call as the model reads it. A failed call is answered by its failure. What a client has
        left out is filled in before (`worker/asking/outcomes.py`)."""
        raise NotImplementedError

    @property
    def lacks_result(self) -> bool:
        """Its client was not shown all that the model read, and sends it back without that."""
        return False

    def complete(self, kept: "HostedToolCall") -> Self:
        """Returns the call with the result that is kept here, if it is the same call as this."""
        return self

    def listed(self) -> "HostedToolCall":
        """Returns the item as clients see it in a list, without what only the model reads."""
        return self


class CodeOutput(msgspec.Struct, frozen=True):
    type: Any = UNSET
    logs: str | UnsetType = UNSET
    url: Any = UNSET


_IMAGE = "\n[An image was made here; this model reads text only.]\n"
"""What it reads in place of an image, which code that ran elsewhere may have made."""


class CodeInterpreterCall(HostedToolCall, frozen=True, kw_only=True, tag="code_interpreter_call"):
    prefix: ClassVar[str] = "ci"
    written_as: ClassVar[str] = "code"

    container_id: str
    code: Text = UNSET
    outputs: list[CodeOutput] | None | UnsetType = UNSET

    @property
    def lacks_result(self) -> bool:
        return not isinstance(self.outputs, list)

    def complete(self, kept: HostedToolCall) -> Self:
        if isinstance(kept, CodeInterpreterCall) and kept.written == self.written:
            return msgspec.structs.replace(self, outputs=kept.outputs)
        return self

    def render(self) -> RenderedCall:
        answer = "".join(_IMAGE if output.url else output.logs or "" for output in self.outputs or ())
        return RenderedCall("python", self.written, answer)

    @property
    def logged(self) -> str:
        """What the outputs say, images apart."""
        return "".join(output.logs or "" for output in self.outputs or ())


class WebSearchCall(HostedToolCall, frozen=True, kw_only=True, tag="web_search_call"):
    """A call of the browser. Clients see its `action`; the fields after that are kept besides."""

    prefix: ClassVar[str] = "ws"

    action: dict[str, Any] | UnsetType = UNSET
    """What is searched for, or the page that is opened or searched; UNSET until the call is written."""
    name: Text = UNSET
    """The function that the model called."""
    arguments: Text = UNSET
    output: Text = UNSET
    """What the model has read."""
    display: Display | UnsetType = UNSET
    """Which pages that shows, by which they are cited."""

    @property
    def lacks_result(self) -> bool:
        return not isinstance(self.output, str)

    def complete(self, kept: HostedToolCall) -> Self:
        is_same = isinstance(kept, WebSearchCall) and kept.does == self.does
        members = ("name", "arguments", "output", "display") if is_same else ()
        return msgspec.structs.replace(self, **{name: getattr(kept, name) for name in members})

    @property
    def does(self) -> dict[str, Any]:
        """Its action, without what was found."""
        return web_search.without_sources(self.action or {})

    def render(self) -> RenderedCall:
        return RenderedCall(self.name or web_search.SEARCH, self.written, self.output or "")

    def shown(self, *, with_sources: bool) -> "WebSearchCall":
        """Returns the item as clients see it."""
        action = self.action
        if not with_sources and not isinstance(action, UnsetType):
            action = web_search.without_sources(action)
        return WebSearchCall(
            id=self.id, status=self.status, approval_request_id=self.approval_request_id, action=action
        )

    def listed(self) -> "WebSearchCall":
        return self.shown(with_sources=True)


MCP_CALL = "mcp_call"
"""The item type of calls of all other tools."""
AnyHostedToolCall = CodeInterpreterCall | WebSearchCall
"""The closed union of the subclasses of HostedToolCall, whether such calls run here or ran elsewhere."""


@dataclass(frozen=True, slots=True)
class HostedFunction:
    """A function of a hosted tool.

    `name`: the server's; `parameters`: a JSON schema whose properties each have a `type`, or None for plain
    text. `number` means a whole number (`worker/asking/constraint.py`).
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    is_repeatable: bool = False
    """Our own server may run it again if it is unknown whether it ran."""


@dataclass(frozen=True, slots=True)
class HostedTool:
    """One row. Of the members that a request gives a tool of one of `types`, only `type` has an effect: a
    member that is to be checked, shown to the model or sent to the server needs code of its own
    (CONTRIBUTING, "Add a hosted tool")."""

    server_label: str
    """The MCP server that runs it, and the label by which an `mcp` tool requests it. It must not be one of
    RESERVED_LABELS, which include the namespace: no request and no server's configuration may use those."""
    namespace: str
    """Its Harmony namespace."""
    functions: tuple[HostedFunction, ...]
    description: str
    """Its description in the system message, which a request's `server_description` replaces."""
    descriptions: Mapping[str, str] = field(default_factory=dict)
    """What takes its place where the operator's setting (`python_tool`) names another sandbox than the
    first."""
    types: frozenset[str] = frozenset()
    """The API's tool types that request it, besides `mcp` with its label."""
    types_since: int = 1
    """The record format from which on a tool of one of `types` is offered to the model."""
    text_argument: str | None = None
    """If set, the single argument that takes everything the model writes. Then the namespace itself is
    called, its only function is not declared, and the arguments are not JSON."""
    channel: str = "analysis"
    """The channel of its calls."""
    content_type: str = "json"
    """The content type of its calls: `json`, or another word."""
    item_type: str = MCP_CALL
    """The item type of a call made here if one of `types` requests the tool; otherwise it is `mcp_call`.
    `worker/response/call_items.py` makes its item and events."""
    items: tuple[type[HostedToolCall], ...] = ()
    """The item types of its calls that a history may contain, besides `mcp_call`; also `item_type`'s."""
    builtin: str | None = None
    """The module in `tool_runner/builtin` that serves it, or None if only the operator can name a server."""
    shows_pages: bool = False
    """Its calls are told what the request wants of a search, and its results say which pages they show
    (`shared/web_search.py`)."""
    echoed: Mapping[str, Any] = field(default_factory=dict)
    """Fields that are echoed for a tool of one of `types` if the request omits them."""

    def recipient_of(self, name: str) -> str:
        """Returns the Harmony recipient of a function, given its name."""
        return self.namespace if self.text_argument else f"{self.namespace}.{name}"

    @property
    def declared(self) -> tuple[HostedFunction, ...]:
        """The functions that the system message declares in the namespace."""
        return () if self.text_argument else self.functions

    def function_of(self, recipient: str) -> HostedFunction | None:
        return next((f for f in self.functions if self.recipient_of(f.name) == recipient), None)

    def is_called(self, recipient: str) -> bool:
        """Returns True if the recipient is in this namespace, even if there is no such function."""
        return (
            recipient == self.namespace if self.text_argument else recipient.startswith(f"{self.namespace}.")
        )


_PYTHON = """\
Use this tool to execute Python code in your chain of thought. The code will not be shown to the \
user. This tool should be used for internal reasoning, but not for code that is intended to be \
visible to the user (e.g. when creating plots, tables, or files).

When you send a message containing Python code to python, it will be executed in a stateful \
"""
PYTHON = HostedTool(
    server_label="code_interpreter",
    namespace="python",
    functions=(HostedFunction("python", is_repeatable=True),),
    description=f"""\
{_PYTHON}\
notebook environment: what one call defines, the next one finds. python will respond with what was \
printed and the value of the last expression, or with the traceback. There are no files, no \
internet access and no packages beyond a part of the standard library.""",
    descriptions={
        "cpython": f"""\
{_PYTHON}\
Jupyter notebook environment. python will respond with the output of the execution or time out \
after 60.0 seconds. The drive at '/mnt/data' can be used to save and persist user files. Internet \
access for this session is disabled."""
    },
    types=frozenset({"code_interpreter"}),
    text_argument="code",
    content_type="code",
    item_type="code_interpreter_call",
    items=(CodeInterpreterCall,),
    builtin="python",
    echoed={"container": {"type": "auto"}},
)
"""Its descriptions are the one from training, adapted to the sandbox."""

BROWSER = HostedTool(
    server_label="web_search_preview",
    namespace="browser",
    functions=(
        HostedFunction(
            web_search.SEARCH,
            "Searches for information related to `query` and displays `topn` results.",
            web_search.PARAMETERS[web_search.SEARCH],
            is_repeatable=True,
        ),
        HostedFunction(
            web_search.OPEN,
            web_search.OPEN_DESCRIPTION,
            web_search.PARAMETERS[web_search.OPEN],
            is_repeatable=True,
        ),
        HostedFunction(
            web_search.FIND,
            "Finds exact matches of `pattern` in the current page, or the page given by `cursor`.",
            web_search.PARAMETERS[web_search.FIND],
            is_repeatable=True,
        ),
    ),
    description="""\
Tool for browsing.
The `cursor` appears in brackets before each browsing display: `[{cursor}]`.
Cite information from the tool using the following format:
`【{cursor}†L{line_start}(-L{line_end})?】`, for example: `【6†L9-L11】` or `【8†L3】`.
Do not quote more than 10 words directly from the tool output.
sources=web (default: web)""",
    types=frozenset(
        {
            "web_search",
            "web_search_2025_08_26",
            "web_search_preview",
            "web_search_preview_2025_03_11",
        }
    ),
    types_since=3,
    item_type="web_search_call",
    items=(WebSearchCall,),
    builtin="browser",
    shows_pages=True,
)
"""Whether its types are accepted is a setting (`web_search`)."""

HOSTED_TOOLS = (PYTHON, BROWSER)

_BY_LABEL = {tool.server_label: tool for tool in HOSTED_TOOLS}
_BY_NAMESPACE = {tool.namespace: tool for tool in HOSTED_TOOLS}
_BY_TYPE = {kind: tool for tool in HOSTED_TOOLS for kind in tool.types}
_BY_ITEM = {item: tool for tool in HOSTED_TOOLS for item in tool.items}

RESERVED_LABELS = frozenset(
    {
        *_BY_NAMESPACE,
        *("functions", "container"),
        *("assistant", "user", "system", "developer", "tool", "all"),
        *("analysis", "commentary", "final", "code", "json"),
    }
)
"""Labels that no tool server may have, in upper or lower case: the model knows hosted tools by them, or they
are words of a message's header."""


KINDS = frozenset(_BY_TYPE)
"""Every tool type of the API that means a hosted tool."""
REPEATABLE = tuple(
    f"{tool.server_label}.{function.name}"
    for tool in HOSTED_TOOLS
    for function in tool.functions
    if function.is_repeatable
)
"""`label.function` of the functions that may be run again."""


def by_label(server_label: str) -> HostedTool | None:
    """Returns the tool that runs on this server, or None."""
    return _BY_LABEL.get(server_label)


def by_type(kind: str) -> HostedTool | None:
    """Returns the tool that a tool of the API's type `kind` requests, or None."""
    return _BY_TYPE.get(kind)


def by_namespace(namespace: str) -> HostedTool:
    """Returns the tool of a namespace. Raises KeyError if no hosted tool has it."""
    return _BY_NAMESPACE[namespace]


def by_item(item: HostedToolCall) -> HostedTool:
    """Returns the tool whose call the item is."""
    return _BY_ITEM[type(item)]


def by_recipient(recipient: str) -> HostedTool | None:
    """Returns the tool that the model calls by this Harmony recipient, or None."""
    tool = _BY_NAMESPACE.get(recipient.partition(".")[0])
    return tool if tool is not None and tool.is_called(recipient) else None
