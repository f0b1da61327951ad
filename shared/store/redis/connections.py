"""Pools of connections, which report every failure of a connection as one kind of error.

Owns reading, writing and finding the primary; `client.py` decides what is sent.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import hiredis
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.exceptions import (
    AuthenticationError,
    ExecAbortError,
    InvalidResponse,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as _ConnectionError
from redis.exceptions import TimeoutError as _TimeoutError

from shared.redis_url import SentinelUrl, read_sentinel_url
from shared.store.redis.scripts import Command, Packed


class Unready(ResponseError):
    """The server refuses for now: something around it has to recover first."""


_UNREADY = ("MASTERDOWN", "NOREPLICAS", "MISCONF", "UNBLOCKED", "BUSY", "CLUSTERDOWN", "TRYAGAIN")
"""Error codes that redis-py has no class for: a replica without its primary, a primary without its replicas,
a disk that takes no writes, a blocked command whose primary was demoted, a long-running script, and two that
a proxy in front of a cluster returns while it moves keys."""


class ReplyParser(DefaultParser):  # type: ignore[misc, valid-type]
    """redis-py's parser, which also recognises these refusals."""

    EXCEPTION_CLASSES = DefaultParser.EXCEPTION_CLASSES | dict.fromkeys(_UNREADY, Unready)


def make_reader() -> hiredis.Reader:
    """Returns a parser of replies; those that are errors become redis-py's exceptions."""
    return hiredis.Reader(protocolError=InvalidResponse, replyError=ReplyParser.parse_error)


TORN = (RuntimeError, AttributeError, EOFError, InvalidResponse)
"""Other errors that a dead connection causes: uvloop's closed transport, a connection of redis-py's that
another task has closed, a reply cut off or garbled. Caught only around redis-py's own reading and writing."""

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
"""Redis is unavailable: it cannot be reached, is loading, does not answer in time, has become a replica, is
full, or refuses for now."""

REDIS_REFUSES = (RedisError,)
"""What else Redis may answer to a command that is in order, whatever is waited for: no permission, no such
database."""

READ_TIMEOUT_S = 5.0
"""Longer than any blocking command of ours; without it, a hanging server would be waited for for ever."""
SENTINEL_TIMEOUT_S = 0.5
_REFRESH_INTERVAL_S = 1.0
"""How often the address of the primary is read again while connections are in use."""
_ABORTED_FOR_NOW = "discarded because of: "
"""Part of EXEC's error if the cause is the server's state and not a command."""


def pack_command(command: Command) -> bytes:
    """Packs as redis-py's blocking connection does; its asyncio one packs in Python, six times slower."""
    name, *rest = command
    if isinstance(name, Packed):
        return name
    words: tuple[Any, ...] = (*str(name).encode().split(), *rest)
    return bytes(hiredis.pack_command(words))


def address_of(connection: Any) -> tuple[str, int]:
    """Returns the server's host and port; a connection to a socket file has neither: ("", 0)."""
    return getattr(connection, "host", ""), int(getattr(connection, "port", 0))


def address_of_pool(pool: Any) -> str:
    """Returns `host:port` of the server that a pool's connections lead to, if it is always the same one."""
    return f"{pool.connection_kwargs['host']}:{pool.connection_kwargs['port']}"


class _Guarded(AbstractConnection):
    """Bounds the wait for a reply, drops a server that has become a replica or refuses for now, and packs in
    C. Stands before redis-py's class for the kind of address.

    However a connection dies, and at whatever step, it raises redis-py's ConnectionError.

    The timeout is not redis-py's `socket_timeout`, which writes through `asyncio.wait_for`: that loses a
    cancellation that arrives just after the write (Python 3.11), and a cancelled task would continue for
    ever.
    """

    read_timeout_s = READ_TIMEOUT_S
    has_pool_ended = False
    """No connection is opened any more: redis-py would open one for a task that outlives its pool, and nobody
    would close it."""
    _is_handed_over = False

    async def _connect(self) -> None:
        self._check_pool()
        await super()._connect()  # type: ignore[safe-super, no-untyped-call]
        try:
            self._check_pool()
        except _ConnectionError:
            await self.disconnect(nowait=True)
            raise

    def _check_pool(self) -> None:
        if self.has_pool_ended:
            raise _ConnectionError("the client is closed")

    def hand_over(self, protocol: asyncio.Protocol) -> asyncio.WriteTransport:
        """Gives the transport to a protocol; `disconnect` still has to be called.

        Raises redis-py's ConnectionError if it is being closed: who waits for its end would never hear of it.
        """
        if self._writer is None or self._writer.is_closing():
            raise _ConnectionError("the connection is closed")
        self._writer.transport.set_protocol(protocol)
        self._is_handed_over = True
        return self._writer.transport

    async def disconnect(self, nowait: bool = False) -> None:
        # Do not wait for redis-py's streams, which are no longer notified of the transport's end.
        nowait |= self._is_handed_over
        self._is_handed_over = False
        writer = self._writer
        try:
            await super().disconnect(nowait=nowait)
        except _TimeoutError:
            # The server does not read what is left to send, or this process is too busy to hear of the end.
            if writer is not None:
                writer.transport.abort()

    def pack_command(self, *args: Any) -> list[bytes]:
        return [pack_command(args)]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        return [b"".join(pack_command(tuple(command)) for command in commands)]

    async def send_packed_command(self, *args: Any, **options: Any) -> None:
        try:
            await super().send_packed_command(*args, **options)
        except TORN as torn:
            raise _ConnectionError(f"the connection is closed ({torn})") from torn

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            async with asyncio.timeout(self.read_timeout_s):
                return await super().read_response(*args, **options)
        except TimeoutError:
            raise _TimeoutError(f"no answer within {self.read_timeout_s:g} s") from None
        except AuthenticationError as refusal:  # no use asking again, as redis-py would, for every step anew
            raise Unready(f"the server refuses: {refusal}") from None
        except (ReadOnlyError, Unready, ExecAbortError) as refusal:
            if isinstance(refusal, ExecAbortError) and _ABORTED_FOR_NOW not in str(refusal):
                raise  # a command of the transaction was wrong
            # The next connection goes to the server that is the primary then.
            await self.disconnect(nowait=True)
            raise _ConnectionError(f"the server refuses: {refusal}") from None
        except TORN as torn:
            await self.disconnect(nowait=True)
            raise _ConnectionError(f"the connection is broken ({torn})") from torn

    async def can_read_destructive(self) -> bool:
        """Checks an idle connection, for the pool, before it is used again.

        Within a task that is being cancelled, the check runs in a task of its own: before Python 3.11.3, its
        zero timeout would count as one more cancellation, and nothing could be written on the way out.
        """
        check: Any = super().can_read_destructive()  # type: ignore[no-untyped-call]
        task = asyncio.current_task()
        try:
            return bool(await (asyncio.create_task(check) if task and task.cancelling() else check))
        except TORN as torn:
            await self.disconnect(nowait=True)
            raise _ConnectionError(f"the connection is broken ({torn})") from torn


