"""The only importer of redis-py: connections, scripts, and what being away looks like.

Owns no key and no meaning. Every script of this package may be sent twice (a lost reply is
followed by a retry): each recognises its own repetition.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self, cast

import hiredis
import redis.asyncio
import redis.asyncio.sentinel
from redis._parsers.base import BaseParser
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as _ConnectionError
from redis.exceptions import (
    ExecAbortError,
    InvalidResponse,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as _TimeoutError

from shared.redis_url import SentinelUrl, read_sentinel_url
from shared.store.confirmation import Command, Durability, Replicas, Rule, View, Watch


class Unready(ResponseError):
    """The server is there and refuses for now: something around it has to recover first."""


# What redis-py has no name for: a replica without its primary, a primary without its replicas, a disk that
# takes no writes, a blocked command whose primary was demoted, a script that takes long; and what a proxy in
# front of a cluster says while that moves things.
BaseParser.EXCEPTION_CLASSES.update(
    dict.fromkeys(
        ("MASTERDOWN", "NOREPLICAS", "MISCONF", "UNBLOCKED", "BUSY", "CLUSTERDOWN", "TRYAGAIN"), Unready
    )
)

_TORN = (RuntimeError, AttributeError, EOFError, InvalidResponse)
"""What else a dead connection is said to be: uvloop's transport that is closed, redis-py's that another task
has closed, an answer cut off or garbled. Caught only around redis-py's own reading and writing."""

REDIS_AWAY = (
    _ConnectionError,
    _TimeoutError,
    ReadOnlyError,
    OutOfMemoryError,
    Unready,
    ConnectionError,
    TimeoutError,
    OSError,
)
"""Redis cannot be reached, is loading, does not answer in time, is a replica now, is full, or refuses
for now."""

_READ_TIMEOUT_S = 5.0
"""Longer than any blocking command of ours; without it, a server that hangs would be waited for for ever."""
_SENTINEL_TIMEOUT_S = 0.5
_LOOK_EVERY_S = 1.0
"""How often those who have connections ask again who the primary is."""
_ABORTED_FOR_NOW = "discarded because of: "
"""What EXEC says when the server's state and not a command is why."""

Argument = str | bytes | int | float

_FOLDER = Path(__file__).parent
_PRELUDE = "".join((_FOLDER / f"{name}.lua").read_text() for name in ("enqueue", "held"))


