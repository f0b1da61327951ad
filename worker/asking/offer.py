"""Decides which tools a request offers to the model, and under which Harmony names. Pure.

Owns the routing from recipient to target; `conversation.py` owns the rest of what the model reads.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared import client_tools, hosted_tools
from shared.client_tools import FUNCTION, Requested, is_namespace, requested_in
from shared.hosted_tools import MCP_CALL, HostedTool
from shared.record_format import RECORD_FORMAT
from shared.responses import McpTool, ResponseRequest
from shared.tool_calls import is_clients_own
from shared.web_search import SearchOptions
from worker.asking.routing import ClientTarget, McpTarget, Routing, Target
from worker.asking.tool_names import callable_name
from worker.harmony.signatures import FUNCTIONS, ToolSignature


@dataclass(frozen=True, slots=True)
class ToolFilter:
    """A filter over a server's tools; a tool must match every part that is given."""

    names: frozenset[str] | None
    is_read_only: bool

    @classmethod
    def of(cls, rule: Any) -> "ToolFilter | None":
        """Returns the filter of a rule {tool_names, read_only} as sent, or None if the rule names no tools,
        which does not mean all tools."""
        if not isinstance(rule, dict):
            return None
        names, is_read_only = rule.get("tool_names"), bool(rule.get("read_only"))
        if names is None and not is_read_only:
            return None
        return cls(frozenset(names) if names is not None else None, is_read_only)

    def admits(self, tool: McpTool) -> bool:
        if self.names is not None and tool.name not in self.names:
            return False
        return not self.is_read_only or _is_read_only(tool)


@dataclass(frozen=True, slots=True)
class Approval:
    """Says which calls of a server need the client's approval.

    If `always` is given, the calls that it matches; otherwise all except those that `never` matches.
    """

    never: ToolFilter | None
    always: ToolFilter | None


@dataclass(frozen=True, slots=True)
class McpServer:
    """One server of a request: an `mcp` tool, or a hosted tool that runs on a server here
    (`code_interpreter`).

    `allowed`: the names of the tools that may be called, or None for all of them.
    """

    label: str
    url: str | None
    description: str | None
    allowed: frozenset[str] | None
    is_read_only: bool
    approval: Approval | str | None
    """`always`, `never` or a rule; None means the default for this kind of server."""
    item_type: str = MCP_CALL
    """The type of the items that its calls leave."""
    search: SearchOptions | None = None
    """What the request wants of its searches, if it is a `web_search`."""

    @property
    def hosted(self) -> HostedTool | None:
        """The hosted tool that this server provides, or None."""
        return hosted_tools.by_label(self.label)


@dataclass(frozen=True, slots=True)
class Offer:
    """The tools offered to the model, and the target of each."""

    hosted: Mapping[str, str]
    """The Harmony namespace of each hosted tool -> its description."""
    namespaces: Mapping[str, tuple[str | None, tuple[ToolSignature, ...]]]
    routing: Routing

    @classmethod
    def join(cls, offers: Iterable["Offer"]) -> "Offer":
        """Merges offers; a later one overrides an earlier one."""
        hosted: dict[str, str] = {}
        namespaces: dict[str, tuple[str | None, tuple[ToolSignature, ...]]] = {}
        routing: dict[str, Target] = {}
        for offer in offers:
            hosted.update(offer.hosted)
            namespaces.update(offer.namespaces)
            routing.update(offer.routing)
        return cls(hosted, namespaces, routing)


def mcp_servers(request: ResponseRequest, record_format: int = RECORD_FORMAT) -> list[McpServer]:
    """Returns the MCP servers of a request, including hosted tools, one for each label."""
    servers: dict[str, McpServer] = {}
    for tool in request.tools:
        server = _server_of(tool, record_format)
        if server is not None:
            servers.setdefault(server.label, server)
    return list(servers.values())


def _server_of(tool: Mapping[str, Any], record_format: int) -> McpServer | None:
    kind = str(tool.get("type"))
    if (hosted := hosted_tools.by_type(kind)) is not None:
        if record_format < hosted.types_since:
            return None
        search = SearchOptions.of(tool) if hosted.shows_pages else None
        return McpServer(hosted.server_label, None, None, None, False, "never", hosted.item_type, search)
    if kind != "mcp":
        return None
    allowed, is_read_only = tool.get("allowed_tools"), False
    if isinstance(allowed, dict):
        is_read_only = bool(allowed.get("read_only"))
        allowed = allowed.get("tool_names")
    return McpServer(
        tool["server_label"],
        tool.get("server_url"),
        tool.get("server_description"),
        frozenset(allowed) if allowed is not None else None,
        is_read_only,
        _approval_of(tool.get("require_approval")),
    )


