"""The bytes of stream events: how they are stored, and then relayed unparsed.

Owns what a frame is: an event with the number that the log gives it (docs/adr/0003-encode-once.md).
`events.py` owns what events say; `delta_frames.py` makes the same bytes for deltas, faster.
"""

import msgspec

from shared.events import StreamEvent

SSE_ENCODING = "utf-8"

_LINE_ENDS = tuple((end.encode(), rb"\u%04x" % ord(end)) for end in "\x85\u2028\u2029")
"""Next line, line separator, paragraph separator: Unicode's line ends, which JSON may contain unescaped."""

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[StreamEvent] = msgspec.json.Decoder(StreamEvent)


def encode(value: object) -> bytes:
    """Returns JSON on a single line, also for readers that break lines at characters JSON need not escape."""
    body = _encoder.encode(value)
    return body if body.isascii() else _escape_line_ends(body)


def _escape_line_ends(body: bytes) -> bytes:
    """Escapes Unicode's line ends. In UTF-8, their bytes occur nowhere else, so bytes can be replaced."""
    for raw, escaped in _LINE_ENDS:
        if raw[-1] in body:  # one byte is found many times as fast as three, and is mostly absent
            body = body.replace(raw, escaped)
    return body


def frame(event: StreamEvent, sequence_number: int) -> bytes:
    """Returns the event as a server-sent event, with its JSON on one `data:` line.

    Lines end in `\\n`; `id:` repeats the number for clients that resume by Last-Event-ID.
    """
    name = event.__struct_config__.tag
    body = encode(event)
    return b'event: %b\nid: %d\ndata: %b,"sequence_number":%d}\n\n' % (
        str(name).encode(SSE_ENCODING),
        sequence_number,
        body[:-1],
        sequence_number,
    )


def is_queued(stored: bytes) -> bool:
    """Returns True if a stored frame is `response.queued`, which only the API writes."""
    return stored.startswith(b"event: response.queued\n")


class _Status(msgspec.Struct):
    status: str


class _EndOfLog(msgspec.Struct):
    response: _Status


_ENDINGS = {b"response.completed": "completed", b"response.incomplete": "incomplete"}
_read_ending = msgspec.json.Decoder(_EndOfLog).decode


def status_at_end(frames: bytes) -> str | None:
    """Returns the status that the last of these frames reports, or None if it does not end a response."""
    start = frames.rfind(b"\n\nevent: ", 0, -2) + 2 if b"\n\nevent: " in frames else 0
    name = frames[start + 7 : frames.find(b"\n", start)]
    if name == b"response.failed":  # also of a response that was cancelled
        return _read_ending(data_of(frames[start:])).response.status
    return _ENDINGS.get(name)


def data_of(stored: bytes) -> bytes:
    """Returns the JSON within a stored frame, for folding a log; a relay never calls it."""
    start = stored.index(b"\ndata: ") + 7
    return stored[start:-2]


def decode(stored: bytes) -> StreamEvent:
    """Returns the event within a stored frame. Raises msgspec.DecodeError for what `frame` did not make."""
    return _decoder.decode(data_of(stored))
