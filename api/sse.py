"""Sends stored frames as a server-sent event stream over HTTP.

Owns headers, keep-alives and how a stream ends; frames pass through unparsed.
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
    """A comment line without an empty line after it, which a well-known client would take for the end of an
    event without data, and fail on."""

    def encode(self) -> bytes:
        return b": keep-alive\n"


class _KeepAliveEvent(ServerSentEvent):
    """An event for clients whose watchdogs ignore comments. It is not part of the log: without a number and
    an `id`, it does not change the cursor from which a client resumes."""

    def encode(self) -> bytes:
        return b'event: keepalive\ndata: {"type":"keepalive"}\n\n'


_KEEP_ALIVES: dict[KeepAliveForm, type[ServerSentEvent]] = {"comment": _KeepAlive, "event": _KeepAliveEvent}


def event_stream(
    frames: AsyncGenerator[bytes, None], settings: Settings, form: KeepAliveForm
) -> EventSourceResponse:
    """Returns a 200 with `text/event-stream`; lines end in `\\n`, as one well-known parser requires."""
    return EventSourceResponse(
        _until_lost(frames),
        sep="\n",
        ping=settings.keep_alive_s,
        ping_message_factory=_KEEP_ALIVES[form],
        headers=_HEADERS,
    )


async def _until_lost(frames: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yields the frames; raises StreamCut, between two frames, if the log cannot be read to its end."""
    async with aclosing(frames):
        try:
            async for frame in frames:
                yield frame
        except NodeEnding:
            raise StreamCut("this node is shutting down") from None
        except LogGone:
            raise StreamCut("its log is gone") from None
        except LogShorter as last:
            raise StreamCut(f"its log ends at {last}, before the cursor") from None
        except REDIS_AWAY as away:
            raise StreamCut(f"Redis is unavailable ({away})") from None