def _approval_of(value: Any) -> Approval | str | None:
    if isinstance(value, dict):
        return Approval(ToolFilter.of(value.get("never")), ToolFilter.of(value.get("always")))
    return value if isinstance(value, str) else None


def make_offer(
    request: ResponseRequest,
    listed: Mapping[str, tuple[McpTool, ...]],
    idempotent_tools: Collection[str] = (),
    record_format: int = RECORD_FORMAT,
    python_tool: str = "monty",
) -> Offer:
    """Returns the tools that the request and its `tool_choice` allow.

    `listed`: server_label -> its tools, for every server that was listed. `idempotent_tools`: the
    `label.tool` names of the tools that the operator declares repeatable. `python_tool`: the sandbox that a
    hosted tool may have a description for.
    """
    choice = _Choice.of(request.response.tool_choice)
    offers = [
        _offer_hosted(server, server.hosted, choice, idempotent_tools, python_tool)
        if server.hosted
        else _offer_listed(server, listed.get(server.label, ()), choice, idempotent_tools)
        for server in mcp_servers(request, record_format)
    ]
    return Offer.join([*offers, _offer_client_tools(request, choice, record_format)])


def _offer_client_tools(request: ResponseRequest, choice: "_Choice", record_format: int) -> Offer:
    """Offers the tools that the client runs. In an earlier record, those are functions alone."""
    signatures: defaultdict[str, list[ToolSignature]] = defaultdict(list)
    routing: dict[str, Target] = {}
    descriptions = {tool["name"]: tool.get("description") for tool in request.tools if is_namespace(tool)}
    requested = list(requested_in(request.tools)) if record_format > 2 else list(_functions_in(request.tools))
    own = frozenset(one.name for one in requested if one.namespace is None)
    for one in requested:
        target = ClientTarget(one.name, one.row.item_type, one.namespace)
        if not choice.admits_client(target, own):
            continue
        made = one.row.declare(one.tool)
        signature = ToolSignature(made.name, made.description, made.parameters)
        signatures[one.namespace or FUNCTIONS].append(signature)
        routing[target.recipient] = target
    namespaces = {name: (descriptions.get(name), tuple(some)) for name, some in signatures.items()}
    return Offer({}, namespaces, routing)


def _functions_in(tools: Iterable[Mapping[str, Any]]) -> Iterator[Requested]:
    return (one for one in requested_in(tools) if one.row is FUNCTION and one.namespace is None)


def _offer_listed(
    server: McpServer, listed: Sequence[McpTool], choice: "_Choice", idempotent_tools: Collection[str]
) -> Offer:
    tools = [
        tool for tool in listed if _is_allowed(server, tool) and choice.admits_mcp(server.label, tool.name)
    ]
    if not tools:
        return Offer({}, {}, {})
    signatures: list[ToolSignature] = []
    routing: dict[str, Target] = {}
    for tool in tools:
        recipient = recipient_of(server.label, tool.name)
        if recipient in routing:  # a duplicate name: the first one wins
            continue
        signatures.append(_sign(tool))
        is_repeatable = _is_repeatable(tool) or f"{server.label}.{tool.name}" in idempotent_tools
        needs_approval = _needs_approval(server, tool)
        routing[recipient] = McpTarget(
            recipient, server.label, tool.name, server.url, needs_approval, is_repeatable, _is_read_only(tool)
        )
    return Offer({}, {server.label: (server.description, tuple(signatures))}, routing)


def _sign(tool: McpTool) -> ToolSignature:
    return ToolSignature(callable_name(tool.name), tool.description or "", tool.input_schema)


def recipient_of(server_label: str, name: str) -> str:
    """Returns the Harmony name of an MCP tool."""
    hosted, callable_as = hosted_tools.by_label(server_label), callable_name(name)
    return hosted.recipient_of(callable_as) if hosted else f"{server_label}.{callable_as}"


