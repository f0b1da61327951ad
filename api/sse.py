"""Stored frames as a server-sent event stream over HTTP.

Owns headers, keep-alives and how a stream ends; frames pass through unread.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from sse_starlette import EventSourceResponse, ServerSentEvent

from api.errors import NodeEnding, StreamCut
from api.hub import LogGone, LogShorter
from shared.settings import KeepAliveForm, Settings
from shared.store.redis.connections import REDIS_AWAY

_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class _KeepAlive(ServerSentEvent):
    """A line of its own, without an empty line behind it: a well-known client, which keeps the last frame's
    id, takes the empty line for the end of an event without data, and fails on it."""

    def encode(self) -> bytes:
        return b": keep-alive\n"


class _KeepAliveEvent(ServerSentEvent):
    """For clients whose watchdogs see events only. It is none of the log: it has no number and no `id`, and
    so leaves what a client resumes from as it was."""

    def encode(self) -> bytes:
        return b'event: keepalive\ndata: {"type":"keepalive"}\n\n'


_KEEP_ALIVES: dict[KeepAliveForm, type[ServerSentEvent]] = {"comment": _KeepAlive, "event": _KeepAliveEvent}


def event_stream(
    frames: AsyncGenerator[bytes, None], settings: Settings, form: KeepAliveForm
) -> EventSourceResponse:
    """200 with `text/event-stream`; lines end in `\\n`, as one well-known parser needs."""
    return EventSourceResponse(
        _until_lost(frames),
        sep="\n",
        ping=settings.keep_alive_s,
        ping_message_factory=_KEEP_ALIVES[form],
        headers=_HEADERS,
    )


async def _until_lost(frames: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Raises StreamCut, between two frames, when the log cannot be read to its end here."""
    async with aclosing(frames):
        try:
            async for frame in frames:
                yield frame
        except NodeEnding:
            raise StreamCut("this node is ending") from None
        except LogGone:
            raise StreamCut("its log has vanished") from None
        except LogShorter as last:
            raise StreamCut(f"its log has ended at {last} already") from None
        except REDIS_AWAY as away:
            raise StreamCut(f"Redis is away ({away})") from None
