"""Reads the calls of which a response's items show less than the model read.

Reads no more of a record than that, unless it is archived: a client that sends its history back names many
responses. `log/close.lua` writes them; a response that continues another reads them with its record.
"""

from collections.abc import Sequence

from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import archive
from shared.store.redis.client import RedisClient


async def read_unshown(
    redis: RedisClient, asked: Sequence[ResponseKey], bytes_max: int, unpacked_bytes_max: int
) -> tuple[list[bytes], list[bytes]]:
    """Returns the calls of stored responses, as JSON lists, and the packed records of archived ones.

    Reads the first that take at most `bytes_max` together. Of the records, the first that unpack to at most
    `unpacked_bytes_max`.
    """
    commands = [command for key in asked for command in _ask_sizes(key)]
    replies = await redis.transaction(*commands)
    chosen: list[tuple[bool, ResponseKey]] = []
    for key, place in zip(asked, range(0, len(replies), 3), strict=True):
        (store, compacted), unshown_bytes, record_bytes = replies[place : place + 3]
        size_bytes = record_bytes if compacted else unshown_bytes
        bytes_max -= size_bytes
        if store == b"1" and size_bytes and bytes_max >= 0:
            chosen.append((bool(compacted), key))
    if not chosen:
        return [], []
    found = await redis.transaction(
        *(
            ("HGET", keys.archive(key), archive.RECORD_FIELD)
            if is_archived
            else ("HGET", keys.state(key), "unshown")
            for is_archived, key in chosen
        )
    )
    lists = [read for (is_archived, _), read in zip(chosen, found, strict=True) if read and not is_archived]
    packed = [read for (is_archived, _), read in zip(chosen, found, strict=True) if read and is_archived]
    return lists, _within(packed, unpacked_bytes_max)


def _ask_sizes(key: ResponseKey) -> list[tuple[str, ...]]:
    return [
        ("HMGET", keys.state(key), "store", "compacted"),
        ("HSTRLEN", keys.state(key), "unshown"),
        ("HSTRLEN", keys.archive(key), archive.RECORD_FIELD),
    ]


def _within(packed: Sequence[bytes], unpacked_bytes_max: int) -> list[bytes]:
    kept: list[bytes] = []
    for record in packed:
        unpacked_bytes_max -= archive.record_bytes(record)
        if unpacked_bytes_max >= 0:
            kept.append(record)
    return kept
