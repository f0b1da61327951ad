"""A proxy to a server that cuts connections in every manner a network knows.

Owns its thread and its sockets; does not inspect what passes.
"""

import select
import socket
import struct
import threading
from typing import Literal, Self

Manner = Literal["closed", "reset", "garbled", "halved"]
"""FIN; RST; a reply that is not RESP, then FIN; half of a reply, then RST."""
MANNERS: tuple[Manner, ...] = ("closed", "reset", "garbled", "halved")

_PARTING: dict[Manner, bytes] = {"garbled": b"HTTP/1.1 400 Bad Request\r\n\r\n", "halved": b"$100\r\nhal"}


class CutWay:
    """Listens on a port of its own and passes everything on to `port`; `cut` ends all open connections."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._is_over = False
        self._thread = threading.Thread(target=self._pass_on, daemon=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listening.getsockname()[1]}/0"

    def cut(self, manner: Manner) -> int:
        """The number of connections that it has cut."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            for client, server in pairs:
                _part(client, manner)
                server.close()
        return len(pairs)

    def _pass_on(self) -> None:
        while not self._is_over:
            with self._lock:
                peers = {a: b for pair in self._pairs for a, b in (pair, pair[::-1])}
                ready, _, _ = select.select([self._listening, *peers], [], [], 0)
                for one in ready:
                    if one is self._listening:
                        self._accept()
                    else:
                        self._move(one, peers[one])
            select.select([self._listening], [], [], 0.002)  # lets `cut` run

    def _accept(self) -> None:
        client, _ = self._listening.accept()
        self._pairs.append((client, socket.create_connection(("127.0.0.1", self._port))))

    def _move(self, source: socket.socket, target: socket.socket) -> None:
        try:
            data = source.recv(65_536)
            if data:
                target.sendall(data)
        except OSError:
            data = b""
        if not data:
            self._pairs = [pair for pair in self._pairs if source not in pair]
            source.close()
            target.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over = True
        self._thread.join()
        self.cut("closed")
        self._listening.close()


def _part(client: socket.socket, manner: Manner) -> None:
    try:
        if manner in _PARTING:
            client.sendall(_PARTING[manner])
        if manner in ("reset", "halved"):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass  # it has closed by itself
    client.close()
