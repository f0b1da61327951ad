"""What every route asks of the app: the services behind it, the tenant before it, the body of a call.

Owns dependencies only; no route and no rule.
"""

from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import Request

from api.auth import Keyring
from api.errors import ClientError
from api.services import Services
from shared.settings import Settings


def _services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


def _settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


def _tenant(request: Request) -> str:
    keyring = cast(Keyring, request.app.state.keyring)
    return keyring.tenant_of(request.headers.get("authorization"))


ServicesDep = Annotated[Services, Depends(_services)]
SettingsDep = Annotated[Settings, Depends(_settings)]
TenantDep = Annotated[str, Depends(_tenant)]


async def read_body(request: Request, bytes_max: int) -> bytes:
    """The whole body, counted while it comes: what its header says of its length is only a hint."""
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
    return ClientError(413, message, "request_too_large", headers={"connection": "close"})
