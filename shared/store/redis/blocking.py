"""A synchronous client for a thread of its own, such as the lease beat's."""

from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.exceptions import ConnectionError as _ConnectionError
from redis.exceptions import (
    NoScriptError,
    ReadOnlyError,
)

from shared.redis_url import read_sentinel_url
from shared.store.redis.connections import SENTINEL_TIMEOUT_S, TORN, Unready
from shared.store.redis.scripts import Argument, LuaScript


class BlockingClient:
    """A synchronous connection for a thread of its own (the lease beat). Raises ValueError for a bad URL."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        address = read_sentinel_url(url)
        if address is None:
            self._raw = redis.Redis.from_url(url, **timeouts)
            return
        brief = dict.fromkeys(timeouts, SENTINEL_TIMEOUT_S)
        sentinels = redis.sentinel.Sentinel(address.sentinels, sentinel_kwargs=brief)  # type: ignore[no-untyped-call]
        login = {"db": address.db, "username": address.username, "password": address.password}
        self._raw = sentinels.master_for(address.master_name, **login, **timeouts)  # type: ignore[no-untyped-call]

    def run_many(
        self, script: LuaScript, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]
    ) -> list[Any]:
        replies = self._pipeline([script.command(*call) for call in calls])
        if any(isinstance(reply, NoScriptError) for reply in replies):
            replies = self._pipeline([script.whole_command(*call) for call in calls])
        return replies

    def _pipeline(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        with self._raw.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]
            try:
                replies = pipe.execute(raise_on_error=False)
            except TORN as torn:
                self._raw.connection_pool.disconnect()
                raise _ConnectionError(f"the connection is broken ({torn})") from torn
        if any(isinstance(reply, ReadOnlyError | Unready) for reply in replies):
            self._raw.connection_pool.disconnect()
            raise _ConnectionError("the server refuses writes; the next connection looks for the primary")
        return replies

    def close(self) -> None:
        self._raw.close()
