"""What is sent on a WebSocket: stored frames as text messages, and errors. Pure.

Owns the bytes of a message; the JSON of an event is the stored one (docs/adr/0046-sockets.md). Source of the
framing: RFC 6455, 5.2; messages from a server are not masked, and none is compressed or fragmented.
"""

import struct
from collections.abc import Mapping

import msgspec
from starlette.responses import Response

_TEXT = 0x81
"""A whole text message."""
_SHORT, _MEDIUM, _LONG = struct.Struct("!BB"), struct.Struct("!BBH"), struct.Struct("!BBQ")
_MEDIUM_BYTES, _LONG_BYTES = 126, 2**16
_WAITING = ("retry-after", "x-ratelimit-")
_DATA, _END = b"\ndata: ", b"\n\n"


def text_message(body: bytes) -> bytes:
    """Returns a text message with this content, which is UTF-8."""
    size = len(body)
    if size < _MEDIUM_BYTES:
        return _SHORT.pack(_TEXT, size) + body
    if size < _LONG_BYTES:
        return _MEDIUM.pack(_TEXT, 126, size) + body
    return _LONG.pack(_TEXT, 127, size) + body


def lane_member(stream_id: str | None) -> bytes:
    """Returns what names a lane at the end of each of its events; b"" for the lane without a name."""
    return b',"stream_id":%b}' % msgspec.json.encode(stream_id) if stream_id is not None else b""


def in_lane(event: bytes, lane: bytes) -> bytes:
    """Returns an event's JSON with its lane (`lane_member`), and unchanged if that has no name."""
    return event[:-1] + lane if lane else event


def event_messages(frames: bytes, lane: bytes, after_first: bytes = b"") -> bytes:
    """Returns stored frames, as `frames.frame` makes them, as one message for each event; a keep-alive that
    is no event is left out. `after_first`: a message that comes after the first event.

    JSON has no line ends, so an event ends at the first empty line.
    """
    messages: list[bytes] = []
    at = frames.find(_DATA)
    while at >= 0:
        end = frames.index(_END, at)
        messages.append(text_message(in_lane(frames[at + len(_DATA) : end], lane)))
        at = frames.find(_DATA, end)
    if messages and after_first:
        messages.insert(1, after_first)
    return b"".join(messages)


def headers_message(headers: Mapping[str, str], lane: bytes) -> bytes:
    """Returns the message for what HTTP would say of a response in headers: the hosted API's event for that,
    which is no event of the response's log and has no number."""
    event = msgspec.json.encode({"type": "response.metadata", "headers": headers})
    return text_message(in_lane(event, lane))


def error_message(answer: Response, lane: bytes) -> bytes:
    """Returns the message for what HTTP would answer with an error: its status, its body's members, and of
    its headers those that say when to try again."""
    members = bytes(answer.body)[1:]
    headers = {name: value for name, value in answer.headers.items() if name.startswith(_WAITING)}
    if headers:
        members = b'%b,"headers":%b}}' % (members.removesuffix(b"}}"), msgspec.json.encode(headers))
    return text_message(in_lane(b'{"type":"error","status":%d,%b' % (answer.status_code, members), lane))
