"""Makes requests as the API would have written them, for tests that start behind the API."""

from typing import Any

from shared.ids import new_response_id
from shared.record_format import RECORD_FORMAT
from shared.responses import Response, ResponseRequest
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.records import response_store
from shared.store.records.admission import NewResponse
from shared.store.records.response_store import Record
from shared.store.redis.client import RedisClient
from tests.items import items_of


def make_request(
    text: str = "Hello", *, tools: list[dict[str, Any]] | None = None, **response: Any
) -> ResponseRequest:
    fields: dict[str, Any] = {
        "id": new_response_id("0"),
        "created_at": 1_763_769_600,
        "status": "in_progress",
        "model": "default",
    }
    message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    return ResponseRequest(
        response=Response(**(fields | response)), input=items_of([message]), tools=tools or []
    )


async def accept(
    redis: RedisClient,
    settings: Settings,
    request: ResponseRequest | None = None,
    tenant: str = "default",
    record_format: int = RECORD_FORMAT,
) -> ResponseKey:
    """Writes a response as an accepted create call does; returns its key."""
    request = request or make_request()
    key = ResponseKey(tenant, request.response.id)
    draft = NewResponse.of(key, request, {})
    assert (await response_store.create(redis, settings, draft)).key == key
    if record_format != RECORD_FORMAT:
        await redis.command("HSET", keys.state(key), "format", record_format)
    return key


async def read_record(redis: RedisClient, key: ResponseKey) -> Record | None:
    """Returns a response's record, opened."""
    stored = await response_store.read_stored(redis, key)
    return stored.open() if stored is not None else None
