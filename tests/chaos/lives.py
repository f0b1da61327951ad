"""What one client does, call after call: continues a response, answers its call, uses a conversation.

Owns the choice of calls; `clients.py` makes and reads them.
"""

import asyncio
import random
from contextlib import suppress
from typing import Any

import httpx
import msgspec

from tests.chaos.clients import make_call
from tests.chaos.history import Asked, Conversed, Way
from tests.chaos.plans import PLANS, make_key
from tests.chaos.world import World, authorization_of

_CONVERSATION_SHARE = 0.05
_SAID = ("quick", "short", "characters")
_KEPT_WAYS: tuple[Way, ...] = ("stream", "background", "poll", "wait")
_LEAVES_NOTHING: tuple[Way, ...] = ("cancel", "abandon", "delete", "unstored")
"""Ways of reading after which nothing can be continued."""
_BY_ANOTHER_DOOR: tuple[Way, ...] = ("chat", "socket")
_ENDS_EARLY: tuple[Way, ...] = ("cancel", "abandon")


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
        if PLANS[plan].is_first:
            parent = None
        asked = choose(world, number, rng, call, plan, parent)
        way = asked.way
        has_ended = await make_call(world, asked, rng)
        share = 1.0 if PLANS[plan].answered_by else 0.25
        is_chained = has_ended and way not in _LEAVES_NOTHING and rng.random() < share
        parent = asked if is_chained else None


def choose(
    world: World, number: int, rng: random.Random, call: int, plan: str, parent: Asked | None
) -> Asked:
    """Chooses how, and as whom, a client asks for a plan. What answers a call has the key of that call."""
    way = rng.choices(list(world.ways), list(world.ways.values()))[0]
    if way in _BY_ANOTHER_DOOR and not (PLANS[plan].is_plain and parent is None):
        way = "stream"
    if way in _ENDS_EARLY and PLANS[plan].keeps_its_answer:
        way = "background"
    is_answer = parent is not None and PLANS[parent.plan].answered_by == plan
    key = parent.key if parent is not None and is_answer else make_key(call)
    parent_call = None if parent is None else parent.call
    return as_whom(world, number, rng, Asked(world.now_s(), call, number, plan, way, key, parent_call))


def as_whom(world: World, number: int, rng: random.Random, asked: Asked) -> Asked:
    """Returns the call as that of the client's tenant, of some tier and for some model."""
    fleet = world.fleet
    return msgspec.structs.replace(
        asked,
        tenant=tenant_of(world, number),
        tier=rng.choices(list(fleet.tiers), list(fleet.tiers.values()))[0],
        model=rng.choices(list(fleet.models), list(fleet.models.values()))[0],
    )


def tenant_of(world: World, number: int) -> str:
    return list(world.fleet.tenants)[number % len(world.fleet.tenants)]


async def converse(world: World, number: int, rng: random.Random, call: int) -> None:
    """Creates two responses in a conversation, one after the other; then reads all its items."""
    plans = [plan for plan in _SAID if plan in world.plans]
    if not plans:
        return
    made: dict[str, Any] = {}
    while not made:
        made = await _ask_of_conversations(world, number, rng, "POST", "", json={})
    calls, has_ended = [], True
    for one in (call, next(world.calls, None)):
        if one is None or not has_ended:
            break
        way = rng.choice(_KEPT_WAYS)
        plan = rng.choice(plans)
        asked = Asked(world.now_s(), one, number, plan, way, make_key(one), None, made["id"])
        asked = as_whom(world, number, rng, asked)
        has_ended = await make_call(world, asked, rng)
        calls.append(one)
    page: dict[str, Any] = {}
    while has_ended and not page:
        params = {"limit": "100", "order": "asc"}
        page = await _ask_of_conversations(world, number, rng, "GET", f"/{made['id']}/items", params=params)
    if page:
        item_ids = tuple(item["id"] for item in page["data"])
        world.note(Conversed(world.now_s(), made["id"], tuple(calls), item_ids))


async def _ask_of_conversations(
    world: World, number: int, rng: random.Random, method: str, path: str, **request: Any
) -> dict[str, Any]:
    """Returns None if there was no answer, or one that asks the client to retry."""
    url = f"{rng.choice(world.urls)}/v1/conversations{path}"
    with suppress(httpx.HTTPError):
        headers = authorization_of(tenant_of(world, number))
        answer = await world.http.request(method, url, headers=headers, **request)
        if answer.status_code != 503:
            answer.raise_for_status()
            answer_body: dict[str, Any] = msgspec.json.decode(answer.content)
            return answer_body
    await asyncio.sleep(rng.uniform(0.05, 0.3))
    return {}
