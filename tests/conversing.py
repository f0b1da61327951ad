"""A client of one tenant at an API node in this process, and helpers that read conversations through it."""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from api.app import create_app
from api.tenants import Tenants
from shared.settings import Settings

CREATED_AT_S = 1_763_769_600
UNKNOWN = "conv_0_" + "a" * 32
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "o"}

Client = httpx.AsyncClient


def say(text: str, **fields: object) -> dict[str, Any]:
    return {"role": "user", "content": text, **fields}


@asynccontextmanager
async def serving(settings: Settings, folder: Path) -> AsyncIterator[Client]:
    """Yields a client of one tenant; the key "other" belongs to another one."""
    digests = {hashlib.sha256(key.encode()).hexdigest(): key for key in ("one", "other")}
    key_file = folder / "keys.json"
    key_file.write_text(json.dumps(digests))
    app = create_app(settings, Tenants.load(key_file), lambda: CREATED_AT_S)
    async with (
        app.router.lifespan_context(app),
        Client(
            transport=httpx.ASGITransport(app),
            base_url="http://localhost/v1",
            headers={"authorization": "Bearer one"},
        ) as client,
    ):
        yield client


async def create(client: Client, *items: dict[str, Any], **fields: object) -> str:
    answer = await client.post("/conversations", json={"items": list(items), **fields})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def add(client: Client, conversation: str, *items: dict[str, Any]) -> httpx.Response:
    return await client.post(f"/conversations/{conversation}/items", json={"items": list(items)})


async def read(client: Client, conversation: str) -> list[dict[str, Any]]:
    """Returns all items, oldest first."""
    items: list[dict[str, Any]] = []
    query: dict[str, Any] = {"order": "asc", "limit": 100}
    while True:
        listed = (await client.get(f"/conversations/{conversation}/items", params=query)).json()
        items += listed["data"]
        if not listed["has_more"]:
            return items
        query["after"] = listed["last_id"]


async def texts(client: Client, conversation: str) -> list[str]:
    return [item["content"][0]["text"] for item in await read(client, conversation)]


def error_of(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["code"]
