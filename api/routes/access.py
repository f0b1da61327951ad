"""What routes depend on: the services, the caller's tenant, a call's body, and what its headers choose.

Also owns the forms of answers that several routes share; contains no route and no rule.
"""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from api.errors import NodeEnding, unsupported_value
from api.held_bodies import Bodies
from api.ignored_tools import ignored_header
from api.request_body import read_body
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
        case form:
            raise unsupported_value(_KEEP_ALIVE_HEADER, form, ("comment", "event"))


def dialect_of(connection: HTTPConnection) -> Dialect | None:
    """Returns the dialect that the client asks for, or None for the operator's setting. Raises
    ClientError."""
    match connection.headers.get(_DIALECT_HEADER):
        case (None | "openai" | "vllm" | "open-responses") as dialect:
            return dialect
        case dialect:
            raise unsupported_value(_DIALECT_HEADER, dialect, ("openai", "vllm", "open-responses"))


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
        return await work(await read_body(request, settings, held))
