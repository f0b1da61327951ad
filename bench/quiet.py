"""Opens quiet responses, each with a client that reads its stream, and keeps them until they are left.

Owns how fast they are opened; the measurements own what they cost.
"""

import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bench.clock_engine import Order
from bench.readers import Meter, StreamReader, open_streams
from bench.site import NOT_ARCHIVED

ROOMY = {
    "ANTIPHON_HTTP_CONNECTIONS_MAX": "20000",
    "ANTIPHON_QUEUE_DEPTH_MAX": "20000",
    "ANTIPHON_TENANT_RESPONSES_MAX": "40000",
    "ANTIPHON_RESPONSES_IN_FLIGHT_MAX": "20000",
    "ANTIPHON_DISCONNECT_GRACE_S": "0",
    **NOT_ARCHIVED,
}
"""Settings with which one node and one worker may have more than ten thousand responses."""
_AT_ONCE = 50
_TIMEOUT_S = 60.0
_FOR_MS = 1_800_000


@dataclass(slots=True)
class Crowd:
    """The clients of quiet responses, at one API node."""

    port: int
    meter: Meter = field(default_factory=Meter)
    readers: list[StreamReader] = field(default_factory=list)

    async def grow(self, count: int) -> None:
        """Returns when there are so many, each of them taken by a worker. Raises RuntimeError."""
        until_ms = int(1000 * time.monotonic()) + _FOR_MS
        body = {"model": "default", "input": Order(until_ms, until_ms).text, "stream": True}
        while (missing := count - len(self.readers)) > 0:
            paths = ["/v1/responses"] * min(_AT_ONCE, missing)
            self.readers += await open_streams(self.meter, [self.port], paths, body)
            await self.meter.until(lambda: self.meter.opened == len(self.readers), _TIMEOUT_S)

    def leave(self) -> None:
        for reader in self.readers:
            reader.close()
        self.readers.clear()
        self.meter.opened = 0


def allow_files() -> int:
    """Allows as many open files as the system lets this process and its children have; returns how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


@asynccontextmanager
async def crowd(port: int, count: int) -> AsyncIterator[Crowd]:
    """Yields so many quiet readers, who leave afterwards."""
    quiet = Crowd(port)
    try:
        await quiet.grow(count)
        yield quiet
    finally:
        quiet.leave()
