"""Finds free TCP ports on the loopback address, and tells which are taken. Holds none."""

import errno
import random
import socket

HOST = "127.0.0.1"

_CANDIDATES = range(20_000, 32_000)
"""Below the ports that systems give to outgoing connections: while a server is down, a client that
keeps trying to reach a port of that range can connect to itself and so keep the server out."""


def is_free(port: int) -> bool:
    """Whether a server could listen there now. Raises OSError for other reasons than "in use"."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def find_free(count: int) -> list[int]:
    """So many different ports that nobody listens on. Raises OSError when there are not as many."""
    found: list[int] = []
    for port in random.sample(_CANDIDATES, len(_CANDIDATES)):
        if len(found) == count:
            break
        if is_free(port):
            found.append(port)
    if len(found) < count:
        raise OSError(errno.EADDRNOTAVAIL, f"no {count} free ports on {HOST}")
    return found
