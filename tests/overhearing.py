"""Overhears what clients send to Redis, for tests that count it.

Owns the connection that listens. What scripts do within Redis is left out, and so is what processes send from
time to time, whatever they have to do.
"""

import asyncio
import re
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from local.ports import HOST
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import StoredScript
from tests.patience import until

_LINE = re.compile(r'^\+[\d.]+ \[\d+ (\S+)\] "(\w+)"(?: "([^"]*)")?')
_CONNECTING = {"CLIENT", "HELLO", "SELECT", "AUTH"}
_PERIODIC = {
    *(
        "PING",
        "TIME",
        "INFO",
        "MULTI",
        "EXEC",
        "ZADD",
        "ZREM",
        "ZREMRANGEBYSCORE",
        "PEXPIRE",
        "ZCARD",
        "PSETEX",
    ),
    *("owning/renew", "owning/lapsed", "log/claim_due", "log/look", "records/announce"),
}


class Overheard:
    """What was sent since the last `begin`, oldest first."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def begin(self, redis: RedisClient) -> None:
        """Forgets everything that was sent before this call."""
        mark = secrets.token_hex(8)
        await redis.command("ECHO", mark)
        await until(lambda: any(mark in line for line in self.lines))
        del self.lines[: next(place for place, line in enumerate(self.lines, 1) if mark in line)]

    def until(self, text: str) -> list[str]:
        """Returns the commands up to the first with this text, or an empty list if there is none: the name of
        each, or of the script that it runs."""
        end = next((place for place, line in enumerate(self.lines, 1) if text in line), 0)
        found = [_LINE.match(line) for line in self.lines[:end]]
        names = [_name(each) for each in found if each is not None and each[1] != "lua"]
        return [name for name in names if name not in _PERIODIC | _CONNECTING]

    async def wait_for(self, text: str) -> list[str]:
        await until(lambda: self.until(text))
        return self.until(text)


def _name(found: re.Match[str]) -> str:
    return _script_of(found[3]) if found[2].upper() == "EVALSHA" else found[2].upper()


def _script_of(digest: str) -> str:
    modules = [module for name, module in sys.modules.items() if name.startswith("shared.store.")]
    held = [value for module in modules for value in vars(module).values()]
    return next(each.name for each in held if isinstance(each, StoredScript) and each.sha == digest)


@asynccontextmanager
async def overhearing(port: int) -> AsyncIterator[Overheard]:
    reader, writer = await asyncio.open_connection(HOST, port, limit=2**24)
    writer.write(b"MONITOR\r\n")
    await reader.readline()
    overheard = Overheard()

    async def listen() -> None:
        while line := await reader.readline():
            overheard.lines.append(line.decode())

    listening = asyncio.create_task(listen())
    try:
        yield overheard
    finally:
        listening.cancel()
        await asyncio.wait([listening])
        writer.close()
        await writer.wait_closed()
