"""The network between the processes and Redis: a proxy that can cut, reset, block and delay connections.

Owns the proxy's process (`python -m tests.chaos.network NAME=PORT…`) and the lines that steer it; what is
done when is the nemesis's. A way that is held shut keeps its connections open, as a broken network does, and
breaks them when it opens again.
"""

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path

from local.ports import HOST, find_free

ROOT = Path(__file__).resolve().parents[2]
_CHUNK_BYTES = 2**16


class Network:
    """The chaos run's side: a URL for each process, and the control of its connections."""

    def __init__(self, ports: dict[str, int], process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.urls = {name: f"redis://{HOST}:{port}/0" for name, port in ports.items()}

    def lead_to(self, port: int) -> None:
        """Sets the port to connect to. Until then, connections are accepted and nothing is passed on."""
        self._say(f"target {port}")

    def cut(self, name: str) -> None:
        """Breaks every connection of that process; new ones are accepted."""
        self._say(f"cut {name}")

    def reset(self, name: str) -> None:
        """Resets every connection of that process right behind the next answer on it: the process is just
        about to write to it again, and notices the reset only then."""
        self._say(f"reset {name}")

    def hold(self, name: str, lasting_s: float) -> None:
        self._say(f"hold {name} {lasting_s}")

    def slow(self, delay_s: float, lasting_s: float) -> None:
        """Delays everything sent on all connections."""
        self._say(f"slow {delay_s} {lasting_s}")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()


@contextlib.contextmanager
def running(names: Sequence[str], log: Path) -> Iterator[Network]:
    ports = dict(zip(names, find_free(len(names)), strict=True))
    command = [
        sys.executable,
        "-m",
        "tests.chaos.network",
        *(f"{name}={port}" for name, port in ports.items()),
    ]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", log.read_text()
        yield Network(ports, process)
    finally:
        process.kill()
        process.communicate()


class _Way:
    """The connections of one process, each with two pumps."""

    def __init__(self, proxy: "_Proxy") -> None:
        self._proxy = proxy
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._resets = 0
        self._connections: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        resets = self._resets
        try:
            await self._is_open.wait()
            far_reader, far_writer = await asyncio.open_connection(
                HOST, await asyncio.shield(self._proxy.target)
            )
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, far_writer))
                    group.create_task(self._pump(far_reader, writer, lambda: self._resets > resets))
            finally:
                far_writer.transport.abort()
        except* (OSError, _Ended):
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        is_last: Callable[[], bool] = lambda: False,
    ) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await self._is_open.wait()
            if self._proxy.delay_s:
                await asyncio.sleep(self._proxy.delay_s)
            writer.write(data)
            await writer.drain()
            if is_last():
                _reset(writer)
                break
        raise _Ended

    def cut(self) -> None:
        for connection in self._connections:
            connection.cancel()

    def reset(self) -> None:
        self._resets += 1

    async def hold(self, lasting_s: float) -> None:
        self._is_open.clear()
        await asyncio.sleep(lasting_s)
        self.cut()
        self._is_open.set()


class _Ended(Exception):
    """Closes the other end of a connection, or resets it."""


def _reset(writer: asyncio.StreamWriter) -> None:
    """Sends RST instead of FIN, so that the other end loses its connection at once."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class _Proxy:
    def __init__(self) -> None:
        self.target: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.delay_s = 0.0
        self._ways: dict[str, _Way] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, name: str, port: int) -> None:
        way = self._ways[name] = _Way(self)
        await asyncio.start_server(way.serve, HOST, port)

    def obey(self, line: str) -> None:
        match line.split():
            case ["target", port]:
                self.target.set_result(int(port))
            case ["cut", name]:
                self._ways[name].cut()
            case ["reset", name]:
                self._ways[name].reset()
            case ["hold", name, lasting_s]:
                self._begin(self._ways[name].hold(float(lasting_s)))
            case ["slow", delay_s, lasting_s]:
                self._begin(self._slow(float(delay_s), float(lasting_s)))
            case _:
                raise ValueError(line)

    def _begin(self, action: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(action)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _slow(self, delay_s: float, lasting_s: float) -> None:
        self.delay_s = delay_s
        await asyncio.sleep(lasting_s)
        self.delay_s = 0.0


async def _main() -> None:
    proxy = _Proxy()
    for argument in sys.argv[1:]:
        name, _, port = argument.partition("=")
        await proxy.open(name, int(port))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        proxy.obey(line.decode())


if __name__ == "__main__":
    asyncio.run(_main())
