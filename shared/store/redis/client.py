"""Commands and scripts over one pool, answered within a bound. Owns no key and no meaning."""

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
    """Whether the server has not got the script; one that has just become the primary has none."""
    return any(isinstance(reply, NoScriptError) for reply in replies)


class RedisClient:
    """Commands and scripts over one pool. Raises REDIS_AWAY; replies are bytes and ints.

    `timeout_s` bounds each of its methods, with all that is tried again beneath.
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
        """Nothing is sent yet. A command that breaks is sent again, twice at most. Raises ValueError."""
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
        """For subscriptions: listens for ever, and never reconnects in silence. Raises ValueError."""
        return cls(redis.asyncio.Redis.from_pool(make_pool(url, timeout_s=2.0, health_check_interval=1)))

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

    async def run(self, call: ScriptCall) -> Any:
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
        """Many calls in one write. A refused call's place holds its RedisError."""
        is_confirmed = any(call.script.is_confirmed for call in calls)
        commands: list[Command] = [call.command() for call in calls]
        replies = await self._pipeline(commands, is_confirmed)
        if _is_unknown(replies):  # all are sent again: each recognises its own repetition
            texts = {call.script.text for call in calls}
            loads: list[Command] = [("SCRIPT LOAD", text) for text in texts]
            replies = await self._pipeline([*loads, *commands], is_confirmed)
            return replies[len(loads) :]
        return replies

    @property
    def is_confirming(self) -> bool:
        """Whether writes wait for more than an answer (`durable_writes`)."""
        return self._rule.is_demanding

    async def confirm(self) -> None:
        """Returns when everything that the server has been told so far is safe, whoever told it.

        What was read before may still have been another server's: read again. Raises REDIS_AWAY.
        """
        if self.is_confirming:
            await self._pipeline([], True)

    async def _pipeline(self, commands: Sequence[Command], is_confirmed: bool) -> list[Any]:
        """The commands' replies. Raises Unready if a confirmation was wanted and did not come.

        A script that the server does not know is told of first: nothing was written then.
        """
        view = await self._rule.look() if is_confirmed else None
        questions = self._rule.questions(view) if is_confirmed else []
        async with self.raw.pipeline(transaction=False) as pipe:
            connection: Any = await self.raw.connection_pool.get_connection()
            pipe.connection = connection
            for command in (*commands, *questions):
                pipe.execute_command(*command)
            async with asyncio.timeout(self._timeout_s):
                replies = await pipe.execute(raise_on_error=False)
            server = (
                getattr(connection, "host", ""),
                int(getattr(connection, "port", 0)),
            )  # none of a socket file
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
            # Whoever is the primary now may be another: those that are idle look for it.
            await self.raw.connection_pool.disconnect(inuse_connections=False)
            raise Unready(f"a write was not confirmed in time: {objection}")

    def is_current(self, connection: Any) -> bool:
        """Whether a connection leads to the primary, as far as the Sentinels have said."""
        pool = self.raw.connection_pool
        return not isinstance(pool, SentinelPool) or pool.is_current(connection)

    async def close(self) -> None:
        await self.raw.aclose()
