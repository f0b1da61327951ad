"""Measures how long a stream pauses when its worker is killed: from its last event to the next one.

Owns the killing; reads the stream as a client does, and requires it to be complete.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from statistics import median
from typing import Any

import httpx

from bench import tables
from bench.page import Result
from bench.site import running
from local.cluster import Cluster
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.redis.client import RedisClient
from worker.engines.scripted.script import SHIPPED

_WORKERS = 4
_TOKENS_BEFORE = 25
_TOKENS_AFTER = 25
_KILL_EVERY_S = 3.5
"""Slow enough that a killed worker has been restarted before its turn comes again."""
_BODY = {"model": "default", "input": "Count slowly from 1 to 10000", "stream": True, "background": True}


async def measure(kills: int) -> Result:
    own = running({"ANTIPHON_SCRIPT": str(SHIPPED), "ANTIPHON_LOG_LEVEL": "INFO"}, workers=_WORKERS)
    async with own as cluster, httpx.AsyncClient(base_url=cluster.urls[0], timeout=60) as client:
        stalls_s = [await kill_once(cluster, client) for _ in range(kills)]
    head = ("s a stream at 50 tokens/s pauses at a SIGKILL of its owner", "p50", "p99", "max")
    figures = [median(stalls_s), tables.percentile(stalls_s, 99), max(stalls_s)]
    row = [f"{kills} kills, {_WORKERS} workers", *map(tables.show_number, figures)]
    return Result(tables.render(head, [row]))


async def kill_once(cluster: Cluster, client: httpx.AsyncClient) -> float:
    """Returns the longest pause after the kill in seconds. Requires sequence numbers without a gap."""
    begun_s = time.monotonic()
    async with client.stream("POST", "/v1/responses", json=_BODY) as stream:
        events = read_events(stream)
        response_id = (await anext(events)).partition('"id":"')[2].partition('"')[0]
        for _ in range(_TOKENS_BEFORE):
            await anext(events)
        os.kill(await find_owner(cluster, response_id), signal.SIGKILL)
        pause_s = await longest_pause(events)
    await client.post(f"/v1/responses/{response_id}/cancel")
    await asyncio.sleep(max(0.0, _KILL_EVERY_S - (time.monotonic() - begun_s)))
    return pause_s


async def read_events(stream: httpx.Response) -> AsyncIterator[str]:
    """Yields the data of each event. Raises RuntimeError if one is missing."""
    number = 0
    async for line in stream.aiter_lines():
        if line.startswith("id: "):
            if int(line[4:]) != number:
                raise RuntimeError(f"event {line[4:]} came where {number} belongs")
            number += 1
        if line.startswith("data: "):
            yield line


async def longest_pause(events: AsyncIterator[str]) -> float:
    last_s, longest_s = time.monotonic(), 0.0
    for _ in range(_TOKENS_AFTER):
        await anext(events)
        now_s = time.monotonic()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
    return longest_s


async def find_owner(cluster: Cluster, response_id: str) -> int:
    """Returns the pid of the worker whose log contains the owner's name."""
    redis = RedisClient.connect(cluster.redis_url, timeout_s=5)
    name: Any = await redis.command("HGET", keys.state(ResponseKey("default", response_id)), "owner")
    await redis.close()
    for number in range(_WORKERS):
        log = cluster.logs / f"worker-{number}.log"
        if name in await asyncio.to_thread(log.read_bytes):
            return cluster.pids[f"worker-{number}"]
    raise RuntimeError(f"nobody is {name!r}")
