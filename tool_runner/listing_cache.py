"""Keeps the listings of servers for a while, so that not every response has them listed anew.

Owns how long and how many; knows servers by a digest that reveals neither address nor credentials. In memory,
for one tool runner: docs/adr/0043-what-servers-say.md says why.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from shared.tool_calls import ToolsListed

_CHANGES_MAX = 4_096
"""How many servers are remembered whose tools have changed."""


@dataclass(frozen=True, slots=True)
class _Kept:
    listed: ToolsListed
    size_bytes: int
    until_s: float


class ListingCache:
    """Listings by server, with its credentials, and tenant. The least recently used make room for others."""

    def __init__(self, ttl_s: float, bytes_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s = ttl_s
        self._bytes_max = bytes_max
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._changed_s: OrderedDict[str, float] = OrderedDict()
        self.size_bytes = 0

    def get(self, server: str, tenant: str) -> ToolsListed | None:
        """Returns a listing that is still fresh. `server`: its digest."""
        name = (server, tenant)
        kept = self._kept.get(name)
        if kept is None:
            return None
        if self._clock() >= kept.until_s:
            self._forget(name)
            return None
        self._kept.move_to_end(name)
        return kept.listed

    def put(self, server: str, tenant: str, listed: ToolsListed, asked_s: float) -> None:
        """Keeps a listing, unless the server's tools have changed since `asked_s` (by `now_s`)."""
        if self._ttl_s == 0 or self._changed_s.get(server, -math.inf) >= asked_s:
            return
        name, size_bytes = (server, tenant), len(msgspec.json.encode(listed))
        self._forget(name)
        self._kept[name] = _Kept(listed, size_bytes, asked_s + self._ttl_s)
        self.size_bytes += size_bytes
        while self.size_bytes > self._bytes_max:
            self._forget(next(iter(self._kept)))

    def drop(self, server: str) -> None:
        """Forgets a server's listings, because it says that its tools have changed."""
        self._changed_s[server] = self._clock()
        self._changed_s.move_to_end(server)
        if len(self._changed_s) > _CHANGES_MAX:
            self._changed_s.popitem(last=False)
        for name in [name for name in self._kept if name[0] == server]:
            self._forget(name)

    def now_s(self) -> float:
        return self._clock()

    def _forget(self, name: tuple[str, str]) -> None:
        kept = self._kept.pop(name, None)
        if kept is not None:
            self.size_bytes -= kept.size_bytes
