"""Counts the values of a JSON text from its bytes, before it is decoded. Pure.

Owns the counting; what may be is a setting (`json_values_max`). A decoder holds the interpreter for as long
as it takes, in whatever thread, and that goes by values: 8 MB of `[]` take a hundred times as long as text.
"""

from collections.abc import Iterator

_SLICE_BYTES = 64 * 1024
"""So much is looked at in one go: a fraction of a millisecond, after which others have their turn."""


def count_values(text: bytes, enough: int) -> int:
    """What opens or parts values: at least as many as there are, less one, names of fields not counted.

    Exact where it is more than `enough`; up to that it may count what stands within strings as well.
    """
    most = sum(map(_marks_in, _slices(text)))
    return most if most <= enough else sum(map(_marks_in, _outside_strings(text)))


def _marks_in(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _slices(text: bytes) -> Iterator[bytes]:
    for start in range(0, len(text), _SLICE_BYTES):
        yield text[start : start + _SLICE_BYTES]


def _outside_strings(text: bytes) -> Iterator[bytes]:
    """The text without its strings, slice by slice."""
    is_in_string, escape = False, b""
    for piece in _slices(text):
        whole = escape + piece
        backslashes = len(whole) - len(whole.rstrip(b"\\"))
        escape = b"\\" * (backslashes % 2)  # what follows it stands in the next slice
        plain = whole[: len(whole) - backslashes].replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = plain.split(b'"')
        yield b" ".join(parts[is_in_string::2])
        is_in_string ^= len(parts) % 2 == 0
