"""What every route asks of the app: the services behind it, the tenant before it, the body of a call.

Owns dependencies only; no route and no rule.
"""

import asyncio
from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import Request
from starlette.responses import Response

from api.errors import ClientError, NodeEnding, shorten
from api.services import Services
from api.tenants import Tenants
from shared.settings import Settings

# All of them `async`: FastAPI sends a plain function to a thread, for each request.


async def _services(request: Request) -> Services:
    """Raises NodeEnding once the streams have ended: what comes now would end before it began."""
    if request.app.state.has_ended:
        raise NodeEnding
    return cast(Services, request.app.state.services)


async def _settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


async def _tenant(request: Request) -> str:
    tenants = cast(Tenants, request.app.state.tenants)
    return tenants.tenant_of(request.headers.get("authorization"))


_CLOSE = {"connection": "close"}
"""The rest of the body is on its way: no other request can be read from this connection."""

ServicesDep = Annotated[Services, Depends(_services)]
SettingsDep = Annotated[Settings, Depends(_settings)]
TenantDep = Annotated[str, Depends(_tenant)]


def json_of(body: bytes) -> Response:
    """An answer that is JSON already."""
    return Response(body, media_type="application/json")


async def read_body(request: Request, settings: Settings) -> bytes:
    """The whole body. Raises ClientError when it is packed, too large, or too long in coming."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        message = f"Content-Encoding '{shorten(encoding)}' is not read: send the body as it is."
        raise ClientError(415, message, "unsupported_content_encoding", headers=_CLOSE)
    try:
        async with asyncio.timeout(settings.http_body_timeout_s):
            return await _read_bounded(request, settings.body_bytes_max)
    except TimeoutError:
        message = f"The body did not come within {settings.http_body_timeout_s:g} seconds."
        raise ClientError(408, message, "request_timeout", headers=_CLOSE) from None


async def _read_bounded(request: Request, bytes_max: int) -> bytes:
    """Counted while it comes: what its header says of its length is only a hint."""
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > bytes_max:
        raise _too_large(bytes_max)
    chunks: list[bytes] = []
    size_bytes = 0
    async for chunk in request.stream():
        size_bytes += len(chunk)
        if size_bytes > bytes_max:
            raise _too_large(bytes_max)
        chunks.append(chunk)
    return b"".join(chunks)


def _too_large(bytes_max: int) -> ClientError:
    message = f"The body is too large: at most {bytes_max} bytes are accepted."
    return ClientError(413, message, "request_too_large", headers=_CLOSE)
