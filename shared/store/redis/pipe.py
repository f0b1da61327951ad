"""A connection of its own for one writer, with one write and one timer for many commands.

Owns writing packed commands to a connection that redis-py has made, and reading the replies; redis-py sets
a timer and runs several coroutines for each reply. `client.py` owns what is sent.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import redis.asyncio
from redis.exceptions import ConnectionError as _ConnectionError
from redis.exceptions import InvalidResponse, ReadOnlyError

from shared.store.redis.confirmation import Address
from shared.store.redis.connections import (
    READ_TIMEOUT_S,
    SentinelPool,
    Unready,
    address_of,
    make_reader,
    pack_command,
)
from shared.store.redis.scripts import Command


class Pipe:
    """Connects when it is first used, and again after any failure of a write."""

    def __init__(self, pool: "redis.asyncio.ConnectionPool", timeout_s: float | None) -> None:
        """`timeout_s` bounds a write with all its replies, and connecting."""
        self._pool = pool
        self._timeout_s = timeout_s
        self._connection: Any = None
        self._wire: _Wire | None = None
        self.sent_bytes = 0

    @property
    def wait_max_s(self) -> float:
        """Half of the time in which a write must be answered."""
        return READ_TIMEOUT_S / 2 if self._timeout_s is None else self._timeout_s / 2

    async def send(self, commands: Sequence[Command]) -> tuple[list[Any], Address]:
        """Sends commands in one write; returns their replies, errors included, and the server.

        Must not be called while another call runs. Raises REDIS_AWAY.
        """
        data = b"".join([pack_command(command) for command in commands])
        self.sent_bytes += len(data)
        try:
            async with asyncio.timeout(self._timeout_s):
                wire = await self._ready()
                replies = await wire.ask(data, len(commands))
            _raise_refusal(replies)
        except BaseException:
            await self.close()
            raise
        return replies, address_of(self._connection)

    async def _ready(self) -> "_Wire":
        if self._wire is not None and self._wire.is_open and self._is_current():
            return self._wire
        await self.close()
        self._connection = cast(Any, self._pool).make_connection()
        await self._connection.connect()
        self._wire = _Wire(self._connection)
        return self._wire

    def _is_current(self) -> bool:
        """Returns True if it leads to the primary, as far as the Sentinels have reported."""
        return not isinstance(self._pool, SentinelPool) or self._pool.is_current(self._connection)

    async def close(self) -> None:
        """Closes the connection at once; what was sent and not answered may have been done."""
        wire, connection = self._wire, self._connection
        self._wire = self._connection = None
        if wire is not None:
            wire.abort()
        if connection is not None:
            await connection.disconnect(nowait=True)


class _Wire(asyncio.Protocol):
    """What a connection of redis-py's is handed over to."""

    def __init__(self, connection: Any) -> None:
        self._reader = make_reader()
        self._replies: list[Any] = []
        self._missing = 0
        self._answered: asyncio.Future[list[Any]] | None = None
        self.is_open = True
        self._transport: asyncio.WriteTransport = connection.hand_over(self)

    async def ask(self, data: bytes, count: int) -> list[Any]:
        """Writes the data and returns its replies. Raises redis-py's ConnectionError."""
        if not self.is_open:
            raise _ConnectionError("the connection is closed")
        answered: asyncio.Future[list[Any]]
        answered = self._answered = asyncio.get_running_loop().create_future()
        self._replies, self._missing = [], count
        self._transport.write(data)
        return await answered

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while self._missing and (reply := self._reader.gets()) is not False:
                self._replies.append(reply)
                self._missing -= 1
            is_surplus = not self._missing and self._reader.has_data()
        except InvalidResponse as torn:
            self._end(f"an answer is garbled ({torn})")
            return
        if is_surplus:
            self._end("it says what nobody has asked")
        elif not self._missing and self._answered is not None and not self._answered.done():
            self._answered.set_result(self._replies)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(str(error or "the server has closed it"))

    def abort(self) -> None:
        self._end("it was left")

    def _end(self, reason: str) -> None:
        self.is_open = False
        self._transport.abort()
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(_ConnectionError(f"the connection is broken: {reason}"))


def _raise_refusal(replies: Sequence[Any]) -> None:
    """Raises ConnectionError if the server refuses for now: the next connection looks for the primary."""
    for reply in replies:
        if isinstance(reply, _ConnectionError):  # it is loading
            raise reply
        if isinstance(reply, ReadOnlyError | Unready):
            raise _ConnectionError(f"the server refuses: {reply}")
