"""A client of a node's WebSocket that shows the bytes it gets."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.patience import PATIENCE_S

Event = dict[str, Any]
ENDS = ("response.completed", "response.failed", "response.incomplete")


class Socket:
    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def create(self, text: Any = "Hello", **fields: Any) -> None:
        await self.send(**{"type": "response.create", "model": "default", "input": text} | fields)

    async def send(self, **message: Any) -> None:
        await self.connection.send(json.dumps(message))

    async def receive(self) -> bytes:
        """The next message. Raises ConnectionClosed."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.connection.recv(decode=False)

    async def event(self) -> Event:
        event: Event = json.loads(await self.receive())
        return event

    async def refusal(self) -> tuple[int, str]:
        """The status and code of the next event, which must be an error."""
        event = await self.event()
        assert event["type"] == "error", event
        assert event["error"].keys() - {"headers"} == {"type", "code", "message", "param"}
        return event["status"], event["error"]["code"]

    async def messages(self) -> list[bytes]:
        """The messages of one response, to its end."""
        messages = [await self.receive()]
        while json.loads(messages[-1])["type"] not in ENDS:
            messages.append(await self.receive())
        return messages

    async def response(self) -> Event:
        """The next response as its last event shows it."""
        response: Event = json.loads((await self.messages())[-1])["response"]
        return response

    async def say(self, text: Any = "Hello", **fields: Any) -> Event:
        await self.create(text, **fields)
        return await self.response()

    def cut(self) -> None:
        """Loses the connection, without a word to the server."""
        self.connection.transport.abort()

    async def closing(self) -> int:
        """The code with which the server closes the connection."""
        async with asyncio.timeout(PATIENCE_S):
            await self.connection.wait_closed()
        code = self.connection.close_code
        assert code is not None
        return code


@asynccontextmanager
async def socket_to(url: str, **headers: str) -> AsyncIterator[Socket]:
    """Yields a connection to a node. `url`: the node's, without `/v1`."""
    address = f"{url.replace('http', 'ws', 1)}/v1/responses"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with connect(address, additional_headers=named, max_size=None, proxy=None) as connection:
        yield Socket(connection)
