"""Ends responses that no attempt ends: as failed, or as cancelled because their client has left for good.

Owns what is read of a log for that, and that it is folded off the event loop; `ownership.py` decides when.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from shared import lifecycle
from shared.events import ResponseFailed, StreamEvent
from shared.frames import decode, frame
from shared.lifecycle import TerminalEvent, abandon, fold
from shared.responses import Response, ResponseError, Usage
from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.log import event_log
from shared.store.log.closing import (
    WholeAnswer,
    cancel,
    closing_of,
    closing_with_answer,
    end_at_once,
    end_with_answer,
)
from shared.store.log.made_calls import calls_cut_off
from shared.store.log.response_log import Closing, NewEntry
from shared.store.log.unshown import read_unshown, unshown_records
from shared.store.owning.lease import Lease, LeaseLost
from shared.store.records import response_store
from shared.store.redis.connections import REDIS_AWAY
from shared.usage import complete_usage, counted_entries
from worker.response.meter import count_end
from worker.response.resources import Resources

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


class Failing:
    def __init__(self, resources: Resources, owner: str) -> None:
        self._resources = resources
        self._owner = owner

    async def fail(self, held: Lease, error: ResponseError) -> None:
        """Closes a response as failed, continuing its log as it stands; or with its answer, if that was whole
        before its context was compacted.

        Raises LeaseLost if the log is closed or gone, REDIS_AWAY.
        """
        redis = self._resources.redis
        frames, tokens, unshown = list[bytes](), list[int](), list[bytes]()
        async for page in event_log.pages(redis, held.key, with_token_records=True):
            if page.is_closed or page.is_missing:
                raise LeaseLost(f"{held}: closed already")
            frames += [entry.frame for entry in page.entries]
            tokens += [len(entry.tokens) for entry in page.entries]
            unshown += unshown_records(page.entries)
        noted, answered = await response_store.read_noted(redis, held.key)
        usage = complete_usage(noted, sum(tokens[counted_entries(noted) :]))
        log = self._resources.appender.log_of(held.key)
        size_bytes = sum(map(len, frames)) + sum(map(len, unshown)) + len(answered)
        tenant, settings = held.key.tenant, self._resources.settings
        ended = await self._off_loop(
            size_bytes, lambda: _end_with_answer(answered, frames, usage, tenant, settings)
        )
        if ended is not None:
            _log.warning("%s: ends with its answer, but %s", held.key, error.message)
            event, entries, closing = ended
        else:
            entries, event = await self._off_loop(size_bytes, lambda: _fail_after(frames, usage, error))
            made = await calls_cut_off(redis, held.key, event.response.output)
            closing = await self._off_loop(
                size_bytes,
                lambda: closing_of(event, tenant, settings, unshown=read_unshown(unshown), made=made),
            )
        await self._resources.appender.write(log.close(held.proof, len(frames), entries, closing))
        count_end(event.response)

    async def fail_if_possible(self, held: Lease, reason: str) -> None:
        error = ResponseError("server_error", reason)
        try:
            await self.fail(held, error)
        except (LeaseLost, *REDIS_AWAY) as lost:
            _log.warning("%s: could not be closed as failed: %s", held.key, lost)
        except Exception:  # noqa: BLE001  its log cannot be read: close it without, or it is retried for ever
            _log.exception("%s: the log cannot be folded", held.key)
            await self._end_bluntly(held.key, error)

    async def _end_bluntly(self, key: ResponseKey, error: ResponseError) -> None:
        def make_event(response: Response) -> ResponseFailed:
            return lifecycle.fail(response, error)

        redis, settings = self._resources.redis, self._resources.settings
        try:
            await end_at_once(redis, settings, key, self._owner, make_event, self._off_loop)
        except REDIS_AWAY as away:
            _log.warning("%s: could not be closed: %s", key, away)

    async def cancel_abandoned(self, key: ResponseKey) -> None:
        """Cancels a foreground response whose client disconnected and did not come back."""
        try:
            await cancel(self._resources.redis, self._resources.settings, key, self._owner, self._off_loop)
        except REDIS_AWAY as away:
            _log.warning("%s: not cancelled, Redis is unavailable: %s", key, away)

    async def _off_loop(self, size_bytes: int, work: Callable[[], _T]) -> _T:
        return await self._resources.stepper.call(work, size_bytes)


def _end_with_answer(
    stored: bytes, frames: Sequence[bytes], usage: Usage | None, tenant: str, settings: Settings
) -> tuple[TerminalEvent, list[NewEntry], Closing] | None:
    """Returns how a log of these frames is closed with the answer stored beside it; None if there is none, or
    not all of it is in the log."""
    answered = msgspec.json.decode(stored, type=WholeAnswer) if stored else None
    if answered is None or answered.entries > len(frames):
        return None
    event = end_with_answer(answered, frames[answered.entries :], usage)
    entries = [NewEntry(frame(event, len(frames)))]
    return event, entries, closing_with_answer(answered, event, tenant, settings)


def _fail_after(
    frames: Sequence[bytes], usage: Usage | None, error: ResponseError
) -> tuple[list[NewEntry], ResponseFailed]:
    """Returns the entries that close a log of these frames as failed, and the terminal event, their last."""
    events: list[StreamEvent] = [decode(stored) for stored in frames]
    response = msgspec.structs.replace(fold(events), usage=usage)
    ending = abandon(events)
    for event in ending:
        response = lifecycle.apply(response, event)
    failed = lifecycle.fail(response, error)
    added = [*ending, *lifecycle.error_events(error), failed]
    return [NewEntry(frame(event, len(events) + i)) for i, event in enumerate(added)], failed
