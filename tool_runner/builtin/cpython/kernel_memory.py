"""Counts what the kernel keeps for a session beside the memory of its processes: files without content, and
what is written to sockets and not read.

Owns what each is counted as, at its most; `seccomp.py` refuses what cannot be counted, `session.py` decides
who may live.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Self

_PROC = Path("/proc")
_FILE_BYTES = 2048
"""Of a file, folder or link in memory: its inode, and an entry with a long name."""
_SOCKET_BYTES = 512 * 1024
"""Of a socket with buffers of the usual sizes, one message too much, and its options."""
_CLOSED_BYTES = 512
"""Of a connection that is only remembered."""
_USUAL_BUFFER_BYTES = {"net/ipv4/tcp_rmem": 6 * 2**20, "net/ipv4/tcp_wmem": 4 * 2**20}
"""Setting of the machine -> how large a buffer of TCP grows, if nobody has changed it."""
_USED = re.compile(r"^(?:sockets: used|TCP6?: inuse) (\d+)", re.MULTILINE)
_REMEMBERED = re.compile(r"^TCP: .*\btw (\d+)", re.MULTILINE)
_SOCKETS, _TCP_SOCKETS = "net/sockstat", "net/sockstat6"
_TEXT_BYTES_MAX = 4096


class KernelMemory:
    """Tells of one session, whose folders and network have been opened from outside, before any code ran."""

    def __init__(self, folders: list[int], sockets: list[int], tcp_socket_bytes: int) -> None:
        self._folders, self._sockets = folders, sockets
        self._tcp_socket_bytes = tcp_socket_bytes

    @classmethod
    def open(cls, first: int, folders: Iterable[str]) -> Self:
        """`first`: a process of the session, whose folders in memory are `folders`.

        Raises OSError if the kernel does not tell, as a kernel that is emulated may not.
        """
        own = _PROC / str(first)
        opened = cls([], [], _read_tcp_socket_bytes())
        try:
            for folder in folders:
                opened._folders.append(os.open(f"{own}/root{folder}", os.O_PATH | os.O_DIRECTORY))
            opened._sockets.append(os.open(own / _SOCKETS, os.O_RDONLY))
            with suppress(FileNotFoundError):  # without IPv6
                opened._sockets.append(os.open(own / _TCP_SOCKETS, os.O_RDONLY))
        except OSError:
            opened.close()
            raise
        return opened

    def count(self) -> int:
        """Returns the bytes that its files and sockets may take."""
        states = [os.statvfs(folder) for folder in self._folders]
        files = sum(state.f_files - state.f_ffree for state in states)
        texts = [os.pread(descriptor, _TEXT_BYTES_MAX, 0).decode() for descriptor in self._sockets]
        return files * _FILE_BYTES + count_sockets(texts, self._tcp_socket_bytes)

    def close(self) -> None:
        for descriptor in (*self._folders, *self._sockets):
            os.close(descriptor)
        self._folders, self._sockets = [], []


def count_sockets(texts: Iterable[str], tcp_socket_bytes: int) -> int:
    """Returns the bytes that sockets may take, of whoever holds them and those that only wait to be sent.

    `texts`: /proc/net/sockstat and, where there is IPv6, /proc/net/sockstat6.
    """
    taken = 0
    for text in texts:
        for found in _USED.finditer(text):
            bytes_each = tcp_socket_bytes if found[0].startswith("TCP") else _SOCKET_BYTES
            taken += int(found[1]) * bytes_each
        taken += sum(int(found[1]) * _CLOSED_BYTES for found in _REMEMBERED.finditer(text))
    return taken


def _read_tcp_socket_bytes() -> int:
    largest = 0
    for name, usual in _USUAL_BUFFER_BYTES.items():
        try:
            largest += int((_PROC / "sys" / name).read_text().split()[-1])
        except (OSError, ValueError, IndexError):
            largest += usual
    return largest
