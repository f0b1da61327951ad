"""Finds which calls were made by a response that was cancelled or has failed, for those that continue it.

Owns what counts as made; a call that was cut off while it ran may have been. The output of a cancelled
response is empty, as the hosted API's is, but what its calls did has happened, and a model that does not read
of them makes them again.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Protocol, TypeVar, get_args

import msgspec

from shared import events as ev
from shared.events import CallWritten, StreamEvent
from shared.frames import decode
from shared.hosted_tools import KINDS
from shared.input_items import InputItem
from shared.lifecycle import as_input
from shared.responses import Item, Response, ServerCall
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import event_log
from shared.store.log.event_log import Entry
from shared.store.log.unshown import read_unshown, unshown_records
from shared.store.redis.client import RedisClient

_T = TypeVar("_T")
_PAGES_MAX = 100
"""How much of a log is read: a cancel must not take long. Calls after that are not found."""
_WRITTEN, _ITEMS = (
    tuple(
        f"event: {kind.__struct_config__.tag}\n".encode()
        for kind in get_args(StreamEvent)
        if issubclass(kind, told)
    )
    for told in (CallWritten, ev.OutputItemAdded | ev.OutputItemDone)
)
_KINDS = [f'"type":"{kind.__struct_config__.tag}"'.encode() for kind in get_args(ServerCall)]
_ENDED = ("completed", "failed")


class OffLoop(Protocol):
    """Runs work off the event loop, unless it is short; returns or raises what it does. `size_bytes`: of what
    it reads."""

    async def __call__(self, size_bytes: int, work: Callable[[], _T], /) -> _T: ...


class MadeCalls:
    """The calls of one open response. What was read of its log is kept: a lease that was seized may lapse
    before a long log is read, and is then seized again.

    Reading ends after half of `redis_timeout_s`, so that the other half is left for closing the response.
    """

    def __init__(
        self,
        redis: RedisClient,
        settings: Settings,
        key: ResponseKey,
        off_loop: OffLoop,
        now_s: Callable[[], float] | None = None,
    ) -> None:
        self._redis = redis
        self._key = key
        self._off_loop = off_loop
        self._found = FoundCalls(settings.context_bytes_max)
        self._last = -1
        self._pages_left = _PAGES_MAX
        self._now_s = now_s or asyncio.get_running_loop().time
        self._until_s = self._now_s() + settings.redis_timeout_s / 2

    async def read_on(self) -> list[msgspec.Raw]:
        """Returns JSON of the calls that were made by now, as later responses read them; those that a tool
        runner has begun and the log does not end are incomplete. Reads what was added to the log since the
        last time."""
        while self._pages_left > 0 and self._now_s() < self._until_s:
            page = await event_log.read(self._redis, self._key, self._last, with_token_records=True)
            self._last += len(page.entries)
            told = [entry for entry in page.entries if _tells_of_call(entry.frame)]
            size_bytes = sum(len(entry.frame) + len(entry.token_record) for entry in told)
            await self._off_loop(size_bytes, partial(self._found.read, told))
            self._pages_left -= page.has_more
            if not page.has_more:
                break
        return self._found.made(await _begun(self._redis, self._key, self._found.open))


class FoundCalls:
    """Collects, from the entries that tell of calls, page by page, the calls whose text is whole: JSON of at
    most `bytes_max`. One whose result would exceed it is incomplete."""

    def __init__(self, bytes_max: int) -> None:
        self._left_bytes = bytes_max
        self._being_written: dict[int, ServerCall] = {}
        self._unshown: dict[int, ServerCall] = {}
        self._kept: dict[int, bytes] = {}
        self.open: set[int] = set()
        """The output_index of each call that has not ended."""

    def read(self, entries: Sequence[Entry]) -> None:
        self._unshown |= read_unshown(unshown_records(entries))
        for entry in entries:
            match decode(entry.frame):
                case ev.OutputItemAdded(output_index=index, item=item) if isinstance(item, ServerCall):
                    self._being_written[index] = item
                case CallWritten(output_index=index) as event if index in self._being_written:
                    call = self._being_written.pop(index)
                    self.open.add(index)
                    written = call.with_written(getattr(event, call.written_as))
                    self._keep(index, msgspec.structs.replace(written, status="incomplete"))
                case ev.OutputItemDone(output_index=index, item=item) if isinstance(item, ServerCall):
                    self._end(index, self._unshown.pop(index, item))
                case _:
                    pass

    def _end(self, index: int, call: ServerCall) -> None:
        self.open.discard(index)
        self._being_written.pop(index, None)
        if call.status in _ENDED:
            self._keep(index, call)
        else:  # it was cut off while it was written
            self._left_bytes += len(self._kept.pop(index, b""))

    def _keep(self, index: int, call: ServerCall) -> None:
        encoded = msgspec.json.encode(*as_input([call]))
        left_bytes = self._left_bytes + len(self._kept.get(index, b"")) - len(encoded)
        if left_bytes >= 0:
            self._kept[index], self._left_bytes = encoded, left_bytes

    def made(self, begun: Collection[int]) -> list[msgspec.Raw]:
        """Returns JSON of the calls, in their order. `begun`: which of those that are open were begun."""
        left_out = self.open.difference(begun)
        return [msgspec.Raw(self._kept[index]) for index in sorted(self._kept) if index not in left_out]


async def calls_cut_off(redis: RedisClient, key: ResponseKey, output: Sequence[Item]) -> list[InputItem]:
    """Returns the calls of a failed response that a tool runner had begun when they were cut off, as later
    responses read them."""
    cut_off = {
        index: item
        for index, item in enumerate(output)
        if isinstance(item, ServerCall) and item.status not in _ENDED
    }
    begun = await _begun(redis, key, cut_off)
    return as_input([item for index, item in cut_off.items() if index in begun])


async def _begun(redis: RedisClient, key: ResponseKey, indices: Collection[int]) -> set[int]:
    if not indices:
        return set()
    journal = set(await redis.command("HKEYS", keys.tools(key)))
    return {index for index in indices if not journal.isdisjoint(_signs_of_run(index))}


def _signs_of_run(index: int) -> tuple[bytes, ...]:
    """Returns the fields of the tool journal of which a call that was begun has one."""
    return tuple(f"{index}:{name}".encode() for name in ("claim", "result"))


def may_have_calls(response: Response) -> bool:
    """Returns True if calls of the response run here, and another response may read of them."""
    kinds = {tool.get("type") for tool in response.tools}
    return response.store and not kinds.isdisjoint({"mcp", *KINDS})


def _tells_of_call(frame: bytes) -> bool:
    is_item = frame.startswith(_ITEMS) and any(kind in frame for kind in _KINDS)
    return is_item or frame.startswith(_WRITTEN)
