"""Pools of connections, and every way in which a dead connection shows itself as one error.

Owns reading, writing and finding the primary; what is sent is `client`'s.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import hiredis
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.connection import Connection, DefaultParser
from redis.exceptions import ConnectionError as _ConnectionError
from redis.exceptions import (
    ExecAbortError,
    InvalidResponse,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import TimeoutError as _TimeoutError

from shared.redis_url import SentinelUrl, read_sentinel_url


class Unready(ResponseError):
    """The server is there and refuses for now: something around it has to recover first."""


_UNREADY = ("MASTERDOWN", "NOREPLICAS", "MISCONF", "UNBLOCKED", "BUSY", "CLUSTERDOWN", "TRYAGAIN")
"""What redis-py has no name for: a replica without its primary, a primary without its replicas, a disk that
takes no writes, a blocked command whose primary was demoted, a script that takes long; and what a proxy in
front of a cluster says while that moves things."""


class _ReplyParser(DefaultParser):  # type: ignore[misc, valid-type]
    """redis-py's own, which knows these refusals too."""

    EXCEPTION_CLASSES = DefaultParser.EXCEPTION_CLASSES | dict.fromkeys(_UNREADY, Unready)


TORN = (RuntimeError, AttributeError, EOFError, InvalidResponse)
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

READ_TIMEOUT_S = 5.0
"""Longer than any blocking command of ours; without it, a server that hangs would be waited for for ever."""
SENTINEL_TIMEOUT_S = 0.5
_LOOK_EVERY_S = 1.0
"""How often those who have connections ask again who the primary is."""
_ABORTED_FOR_NOW = "discarded because of: "
"""What EXEC says when the server's state and not a command is why."""


class _Guarded(Connection):
    """Waits for no reply for ever, leaves a server that is a replica now or refuses for now, and packs in C.

    However a connection dies, at whatever step, it is redis-py's ConnectionError that says so.

    The wait is not redis-py's `socket_timeout`, which writes through `asyncio.wait_for`: that loses a
    cancellation that comes just after the write (Python 3.11), and a task that was told to end would go
    on for ever.
    """

    read_timeout_s = READ_TIMEOUT_S

    def pack_command(self, *args: Any) -> list[bytes]:
        """As redis-py's blocking connection does; its asyncio one packs in Python, six times slower."""
        name, *rest = args
        return [hiredis.pack_command((*name.encode().split(), *rest))]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        return [b"".join(packed for command in commands for packed in self.pack_command(*command))]

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        try:
            await super().send_packed_command(*args, **options)
        except TORN as torn:
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
        except TORN as torn:
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
        except TORN as torn:
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
        """Leaves idle ones at once: of several tasks that wait until one is closed, one that is cancelled
        takes the others with it."""
        if inuse_connections:
            await super().disconnect()
        else:
            for connection in list(self._available_connections):
                await connection.disconnect(nowait=True)


class SentinelPool(redis.asyncio.sentinel.SentinelConnectionPool, _Pool):
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
    url: str, *, timeout_s: float = READ_TIMEOUT_S, connections_max: int = 64, **options: Any
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
        pool = SentinelPool(address.master_name, _make_sentinels(address), **login, **options)  # type: ignore[no-untyped-call]
    return _guard(pool, timeout_s)


def _guard(pool: "redis.asyncio.ConnectionPool", timeout_s: float) -> "redis.asyncio.ConnectionPool":
    bases = (_Guarded, pool.connection_class)
    pool.connection_class = type("GuardedConnection", bases, {"read_timeout_s": timeout_s})
    pool.connection_kwargs["parser_class"] = _ReplyParser
    return pool


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _make_sentinels(address: SentinelUrl) -> _Sentinels:
    """One that hangs is passed over, as one that is not there."""
    asked = _Sentinels([])  # type: ignore[no-untyped-call]
    for host, port in address.sentinels:
        pool = redis.asyncio.ConnectionPool(host=host, port=port, socket_connect_timeout=SENTINEL_TIMEOUT_S)
        asked.sentinels.append(redis.asyncio.Redis.from_pool(_guard(pool, SENTINEL_TIMEOUT_S)))
    return asked
