"""Finds which calls were made by a response that was cancelled or has failed, for those that continue it.

Owns what counts as made; a call that was cut off while it ran may have been. The output of a cancelled
response is empty, as the hosted API's is, but what its calls did has happened, and a model that does not read
of them makes them again.
"""

from collections.abc import Collection, Sequence
from typing import get_args

import msgspec

from shared import events as ev
from shared.events import CallWritten, StreamEvent
from shared.frames import decode
from shared.hosted_tools import KINDS
from shared.input_items import InputItem
from shared.lifecycle import as_input
from shared.responses import Item, Response, ServerCall
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import event_log
from shared.store.log.event_log import Entry
from shared.store.log.unshown import read_unshown, unshown_records
from shared.store.redis.client import RedisClient

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


class MadeCalls:
    """The calls of one open response. What was read of its log is kept: a lease that was seized may lapse
    before a long log is read, and is then seized again."""

    def __init__(self, redis: RedisClient, key: ResponseKey) -> None:
        self._redis = redis
        self._key = key
        self._told: list[Entry] = []
        self._last = -1
        self._pages_left = _PAGES_MAX

    async def read_on(self) -> list[InputItem]:
        """Returns the calls that were made by now, as later responses read them; those that a tool runner has
        begun and the log does not end are incomplete. Reads what was added to the log since the last time."""
        while self._pages_left > 0:
            page = await event_log.read(self._redis, self._key, self._last, with_token_records=True)
            self._last += len(page.entries)
            self._told += [entry for entry in page.entries if _tells_of_call(entry.frame)]
            self._pages_left -= page.has_more
            if not page.has_more:
                break
        calls = calls_in(self._told)
        open_calls = {index: call for index, call in calls.items() if call.status not in _ENDED}
        begun = await _begun(self._redis, self._key, open_calls)
        return as_input(
            [calls[index] for index in sorted(calls) if index in begun or index not in open_calls]
        )


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


def calls_in(entries: Sequence[Entry]) -> dict[int, ServerCall]:
    """Returns the calls whose text is whole, by output_index."""
    calls: dict[int, ServerCall] = {}
    whole: set[int] = set()
    unshown = read_unshown(unshown_records(entries))
    for entry in entries:
        match decode(entry.frame):
            case ev.OutputItemAdded(output_index=index, item=item) if isinstance(item, ServerCall):
                calls[index] = msgspec.structs.replace(item, status="incomplete")
            case ev.OutputItemDone(output_index=index, item=item) if isinstance(item, ServerCall):
                calls[index] = unshown.get(index, item)
                (whole.add if item.status in _ENDED else whole.discard)(index)
            case CallWritten(output_index=index) as event if index in calls:
                call = calls[index]
                calls[index] = call.with_written(getattr(event, call.written_as))
                whole.add(index)
            case _:
                pass
    return {index: calls[index] for index in whole}
