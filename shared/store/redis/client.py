"""Runs commands and scripts over one pool, within a time limit. Knows no keys and no meanings."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Self, cast

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as _ConnectionError
from redis.exceptions import (
    NoScriptError,
    RedisError,
)

from shared.store.redis.confirmation import Command, Durability, Replicas, Rule, View, Watch
from shared.store.redis.connections import (
    READ_TIMEOUT_S,
    REDIS_AWAY,
    SentinelPool,
    Unready,
    make_pool,
)
from shared.store.redis.scripts import Argument, ScriptCall


def _is_unknown(replies: Sequence[Any]) -> bool:
    """Returns True if the server does not have a script; one that has just become the primary has none."""
    return any(isinstance(reply, NoScriptError) for reply in replies)


class RedisClient:
    """Runs commands and scripts over one pool. Replies are bytes and ints. Every method may raise REDIS_AWAY.

    `timeout_s` bounds each command or pipeline, including redis-py's own retries.
    """

    def __init__(
        self,
        raw: "redis.asyncio.Redis",
        timeout_s: float | None = None,
        durability: Durability = "no",
        replicas: Replicas = "all",
    ) -> None:
        self.raw = raw
        self._timeout_s = timeout_s
        pool: Any = raw.connection_pool
        is_watched = isinstance(pool, SentinelPool)
        watch = Watch(pool.sentinel_manager.sentinels, pool.service_name) if is_watched else None
        self._rule = Rule(durability, replicas, watch, timeout_s or READ_TIMEOUT_S)

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        timeout_s: float,
        connections_max: int = 64,
        durability: Durability = "no",
        replicas: Replicas = "all",
    ) -> Self:
        """Returns a client, without connecting yet. A command is sent again at most twice after a connection
        error. Raises ValueError for a bad URL."""
        pool = make_pool(
            url,
            timeout_s=timeout_s,
            connections_max=connections_max,
            retry=Retry(ExponentialBackoff(cap=0.1, base=0.01), 2),
            retry_on_error=[_ConnectionError],
            health_check_interval=10,
        )
        return cls(redis.asyncio.Redis.from_pool(pool), timeout_s, durability, replicas)

    @classmethod
    def connect_listener(cls, url: str) -> Self:
        """Returns a client for subscriptions, which never reconnects silently.

        Raises ValueError for a bad URL.
        """
        return cls(redis.asyncio.Redis.from_pool(make_pool(url, timeout_s=2.0, health_check_interval=1)))

    async def command(self, *command: Argument) -> Any:
        async with asyncio.timeout(self._timeout_s):
            return await cast(Awaitable[Any], self.raw.execute_command(*command))  # type: ignore[no-untyped-call]

    async def transaction(self, *commands: Sequence[Argument]) -> list[Any]:
        """Runs the commands in MULTI/EXEC, so that their replies are of one moment; returns the replies."""
        async with self.raw.pipeline(transaction=True) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            async with asyncio.timeout(self._timeout_s):
                return await pipe.execute()

    async def run(self, call: ScriptCall) -> Any:
        """Runs one script; returns its reply. Raises RedisError if it is refused."""
        if call.script.is_confirmed and self.is_confirming:
            (reply,) = await self.run_many([call])
            if isinstance(reply, RedisError):
                raise reply
            return reply
        try:
            return await self.command(*call.command())
        except NoScriptError:
            return await self.command(*call.whole_command())

    async def run_many(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Runs scripts in one pipeline; returns their replies, a RedisError for each refused one."""
        is_confirmed = any(call.script.is_confirmed for call in calls)
        commands: list[Command] = [call.command() for call in calls]
        replies = await self._pipeline(commands, is_confirmed)
        if _is_unknown(replies):  # send all again: each script recognises its own repetition
            texts = {call.script.text for call in calls}
            loads: list[Command] = [("SCRIPT LOAD", text) for text in texts]
            replies = await self._pipeline([*loads, *commands], is_confirmed)
            return replies[len(loads) :]
        return replies

    @property
    def is_confirming(self) -> bool:
        """True if writes must be confirmed by more than a reply (`durable_writes`)."""
        return self._rule.is_demanding

    async def confirm(self) -> None:
        """Returns when every write that the server has received so far is safe, whichever client sent it.

        What was read before may have come from another server, so read it again. Raises REDIS_AWAY.
        """
        if self.is_confirming:
            await self._pipeline([], True)

    async def _pipeline(self, commands: Sequence[Command], is_confirmed: bool) -> list[Any]:
        """Sends the commands; returns their replies. Raises Unready if a confirmation is needed and does not
        come.

        Does not check the confirmation if the server lacks a script, since the caller sends everything again.
        """
        view = await self._rule.read_view() if is_confirmed else None
        questions = self._rule.questions(view) if is_confirmed else []
        async with self.raw.pipeline(transaction=False) as pipe:
            for command in (*commands, *questions):
                pipe.execute_command(*command)
            async with asyncio.timeout(self._timeout_s):
                connection: Any = await self.raw.connection_pool.get_connection()
                pipe.connection = connection
                replies = await pipe.execute(raise_on_error=False)
            # A connection to a socket file has neither.
            server = getattr(connection, "host", ""), int(getattr(connection, "port", 0))
        if questions and not _is_unknown(replies):
            await self._check_confirmed(replies[len(commands) :], server, view)
        return replies[: len(commands)]

    async def _check_confirmed(self, replies: list[Any], server: tuple[str, int], view: View | None) -> None:
        refusal = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if isinstance(refusal, REDIS_AWAY):
            raise refusal
        if refusal is not None:
            raise Unready(f"a write cannot be confirmed: {refusal}")
        objection = self._rule.objection(replies, server, view)
        if objection is not None:
            # There may be a new primary: idle connections are closed, so that they look for it.
            await self.raw.connection_pool.disconnect(inuse_connections=False)
            raise Unready(f"a write was not confirmed in time: {objection}")

    def is_current(self, connection: Any) -> bool:
        """Returns True if a connection leads to the primary, as far as the Sentinels have reported."""
        pool = self.raw.connection_pool
        return not isinstance(pool, SentinelPool) or pool.is_current(connection)

    async def close(self) -> None:
        await self.raw.aclose()
