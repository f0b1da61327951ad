"""Measures what an event costs in Redis's memory: while its log is a stream, and once it is archived.

Owns the text used: this project's own pages, since numbers or repetitions compress too well.
"""

from pathlib import Path

from bench import streams, tables
from bench.page import Result
from bench.replay import archive_log
from bench.site import NOT_ARCHIVED, port_of, running
from bench.streams import Count
from local.cluster import Cluster
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import event_log
from shared.store.redis.client import RedisClient

_DELTAS = 2_000
_PAGES = ("README.md", "docs/architecture.md", "docs/deploy.md", "docs/scripted_engine.md")
_ROOT = Path(__file__).parent.parent


async def measure() -> Result:
    async with running(NOT_ARCHIVED) as cluster:
        key = ResponseKey("default", await write(cluster))
        redis = RedisClient.connect(cluster.redis_url, timeout_s=5.0)
        frames = await read_frames(redis, key)
        log = await size_bytes(redis, keys.log(key))
        whole = log + await size_bytes(redis, keys.state(key))
        await archive_log(cluster, key.response_id)
        archived = await size_bytes(redis, keys.archive(key))
        archived_whole = archived + await size_bytes(redis, keys.state(key))
        await redis.close()
    return Result(render(len(frames), sum(map(len, frames)), (log, archived), (whole, archived_whole)))


async def write(cluster: Cluster) -> str:
    """Returns the id of a response that has ended after about `deltas` deltas."""
    port = port_of(cluster)
    text = "\n".join((_ROOT / page).read_text() for page in _PAGES)
    response_id = await streams.create(port, text, max_output_tokens=_DELTAS)
    await streams.follow(port, response_id, Count())
    return response_id


async def read_frames(redis: RedisClient, key: ResponseKey) -> list[bytes]:
    return [entry.frame async for page in event_log.pages(redis, key) for entry in page.entries]


async def size_bytes(redis: RedisClient, name: str) -> int:
    """Returns the memory that Redis reports for the key, counting every element."""
    return int(await redis.command("MEMORY", "USAGE", name, "SAMPLES", 0))


def render(events: int, frames: int, logs: tuple[int, int], wholes: tuple[int, int]) -> str:
    head = (
        "Redis's memory",
        "as a stream, bytes",
        "per event",
        "archived, bytes",
        "per event",
        "ratio",
    )
    rows = [
        [
            name,
            *(text for size in pair for text in (f"{size:,}", tables.show_number(size / events))),
            f"{pair[0] / pair[1]:.1f}×",
        ]
        for name, pair in (("the log", logs), ("with request and snapshot", wholes))
    ]
    return (
        f"{tables.render(head, rows)}\n\n"
        f"{events:,} events of {tables.show_number(frames / events)} bytes each on the wire."
    )
