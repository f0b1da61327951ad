"""Answers a container's health check by its exit status; the container runtime decides what to do about it.

`probe.py http URL` sends a request to a server. `probe.py role ROLE` checks in Redis whether a process of the
role has announced itself within the last seconds, which also proves that Redis can be reached from here: one
that runs in this place if ANTIPHON_PLACE is set, else any.
"""

import asyncio
import sys
import urllib.request

from shared.settings import Settings
from shared.store.owning import presence
from shared.store.redis.client import RedisClient

_TIMEOUT_S = 2.0


def is_answering(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
        return bool(answer.status == 200)


async def is_announced(settings: Settings, role: str) -> bool:
    redis = RedisClient.connect(settings.redis_url, timeout_s=_TIMEOUT_S)
    try:
        if settings.place:
            return await presence.is_present_at(redis, role, settings.place)
        return await presence.count(redis, role) > 0
    finally:
        await redis.close()


def main(arguments: list[str]) -> int:
    match arguments:
        case ["http", url]:
            return 0 if is_answering(url) else 1
        case ["role", role]:
            return 0 if asyncio.run(is_announced(Settings(), role)) else 1
        case _:
            print("usage: probe.py http URL | role ROLE", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
