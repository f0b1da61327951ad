"""A proxy to Redis that can be slow, or swallow everything, as networks do.

Owns the connections through it, all on loopback.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from local.ports import HOST


class Proxy:
    """Passes bytes on, each `delay_s` after its arrival."""

    def __init__(self, target_port: int, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.port = 0
        self._target_port = target_port
        self._is_cut = False
        self._ways: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def cut(self) -> None:
        """Silently drops everything from now on; connections stay open, and new ones are accepted."""
        self._is_cut = True
        for way in self._ways:
            way.cancel()

    def heal(self) -> None:
        """Lets new connections work again; earlier ones stay silent for ever."""
        self._is_cut = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self._is_cut:
            return
        try:
            there, back = await asyncio.open_connection(HOST, self._target_port)
        except ConnectionError:
            writer.close()
            return
        self._writers.append(back)
        for way in (self._pass_on(reader, back), self._pass_on(there, writer)):
            task = asyncio.create_task(way)
            self._ways.add(task)
            task.add_done_callback(self._ways.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await reader.read(65_536):
                if self.delay_s:
                    loop.call_later(self.delay_s, writer.write, data)
                else:
                    writer.write(data)
        except ConnectionError:
            pass
        writer.close()

    async def end(self) -> None:
        for writer in self._writers:
            writer.close()
        ways = list(self._ways)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)


@asynccontextmanager
async def proxying(target_port: int, delay_s: float = 0.0) -> AsyncIterator[Proxy]:
    proxy = Proxy(target_port, delay_s)
    server = await asyncio.start_server(proxy.serve, HOST, 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.end()
