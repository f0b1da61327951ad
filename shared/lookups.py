"""Looks names up, in threads apart from all others, which tenants share.

A name whose servers are silent occupies a thread until the system gives up, for longer than a connection
waits for it. So all of one tenant who ask for it share a lookup, which counts against the share of the tenant
until it has ended.
"""

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from shared.shares import Shares

LOOKUPS_MAX = 256
_Name = tuple[str, str, int]


@dataclass(slots=True)
class _Lookup:
    task: asyncio.Task[list[str]]
    askers: int = 0
    has_thread: bool = False


class Lookups:
    """For one event loop. `share`: the part of the threads that one tenant may occupy."""

    def __init__(self, share: float) -> None:
        # The default pool has few threads, and the operator's own names need them.
        self._threads = ThreadPoolExecutor(LOOKUPS_MAX, thread_name_prefix="lookup")
        self._shares = Shares(LOOKUPS_MAX, share)
        self._in_progress: dict[_Name, _Lookup] = {}

    async def resolve(self, host: str, port: int, tenant: str) -> Sequence[str]:
        """Resolves names, and spellings such as `127.1`, `0x7f000001` and `2130706433`, as the system does.
        Raises OSError. A lookup for which nobody waits any longer is not begun."""
        asked = tenant, host, port
        lookup = self._in_progress.get(asked)
        if lookup is None:
            lookup = self._in_progress[asked] = _Lookup(asyncio.create_task(self._look_up(asked)))
            lookup.task.add_done_callback(lambda done: self._end(asked, done))
        lookup.askers += 1
        try:
            return await asyncio.shield(lookup.task)
        finally:
            lookup.askers -= 1
            if not lookup.askers and not lookup.has_thread:
                self._in_progress.pop(asked, None)
                lookup.task.cancel()

    def _end(self, asked: _Name, done: asyncio.Task[list[str]]) -> None:
        if not done.cancelled():
            done.exception()  # nobody may be waiting for it
            del self._in_progress[asked]

    async def _look_up(self, asked: _Name) -> list[str]:
        tenant, host, port = asked
        async with self._shares.turn(tenant):
            self._in_progress[asked].has_thread = True
            return await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port)


def _look_up(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]).partition("%")[0] for *_, address in found]