class Script:
    """A Lua file of this folder, with the prelude in front; known to Redis by its digest.

    `is_confirmed`: its writes count only when they are as safe as `durable_writes` asks for.
    `allows_full`: it also runs in a full Redis, because it needs no more memory than it frees or holds.
    Any other script is refused there at its first write, before it has changed anything.
    """

    def __init__(self, name: str, *, is_confirmed: bool = False, allows_full: bool = False) -> None:
        self.name = name
        self.is_confirmed = is_confirmed
        flags = "#!lua flags=allow-oom\n" if allows_full else ""
        self.text = flags + _PRELUDE + (_FOLDER / f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def command(self, keys: Sequence[str], args: Sequence[Argument]) -> tuple[Argument, ...]:
        return ("EVALSHA", self.sha, len(keys), *keys, *args)

    def whole_command(self, keys: Sequence[str], args: Sequence[Argument]) -> tuple[Argument, ...]:
        return ("EVAL", self.text, len(keys), *keys, *args)


class _Guarded(Connection):
    """Waits for no reply for ever, leaves a server that is a replica now or refuses for now, and packs in C.

    However a connection dies, at whatever step, it is redis-py's ConnectionError that says so.

    The wait is not redis-py's `socket_timeout`, which writes through `asyncio.wait_for`: that loses a
    cancellation that comes just after the write (Python 3.11), and a task that was told to end would go
    on for ever.
    """

    read_timeout_s = _READ_TIMEOUT_S

    def pack_command(self, *args: Any) -> list[bytes]:
        """As redis-py's blocking connection does; its asyncio one packs in Python, six times slower."""
        name, *rest = args
        return [hiredis.pack_command((*name.encode().split(), *rest))]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        return [b"".join(packed for command in commands for packed in self.pack_command(*command))]

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        try:
            await super().send_packed_command(*args, **options)
        except _TORN as torn:
            raise _ConnectionError(f"the connection is closed ({torn})") from torn

    async def read_response(self, *args: Any, **options: Any) -> Any:
        is_polling = options.get("timeout") is not None  # a subscription's own, short wait
        try:
            async with asyncio.timeout(None if is_polling else self.read_timeout_s):
                return await super().read_response(*args, **options)
        except TimeoutError:
            raise _TimeoutError(f"no answer within {self.read_timeout_s:g} s") from None
        except (ReadOnlyError, Unready, ExecAbortError) as refusal:
            if isinstance(refusal, ExecAbortError) and _ABORTED_FOR_NOW not in str(refusal):
                raise  # a command of the transaction was wrong
            # The next connection goes to whoever is the primary then.
            await self.disconnect(nowait=True)
            raise _ConnectionError(f"the server refuses: {refusal}") from None
        except _TORN as torn:
            await self.disconnect(nowait=True)
            raise _ConnectionError(f"the connection is broken ({torn})") from torn

    async def can_read_destructive(self) -> bool:
        """The pool's look at a connection before it is used again.

        A task that ends looks in another: before Python 3.11.3, the look's timeout of nothing would be taken
        for one more cancellation there, and nothing could be written on the way out.
        """
        look: Any = super().can_read_destructive()  # type: ignore[no-untyped-call]
        task = asyncio.current_task()
        try:
            return bool(await (asyncio.create_task(look) if task and task.cancelling() else look))
        except _TORN as torn:
            await self.disconnect(nowait=True)
            raise _ConnectionError(f"the connection is broken ({torn})") from torn


class _Sentinels(redis.asyncio.sentinel.Sentinel):
    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Who is the primary, for the first Sentinel that answers and sees it alive. Raises REDIS_AWAY.

        redis-py's asks what a Sentinel watches: one that carries out a failover watches the earlier primary
        until all replicas follow the new one, though it names the new one when it is asked for the address.
        """
        for at, sentinel in enumerate(self.sentinels):
            try:
                watched = await sentinel.sentinel_master(service_name)  # type: ignore[no-untyped-call]
                named = await sentinel.sentinel_get_master_addr_by_name(service_name)  # type: ignore[no-untyped-call]
            except (*REDIS_AWAY, ResponseError):
                continue
            if named is None:
                continue
            address = named[0].decode(), named[1]
            is_watched = address == (watched["ip"], watched["port"])
            if is_watched and not self.check_master_state(watched, service_name):
                continue
            self.sentinels[0], self.sentinels[at] = sentinel, self.sentinels[0]
            return address
        raise redis.asyncio.sentinel.MasterNotFoundError(f"no Sentinel sees the primary of {service_name!r}")


class _Pool(redis.asyncio.BlockingConnectionPool):
    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Idle ones are left at once: of several who wait until one is closed, whoever is cancelled takes the
        others with him."""
        if inuse_connections:
            await super().disconnect()
        else:
            for connection in list(self._available_connections):
                await connection.disconnect(nowait=True)


class _SentinelPool(redis.asyncio.sentinel.SentinelConnectionPool, _Pool):
    """Connections to whatever the Sentinels say is the primary; waits for a free one, as our other pool.

    A primary that was replaced answers for some ten seconds as if it were one still. Therefore Sentinels are
    asked again while connections are in use, and one to another server is left.
    """

    _looked_at_s = float("-inf")
    _looking: "asyncio.Task[None] | None" = None

    async def get_connection(self, *args: Any, **options: Any) -> Any:
        connection = await super().get_connection(*args, **options)
        if self.is_current(connection):
            return connection
        try:
            await connection.disconnect(nowait=True)
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    def is_current(self, connection: Any) -> bool:
        """Whether it leads to the primary, as far as is known, and sees to it that more will be."""
        if self._looking is None and _now_s() - self._looked_at_s > _LOOK_EVERY_S:
            self._looking = asyncio.create_task(self._look())
        return self.master_address in (None, (connection.host, connection.port))

    async def _look(self) -> None:
        try:
            await self.get_master_address()  # type: ignore[no-untyped-call]
        except REDIS_AWAY:
            pass  # who connects next says so
        finally:
            self._looked_at_s, self._looking = _now_s(), None

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if inuse_connections:  # the end, and not merely another primary
            if self._looking is not None:
                self._looking.cancel()
                await asyncio.wait([self._looking])
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()


def make_pool(
    url: str, *, timeout_s: float = _READ_TIMEOUT_S, connections_max: int = 64, **options: Any
) -> "redis.asyncio.ConnectionPool":
    """A lazy pool to the server of a `redis_url`. `timeout_s` bounds connecting and each reply.

    Raises ValueError for a bad URL.
    """
    options |= {"timeout": timeout_s, "max_connections": connections_max, "socket_connect_timeout": timeout_s}
    pool: redis.asyncio.ConnectionPool
    address = read_sentinel_url(url)
    if address is None:
        pool = _Pool.from_url(url, **options)
    else:
        login = {"db": address.db, "username": address.username, "password": address.password}
        pool = _SentinelPool(address.master_name, _make_sentinels(address), **login, **options)  # type: ignore[no-untyped-call]
    return _guard(pool, timeout_s)


def _guard(pool: "redis.asyncio.ConnectionPool", timeout_s: float) -> "redis.asyncio.ConnectionPool":
    bases = (_Guarded, pool.connection_class)
    pool.connection_class = type("GuardedConnection", bases, {"read_timeout_s": timeout_s})
    return pool


def _is_unknown(replies: Sequence[Any]) -> bool:
    """Whether the server has not got the script; one that has just become the primary has none."""
    return any(isinstance(reply, NoScriptError) for reply in replies)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _make_sentinels(address: SentinelUrl) -> _Sentinels:
    """One that hangs is passed over, as one that is not there."""
    asked = _Sentinels([])  # type: ignore[no-untyped-call]
    for host, port in address.sentinels:
        pool = redis.asyncio.ConnectionPool(host=host, port=port, socket_connect_timeout=_SENTINEL_TIMEOUT_S)
        asked.sentinels.append(redis.asyncio.Redis.from_pool(_guard(pool, _SENTINEL_TIMEOUT_S)))
    return asked


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
        is_watched = isinstance(pool, _SentinelPool)
        watch = Watch(pool.sentinel_manager.sentinels, pool.service_name) if is_watched else None
        self._rule = Rule(durability, replicas, watch, timeout_s or _READ_TIMEOUT_S)

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

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Argument]) -> Any:
        if script.is_confirmed and self.is_confirming:
            (reply,) = await self.run_many(script, [(keys, args)])
            if isinstance(reply, RedisError):
                raise reply
            return reply
        try:
            return await self.command(*script.command(keys, args))
        except NoScriptError:
            return await self.command(*script.whole_command(keys, args))

    async def run_many(
        self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]
    ) -> list[Any]:
        """One script, many calls, one write. A refused call's place holds its RedisError."""
        commands: list[Command] = [script.command(*call) for call in calls]
        replies = await self._pipeline(commands, script.is_confirmed)
        if _is_unknown(replies):
            replies = await self._pipeline([("SCRIPT LOAD", script.text), *commands], script.is_confirmed)
            return replies[1:]
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
        return not isinstance(pool, _SentinelPool) or pool.is_current(connection)

    async def close(self) -> None:
        await self.raw.aclose()
