"""Makes a span of each call to the API, which continues the client's own trace, if it has one.

Owns what such a span says; `shared/traces.py` makes it. A WebSocket's lanes make one of each response.
"""

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import logs, traces
from shared.tracer import PARENT_HEADER, STATE_HEADER, Span, TraceContext


def _route_of(scope: Scope) -> str | None:
    return getattr(scope.get("route"), "path", None)


_PROBES = frozenset({"/health", "/ready", "/metrics"})


class Traced:
    """Pure ASGI: streams pass untouched. The span ends with the answer's last byte."""

    def __init__(self, app: ASGIApp, route_of: Callable[[Scope], str | None] = _route_of) -> None:
        """`route_of`: returns the path by which a call's span is called, with names in place of ids; None for
        what has none."""
        self._app = app
        self._route_of = route_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        status = 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        parent = told_by(Headers(scope=scope))
        method = scope["method"]
        about = {"http.request.method": method}
        with traces.span(method, about, kind="server", parent=parent) as span:
            try:
                await self._app(scope, receive, send_and_note)
            finally:
                if (route := self._route_of(scope)) is not None:
                    span.rename(f"{method} {route}")
                    span.note({"http.route": route})
                if status:
                    span.note({"http.response.status_code": status})
                if status >= 500:
                    span.fail(str(status))
                note_subject(span)


def told_by(headers: Headers) -> TraceContext:
    """Returns which span of the client's a call belongs to."""
    return TraceContext.told(headers.get(PARENT_HEADER, ""), headers.getlist(STATE_HEADER))


def note_subject(span: Span) -> None:
    """Says which response the span is about, if that is known."""
    if (subject := logs.current_subject()) is not None:
        span.note({"antiphon.response.id": subject.response_id, "antiphon.tenant": subject.tenant})
