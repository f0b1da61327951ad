"""Conversations as Redis keeps them: a head, and items in order, until nobody has touched them for long.

Owns their scripts; each change is one of them, and reading counts as a touch too. What a response adds
at its end is written when its log is closed (`shared/store/log/close.lua`). Knows JSON bytes only.
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
    """What a response reads of its conversation."""

    items: Sequence[bytes]
    """JSON of each, oldest first."""
    place: bytes
    """Of the last item that joined it."""


Missing = Literal["missing"]
"""There is no such conversation, or no more."""
Unknown = Literal["unknown"]
"""The conversation has no such item."""


async def add(
    redis: RedisClient,
    settings: Settings,
    key: ConversationKey,
    items: Sequence[tuple[str, bytes]],
    birth: Head | None = None,
) -> Missing | Literal["ok", "taken", "full"]:
    """Adds items (id, JSON), all or none; with `birth`, makes the conversation for them.

    `taken`: it has an item of that id. `full`: it would have more bytes than `context_bytes_max`.
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
            created_at="" if birth is None else birth.created_at,
            metadata=b"" if birth is None else birth.metadata,
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
    """Replaces the metadata."""
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
    """Whether there was such a conversation. The responses that made its items stay as they are."""
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
    """At most `limit` items after the one of that id, or from the beginning (empty)."""
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
    """JSON of the item."""
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
    """All items and the place of the last, at one moment."""
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
    """Replies to the commands, and then of what keeps the conversation."""
    touches = [("PEXPIRE", name, _ttl_ms(settings)) for name in _keys_of(key)]
    return await redis.transaction(*commands, *touches)


def _ttl_ms(settings: Settings) -> int:
    return settings.conversation_retention_s * 1000


def _keys_of(key: ConversationKey) -> list[str]:
    return [keys.conversation(key), keys.conversation_items(key), keys.conversation_order(key)]
