"""Stores conversations in Redis: a head, and items in order, until they have gone unused for long enough.

Owns their scripts; each change is a single script, and reading extends the TTL too.
`shared/store/log/close.lua` adds a response's items when it closes the log. Knows JSON bytes only.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ConversationKey
from shared.store.redis.client import RedisClient
from shared.store.redis.scripts import Argument, LuaScript

_ADD = LuaScript("records/conversation_add", is_confirmed=True)
_UPDATE = LuaScript("records/conversation_update", is_confirmed=True)
_REMOVE = LuaScript("records/conversation_remove", is_confirmed=True)
_LIST = LuaScript("records/conversation_list")


@dataclass(frozen=True, slots=True)
class Head:
    created_at: int
    """Seconds since the epoch."""
    metadata: bytes
    """JSON."""


@dataclass(frozen=True, slots=True)
class ItemPage:
    items: Sequence[bytes]
    """JSON of each."""
    has_more: bool


@dataclass(frozen=True, slots=True)
class Context:
    """A conversation as a new response reads it."""

    items: Sequence[bytes]
    """JSON of each, oldest first."""
    place: bytes
    """The place of its last item."""


Missing = Literal["missing"]
"""The conversation does not exist, or has expired or been deleted."""
Unknown = Literal["unknown"]
"""The conversation has no such item."""


async def add(
    redis: RedisClient,
    settings: Settings,
    key: ConversationKey,
    items: Sequence[tuple[str, bytes]],
    new_head: Head | None = None,
) -> Missing | Literal["ok", "taken", "full"]:
    """Adds items (id, JSON), all or none; with `new_head`, creates the conversation if it does not exist.

    Returns `taken` if it has an item with one of these ids, `full` if it would exceed `context_bytes_max`.
    """
    reply = await redis.run(
        _ADD(
            *(part for item in items for part in item),
            conversation=keys.conversation(key),
            items=keys.conversation_items(key),
            order=keys.conversation_order(key),
            ttl_ms=_ttl_ms(settings),
            call=secrets.token_hex(8),
            bytes_max=settings.context_bytes_max,
            created_at="" if new_head is None else new_head.created_at,
            metadata=b"" if new_head is None else new_head.metadata,
        )
    )
    match reply:
        case [b"ok"]:
            return "ok"
        case [b"missing"]:
            return "missing"
        case [b"taken"]:
            return "taken"
        case [b"full"]:
            return "full"
        case _:
            raise RuntimeError(f"conversation_add answered {reply!r}")


async def read_head(redis: RedisClient, settings: Settings, key: ConversationKey) -> Head | Missing:
    (created_at, metadata), *_ = await _read(
        redis, settings, key, ("HMGET", keys.conversation(key), "created_at", "metadata")
    )
    return "missing" if created_at is None else Head(int(created_at), metadata)


async def update(
    redis: RedisClient, settings: Settings, key: ConversationKey, metadata: bytes
) -> Head | Missing:
    """Replaces the metadata (JSON); returns the new head."""
    reply = await redis.run(
        _UPDATE(
            conversation=keys.conversation(key),
            items=keys.conversation_items(key),
            order=keys.conversation_order(key),
            ttl_ms=_ttl_ms(settings),
            metadata=metadata,
        )
    )
    match reply:
        case [created_at, kept]:
            return Head(int(created_at), kept)
        case []:
            return "missing"
        case _:
            raise RuntimeError(f"conversation_update answered {reply!r}")


async def delete(redis: RedisClient, key: ConversationKey) -> bool:
    """Deletes a conversation; returns whether it existed. The responses that made its items are kept."""
    is_known, _ = await redis.transaction(("EXISTS", keys.conversation(key)), ("DEL", *_keys_of(key)))
    return bool(is_known)


async def list_items(
    redis: RedisClient,
    settings: Settings,
    key: ConversationKey,
    after: str,
    limit: int,
    *,
    is_newest_first: bool,
) -> ItemPage | Missing | Unknown:
    """Returns at most `limit` items after the one with the id `after`, or from the beginning (empty)."""
    reply = await redis.run(
        _LIST(
            conversation=keys.conversation(key),
            items=keys.conversation_items(key),
            order=keys.conversation_order(key),
            ttl_ms=_ttl_ms(settings),
            after=after,
            limit=limit,
            newest_first=int(is_newest_first),
        )
    )
    match reply:
        case [b"ok", has_more, *items]:
            return ItemPage(items, bool(has_more))
        case [b"missing"]:
            return "missing"
        case [b"unknown"]:
            return "unknown"
        case _:
            raise RuntimeError(f"conversation_list answered {reply!r}")


async def read_item(
    redis: RedisClient, settings: Settings, key: ConversationKey, item_id: str
) -> bytes | Missing | Unknown:
    """Returns the item's JSON."""
    is_known, item, *_ = await _read(
        redis,
        settings,
        key,
        ("EXISTS", keys.conversation(key)),
        ("HGET", keys.conversation_items(key), item_id),
    )
    if not is_known:
        return "missing"
    return "unknown" if item is None else bytes(item)


async def remove_item(
    redis: RedisClient, settings: Settings, key: ConversationKey, item_id: str
) -> Head | Missing | Unknown:
    """Removes an item; returns the conversation's head."""
    reply = await redis.run(
        _REMOVE(
            conversation=keys.conversation(key),
            items=keys.conversation_items(key),
            order=keys.conversation_order(key),
            ttl_ms=_ttl_ms(settings),
            item_id=item_id,
        )
    )
    match reply:
        case [b"ok", created_at, metadata]:
            return Head(int(created_at), metadata)
        case [b"missing"]:
            return "missing"
        case [b"unknown"]:
            return "unknown"
        case _:
            raise RuntimeError(f"conversation_remove answered {reply!r}")


async def read_context(redis: RedisClient, settings: Settings, key: ConversationKey) -> Context | Missing:
    """Returns all items and the place of the last one, as of one moment."""
    place, order, items, *_ = await _read(
        redis,
        settings,
        key,
        ("HGET", keys.conversation(key), "next"),
        ("ZRANGE", keys.conversation_order(key), 0, -1),
        ("HGETALL", keys.conversation_items(key)),
    )
    return "missing" if place is None else Context([items[item_id] for item_id in order], place)


async def _read(
    redis: RedisClient, settings: Settings, key: ConversationKey, *commands: Sequence[Argument]
) -> list[Any]:
    """Runs the commands and extends the TTLs; returns the replies, those of the commands first."""
    touches = [("PEXPIRE", name, _ttl_ms(settings)) for name in _keys_of(key)]
    return await redis.transaction(*commands, *touches)


def _ttl_ms(settings: Settings) -> int:
    return settings.conversation_retention_s * 1000


def _keys_of(key: ConversationKey) -> list[str]:
    return [keys.conversation(key), keys.conversation_items(key), keys.conversation_order(key)]
