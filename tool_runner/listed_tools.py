"""Reads the tools that a server lists, one by one: mends what can be mended, and leaves the rest out. Pure.

Owns what counts as a tool, and the reasons for leaving one out; `mcp_client.py` receives the listings,
`answers.py` decides how many tools there may be.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from shared.responses import LeftOutTool, McpTool

SCHEMA_LEVELS_MAX = 100
"""Below the limit for requests, so that a client can always send a listing back to us."""
_NAME_LENGTH_MAX = 4_096
_HINTS = frozenset({"title", "readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"})
_NAME_SHOWN = 64
"""How much is kept of the name of a tool that is left out."""
_NAMED_MAX = 100
"""How many of the tools that are left out are named."""
_READ_PER_KEPT = 16
"""How many times as much of a listing is read as may be kept of it."""


def mend_page(page: Mapping[str, Any]) -> tuple[dict[str, Any], list[LeftOutTool]]:
    """Returns a result of `tools/list` whose tools are all as MCP wants them, and the tools that are not in
    it.

    Raises ValueError if there is no list of tools.
    """
    tools = page.get("tools")
    if not isinstance(tools, list):
        raise ValueError("its listing has no list of tools")
    kept: list[dict[str, Any]] = []
    left_out: list[LeftOutTool] = []
    for place, tool in enumerate(tools):
        try:
            kept.append(_mend(tool))
        except _Unusable as unusable:
            left_out.append(LeftOutTool(_name_of(tool, place), str(unusable)))
    cursor = page.get("nextCursor")
    others = {name: value for name, value in page.items() if name not in ("tools", "nextCursor")}
    return {**others, "tools": kept, **({"nextCursor": cursor} if isinstance(cursor, str) else {})}, left_out


class _Unusable(Exception):
    """A tool cannot be offered; the message says why."""


def _name_of(tool: Any, place: int) -> str:
    name = tool.get("name") if isinstance(tool, dict) else None
    return name[:_NAME_SHOWN] if isinstance(name, str) else f"(number {place + 1})"


def _mend(tool: Any) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise _Unusable("it is not an object")
    name, description, hints = tool.get("name"), tool.get("description"), tool.get("annotations")
    if not isinstance(name, str):
        raise _Unusable("it has no name")
    if len(name) > _NAME_LENGTH_MAX:
        raise _Unusable(f"its name is longer than {_NAME_LENGTH_MAX} characters")
    mended = {"name": name, "inputSchema": _mend_schema(tool.get("inputSchema"))}
    if isinstance(description, str):
        mended["description"] = description
    if isinstance(hints, dict):
        mended["annotations"] = {name: hint for name, hint in hints.items() if _is_hint(name, hint)}
    return mended


def _is_hint(name: str, hint: Any) -> bool:
    return name in _HINTS and isinstance(hint, str if name == "title" else bool)


def _mend_schema(schema: Any) -> dict[str, Any]:
    """Returns a schema of an object, as a tool's arguments are one. No schema allows any object."""
    if schema is None or schema is True or schema == {}:
        return {"type": "object", "properties": {}}
    if not isinstance(schema, dict):
        raise _Unusable("its schema is not an object")
    kind = schema.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise _Unusable("its schema does not describe an object")
    mended = {**schema, "type": "object"}
    for keyword, is_as_meant in _KEYWORDS.items():
        if keyword in mended and not is_as_meant(mended[keyword]):
            del mended[keyword]
    if "properties" in mended:
        mended["properties"] = {
            name: {} if value is None else value for name, value in mended["properties"].items()
        }
    return mended


def _are_properties(value: Any) -> bool:
    return isinstance(value, dict) and all(
        each is None or isinstance(each, dict | bool) for each in value.values()
    )


_KEYWORDS = {
    "$schema": lambda value: isinstance(value, str),
    "required": lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
    "properties": _are_properties,
}
"""Keywords that MCP gives a form of its own. One of another form says nothing that could be shown."""


class Listing:
    """The tools of a server that can be offered, page by page: each name once, each schema within its
    limit."""

    def __init__(self, bytes_max: int, schema_bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._schema_bytes_max = schema_bytes_max
        self._read_bytes = 0
        self._names: set[str] = set()
        self.size_bytes = 0
        self.tools: list[McpTool] = []
        self.left_out: list[LeftOutTool] = []

    @property
    def is_full(self) -> bool:
        """True if the tools take more bytes than a listing may: no more pages need be read."""
        return self.size_bytes > self._bytes_max or self._read_bytes > self._read_bytes_max

    @property
    def fault(self) -> str | None:
        """Why the listing is of no use. If tools were left out for their number, chance would decide."""
        if (size := self.size_bytes) > self._bytes_max:
            return f"the server's list of tools takes at least {size} bytes, over {self._bytes_max}"
        if self._read_bytes > self._read_bytes_max:
            return f"the server's list of tools takes over {self._read_bytes_max} bytes with those left out"
        return None

    @property
    def _read_bytes_max(self) -> int:
        return _READ_PER_KEPT * self._bytes_max

    def add(self, tools: Iterable[McpTool], left_out: Iterable[LeftOutTool], read_bytes: int) -> None:
        """Adds a page. `left_out`: entries that could not be read; `read_bytes`: of the page as it came."""
        self._read_bytes += read_bytes
        for unread in left_out:
            self._leave_out(unread)
        for tool in tools:
            reason = _too_large(tool.input_schema, self._schema_bytes_max)
            if tool.name in self._names:
                reason = "an earlier tool has its name"
            if reason is not None:
                self._leave_out(LeftOutTool(tool.name[:_NAME_SHOWN], reason))
                continue
            self._names.add(tool.name)
            self.tools.append(tool)
            self.size_bytes += len(msgspec.json.encode(tool))

    def _leave_out(self, tool: LeftOutTool) -> None:
        if len(self.left_out) < _NAMED_MAX:
            self.left_out.append(tool)


def _too_large(schema: Any, bytes_max: int) -> str | None:
    if _is_deeper(schema, SCHEMA_LEVELS_MAX):
        return f"its schema has over {SCHEMA_LEVELS_MAX} levels"
    size = len(msgspec.json.encode(schema))
    return f"its schema takes {size} bytes, over {bytes_max}" if size > bytes_max else None


def _is_deeper(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels + 1):
        nodes = (node.values() if isinstance(node, dict) else node for node in level)
        level = [child for children in nodes for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True
