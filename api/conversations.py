"""Conversations: ordered items that many responses share.

Owns what may be added and how they are reported; `shared/store/records/conversations.py` stores them, and the
worker renders their items for the model.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from api import context
from api.bodies import item_relations
from api.bodies.input_items import adopt_items, read_items
from api.bodies.json_body import decode_object
from api.bodies.validation import ClosedShape, Metadata, S, check
from api.errors import (
    ClientError,
    after_not_found,
    conversation_not_found,
    invalid_value,
    item_not_found,
    missing_parameter,
)
from api.offload import Offload
from api.paging import PageRequest, join_list, list_stored, unlisted_bytes
from shared import ids
from shared.input_items import AskedItem, InputItem
from shared.sealing import COMPACTION
from shared.settings import Settings
from shared.store.keys import ConversationKey
from shared.store.records import conversations
from shared.store.records.conversations import Context, Head
from shared.store.redis.client import RedisClient

ITEMS_MAX = 20
"""The number of items that one call may add."""

_ID, _ITEM_ID = "conversation_id", "item_id"
"""The API's names for the parts of a path."""
_TAKEN = "item_already_in_conversation"


class _CreateBody(ClosedShape):
    items: Any = None
    metadata: Metadata | None = None


class _UpdateBody(ClosedShape):
    metadata: Metadata | None


class _AddBody(ClosedShape):
    items: Any = None


