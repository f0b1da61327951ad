"""Finds free TCP ports on the loopback address, and checks whether one is free. Reserves none."""

import errno
import random
import socket

HOST = "127.0.0.1"

_CANDIDATES = range(20_000, 32_000)
"""Below the ports that systems assign to outgoing connections: while a server is down, a client that keeps
trying to connect to a port of that range can connect to itself, and so keep the server out."""
_CHANCE = random.SystemRandom()
"""Not seeded: processes whose tests have the same seed would all find the same ports."""


def is_free(port: int) -> bool:
    """Returns True if a server could listen on the port now.

    Raises OSError for any reason other than "in use".
    """
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
    """Returns `count` different free ports. Raises OSError if there are fewer."""
    found: list[int] = []
    for port in _CHANCE.sample(_CANDIDATES, len(_CANDIDATES)):
        if len(found) == count:
            break
        if is_free(port):
            found.append(port)
    if len(found) < count:
        raise OSError(errno.EADDRNOTAVAIL, f"no {count} free ports on {HOST}")
    return found
