"""Runs commands and scripts over one pool, within a time limit. Knows no keys and no meanings."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
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

from shared.store.redis.confirmation import Address, Durability, Replicas, Rule, View, Watch
from shared.store.redis.connections import (
    READ_TIMEOUT_S,
    REDIS_AWAY,
    SentinelPool,
    Unready,
    address_of,
    make_pool,
)
from shared.store.redis.joint_scripts import Gathered, JointCall, StoreCall
from shared.store.redis.pipe import Pipe
from shared.store.redis.scripts import Argument, Command, ScriptCall

Send = Callable[[Sequence[Command]], Awaitable[tuple[list[Any], Address]]]
"""Sends commands over one connection; returns their replies, errors included, and the server."""


def _is_unknown(replies: Sequence[Any]) -> bool:
    """Returns True if the server does not have a script; one that has just become the primary has none."""
    return any(isinstance(reply, NoScriptError) for reply in replies)


def _only(replies: list[Any]) -> Any:
    """Returns the reply to a single call. Raises RedisError if it was refused."""
    (reply,) = replies
    if isinstance(reply, RedisError):
        raise reply
    return reply


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

    async def run(self, call: StoreCall) -> Any:
        """Runs one script; returns its reply. Raises RedisError if it is refused."""
        if isinstance(call, JointCall) or (call.script.is_confirmed and self.is_confirming):
            return _only(await self.run_many([call]))
        try:
            return await self.command(*call.command())
        except NoScriptError:
            return await self.command(*call.whole_command())

    async def run_many(self, calls: Sequence[StoreCall]) -> list[Any]:
        """Runs scripts in one pipeline; returns their replies, a RedisError for each refused one."""
        return await self._run_many(calls, self._send)

    def open_pipe(self) -> "ScriptPipe":
        """Returns a connection of its own for one writer, which closes it before the client is closed."""
        return ScriptPipe(self._run_many, Pipe(self.raw.connection_pool, self._timeout_s))

    async def _run_many(self, calls: Sequence[StoreCall], send: Send) -> list[Any]:
        gathered = Gathered(calls)
        is_confirmed = any(call.script.is_confirmed for call in calls)
        answers = await self._ask(gathered, send, is_confirmed=is_confirmed)
        replies = gathered.scatter(answers)
        for place in gathered.torn(answers):
            (replies[place],) = await self._run_many([calls[place]], send)
        return replies

    async def _ask(self, gathered: Gathered, send: Send, *, is_confirmed: bool) -> list[Any]:
        replies = await self._confirmed(gathered.commands, is_confirmed, send)
        if _is_unknown(replies):  # send all again: each script recognises its own repetition
            loads: list[Command] = [("SCRIPT LOAD", text) for text in gathered.texts]
            replies = await self._confirmed([*loads, *gathered.commands], is_confirmed, send)
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
            await self._confirmed([], True, self._send)

    async def _confirmed(self, commands: Sequence[Command], is_confirmed: bool, send: Send) -> list[Any]:
        """Sends the commands; returns their replies. Raises Unready if a confirmation is needed and does not
        come.

        Does not check the confirmation if the server lacks a script, since the caller sends everything again.
        """
        view = await self._rule.read_view() if is_confirmed else None
        questions = self._rule.questions(view) if is_confirmed else []
        replies, server = await send([*commands, *questions])
        if questions and not _is_unknown(replies):
            await self._check_confirmed(replies[len(commands) :], server, view)
        return replies[: len(commands)]

    async def _send(self, commands: Sequence[Command]) -> tuple[list[Any], Address]:
        """Sends commands over a connection of the pool."""
        async with self.raw.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            async with asyncio.timeout(self._timeout_s):
                connection: Any = await self.raw.connection_pool.get_connection()
                pipe.connection = connection
                replies = await pipe.execute(raise_on_error=False)
            return replies, address_of(connection)

    async def _check_confirmed(self, replies: list[Any], server: tuple[str, int], view: View | None) -> None:
        refusal = next((reply for reply in replies if isinstance(reply, Exception)), None)
        if isinstance(refusal, REDIS_AWAY):
            raise refusal
        if refusal is not None:
            raise Unready(f"a write cannot be confirmed: {refusal}")
        objection = await self._rule.judge(replies, server, view)
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


class ScriptPipe:
    """Runs scripts as `RedisClient.run_many` does, over a connection of its own, for one writer."""

    def __init__(
        self, run_many: Callable[[Sequence[StoreCall], Send], Awaitable[list[Any]]], pipe: Pipe
    ) -> None:
        self._run_many = run_many
        self._pipe = pipe

    async def run_many(self, calls: Sequence[StoreCall]) -> list[Any]:
        """Runs scripts in one write; returns their replies. Must not be called while another call runs."""
        return await self._run_many(calls, self._pipe.send)

    async def run(self, call: StoreCall) -> Any:
        """As `RedisClient.run`, within the same restriction."""
        return _only(await self.run_many([call]))

    async def run_after(self, commands: Sequence[Command], call: ScriptCall) -> Any:
        """As `run`, but at once when the commands before it have ended; one of them may block, and what they
        answer is dropped."""
        (*_, reply), _ = await self._pipe.send([*commands, call.command()])
        return await self.run(call) if isinstance(reply, NoScriptError) else _only([reply])

    @property
    def sent_bytes(self) -> int:
        """All that was sent."""
        return self._pipe.sent_bytes

    @property
    def wait_max_s(self) -> float:
        """How long a command that blocks may wait."""
        return self._pipe.wait_max_s

    async def close(self) -> None:
        await self._pipe.close()
