"""Compresses JSON answers for clients that accept gzip. Pure ASGI: streams of events pass untouched.

Owns which answers are compressed. Large ones are compressed off the event loop (`offload.py`).
"""

import gzip
from functools import partial

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.offload import Offload

_LEVEL = 1
"""Takes JSON a millisecond for each 64 KiB, and leaves a third of it; the highest level leaves little less,
for four times as long."""


class Compression:
    def __init__(self, app: ASGIApp, bytes_min: int) -> None:
        self._app = app
        self._bytes_min = bytes_min
        self._offload = Offload()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_accepted = accepts_gzip(Headers(scope=scope).getlist("accept-encoding"))
        start: Message | None = None

        async def send_compressed(message: Message) -> None:
            """Holds the start of a JSON answer until its body, which comes in one piece."""
            nonlocal start
            if message["type"] == "http.response.start" and self._is_meant(message):
                MutableHeaders(scope=message).add_vary_header("accept-encoding")
                if is_accepted:
                    start = message
                    return
            elif start is not None:
                begun, start = start, None
                if not message.get("more_body", False):
                    message = await self._compress(begun, message)
                await send(begun)
            await send(message)

        await self._app(scope, receive, send_compressed)

    def _is_meant(self, start: Message) -> bool:
        headers = Headers(raw=start["headers"])
        length = headers.get("content-length", "")
        is_json = headers.get("content-type") == "application/json" and "content-encoding" not in headers
        return is_json and length.isdecimal() and int(length) >= self._bytes_min

    async def _compress(self, start: Message, body: Message) -> Message:
        """Returns the compressed body, having changed the start accordingly."""
        whole: bytes = body["body"]
        packed = await self._offload.run(len(whole), partial(gzip.compress, whole, _LEVEL, mtime=0))
        headers = MutableHeaders(scope=start)
        headers["content-encoding"] = "gzip"
        headers["content-length"] = str(len(packed))
        return {**body, "body": packed}


def accepts_gzip(accepted: list[str]) -> bool:
    """Returns whether `accept-encoding` names gzip, in however many lines, without a weight of zero."""
    for coding in ",".join(accepted).lower().split(","):
        name, _, weight = coding.replace(" ", "").partition(";q=")
        if name == "gzip":
            return weight.strip("0.") != "" or weight == ""
    return False