def _offer_hosted(
    server: McpServer,
    hosted: HostedTool,
    choice: "_Choice",
    idempotent_tools: Collection[str],
    python_tool: str,
) -> Offer:
    """Offers a hosted tool under the names in its row, whatever its server lists."""
    routing: dict[str, Target] = {}
    for name in (function.name for function in hosted.functions):
        is_allowed = server.allowed is None or name in server.allowed
        if is_allowed and choice.admits_mcp(server.label, name):
            recipient = hosted.recipient_of(name)
            routing[recipient] = McpTarget(
                recipient,
                server.label,
                name,
                server.url,
                _needs_approval(server, McpTool(name, {})),
                f"{server.label}.{name}" in idempotent_tools,
                item_type=server.item_type,
                search=server.search,
            )
    description = server.description or hosted.descriptions.get(python_tool, hosted.description)
    if server.search is not None and server.search.place:
        description += f"\nThe user is in or near {server.search.place}."
    return Offer({hosted.namespace: description} if routing else {}, {}, routing)


def _is_allowed(server: McpServer, tool: McpTool) -> bool:
    if server.allowed is not None and tool.name not in server.allowed:
        return False
    return not server.is_read_only or _is_read_only(tool)


def _is_repeatable(tool: McpTool) -> bool:
    return _is_read_only(tool) or bool((tool.annotations or {}).get("idempotentHint"))


def _is_read_only(tool: McpTool) -> bool:
    """Reads the annotation of our own listings or MCP's: a client may send a listing of either form."""
    hints = tool.annotations or {}
    return bool(hints.get("read_only", hints.get("readOnlyHint")))


def _needs_approval(server: McpServer, tool: McpTool) -> bool:
    """Returns what the request says; the API has filled in the operator's default, except in older
    records."""
    match server.approval:
        case "never":
            return False
        case "always":
            return True
        case Approval(never, always):
            if always is not None:
                return always.admits(tool)
            return never is None or not never.admits(tool)
        case _:
            return is_clients_own(server.label, server.url)


@dataclass(frozen=True, slots=True)
class _Choice:
    """`tool_choice`, as a filter over what is offered."""

    clients: frozenset[tuple[str | None, str | None]] | None
    """The client-run tools allowed, as (namespace, name), or None for all. Without a namespace, a member of
    any namespace is meant if no tool outside has its name; without a name, every member."""
    mcp: Mapping[str, frozenset[str] | None] | None
    """The tools allowed by server label, or None for every server; a label with None allows all its tools."""

    @classmethod
    def of(cls, choice: Any) -> "_Choice":
        match choice:
            case "none":
                return cls(frozenset(), {})
            case {"type": "namespace", "name": str(name)}:
                return cls(frozenset({(name, None)}), {})
            case {"type": "function" | "custom", "name": str(name)}:
                return cls(frozenset({(choice.get("namespace"), name)}), {})
            case {"type": "mcp", "server_label": str(label)}:
                name = choice.get("name")
                return cls(frozenset(), {label: frozenset({name}) if name else None})
            case {"type": "allowed_tools", "tools": list(tools)}:
                return cls._of_allowed(tools)
            case {"type": str(kind)} if client_tools.by_type(kind) is not None:
                return cls(frozenset({(None, kind)}), {})
            case {"type": str(kind)}:  # a hosted tool, or a server whose label is the type
                hosted = hosted_tools.by_type(kind)
                return cls(frozenset(), {hosted.server_label if hosted else kind: None})
            case _:
                return cls(None, None)

    @classmethod
    def _of_allowed(cls, tools: list[dict[str, Any]]) -> "_Choice":
        clients: set[tuple[str | None, str | None]] = set()
        whole: set[str] = set()
        """Servers whose tools are all allowed."""
        named: defaultdict[str, set[str]] = defaultdict(set)
        for tool in tools:
            one = cls.of(tool)
            clients |= one.clients or set()
            for label, names in (one.mcp or {}).items():
                if names is None:
                    whole.add(label)
                else:
                    named[label] |= names
        mcp: dict[str, frozenset[str] | None] = {label: frozenset(names) for label, names in named.items()}
        return cls(frozenset(clients), mcp | dict.fromkeys(whole))

    def admits_client(self, target: ClientTarget, own: Collection[str]) -> bool:
        """`own`: the names of the tools that are in no namespace."""
        if self.clients is None:
            return True
        named = {(target.namespace, target.name), (target.namespace, None)}
        if target.namespace is not None and target.name not in own:
            named.add((None, target.name))
        return not named.isdisjoint(self.clients)

    def admits_mcp(self, label: str, name: str) -> bool:
        if self.mcp is None:
            return True
        if label not in self.mcp:
            return False
        names = self.mcp[label]
        return names is None or name in names
