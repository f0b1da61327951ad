"""Reads the whole body of a request, within the limits of its size, its time and of all that the node holds.

Owns what is refused before the body means anything; `held_bodies.py` owns the count.
"""

import asyncio

from starlette.requests import Request

from api.errors import RETRY_AFTER, ClientError, shorten
from api.held_bodies import BodiesFull, HeldBody
from shared.settings import Settings

_CLOSE = {"connection": "close"}
"""For answers sent before the whole body was read: no other request can be read from the connection."""


async def read_body(request: Request, settings: Settings, held: HeldBody) -> bytes:
    """Raises ClientError if the body is compressed, too large or too slow, or if this node holds too many;
    and ClientDisconnect."""
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
