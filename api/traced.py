"""Makes a span of each call to the API, which continues the client's own trace, if it has one.

Owns what such a span says; `shared/traces.py` makes it. A WebSocket's lanes make one of each response.
"""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared import logs, traces
from shared.tracer import HEADER, Span

_PROBES = frozenset({"/health", "/ready", "/metrics"})


class Traced:
    """Pure ASGI: streams pass untouched. The span ends with the answer's last byte."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

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

        parent = Headers(scope=scope).get(HEADER, "")
        method = scope["method"]
        about = {"http.request.method": method}
        with traces.span(method, about, kind="server", parent=parent) as span:
            try:
                await self._app(scope, receive, send_and_note)
            finally:
                if (route := getattr(scope.get("route"), "path", None)) is not None:
                    span.rename(f"{method} {route}")
                    span.note({"http.route": route})
                if status:
                    span.note({"http.response.status_code": status})
                if status >= 500:
                    span.fail(str(status))
                note_subject(span)


def note_subject(span: Span) -> None:
    """Says which response the span is about, if that is known."""
    if (subject := logs.current_subject()) is not None:
        span.note({"antiphon.response.id": subject.response_id, "antiphon.tenant": subject.tenant})