class Conversations:
    """Creates, reads and changes conversations.

    All methods raise ClientError for unknown ids and invalid bodies, and REDIS_AWAY.
    """

    def __init__(
        self, redis: RedisClient, offload: Offload, settings: Settings, clock: Callable[[], float]
    ) -> None:
        """`clock` returns seconds since the epoch."""
        self._redis = redis
        self._offload = offload
        self._settings = settings
        self._clock = clock

    # --- the conversation -----------------------------------------------------------------------

    async def create(self, tenant: str, raw: bytes) -> dict[str, Any]:
        """Creates a conversation from a body, which may be empty; returns the conversation object."""
        async with self._offload.in_hand(len(raw)):
            return await self._create(tenant, raw)

    async def _create(self, tenant: str, raw: bytes) -> dict[str, Any]:
        body = await self._read_body(_CreateBody, raw or b"{}")
        items: list[InputItem] = []
        if body.items is not None:
            items = await self._read_items(tenant, body.items, len(raw))
            item_relations.check_answers(items, (), "items")
        key = ConversationKey(tenant, ids.new_conversation_id(self._settings.cell))
        head = Head(int(self._clock()), msgspec.json.encode(body.metadata or {}))
        await self._add(key, items, await self._encode(items, len(raw)), head)
        return _object_of(key, head)

    async def retrieve(self, tenant: str, conversation_id: str) -> dict[str, Any]:
        """Returns the conversation object."""
        key = _key_of(tenant, conversation_id)
        head = await conversations.read_head(self._redis, self._settings, key)
        if head == "missing":
            raise conversation_not_found(conversation_id, _ID)
        return _object_of(key, head)

    async def update(self, tenant: str, conversation_id: str, raw: bytes) -> dict[str, Any]:
        """Replaces all metadata; returns the conversation object."""
        key = _key_of(tenant, conversation_id)
        body = await self._read_body(_UpdateBody, raw)
        metadata = msgspec.json.encode(body.metadata or {})
        head = await conversations.update(self._redis, self._settings, key, metadata)
        if head == "missing":
            raise conversation_not_found(conversation_id, _ID)
        return _object_of(key, head)

    async def delete(self, tenant: str, conversation_id: str) -> None:
        """Deletes a conversation and its items; the responses that made them are kept."""
        key = _key_of(tenant, conversation_id)
        if not await conversations.delete(self._redis, key):
            raise conversation_not_found(conversation_id, _ID)

    # --- its items ------------------------------------------------------------------------------

    async def add_items(self, tenant: str, conversation_id: str, raw: bytes) -> bytes:
        """Adds the items of a body, all or none; returns the JSON of a list of them as stored."""
        key = _key_of(tenant, conversation_id)
        async with self._offload.in_hand(len(raw)):
            return await self._add_items(tenant, key, raw)

    async def _add_items(self, tenant: str, key: ConversationKey, raw: bytes) -> bytes:
        body = await self._read_body(_AddBody, raw)
        if body.items is None:
            raise missing_parameter("items")
        if body.items == []:
            raise invalid_value("items", "it should hold at least one item")
        items = await self._read_items(tenant, body.items, len(raw))
        if item_relations.find_orphan(items) is not None:
            kept = (await self.read_context(key, _ID)).items
            size_bytes = sum(map(len, kept))
            await self._offload.run(
                size_bytes, lambda: item_relations.check_answers(items, _decode(kept), "items")
            )
        encoded = await self._encode(items, len(raw))
        await self._add(key, items, encoded)
        return join_list(await self._list(encoded), items[0].id or None, items[-1].id or None)

    async def list_items(self, tenant: str, conversation_id: str, page: PageRequest) -> bytes:
        """Returns the JSON of a list: a page of the items as stored."""
        key = _key_of(tenant, conversation_id)
        found = await conversations.list_items(
            self._redis,
            self._settings,
            key,
            page.after or "",
            page.limit,
            is_newest_first=page.order == "desc",
        )
        if found == "missing":
            raise conversation_not_found(conversation_id, _ID)
        if found == "unknown":
            raise after_not_found(page.after or "")
        first, last = (_id_of(found.items[place]) if found.items else None for place in (0, -1))
        return join_list(await self._list(found.items), first, last, has_more=found.has_more)

    async def find_item(self, tenant: str, conversation_id: str, item_id: str) -> bytes:
        """Returns the JSON of the item as stored."""
        key = _key_of(tenant, conversation_id)
        item = await conversations.read_item(self._redis, self._settings, key, item_id)
        if item == "missing":
            raise conversation_not_found(conversation_id, _ID)
        if item == "unknown":
            raise item_not_found(item_id, _ITEM_ID)
        return (await self._list([item]))[0]

    async def remove_item(self, tenant: str, conversation_id: str, item_id: str) -> dict[str, Any]:
        """Removes an item; returns the conversation object."""
        key = _key_of(tenant, conversation_id)
        head = await conversations.remove_item(self._redis, self._settings, key, item_id)
        if head == "missing":
            raise conversation_not_found(conversation_id, _ID)
        if head == "unknown":
            raise item_not_found(item_id, _ITEM_ID)
        return _object_of(key, head)

    async def read_context(self, key: ConversationKey, param: str = "conversation") -> Context:
        """Returns all items of a conversation. `param`: the field to name if it does not exist."""
        if not ids.is_conversation_id(key.conversation_id):
            raise conversation_not_found(key.conversation_id, param)
        read = await conversations.read_context(self._redis, self._settings, key)
        if read == "missing":
            raise conversation_not_found(key.conversation_id, param)
        return read

    async def _list(self, items: Sequence[bytes]) -> list[bytes]:
        return await self._offload.run(unlisted_bytes(items), lambda: list_stored(items))

    # --- beneath --------------------------------------------------------------------------------

    async def _read_body(self, shape: type[S], raw: bytes) -> S:
        values_max = self._settings.json_values_max
        return await self._offload.run(len(raw), lambda: check(shape, decode_object(raw, values_max)))

    async def _read_items(self, tenant: str, value: object, raw_bytes: int) -> list[InputItem]:
        """Returns the items of a body as they will be stored, with ids and with references resolved."""
        items = await self._offload.run(raw_bytes, lambda: self._adopt(value))
        referenced = await context.read_references(
            self._redis, self._offload, self._settings, tenant, items, "items"
        )
        size_bytes = raw_bytes + sum(map(len, referenced.values()))
        return await self._offload.run(size_bytes, lambda: self._resolve(tenant, items, referenced))

    def _resolve(
        self, tenant: str, items: Sequence[AskedItem], referenced: Mapping[str, bytes]
    ) -> list[InputItem]:
        resolved = context.resolve(items, referenced, "items")
        unseal = context.unsealer_of(self._settings, tenant, COMPACTION)
        item_relations.check_compactions(resolved, unseal, "items")
        return resolved

    def _adopt(self, value: object) -> list[AskedItem]:
        items = read_items(value, "items", ITEMS_MAX)
        items = adopt_items(items, ids.new_item_origin(self._settings.cell))
        item_relations.check_unique(items, (), "items")
        return items

    async def _encode(self, items: Sequence[InputItem], raw_bytes: int) -> list[bytes]:
        """Encodes items. Offloaded by the body's size, since the few long items it may refer to are fast."""
        return await self._offload.run(raw_bytes, lambda: [msgspec.json.encode(item) for item in items])

    async def _add(
        self,
        key: ConversationKey,
        items: Sequence[InputItem],
        encoded: Sequence[bytes],
        new_head: Head | None = None,
    ) -> None:
        """Adds items, with `encoded` as their JSON; with `new_head`, to a new conversation."""
        named = [(item.id or "", json) for item, json in zip(items, encoded, strict=True)]
        match await conversations.add(self._redis, self._settings, key, named, new_head):
            case "ok":
                return
            case "missing":
                raise conversation_not_found(key.conversation_id, _ID)
            case "taken":
                raise ClientError(400, "Item already in conversation", _TAKEN, "items")
            case "full":
                limit = self._settings.context_bytes_max
                message = f"A conversation holds at most {limit} bytes of items."
                raise ClientError(400, message, "conversation_too_large", "items")


def _key_of(tenant: str, conversation_id: str) -> ConversationKey:
    if not ids.is_conversation_id(conversation_id):
        raise conversation_not_found(conversation_id, _ID)
    return ConversationKey(tenant, conversation_id)


def _object_of(key: ConversationKey, head: Head) -> dict[str, Any]:
    return {
        "id": key.conversation_id,
        "object": "conversation",
        "created_at": head.created_at,
        "metadata": msgspec.json.decode(head.metadata),
    }


class _Named(msgspec.Struct):
    id: str


def _id_of(item: bytes) -> str:
    return msgspec.json.decode(item, type=_Named).id


def _decode(items: Sequence[bytes]) -> list[InputItem]:
    return [msgspec.json.decode(item, type=InputItem) for item in items]
