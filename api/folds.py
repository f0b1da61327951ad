"""The current state of open responses: the fold of each log, cached and extended from poll to poll.

Owns the folds of this node, within the limits below. They are only a cache: a dropped fold is made again from
its log. A poll reads only new entries; concurrent polls share one read.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from api.offload import Offload
from shared.frames import decode, encode
from shared.lifecycle import fold, fold_on
from shared.responses import Response
from shared.store.keys import ResponseKey
from shared.store.log import event_log
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY

FOLDS_MAX = 128
FOLDS_BYTES_MAX = 64 * 2**20
"""The size of all folds' JSON; the decoded responses take about as much again. One fold is always kept."""


@dataclass(slots=True)
class _Fold:
    response: Response | None = None
    following: int = 0
    """The first sequence number that is not in `response`."""
    json: bytes = b""
    json_up_to: int = 0
    """JSON of the response when a reading last reached the log's end, and the value of `following` then."""
    is_closed: bool = False
    away: Exception | None = None
    """The error that ended the last reading, if any."""
    begun: int = 0
    ended: int = 0
    """The number of readings begun, and the number of the last one that has ended, successfully or not."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Folds:
    def __init__(self, redis: RedisClient, offload: Offload) -> None:
        self._redis = redis
        self._offload = offload
        self._folds: OrderedDict[ResponseKey, _Fold] = OrderedDict()

    async def read(self, key: ResponseKey) -> bytes:
        """Returns the JSON of a response, from a reading that began after this call; empty if the log is
        gone.

        Raises REDIS_AWAY, and IllegalEvent if the log is malformed.
        """
        kept = self._folds.setdefault(key, _Fold())
        self._folds.move_to_end(key)
        self._drop_oldest()
        begun = kept.begun
        async with kept.lock:
            if kept.ended <= begun:  # no reading that began after this call has ended
                await self._read_on(key, kept)
        if kept.away is not None:
            raise kept.away
        return kept.json

    def forget(self, key: ResponseKey) -> None:
        """Drops the fold of a closed response, whose snapshot replaces it."""
        self._folds.pop(key, None)

    async def _read_on(self, key: ResponseKey, kept: _Fold) -> None:
        kept.begun += 1
        number, kept.away = kept.begun, None
        try:
            await self._fold_on(key, kept)
        except REDIS_AWAY as away:
            kept.away = away  # for every waiting poll, since their own readings would fail too
        kept.ended = number
        if kept.is_closed or not kept.json:
            self.forget(key)
        self._drop_oldest()

    async def _fold_on(self, key: ResponseKey, kept: _Fold) -> None:
        """Folds new entries page by page, which lets others run in between and keeps what was read if one
        fails.

        A frame may echo megabytes of its request; such a page is decoded off the loop.
        """
        new_bytes = 0
        async for page in event_log.pages(self._redis, key, kept.following - 1):
            if page.is_missing:
                kept.json = b""
                return
            if page.entries:
                page_bytes = sum(len(entry.frame) for entry in page.entries)
                fold_page = partial(_fold_page, kept.response, page.entries)
                kept.response = await self._offload.run(page_bytes, fold_page)
                kept.following += len(page.entries)
                new_bytes += page_bytes
            kept.is_closed = page.is_closed
        if kept.response is not None and kept.json_up_to != kept.following:
            encode_response = partial(encode, kept.response)
            kept.json = await self._offload.run(len(kept.json) + new_bytes, encode_response)
            kept.json_up_to = kept.following

    def _drop_oldest(self) -> None:
        size_bytes = sum(len(kept.json) for kept in self._folds.values())
        while len(self._folds) > FOLDS_MAX or (size_bytes > FOLDS_BYTES_MAX and len(self._folds) > 1):
            _, dropped = self._folds.popitem(last=False)
            size_bytes -= len(dropped.json)


def _fold_page(response: Response | None, entries: Sequence[event_log.Entry]) -> Response:
    events = [decode(entry.frame) for entry in entries]
    return fold_on(response, events) if response is not None else fold(events)
