"""Measures what it costs an API node that the clients of another one come to it, because that one was killed.

Owns the killing, the clients that come back at once with their cursors, and the check that each of them has
every event once, as it is in the log.
"""

import asyncio
import re
import time
from array import array
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from statistics import median

import httptools

from bench import tables
from bench.clock_engine import Order
from bench.page import Result
from bench.quiet import ROOMY, allow_files
from bench.readers import Meter, make_request, open_streams
from bench.relay import CLOCK
from bench.scale import Scale
from bench.site import ports_of, running
from bench.usage import read_cpu_s, read_peak_bytes, read_rss_bytes, reset_peak
from local.cluster import Cluster
from shared.store.keys import ResponseKey
from shared.store.log import event_log
from shared.store.redis.client import RedisClient

_KILLED, _LEFT = 0, 1
"""The number of the node that is killed, and of the one that is left."""
_SETTINGS = ROOMY | {
    "ANTIPHON_DISCONNECT_GRACE_S": "5",
    "ANTIPHON_LEASE_TTL_S": "30",  # so that a worker which has just taken thousands is not taken for dead
}
_AT_ONCE = 50
_EVERY_MS = 200
_PHASES = 20
_BEGIN_S, _TIMEOUT_S = 3.0, 120.0
_POLL_INTERVAL_S = 0.02
_RESPONSE_ID, _EVENT_ID = re.compile(rb'"id":"(resp_[^"]+)"'), re.compile(rb"\nid: (\d+)\n")
_COMMENT = re.compile(rb"^:[^\n]*\n", re.MULTILINE)
_EVENT_END = b"\n\n"


@dataclass(frozen=True, slots=True)
class Crowd:
    """The streams of the node that is killed: of 5 events/s each, and quiet ones. Streams of 5 events/s at
    the other node, whose events say how late it is."""

    live: int
    quiet: int
    witnesses: int = 20
    window_s: float = 5.0
    """How long it is measured before and afterwards."""
    live_s: float = 60.0
    """How long they speak."""


