"""Receives webhooks over HTTP on loopback, in the test's own event loop.

Owns the connection; a test says how each delivery is answered, and reads what arrived.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

SECRET = "whsec_" + "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"


@dataclass(frozen=True, slots=True)
class Arrival:
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = msgspec.json.decode(self.body)
        return event

    @property
    def response_id(self) -> str:
        return str(self.event["data"]["id"])


Answer = Callable[[Arrival], Awaitable[bytes]]
"""Returns the whole HTTP answer, or b"" to close the connection without one."""


def status(code: int, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {code} Status", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def take(_: Arrival) -> bytes:
    return status(200)


@dataclass
class Receiver:
    answer: Answer = take
    arrivals: list[Arrival] = field(default_factory=list)
    port: int = 0
    connections: int = 0
    _handlers: set["asyncio.Task[None]"] = field(default_factory=set)

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def ids(self) -> list[str]:
        return [arrival.response_id for arrival in self.arrivals]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                request, *lines = head.strip().split("\r\n")
                headers = dict(line.lower().split(": ", 1)[:1] + line.split(": ", 1)[1:] for line in lines)
                body = await reader.readexactly(int(headers["content-length"]))
                arrival = Arrival(request.split(" ")[1], headers, body)
                self.arrivals.append(arrival)
                answer = await self.answer(arrival)
                writer.write(answer)
                await writer.drain()
                if not answer:
                    return
        except (asyncio.IncompleteReadError, OSError):
            pass  # the sender has closed it
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def receiving(answer: Answer = take) -> AsyncIterator[Receiver]:
    """Yields a receiver on a free port."""
    receiver = Receiver(answer)
    server = await asyncio.start_server(receiver._accept, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        handlers = list(receiver._handlers)
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await server.wait_closed()
