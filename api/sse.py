"""Stored frames as a server-sent event stream over HTTP.

Owns headers, keep-alive comments and the end of a stream at shutdown; frames pass through unread.
"""

from collections.abc import AsyncGenerator

from sse_starlette import EventSourceResponse, ServerSentEvent

from shared.settings import Settings

_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def event_stream(frames: AsyncGenerator[bytes, None], settings: Settings) -> EventSourceResponse:
    """200 with `text/event-stream`; lines end in `\\n`, as one well-known parser needs."""
    return EventSourceResponse(
        frames,
        sep="\n",
        ping=settings.keep_alive_s,
        ping_message_factory=lambda: ServerSentEvent(comment="keep-alive", sep="\n"),
        headers=_HEADERS,
    )
