"""Lets a server's tools and answers through the MCP library, which refuses a whole message for one bad part.

Owns the two places where a connection's messages are changed: each result of `tools/list` is mended, and each
result of `tools/call` passes inside the `_meta` of an empty one. What they mean is for others to say.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from shared.responses import LeftOutTool
from tool_runner.answers import make_encodable
from tool_runner.listed_tools import mend_page
from tool_runner.passages import IncomingPassage, Passage

_RESULT, _PAGE = "antiphon/result", "antiphon/page"
_PENDING_MAX = 10_000
"""How many requests without an answer are remembered: one that is cancelled may never get one."""


def result_of(meta: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the result of a call as the server sent it, given the `_meta` of what the library read."""
    result: dict[str, Any] = (meta or {}).get(_RESULT, {})
    return result


def left_out_of(meta: Mapping[str, Any] | None) -> tuple[list[LeftOutTool], int]:
    """Returns the tools that are not in a page, given its `_meta`, and the bytes that the page took."""
    left_out, size = (meta or {}).get(_PAGE, ((), 0))
    return [LeftOutTool(name, reason) for name, reason in left_out], size


class Unjudged:
    """The two streams of a connection: what is sent passes `outgoing`, and what comes, `incoming`.

    `on_change`: called when the server says that its tools have changed.
    """

    def __init__(self, incoming: Any, outgoing: Any, on_change: Callable[[], None]) -> None:
        asked: dict[Any, str] = {}
        self.incoming = _Incoming(incoming, asked, on_change)
        self.outgoing = _Outgoing(outgoing, asked)


class _Outgoing(Passage):
    """Remembers which requests ask for tools or call one."""

    def __init__(self, stream: Any, asked: dict[Any, str]) -> None:
        super().__init__(stream)
        self._asked = asked

    async def send(self, item: Any) -> None:
        message = item.message
        method, id_ = getattr(message, "method", None), getattr(message, "id", None)
        if method in _CHANGES and id_ is not None:
            if len(self._asked) >= _PENDING_MAX:
                del self._asked[next(iter(self._asked))]
            self._asked[id_] = method
        await self._stream.send(item)


class _Incoming(IncomingPassage):
    def __init__(self, stream: Any, asked: dict[Any, str], on_change: Callable[[], None]) -> None:
        super().__init__(stream)
        self._asked = asked
        self._on_change = on_change

    async def receive(self) -> Any:
        return self._change(await super().receive())

    def _change(self, item: Any) -> Any:
        message = getattr(item, "message", None)
        if getattr(message, "method", None) == "notifications/tools/list_changed":
            self._on_change()
        result = getattr(message, "result", None)
        if message is not None and isinstance(result, dict):
            method = self._asked.pop(getattr(message, "id", None), None)
            if method is not None:
                message.result = _CHANGES[method](result)
        return item


def _mend_listing(result: dict[str, Any]) -> dict[str, Any]:
    try:
        page, left_out = mend_page(result)
    except ValueError:
        return result  # no listing at all: for the library to refuse
    meta = page.get("_meta")
    size = len(msgspec.json.encode(make_encodable(result["tools"])))
    noted = {_PAGE: ([(tool.name, tool.reason) for tool in left_out], size)}
    return {**page, "_meta": {**(meta if isinstance(meta, dict) else {}), **noted}}


def _wrap_result(result: dict[str, Any]) -> dict[str, Any]:
    return {"resultType": "complete", "content": [], "_meta": {_RESULT: result}}


_CHANGES = {"tools/list": _mend_listing, "tools/call": _wrap_result}