class _Sentinels(redis.asyncio.sentinel.Sentinel):
    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Returns the primary's address from the first Sentinel that answers and sees it alive. Raises
        REDIS_AWAY.

        redis-py's own method uses what a Sentinel monitors. During a failover that is the former primary
        until all replicas follow the new one, although the Sentinel already gives the new one's address.
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
        """Ends the pool; without `inuse_connections`, closes its idle connections only.

        These are not waited for: if several tasks waited for one to close, cancelling one of them would
        cancel the others."""
        if inuse_connections:
            _end(self)
            await super().disconnect()
        else:
            for connection in list(self._available_connections):
                await connection.disconnect(nowait=True)


class SentinelPool(redis.asyncio.sentinel.SentinelConnectionPool, _Pool):
    """A pool of connections to the server that the Sentinels name as the primary; waits for a free one.

    A replaced primary answers for some ten seconds as if it still were the primary. Therefore the Sentinels
    are asked again while connections are in use, and connections to any other server are dropped.
    """

    _refreshed_at_s = float("-inf")
    _refreshing: "asyncio.Task[None] | None" = None

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
        """Returns True if it leads to the primary, as far as is known; refreshes the address if it is old."""
        if self._refreshing is None and _now_s() - self._refreshed_at_s > _REFRESH_INTERVAL_S:
            self._refreshing = asyncio.create_task(self._refresh())
        return self.master_address in (None, (connection.host, connection.port))

    async def _refresh(self) -> None:
        try:
            await self.get_master_address()  # type: ignore[no-untyped-call]
        except REDIS_AWAY:
            pass  # the next connection attempt raises it
        finally:
            self._refreshed_at_s, self._refreshing = _now_s(), None

    async def disconnect(self, inuse_connections: bool = True) -> None:
        # A copy: whoever still looks for the primary moves the Sentinel that answered to the front.
        sentinels = list(self.sentinel_manager.sentinels) if inuse_connections else []
        for sentinel in sentinels:
            _end(sentinel.connection_pool)
        await super().disconnect(inuse_connections)
        if inuse_connections and self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        for sentinel in sentinels:
            await sentinel.aclose()


def make_pool(
    url: str, *, timeout_s: float = READ_TIMEOUT_S, connections_max: int = 64, **options: Any
) -> "redis.asyncio.ConnectionPool":
    """Returns a pool for the server of a `redis_url`, without connecting yet.

    `timeout_s` bounds connecting, and each reply. Raises ValueError for a bad URL.
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
    pool.connection_kwargs["parser_class"] = ReplyParser
    return pool


def _end(pool: "redis.asyncio.ConnectionPool") -> None:
    guarded: Any = pool.connection_class  # the pool's own, made by `_guard`
    guarded.has_pool_ended = True


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _make_sentinels(address: SentinelUrl) -> _Sentinels:
    """Returns the Sentinels, with a timeout after which one that hangs is skipped like one that is down."""
    asked = _Sentinels([])  # type: ignore[no-untyped-call]
    for host, port in address.sentinels:
        pool = redis.asyncio.ConnectionPool(host=host, port=port, socket_connect_timeout=SENTINEL_TIMEOUT_S)
        asked.sentinels.append(redis.asyncio.Redis.from_pool(_guard(pool, SENTINEL_TIMEOUT_S)))
    return asked
