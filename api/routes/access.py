"""What routes depend on: the services, the caller's tenant, a call's body, and what its headers choose.

Also owns the forms of answers that several routes share; contains no route and no rule.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from api.errors import RETRY_AFTER, ClientError, NodeEnding, invalid_value, shorten
from api.held_bodies import Bodies, BodiesFull, HeldBody
from api.ignored_tools import ignored_header
from api.services import Services
from api.sse import EventStreams
from api.tenants import Tenants
from shared.race import race
from shared.responses import Dialect
from shared.setting_types import KeepAliveForm
from shared.settings import Settings

# All of them are `async`, since FastAPI runs a plain function in a thread, for each request.


async def _services(request: Request) -> Services:
    """Returns the services. Raises NodeEnding once the streams have ended, as the node is about to stop."""
    if request.app.state.has_ended:
        raise NodeEnding
    return cast(Services, request.app.state.services)


async def _settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


async def _streams(request: Request) -> EventStreams:
    return cast(EventStreams, request.app.state.streams)


async def _tenant(request: Request) -> str:
    tenants = cast(Tenants, request.app.state.tenants)
    return tenants.tenant_of(request.headers.get("authorization"))


_CLIENT_CLOSED_REQUEST = 499
_KEEP_ALIVE_HEADER = "Antiphon-Keep-Alive"
_DIALECT_HEADER = "Antiphon-Dialect"
_CLOSE = {"connection": "close"}
"""For answers sent before the whole body was read: no other request can be read from the connection."""

ServicesDep = Annotated[Services, Depends(_services)]
SettingsDep = Annotated[Settings, Depends(_settings)]
StreamsDep = Annotated[EventStreams, Depends(_streams)]
TenantDep = Annotated[str, Depends(_tenant)]

T = TypeVar("T")


def keep_alive_of(connection: HTTPConnection, settings: Settings) -> KeepAliveForm:
    """Returns the form that the client asks for, or the operator's setting. Raises ClientError."""
    match connection.headers.get(_KEEP_ALIVE_HEADER, settings.keep_alive_form):
        case ("comment" | "event") as form:
            return form
        case _:
            raise invalid_value(_KEEP_ALIVE_HEADER, "it should be 'comment' or 'event'")


def dialect_of(connection: HTTPConnection) -> Dialect | None:
    """Returns the dialect that the client asks for, or None for the operator's setting. Raises
    ClientError."""
    match connection.headers.get(_DIALECT_HEADER):
        case (None | "openai" | "vllm" | "open-responses") as dialect:
            return dialect
        case _:
            raise invalid_value(_DIALECT_HEADER, "it should be 'openai', 'vllm' or 'open-responses'")


def json_of(body: bytes) -> Response:
    """Returns an answer whose body is JSON already."""
    return Response(body, media_type="application/json")


async def unless_disconnected(request: Request, answer: Coroutine[Any, Any, bytes]) -> Response:
    """Returns JSON, or an answer that nobody reads as soon as the client has disconnected."""
    body = await race(answer, _disconnected(request))
    return json_of(body) if body is not None else Response(status_code=_CLIENT_CLOSED_REQUEST)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def name_ignored(answer: Response, kinds: Sequence[str]) -> Response:
    """Returns the answer to a request of which tools of these types were left out; a header names them."""
    answer.headers.update(ignored_header(kinds))
    return answer


async def with_body(request: Request, settings: Settings, work: Callable[[bytes], Awaitable[T]]) -> T:
    """Reads the whole body, which this node holds until `work` has ended; returns what `work` does.

    Raises what `work` does; ClientError if the body is compressed, too large or too slow, or if this node
    holds too many bodies; and ClientDisconnect.
    """
    with cast(Bodies, request.app.state.bodies).hold() as held:
        return await work(await _read_in_time(request, settings, held))


async def _read_in_time(request: Request, settings: Settings, held: HeldBody) -> bytes:
    _check_encodings(request)
    try:
        async with asyncio.timeout(settings.http_body_timeout_s):
            return await _read_bounded(request, settings.body_bytes_max, held)
    except TimeoutError:
        message = f"The body did not come within {settings.http_body_timeout_s:g} seconds."
        raise ClientError(408, message, "request_timeout", headers=_CLOSE) from None
    except BodiesFull:
        message = "This node has too many large requests in hand. Try again."
        raise ClientError(503, message, "service_unavailable", headers=_CLOSE | RETRY_AFTER) from None


def _check_encodings(request: Request) -> None:
    """Raises ClientError for a body that is compressed, by either header, in however many lines."""
    for name, usual in (("Content-Encoding", "identity"), ("Transfer-Encoding", "chunked")):
        for encoding in request.headers.getlist(name):
            if encoding.lower() != usual:
                message = f"{name} '{shorten(encoding)}' is not supported: send the body uncompressed."
                raise ClientError(415, message, "unsupported_content_encoding", headers=_CLOSE)


async def _read_bounded(request: Request, bytes_max: int, held: HeldBody) -> bytes:
    """Reads the body, counting its bytes as they arrive, since the length in its header is only a hint."""
    stated = request.headers.get("content-length", "")
    if stated.isdecimal():
        if int(stated) > bytes_max:
            raise _too_large(bytes_max)
        held.expect(int(stated))
    chunks: list[bytes] = []
    async for chunk in request.stream():
        if held.size_bytes + len(chunk) > bytes_max:
            raise _too_large(bytes_max)
        held.grow_to(held.size_bytes + len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(bytes_max: int) -> ClientError:
    message = f"The body is too large: at most {bytes_max} bytes are accepted."
    return ClientError(413, message, "request_too_large", headers=_CLOSE)
