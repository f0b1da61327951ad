"""Parses a body of server-sent events, strictly: anything else in it is an error."""

import json
import re
from dataclasses import dataclass
from typing import Any

_FRAME = re.compile(rb"event: ([^\n]+)\nid: (\d+)\ndata: ([^\n]+)")


@dataclass(frozen=True, slots=True)
class Frame:
    event: str
    id: int
    raw_data: bytes

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.raw_data)
        return data


_COMMENT = re.compile(rb"^:[^\n]*\n", re.MULTILINE)


def without_comments(stream: bytes) -> bytes:
    """Removes keep-alive comments, which are whole lines without an empty line after them."""
    return _COMMENT.sub(b"", stream)


def read_frames(body: bytes) -> list[Frame]:
    """Returns every frame of a whole body, without keep-alive comments."""
    frames = []
    body = without_comments(body)
    for block in body.split(b"\n\n")[:-1]:
        match = _FRAME.fullmatch(block)
        assert match is not None, block
        frames.append(Frame(match[1].decode(), int(match[2]), match[3]))
    assert body == b"" or body.endswith(b"\n\n"), body[-80:]
    return frames
