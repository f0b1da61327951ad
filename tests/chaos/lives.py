"""What one client does, call after call: continues a response, answers its call, uses a conversation.

Owns the choice of calls; `clients.py` makes and reads them.
"""

import asyncio
import random
from contextlib import suppress
from typing import Any

import httpx
import msgspec

from tests.chaos.clients import World, make_call
from tests.chaos.history import Asked, Conversed, Way
from tests.chaos.plans import PLANS, make_key

_CONVERSATION_SHARE = 0.05
_SAID = ("quick", "short", "characters")
_KEPT_WAYS: tuple[Way, ...] = ("stream", "background", "poll", "wait")
_LEAVES_NOTHING: tuple[Way, ...] = ("cancel", "abandon", "delete", "unstored")
"""Ways of reading after which nothing can be continued."""


async def serve_calls(world: World, number: int, rng: random.Random) -> None:
    """Runs one client: one call after the other, some of them continuing the one before."""
    parent: Asked | None = None
    for call in world.calls:
        if parent is None and rng.random() < _CONVERSATION_SHARE:
            await converse(world, number, rng, call)
            continue
        plan = rng.choices(list(world.plans), list(world.plans.values()))[0]
        if parent is not None:
            plan = PLANS[parent.plan].answered_by or plan
        way = rng.choices(list(world.ways), list(world.ways.values()))[0]
        asked = Asked(
            world.now_s(), call, number, plan, way, make_key(call), None if parent is None else parent.call
        )
        has_ended = await make_call(world, asked, rng)
        share = 1.0 if PLANS[plan].answered_by else 0.25
        is_chained = has_ended and way not in _LEAVES_NOTHING and rng.random() < share
        parent = asked if is_chained else None


async def converse(world: World, number: int, rng: random.Random, call: int) -> None:
    """Creates two responses in a conversation, one after the other; then reads all its items."""
    plans = [plan for plan in _SAID if plan in world.plans]
    if not plans:
        return
    made: dict[str, Any] = {}
    while not made:
        made = await _ask_of_conversations(world, rng, "POST", "", json={})
    calls, has_ended = [], True
    for one in (call, next(world.calls, None)):
        if one is None or not has_ended:
            break
        way = rng.choice(_KEPT_WAYS)
        plan = rng.choice(plans)
        asked = Asked(world.now_s(), one, number, plan, way, make_key(one), None, made["id"])
        has_ended = await make_call(world, asked, rng)
        calls.append(one)
    page: dict[str, Any] = {}
    while has_ended and not page:
        params = {"limit": "100", "order": "asc"}
        page = await _ask_of_conversations(world, rng, "GET", f"/{made['id']}/items", params=params)
    if page:
        item_ids = tuple(item["id"] for item in page["data"])
        world.note(Conversed(world.now_s(), made["id"], tuple(calls), item_ids))


async def _ask_of_conversations(
    world: World, rng: random.Random, method: str, path: str, **request: Any
) -> dict[str, Any]:
    """Returns None if there was no answer, or one that asks the client to retry."""
    url = f"{rng.choice(world.urls)}/v1/conversations{path}"
    with suppress(httpx.HTTPError):
        answer = await world.http.request(method, url, **request)
        if answer.status_code != 503:
            answer.raise_for_status()
            answer_body: dict[str, Any] = msgspec.json.decode(answer.content)
            return answer_body
    await asyncio.sleep(rng.uniform(0.05, 0.3))
    return {}
