"""What stands before a request's own input: the items of the responses or the conversation it continues.

Owns resolving names to items, and the bound on them. Each response keeps its whole context, so one read
is enough however long the chain (docs/adr/0009-context-kept-whole.md).
"""

import re
from collections.abc import Sequence

import msgspec

from api.errors import ClientError, invalid_value, item_not_found
from api.input_items import Item, check_outputs
from api.validation import spell
from shared import lifecycle
from shared.responses import Response
from shared.settings import Settings
from shared.store import response_store
from shared.store.keys import ResponseKey
from shared.store.redis_client import RedisClient

_ITEM_ID = re.compile(r"[a-z]+_([a-z0-9]{1,8}_[0-9a-f]{32})_i?\d+")


async def read_parent(redis: RedisClient, parent: ResponseKey) -> list[Item]:
    """All items up to the end of a response. Raises ClientError if it is unknown or still open."""
    record = await response_store.read_record(redis, parent)
    if record is None or not record.state.is_stored:
        message = f"Previous response with id '{parent.response_id}' not found."
        raise ClientError(404, message, "previous_response_not_found", "previous_response_id")
    if not record.state.closed:
        raise invalid_value("previous_response_id", f"response '{parent.response_id}' is still in progress")
    response = msgspec.json.decode(record.snapshot, type=Response)
    output: list[Item] = msgspec.to_builtins(lifecycle.lasting(response.output))
    return [*record.request.context, *record.request.input, *output]


def without_old_reasoning(items: Sequence[Item]) -> list[Item]:
    """Reasoning before the last answer is over: no model reads it again, so it is not kept."""
    answers = [
        i
        for i, item in enumerate(items)
        if item.get("role") == "assistant" and item.get("phase") != "commentary"
    ]
    last = answers[-1] if answers else -1
    return [item for i, item in enumerate(items) if i > last or item.get("type") != "reasoning"]


async def resolve_references(
    redis: RedisClient, tenant: str, items: Sequence[Item], before: Sequence[Item] = (), field: str = "input"
) -> list[Item]:
    """Puts the items themselves in the place of references to them, be they `before` or in any response.

    Raises ClientError for unknown ones; `field` names the list.
    """
    near = {item.get("id"): item for item in before}
    return [
        near.get(item["id"]) or await _find_item(redis, tenant, item["id"], spell((field, i, "id")))
        if item["type"] == "item_reference"
        else item
        for i, item in enumerate(items)
    ]


async def _find_item(redis: RedisClient, tenant: str, item_id: str, param: str) -> Item:
    match = _ITEM_ID.fullmatch(item_id)
    record = None
    if match is not None:
        record = await response_store.read_record(redis, ResponseKey(tenant, f"resp_{match[1]}"))
    if record is not None and record.state.is_stored:
        output = msgspec.json.decode(record.snapshot)["output"] if record.snapshot else []
        for item in (*record.request.input, *output):
            if item.get("id") == item_id:
                return dict(item)
    raise item_not_found(item_id, param)


def check_context(context: Sequence[Item], items: Sequence[Item], settings: Settings, param: str) -> None:
    """Raises ClientError when the context is too large (`param` names where it comes from), or an output
    answers a call that is not there."""
    size_bytes = len(msgspec.json.encode(context))
    if size_bytes > settings.context_bytes_max:
        limit = settings.context_bytes_max
        message = f"What comes before the input has {size_bytes} bytes; at most {limit} are read."
        raise ClientError(400, message, "context_too_large", param)
    check_outputs(items, context, "input")
