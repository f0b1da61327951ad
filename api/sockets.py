"""The WebSockets of a node: how many there are, what they may remember together, and their end.

Owns what all connections share; `socket_session.py` owns one of them.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from api.errors import RETRY_AFTER, ClientError
from api.socket_protocol import SocketProtocol
from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.records.response_store import Stored


class Latest:
    """The last response of a lane, if it is not stored: only its connection can continue it."""

    __slots__ = ("key", "record")

    def __init__(self, key: ResponseKey) -> None:
        self.key = key
        self.record: Stored | None = None
        """None if it has not been read yet, or had to give way to others."""


class Remembered:
    """Limits the records of unstored responses that connections keep. The oldest give way to new ones."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept: OrderedDict[Latest, int] = OrderedDict()
        self.kept_bytes = 0

    def keep(self, latest: Latest, record: Stored) -> None:
        """Keeps a record, unless it alone exceeds the limit."""
        self.forget(latest)
        size_bytes = record.size_bytes
        if size_bytes > self._bytes_max:
            return
        latest.record = record
        self._kept[latest] = size_bytes
        self.kept_bytes += size_bytes
        while self.kept_bytes > self._bytes_max:
            self.forget(next(iter(self._kept)))

    def forget(self, latest: Latest) -> None:
        latest.record = None
        self.kept_bytes -= self._kept.pop(latest, 0)


class Sockets:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: set[SocketProtocol] = set()
        self.remembered = Remembered(settings.sockets_kept_bytes_max)

    def __len__(self) -> int:
        return len(self._open)

    def check_room(self) -> None:
        """Raises ClientError if no connection can be upgraded: one of HTTP does as well."""
        if self._settings.sockets_max == 0:
            message = "This server accepts no WebSockets. Use HTTP."
            raise ClientError(426, message, "websocket_not_supported", headers={"upgrade": "HTTP/1.1"})
        if len(self._open) >= self._settings.sockets_max:
            message = "This node has too many WebSockets. Try again, or use HTTP."
            raise ClientError(429, message, "rate_limit_exceeded", headers=RETRY_AFTER)

    @contextmanager
    def present(self, protocol: SocketProtocol) -> Iterator[None]:
        """Counts a connection for the duration of the context."""
        self._open.add(protocol)
        try:
            yield
        finally:
            self._open.discard(protocol)

    def end(self) -> None:
        """Closes all connections; their clients resume on other nodes."""
        for protocol in list(self._open):
            protocol.shutdown()
