"""Open responses as they are now: the fold of each log, kept and carried on from poll to poll.

Owns the folds of this node, in a bound that is stated below, and never more than what a log says: a fold
that was dropped is folded again. A poll reads only new entries; concurrent polls share one read.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from api.offload import Offload
from shared.events import decode, encode
from shared.lifecycle import fold, fold_on
from shared.responses import Response
from shared.store.keys import ResponseKey
from shared.store.log import event_log
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY

FOLDS_MAX = 128
FOLDS_BYTES_MAX = 64 * 2**20
"""Of all folds' JSON together; the decoded responses take about as much again. One is always kept."""


@dataclass(slots=True)
class _Fold:
    response: Response | None = None
    following: int = 0
    """The first sequence number that is not in `response`."""
    told: bytes = b""
    told_up_to: int = 0
    """JSON of the response when a reading last came to the log's end, and where that was."""
    is_closed: bool = False
    away: Exception | None = None
    """Why the last reading did not come to an end."""
    begun: int = 0
    ended: int = 0
    """How many readings have begun, and the number of the last that has ended, well or not."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Folds:
    def __init__(self, redis: RedisClient, offload: Offload) -> None:
        self._redis = redis
        self._offload = offload
        self._folds: OrderedDict[ResponseKey, _Fold] = OrderedDict()

    async def tell(self, key: ResponseKey) -> bytes:
        """Returns the JSON of a response, folded from its log after the call began; empty if it has vanished.

        Raises REDIS_AWAY, and IllegalEvent if the log is not one.
        """
        kept = self._folds.setdefault(key, _Fold())
        self._folds.move_to_end(key)
        self._drop_oldest()
        begun = kept.begun
        async with kept.lock:
            if kept.ended <= begun:  # no reading has begun since the call and come to its end
                await self._read_on(key, kept)
        if kept.away is not None:
            raise kept.away
        return kept.told

    def forget(self, key: ResponseKey) -> None:
        """Drops the fold of a closed response: its snapshot has everything."""
        self._folds.pop(key, None)

    async def _read_on(self, key: ResponseKey, kept: _Fold) -> None:
        kept.begun += 1
        number, kept.away = kept.begun, None
        try:
            await self._fold_on(key, kept)
        except REDIS_AWAY as away:
            kept.away = away  # for all who wait: they would not fare better one by one
        kept.ended = number
        if kept.is_closed or not kept.told:
            self.forget(key)
        self._drop_oldest()

    async def _fold_on(self, key: ResponseKey, kept: _Fold) -> None:
        """Page by page: others have their turn in between, and what was read is not read again. A frame may
        echo megabytes of its request, and is then taken apart off the loop."""
        new_bytes = 0
        async for page in event_log.pages(self._redis, key, kept.following - 1):
            if page.is_missing:
                kept.told = b""
                return
            if page.entries:
                page_bytes = sum(len(entry.frame) for entry in page.entries)
                fold_page = partial(_fold_page, kept.response, page.entries)
                kept.response = await self._offload.run(page_bytes, fold_page)
                kept.following += len(page.entries)
                new_bytes += page_bytes
            kept.is_closed = page.is_closed
        if kept.response is not None and kept.told_up_to != kept.following:
            tell = partial(encode, kept.response)
            kept.told = await self._offload.run(len(kept.told) + new_bytes, tell)
            kept.told_up_to = kept.following

    def _drop_oldest(self) -> None:
        size_bytes = sum(len(kept.told) for kept in self._folds.values())
        while len(self._folds) > FOLDS_MAX or (size_bytes > FOLDS_BYTES_MAX and len(self._folds) > 1):
            _, dropped = self._folds.popitem(last=False)
            size_bytes -= len(dropped.told)


def _fold_page(response: Response | None, entries: Sequence[event_log.Entry]) -> Response:
    events = [decode(entry.frame) for entry in entries]
    return fold_on(response, events) if response is not None else fold(events)
