"""Kills an API node under many WebSockets: their clients get the rest on another node by HTTP, to the byte.

`python -m tests.socket_crowd [--sockets N]`. Owns the clients and the verdict on each; `tests/chaos` runs the
short form.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from websockets.exceptions import ConnectionClosed

from bench.usage import read_rss_bytes
from tests.patience import until
from tests.running import RunningCluster, start_cluster
from tests.sockets import socket_to
from tests.streams import read_frames

SCRIPT = Path(__file__).parent / "socket_crowd.toml"
_AT_ONCE = 50
"""Clients that open their sockets at a time; all come back at once."""
_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Found:
    sockets: int
    back_s: float
    """From the kill until the last client has the whole rest."""
    node_bytes: int
    """What the node took more with all sockets than with none."""
    cut_messages: int
    """Messages that came over the sockets."""
    rest_messages: int


class Client:
    def __init__(self, number: int, gate: asyncio.Semaphore) -> None:
        self._text = f"Wait {number}"
        self._gate = gate
        self.seen: list[bytes] = []
        self.rest: list[bytes] = []

    @property
    def response_id(self) -> str:
        return str(json.loads(self.seen[0])["response"]["id"])

    async def read(self, url: str) -> None:
        """Reads its socket until that is lost, which must happen before the response ends."""
        await self._gate.acquire()
        is_open = False
        try:
            async with socket_to(url) as socket:
                await socket.create(self._text, store=False)
                while True:
                    self.seen.append(await socket.receive())
                    if not is_open:
                        is_open = True
                        self._gate.release()
        except ConnectionClosed:
            pass
        finally:
            if not is_open:
                self._gate.release()

    async def resume(self, client: httpx.AsyncClient) -> None:
        self.rest = await self._stream(client, len(self.seen) - 1)

    async def is_whole(self, client: httpx.AsyncClient) -> bool:
        """Whether both halves are what a third reader sees, to the end."""
        whole = await self._stream(client, -1)
        is_over = json.loads(whole[-1])["type"] == "response.completed"
        return is_over and bool(self.rest) and whole == [*self.seen, *self.rest]

    async def _stream(self, client: httpx.AsyncClient, after: int) -> list[bytes]:
        params: dict[str, str | int] = {"stream": "true", "starting_after": after}
        answer = await client.get(f"/v1/responses/{self.response_id}", params=params)
        answer.raise_for_status()
        return [frame.raw_data for frame in read_frames(answer.content)]


async def lose_a_node(cluster: RunningCluster, sockets: int) -> Found:
    """Raises AssertionError unless every client has every event once."""
    killed, left = cluster.urls
    gate = asyncio.Semaphore(_AT_ONCE)
    clients = [Client(number, gate) for number in range(sockets)]
    (pid,) = [r["pid"] for r in cluster.record["roles"] if (r["kind"], r["number"]) == ("api", 0)]
    before_bytes = read_rss_bytes(pid)
    reading = [asyncio.create_task(client.read(killed)) for client in clients]
    await until(lambda: all(len(client.seen) > 2 for client in clients), _TIMEOUT_S)
    node_bytes = read_rss_bytes(pid) - before_bytes
    cluster.kill("api")
    killed_s = time.monotonic()
    await asyncio.gather(*reading)
    limits = httpx.Limits(max_connections=sockets, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=left, timeout=_TIMEOUT_S, limits=limits) as client:
        await asyncio.gather(*(each.resume(client) for each in clients))
        back_s = time.monotonic() - killed_s
        verdicts = await asyncio.gather(*(each.is_whole(client) for each in clients))
    assert all(verdicts), f"{verdicts.count(False)} of {sockets} clients have lost or repeated something"
    seen, rest = (sum(map(len, lists)) for lists in zip(*((c.seen, c.rest) for c in clients), strict=True))
    return Found(sockets, back_s, node_bytes, seen, rest)


def start(data: Path) -> RunningCluster:
    return start_cluster(
        data,
        *("--apis", "2", "--script", str(SCRIPT)),
        ANTIPHON_RESPONSES_IN_FLIGHT_MAX="10000",
        ANTIPHON_TENANT_RESPONSES_MAX="20000",
        ANTIPHON_QUEUE_DEPTH_MAX="20000",
        ANTIPHON_REDIS_TIMEOUT_S="60",
        ANTIPHON_UNSTORED_GRACE_S="600",
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.socket_crowd", description=__doc__)
    parser.add_argument("--sockets", type=int, default=1_000)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        cluster = start(Path(folder) / "data")
        try:
            found = asyncio.run(lose_a_node(cluster, args.sockets))
        finally:
            cluster.stop()
    sys.stdout.write(
        f"{found.sockets} sockets on the node that was killed; {found.cut_messages} messages came over them, "
        f"{found.rest_messages} by HTTP from the other node, none lost, none twice.\n"
        f"The last client had everything {found.back_s:.1f} s after the kill. A socket with a response took "
        f"{found.node_bytes / found.sockets / 1024:.0f} KiB of the node.\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