class Client(asyncio.Protocol):
    """Reads one stream to its end; resumes it at once on the node that is left if its connection is lost."""

    def __init__(self, order: Order, left_port: int) -> None:
        self._request = make_request(
            "/v1/responses", {"model": "default", "input": order.text, "stream": True}
        )
        self._left_port = left_port
        self.body = bytearray()
        """What it has received, but for the part of an event with which a connection ended."""
        self.lost_s = self.back_s = 0.0
        """When its connection was lost, and when the other node has begun to send the stream."""
        self.refusals = self.cuts = 0
        """How often the other node has asked it to try again later, and has broken its stream off."""
        self.is_over = False
        self.failure = ""
        self._parser: httptools.HttpResponseParser
        self._transport: asyncio.Transport
        self._is_refused, self._retry_after_s = False, 1.0
        self._resuming: asyncio.Task[None] | None = None

    async def connect(self, port: int) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._parser, self._transport = httptools.HttpResponseParser(self), transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"retry-after":
            self._retry_after_s = float(value)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._is_refused = status == 503 and self.lost_s > 0
        if self._is_refused:
            self.refusals += 1
        elif status != 200:
            self.failure = f"the answer's status is {status}"
        elif self.lost_s:
            self.back_s = time.monotonic()

    def on_body(self, some: bytes) -> None:
        if not self._is_refused:
            self.body += some

    def on_message_complete(self) -> None:
        self.is_over = not self._is_refused
        if self._is_refused:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self.is_over:
            return
        if self._is_refused:
            self._resuming = asyncio.create_task(self._resume(self._retry_after_s))
            return
        if self.lost_s:
            self.cuts += 1
        self.lost_s, self.back_s = self.lost_s or time.monotonic(), 0.0
        del self.body[self.body.rfind(_EVENT_END) + len(_EVENT_END) :]
        path = f"/v1/responses/{self.response_id}?stream=true&starting_after={self.last_id}"
        self._request = make_request(path, None)
        self._resuming = asyncio.create_task(self._resume(0.0))

    async def _resume(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self.connect(self._left_port)

    def leave(self) -> None:
        self.is_over = True
        self._transport.abort()

    @property
    def has_begun(self) -> bool:
        return b"event: response.content_part.added\n" in self.body

    @property
    def response_id(self) -> str:
        found = _RESPONSE_ID.search(self.body)
        assert found is not None
        return found[1].decode()

    @property
    def last_id(self) -> int:
        return int(_EVENT_ID.findall(self.body)[-1])

    @property
    def events(self) -> bytes:
        return _COMMENT.sub(b"", bytes(self.body))


@dataclass(frozen=True, slots=True)
class Stretch:
    """How the node that is left fared for a while: its share of a core, the ages of events at witnesses."""

    name: str
    core: float
    ages_ms: Sequence[float]


@dataclass(slots=True)
class Outcome:
    crowd: Crowd
    stretches: list[Stretch] = field(default_factory=list)
    away_s: list[float] = field(default_factory=list)
    """How long each client was without a node."""
    refusals: list[int] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    """How often the node that is left has asked each client to try again later, has broken its stream off."""
    given_up: int = 0
    """The number of quiet responses that were cancelled because their client was away for too long."""
    rss_bytes: list[int] = field(default_factory=list)
    """Of the node that is left: before, at most, afterwards."""


async def measure(scale: Scale) -> Result:
    crowd = Crowd(scale.slow_streams, scale.idle_streams[-1] // 2)
    return Result(_render(await run(crowd)))


async def run(crowd: Crowd) -> Outcome:
    """In a cluster of its own. Raises RuntimeError if a client has lost an event or has one twice."""
    allow_files()
    async with running(_SETTINGS, worker_module=CLOCK, apis=2) as cluster:
        return await _kill_under(cluster, crowd)


async def _kill_under(cluster: Cluster, crowd: Crowd) -> Outcome:
    ports, pid = ports_of(cluster), cluster.pids[f"api-{_LEFT}"]
    quiet = await _open(ports, [_quiet_order()] * crowd.quiet)
    begin_ms = int(1000 * (time.monotonic() + _BEGIN_S + 0.01 * crowd.live))
    orders = [_live_order(begin_ms, crowd, number) for number in range(crowd.live)]
    live = await _open(ports, orders)
    meter = Meter()
    await _open_witnesses(meter, ports[_LEFT], orders[: crowd.witnesses])
    await asyncio.sleep(max(0.0, begin_ms / 1000 + 1 - time.monotonic()))
    outcome, clients = Outcome(crowd), [*quiet, *live]
    outcome.rss_bytes.append(read_rss_bytes(pid))
    reset_peak(pid)
    outcome.stretches.append(await _watch("before", pid, meter, asyncio.sleep(crowd.window_s)))
    cluster.kill("api", _KILLED)
    coming_back = _until(clients, lambda client: client.back_s > 0 or client.is_over)
    outcome.stretches.append(await _watch("while they come back", pid, meter, coming_back))
    outcome.away_s = [client.back_s - client.lost_s for client in clients if client.lost_s]
    outcome.refusals = [client.refusals for client in clients]
    outcome.cuts = [client.cuts for client in clients]
    outcome.rss_bytes.append(read_peak_bytes(pid))
    outcome.stretches.append(await _watch("afterwards", pid, meter, asyncio.sleep(crowd.window_s)))
    outcome.rss_bytes.append(read_rss_bytes(pid))
    await _until(live, lambda client: client.is_over)
    await _compare(cluster, clients)  # before they leave, since nobody continues a response without a reader
    outcome.given_up = sum(client.is_over for client in quiet)
    for client in clients:
        client.leave()
    return outcome


def _quiet_order() -> Order:
    until_ms = int(1000 * time.monotonic()) + 1_800_000
    return Order(until_ms, until_ms)


def _live_order(begin_ms: int, crowd: Crowd, number: int) -> Order:
    return Order(begin_ms, begin_ms + int(1000 * crowd.live_s), _EVERY_MS, number % _PHASES, _PHASES)


async def _open(ports: Sequence[int], orders: Sequence[Order]) -> list[Client]:
    """Returns the clients when each has seen its response's message begin."""
    clients: list[Client] = []
    for first in range(0, len(orders), _AT_ONCE):
        some = [Client(order, ports[_LEFT]) for order in orders[first : first + _AT_ONCE]]
        await asyncio.gather(*(client.connect(ports[_KILLED]) for client in some))
        await _until(some, lambda client: client.has_begun)
        clients += some
    return clients


async def _open_witnesses(meter: Meter, port: int, orders: Sequence[Order]) -> None:
    for order in orders:
        body = {"model": "default", "input": order.text, "stream": True}
        await open_streams(meter, [port], ["/v1/responses"], body)
    await meter.until(lambda: meter.opened == len(orders), _TIMEOUT_S)


async def _until(clients: Sequence[Client], is_so: Callable[[Client], bool]) -> None:
    """Raises RuntimeError if a client fails, and TimeoutError."""
    async with asyncio.timeout(_TIMEOUT_S):
        while not all(map(is_so, clients)):
            for client in clients:
                if client.failure:
                    raise RuntimeError(client.failure)
            await asyncio.sleep(_POLL_INTERVAL_S)


async def _watch(name: str, pid: int, meter: Meter, until: Coroutine[None, None, None]) -> Stretch:
    meter.ages, meter.is_recording = array("H"), True
    begun_s, used_s = time.monotonic(), read_cpu_s(pid)
    await until
    core = (read_cpu_s(pid) - used_s) / (time.monotonic() - begun_s)
    meter.is_recording = False
    if meter.broken:
        raise RuntimeError(f"a stream of the node that is left broke: {meter.broken[0]}")
    return Stretch(name, core, meter.ages_ms)


async def _compare(cluster: Cluster, clients: Sequence[Client]) -> None:
    redis = RedisClient.connect(cluster.redis_url, timeout_s=10.0)
    try:
        for client in clients:
            key = ResponseKey("default", client.response_id)
            log = b"".join([e.frame async for page in event_log.pages(redis, key) for e in page.entries])
            if client.events != log:
                raise RuntimeError(
                    f"{key} has {log.count(_EVENT_END)} events, its client {client.events.count(_EVENT_END)}"
                )
    finally:
        await redis.close()


def _render(found: Outcome) -> str:
    head = ("the node that is left", "% of a core", "an event's age at other streams, p50 ms", "p99", "max")
    rows = []
    for each in found.stretches:
        ages = (median(each.ages_ms), tables.percentile(each.ages_ms, 99), max(each.ages_ms))
        rows.append([each.name, *map(tables.show_number, (100 * each.core, *ages))])
    away = (median(found.away_s), tables.percentile(found.away_s, 99), max(found.away_s))
    before, most, after = (size / 2**20 for size in found.rss_bytes)
    crowd = found.crowd
    return (
        f"{tables.render(head, rows)}\n\n"
        f"{crowd.live} streams of 5 events/s and {crowd.quiet:,} quiet ones, whose node is killed, and whose "
        f"clients all come back at once. They are without a node for "
        f"{' / '.join(map(tables.show_number, away))} s (p50, p99, max); that node asks "
        f"{_count(found.refusals)} to try again later, and breaks the streams of {_count(found.cuts)} off; "
        f"{found.given_up:,} responses are given up meanwhile. Each client has every event once, byte for "
        f"byte as in the log. Memory of the node that is left: "
        f"{before:.0f} MiB before, {most:.0f} at most, {after:.0f} afterwards."
    )


def _count(times: Sequence[int]) -> str:
    some = sum(map(bool, times))
    return f"{some:,} (at most {max(times)} times)" if some else "none"
