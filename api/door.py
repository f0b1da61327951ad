"""Decides by headers alone which requests reach the routes: checks hosts and origins, and answers for CORS.

Owns everything decided before routing; `tenants.py` owns the keys, `http_protocol.py` the bytes. Pure ASGI:
streams pass untouched. Source for CORS: the Fetch standard.
"""

import ipaddress

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ClientError, refuse, shorten
from api.rates import RATE_HEADERS
from api.request_names import check_client_name
from shared.settings import Settings

_METHODS = "GET, HEAD, POST, DELETE"
_EXPOSED = ", ".join(
    (
        *("x-request-id", "x-response-id", "openai-processing-ms", "openai-version"),
        *("antiphon-ignored-tools", "antiphon-cells-missing"),
        *("retry-after", "retry-after-ms", *RATE_HEADERS),
    )
)
_REMEMBERED_S = "600"
_ITEM = "/items/"
SOCKET_PATH = "/v1/responses"
"""What can be upgraded to a WebSocket."""


class Door:
    """Middleware. `is_open`: there are no API keys, so only local callers may reach the node."""

    def __init__(self, app: ASGIApp, settings: Settings, *, is_open: bool) -> None:
        self._app = app
        self._is_open = is_open
        self._origins = frozenset(settings.cors_origins)
        self._hosts = frozenset(host.lower() for host in settings.open_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        is_known = origin in self._origins

        async def send_to_browser(message: Message) -> None:
            if message["type"] == "http.response.start" and self._origins:
                self._add_cors_headers(MutableHeaders(scope=message), origin if is_known else None)
            await send(message)

        app: ASGIApp = self._app
        try:
            # RFC 9112, 3.2: a proxy in front may have read the other one.
            if len(headers.getlist("host")) > 1:
                raise ClientError(400, "The request has more than one 'Host' header.", "invalid_host", "Host")
            check_client_name(headers)
            if self._is_open:
                self._check_open(scope, headers)
            if scope["type"] == "http" and "sec-websocket-key" in headers:
                _check_upgrade(scope)
            if scope.get("method") == "OPTIONS" and origin and "access-control-request-method" in headers:
                app = _answer_preflight(headers, origin, is_known=is_known)
        except ClientError as error:
            app = refuse(error)
        await app(_without_slash(scope), receive, send_to_browser)

    def _check_open(self, scope: Scope, headers: Headers) -> None:
        """Raises ClientError for requests that a foreign web page could make a local browser send.

        For a WebSocket, which CORS does not cover, this is the only obstacle.
        """
        host = headers.get("host", "")
        if host and not self._is_own(_name_of(host)):
            message = (
                f"Without API keys this node answers to loopback hosts only, not to '{shorten(host)}': "
                "set ANTIPHON_API_KEYS, or name the host in ANTIPHON_OPEN_HOSTS."
            )
            raise ClientError(403, message, "host_not_allowed", "Host")
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins and origin != f"http://{host}":
            raise _foreign(origin)
        has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        if scope.get("method") == "POST" and has_body and not _is_json(headers.get("content-type", "")):
            message = "Without API keys a body must come with 'Content-Type: application/json'."
            raise ClientError(415, message, "unsupported_content_type", "Content-Type")

    def _is_own(self, name: str) -> bool:
        return is_loopback(name) or name in self._hosts

    def _add_cors_headers(self, headers: MutableHeaders, origin: str | None) -> None:
        headers.add_vary_header("origin")
        if origin is not None:
            headers["access-control-allow-origin"] = origin
            headers["access-control-expose-headers"] = _EXPOSED


def is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str:
    """Returns the name in a Host header: `[::1]:8000` -> `::1`; `LocalHost.:80` -> `localhost`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().removesuffix(".")


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


def _foreign(origin: str) -> ClientError:
    message = (
        f"Pages of '{shorten(origin)}' may not call this node: name their origin in ANTIPHON_CORS_ORIGINS."
    )
    return ClientError(403, message, "origin_not_allowed", "Origin")


def _check_upgrade(scope: Scope) -> None:
    """Raises ClientError if the upgrade to a WebSocket was lost on the way: clients then use HTTP at once."""
    if scope["method"] == "GET" and _without_slash(scope)["path"] == SOCKET_PATH:
        message = "The request for a WebSocket came without its upgrade: a proxy has removed it. Use HTTP."
        raise ClientError(426, message, "websocket_not_supported", headers={"upgrade": "websocket"})


def _answer_preflight(headers: Headers, origin: str, *, is_known: bool) -> Response:
    """Returns the answer to a preflight request, which needs no key, since browsers send none.

    Raises ClientError.
    """
    if not is_known:
        raise _foreign(origin)
    allowed = {
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": headers.get("access-control-request-headers", "*"),
        "access-control-max-age": _REMEMBERED_S,
    }
    if "access-control-request-private-network" in headers:
        allowed["access-control-allow-private-network"] = "true"
    return Response(status_code=204, headers=allowed)


def _without_slash(scope: Scope) -> Scope:
    """Removes a trailing slash from the path, except from an item's id, which may end in one."""
    path = scope["path"]
    if len(path) < 2 or not path.endswith("/") or _ITEM in path[:-1]:
        return scope
    return {**scope, "path": path[:-1]}
