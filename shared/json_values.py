"""Counts the values of a JSON text from its bytes, before it is decoded. Pure.

Owns the counting; the limit is a setting (`json_values_max`). A decoder's call holds the interpreter until it
returns, in any thread, and its duration depends on the number of values: 8 MB of `[]` take a hundred times as
long as text.
"""

from collections.abc import Iterator

_SLICE_BYTES = 64 * 1024
"""How much is searched in one call, which takes a fraction of a millisecond; then other threads can run."""


def count_values(text: bytes, enough: int) -> int:
    """Returns the number of commas and opening brackets: at least the number of values (without field names)
    less 1.

    The result is exact if it exceeds `enough`; otherwise it may include characters within strings.
    """
    most = sum(map(_marks_in, _slices(text)))
    return most if most <= enough else sum(map(_marks_in, _outside_strings(text)))


def _marks_in(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _slices(text: bytes) -> Iterator[bytes]:
    for start in range(0, len(text), _SLICE_BYTES):
        yield text[start : start + _SLICE_BYTES]


def _outside_strings(text: bytes) -> Iterator[bytes]:
    """Yields the text without its strings, slice by slice."""
    is_in_string, escape = False, b""
    for piece in _slices(text):
        whole = escape + piece
        backslashes = len(whole) - len(whole.rstrip(b"\\"))
        escape = b"\\" * (backslashes % 2)  # the character that it escapes is in the next slice
        plain = whole[: len(whole) - backslashes].replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = plain.split(b'"')
        yield b" ".join(parts[is_in_string::2])
        is_in_string ^= len(parts) % 2 == 0
