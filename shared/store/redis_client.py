"""The only importer of redis-py: connections, scripts, subscriptions, and what being away looks like.

Owns no key and no meaning. Every script of this package may be sent twice (a lost reply is
followed by a retry): each recognises its own repetition.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Self, cast

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as _ConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as _TimeoutError

REDIS_AWAY = (
    _ConnectionError,
    _TimeoutError,
    ReadOnlyError,
    OutOfMemoryError,
    ConnectionError,
    TimeoutError,
    OSError,
)
"""Redis cannot be reached, is loading, does not answer in time, is a replica now, or is full."""

_RECONNECT_S = 0.1
_log = logging.getLogger(__name__)

Argument = str | bytes | int | float

_FOLDER = Path(__file__).parent
_PRELUDE = (_FOLDER / "enqueue.lua").read_text()


class Script:
    """A Lua file of this folder, with the prelude in front; known to Redis by its digest."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = _PRELUDE + (_FOLDER / f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def command(self, keys: Sequence[str], args: Sequence[Argument]) -> tuple[Argument, ...]:
        return ("EVALSHA", self.sha, len(keys), *keys, *args)

    def whole_command(self, keys: Sequence[str], args: Sequence[Argument]) -> tuple[Argument, ...]:
        return ("EVAL", self.text, len(keys), *keys, *args)


class RedisClient:
    """Commands and scripts over one pool. Raises REDIS_AWAY; replies are bytes and ints.

    `timeout_s` bounds each of its methods. It is not redis-py's `socket_timeout`, which writes through
    `asyncio.wait_for`: that loses a cancellation that comes just after the write (Python 3.11), and
    a task that was told to end would go on for ever.
    """

    def __init__(self, raw: "redis.asyncio.Redis", timeout_s: float | None = None) -> None:
        self.raw = raw
        self._timeout_s = timeout_s

    @classmethod
    def connect(cls, url: str, *, timeout_s: float, connections_max: int = 64) -> Self:
        """A lazy pool; nothing is sent yet. A command that breaks is sent again, twice at most."""
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=connections_max,
            timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(ExponentialBackoff(cap=0.1, base=0.01), 2),
            retry_on_error=[_ConnectionError],
            health_check_interval=10,
        )
        return cls(redis.asyncio.Redis.from_pool(pool), timeout_s)

    @classmethod
    def connect_listener(cls, url: str) -> Self:
        """For subscriptions: waits for ever, and never reconnects in silence."""
        pool = redis.asyncio.ConnectionPool.from_url(
            url, socket_connect_timeout=2.0, health_check_interval=10
        )
        return cls(redis.asyncio.Redis.from_pool(pool))

    async def command(self, *command: Argument) -> Any:
        async with asyncio.timeout(self._timeout_s):
            return await cast(Awaitable[Any], self.raw.execute_command(*command))  # type: ignore[no-untyped-call]

    async def transaction(self, *commands: Sequence[Argument]) -> list[Any]:
        """The commands in MULTI/EXEC: their replies belong to one moment."""
        async with self.raw.pipeline(transaction=True) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            async with asyncio.timeout(self._timeout_s):
                return await pipe.execute()

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        try:
            return await self.command(*script.command(keys, args))
        except NoScriptError:
            return await self.command(*script.whole_command(keys, args))

    async def run_many(
        self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]
    ) -> list[Any]:
        """One script, many calls, one write. A refused call's place holds its RedisError."""
        replies = await self._pipeline([script.command(*call) for call in calls])
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            again = await self._pipeline([script.whole_command(*calls[i]) for i in unknown])
            for i, reply in zip(unknown, again, strict=True):
                replies[i] = reply
        return replies

    async def _pipeline(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        async with self.raw.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            async with asyncio.timeout(self._timeout_s):
                return await pipe.execute(raise_on_error=False)

    async def close(self) -> None:
        await self.raw.aclose()


class Subscription:
    """One connection that listens on many channels; channels come and go while it listens."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._pubsub = client.raw.pubsub(ignore_subscribe_messages=True)
        self._channels: set[str] = set()
        self._has_channels = asyncio.Event()
        self._changing = asyncio.Lock()

    async def add(self, channel: str) -> None:
        """Hears what is published on a channel from now on, or as soon as Redis is there."""
        self._channels.add(channel)
        try:
            async with self._changing:
                await self._pubsub.subscribe(channel)
        except REDIS_AWAY as away:
            _log.warning("subscription: Redis is away (%s)", away)
        self._has_channels.set()  # also after a failure: the listener notices it, and tries again

    async def remove(self, channel: str) -> None:
        self._channels.discard(channel)
        if not self._channels:
            self._has_channels.clear()
        async with self._changing:
            if channel not in self._channels:  # nobody came back for it meanwhile
                await self._pubsub.unsubscribe(channel)

    async def listen(self, hear: Callable[[str, bytes], None], miss: Callable[[], None]) -> None:
        """Hands on messages until cancelled. `miss` is called after a broken connection: messages
        may have been missed."""
        while True:
            try:
                message = await self._next_message()
            except REDIS_AWAY as away:
                _log.warning("subscription: Redis is away (%s)", away)
                await asyncio.sleep(_RECONNECT_S)
                try:
                    await self._reconnect()
                except REDIS_AWAY:
                    continue  # the next message says so again
                miss()
                continue
            if message is not None:
                hear(*message)

    async def _next_message(self) -> tuple[str, bytes] | None:
        """(channel, payload), or None after at most a second without one."""
        if not self._has_channels.is_set():
            try:
                # Not `wait_for`: that of Python 3.11 loses a cancel that comes together with the event.
                async with asyncio.timeout(1.0):
                    await self._has_channels.wait()
            except TimeoutError:
                return None
        if self._pubsub.connection is None:
            raise _ConnectionError("the subscription has no connection")
        message = await self._pubsub.get_message(timeout=1.0)
        if message is None or message["type"] != "message":
            return None
        return message["channel"].decode(), message["data"]

    async def _reconnect(self) -> None:
        async with self._changing:
            await self.close()
            self._pubsub = self._client.raw.pubsub(ignore_subscribe_messages=True)
            if self._channels:
                await self._pubsub.subscribe(*self._channels)

    async def close(self) -> None:
        try:
            await self._pubsub.aclose()  # type: ignore[no-untyped-call]
        except (RedisError, OSError):
            pass


class BlockingClient:
    """A synchronous connection for a thread of its own (the lease beat)."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._raw = redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)

    def run_many(
        self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]
    ) -> list[Any]:
        replies = self._pipeline([script.command(*call) for call in calls])
        if any(isinstance(reply, NoScriptError) for reply in replies):
            replies = self._pipeline([script.whole_command(*call) for call in calls])
        return replies

    def _pipeline(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        with self._raw.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]
            return pipe.execute(raise_on_error=False)

    def close(self) -> None:
        self._raw.close()
