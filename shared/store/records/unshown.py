"""Reads the calls of which a response's items show less than the model read.

Reads no more of a record than that, unless it is archived: a client that sends its history back names many
responses. `log/close.lua` writes them; a response that continues another reads them with its record.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import archive
from shared.store.redis.client import RedisClient


async def read_unshown(
    redis: RedisClient, asked: Sequence[ResponseKey], archives_bytes_max: int
) -> tuple[list[bytes], list[bytes]]:
    """Returns the calls of stored responses, as JSON lists, and the packed records of archived ones.

    Of archived ones, the first that take at most `archives_bytes_max` together.
    """
    fields = ("store", "unshown", "compacted")
    states = await redis.transaction(*(("HMGET", keys.state(key), *fields) for key in asked))
    stored = [(key, *state[1:]) for key, state in zip(asked, states, strict=True) if state[0] == b"1"]
    archived = [key for key, _, compacted in stored if compacted]
    totals = accumulate(await _ask_archives(redis, "HSTRLEN", archived))
    read = [key for key, total in zip(archived, totals, strict=True) if total <= archives_bytes_max]
    packed = await _ask_archives(redis, "HGET", read)
    return [unshown for _, unshown, _ in stored if unshown], [record for record in packed if record]


async def _ask_archives(redis: RedisClient, command: str, asked: Sequence[ResponseKey]) -> list[Any]:
    if not asked:
        return []
    return await redis.transaction(*((command, keys.archive(key), archive.RECORD_FIELD) for key in asked))
