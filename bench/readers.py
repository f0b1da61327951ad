"""Reads many streams in one process, as cheaply as may be: counts their events, and how old each one is.

Owns the check that no stream lacks an event. Parses no event; `clock_engine.py` makes the words.
"""

import asyncio
import json
import re
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import words

_WORD = re.compile(rb'"delta":"([A-Za-z]+)"')
_ID, _EVENT_END, _OPEN = b"\nid: ", b"\n\n", b"event: response.content_part.added\n"
_LAST_ID, _COMPLETED = re.compile(rb"\nid: (\d+)\n"), b"event: response.completed\n"
_MOMENTS_PER_S = 1000 * words.MOMENTS_PER_MS
_POLL_INTERVAL_S = 0.02
_CONNECTS_AT_ONCE = 50


@dataclass(slots=True)
class Meter:
    """What all readers of a measurement have read."""

    events: int = 0
    is_recording: bool = False
    """Ages are recorded."""
    ages: "array[int]" = field(default_factory=lambda: array("H"))
    """How old each event was when it was read, in moments."""
    opened: int = 0
    """Streams whose message has begun."""
    whole: int = 0
    """Streams that have ended, with every event."""
    broken: list[str] = field(default_factory=list)
    """Why other streams have ended."""

    @property
    def ages_ms(self) -> list[float]:
        return [age / words.MOMENTS_PER_MS for age in self.ages]

    async def until(self, is_so: Callable[[], bool], timeout_s: float) -> None:
        """Raises RuntimeError if a stream breaks, and TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not is_so():
                if self.broken:
                    raise RuntimeError(f"{len(self.broken)} streams broke, the first one: {self.broken[0]}")
                await asyncio.sleep(_POLL_INTERVAL_S)


class StreamReader(asyncio.Protocol):
    """One stream over a connection of its own."""

    def __init__(self, meter: Meter, request: bytes) -> None:
        self._meter, self._request = meter, request
        self._moments = words.all_moments()
        self._rest = b""
        self._events = 0
        self._has_begun = self._is_open = self._is_over = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = int(time.monotonic() * _MOMENTS_PER_S)
        if self._rest:
            data = self._rest + data
        end = data.rfind(_EVENT_END) + len(_EVENT_END)
        if end < len(_EVENT_END):
            self._rest = data
            return
        self._rest, meter = data[end:], self._meter
        events = data.count(_ID, 0, end)
        self._events += events
        meter.events += events
        if meter.is_recording:
            ages, moments = meter.ages, self._moments
            for word in _WORD.findall(data, 0, end):
                ages.append(words.age_of(moments[word], now))
        if not self._is_open:
            self._note_beginning(data)
        if _COMPLETED in data:
            self._note_end(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._is_over:
            self._meter.broken.append(f"the connection was lost: {error}, after {self._rest[:500]!r}")

    def close(self) -> None:
        """Leaves the stream."""
        self._is_over = True
        self._transport.abort()

    def _note_beginning(self, data: bytes) -> None:
        if not self._has_begun:
            self._has_begun = True
            if not data.startswith(b"HTTP/1.1 200 "):
                self._meter.broken.append(data[:500].decode(errors="replace"))
        if _OPEN in data:
            self._is_open = True
            self._meter.opened += 1

    def _note_end(self, data: bytes) -> None:
        last = int(_LAST_ID.findall(data)[-1])
        if last + 1 == self._events:
            self._meter.whole += 1
        else:
            self._meter.broken.append(f"{self._events} events came, the last one is {last}")
        self.close()


async def open_streams(
    meter: Meter, ports: Sequence[int], paths: Sequence[str], body: dict[str, Any] | None = None
) -> list[StreamReader]:
    """Opens a stream for each path, with ports in turn; returns when all requests are sent.

    With a body, the requests are POSTs.
    """
    loop, room = asyncio.get_running_loop(), asyncio.Semaphore(_CONNECTS_AT_ONCE)

    async def open_one(number: int, path: str) -> StreamReader:
        port, request = ports[number % len(ports)], make_request(path, body)
        async with room:
            _, reader = await loop.create_connection(lambda: StreamReader(meter, request), "127.0.0.1", port)
        return reader

    return list(await asyncio.gather(*(open_one(*each) for each in enumerate(paths))))


def make_request(path: str, body: dict[str, Any] | None) -> bytes:
    raw = json.dumps(body).encode() if body is not None else b""
    head = (
        f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"content-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw
