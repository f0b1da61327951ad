"""A tenant's limits a minute: counted where responses are accepted and ended, over a real Valkey.

What counts wears off by Redis's clock: each limit here takes many seconds to become whole again.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import httpx

from api.tenants import Tenants
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log.appender import Appender
from shared.store.log.response_log import Closing
from shared.store.owning import lease
from shared.store.owning.lease import Acquired
from shared.store.redis.client import RedisClient
from shared.tenants_file import OPEN_TENANT
from tests.appending import append_through
from tests.edges import serving
from tests.kept import count_kept

BODY: dict[str, Any] = {"model": "default", "input": "Hello", "background": True}


def limited(settings: Settings, **limits: int) -> Settings:
    names = {f"tenant_{kind}_per_minute_max": limit for kind, limit in limits.items()}
    return settings.model_copy(update=names)


async def ask(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/v1/responses", json=BODY | fields)


def left(answer: httpx.Response, kind: str) -> int:
    return int(answer.headers[f"x-ratelimit-remaining-{kind}"])


async def test_a_tenant_that_asks_too_often_waits_and_nothing_is_written(
    redis: RedisClient, settings: Settings
) -> None:
    async with serving(limited(settings, requests=3)) as client:
        answers = [await ask(client) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert [left(answer, "requests") for answer in answers] == [2, 1, 0]
        assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"3"}
        assert answers[0].headers["x-ratelimit-reset-requests"] == "20s"
        assert "x-ratelimit-limit-tokens" not in answers[0].headers
        before = await count_kept(redis)
        refused = await ask(client)
        assert refused.status_code == 429
        assert await count_kept(redis) == before
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert "at most 3 requests (0 left) a minute" in error["message"]
        assert 0 < int(refused.headers["retry-after"]) <= 20
        assert int(refused.headers["retry-after-ms"]) <= 20_000
        assert left(refused, "requests") == 0
        await redis.command("HINCRBYFLOAT", keys.rate(OPEN_TENANT), "requests", -20_000)  # 20 s later
        assert (await ask(client)).status_code == 200


async def test_what_is_counted_before_a_response_ends_gives_way_to_what_it_has_used(
    redis: RedisClient, settings: Settings, appender: Appender
) -> None:
    settings = limited(settings, tokens=1_000)
    async with serving(settings) as client:
        first = await ask(client, max_output_tokens=500)
        assert 300 < left(first, "tokens") < 500
        assert (await client.post(f"/v1/responses/{first.json()['id']}/cancel")).status_code == 200
        second = await ask(client, max_output_tokens=500)
        assert left(second, "tokens") == left(first, "tokens")  # a cancelled response has used nothing
        key = ResponseKey(OPEN_TENANT, second.json()["id"])
        held = await lease.acquire(redis, settings, key, "worker")
        assert isinstance(held, Acquired)
        ended = Closing("completed", b"{}", 60, tokens=2_900)
        await append_through(appender, held.lease, held.next_sequence_number, [], ended)
        refused = await ask(client)
        assert refused.status_code == 429
        assert left(refused, "tokens") == 0
        assert 60 < int(refused.headers["retry-after"]) < 180
        assert refused.headers["x-ratelimit-reset-tokens"].startswith("2m")
        assert "x-ratelimit-limit-requests" not in refused.headers


async def test_a_request_that_may_use_more_than_a_minutes_tokens_counts_with_those_until_it_has_ended(
    redis: RedisClient, settings: Settings
) -> None:
    """A client that asks for two thousand million tokens must not keep its tenant waiting for 500 days."""
    async with serving(limited(settings, tokens=1_000)) as client:
        large = await ask(client, max_output_tokens=2_000_000_000)
        assert (large.status_code, left(large, "tokens")) == (200, 0)
        refused = await ask(client, max_output_tokens=5_000)
        assert 0 < int(refused.headers["retry-after"]) <= 60
        assert 0 < await redis.command("PTTL", keys.rate(OPEN_TENANT)) <= 60_000
        assert (await client.post(f"/v1/responses/{large.json()['id']}/cancel")).status_code == 200
        assert left(await ask(client), "tokens") > 900


async def test_each_tenant_has_limits_of_its_own_and_a_repeated_call_costs_nothing(
    redis: RedisClient, settings: Settings, tmp_path: Path
) -> None:
    names = ("small", "free", "other")
    limits = {"small": {"requests_per_minute_max": 1}, "free": {"requests_per_minute_max": 0}}
    file = {
        "tenants": {
            name: {"keys": [hashlib.sha256(name.encode()).hexdigest()], "limits": limits.get(name, {})}
            for name in names
        },
    }
    path = tmp_path / "tenants.json"
    path.write_text(json.dumps(file))
    async with serving(limited(settings, requests=2), Tenants.load(path)) as client:

        async def status(name: str, **headers: str) -> int:
            headers["authorization"] = f"Bearer {name}"
            return (await client.post("/v1/responses", json=BODY, headers=headers)).status_code

        once = {"idempotency-key": "once"}
        assert [await status("small", **once) for _ in range(3)] == [200] * 3
        assert await status("small") == 429
        assert [await status("other") for _ in range(3)] == [200, 200, 429]
        assert [await status("free") for _ in range(3)] == [200] * 3


async def test_without_limits_nothing_is_said_and_nothing_is_counted(
    redis: RedisClient, settings: Settings
) -> None:
    async with serving(settings) as client:
        answer = await ask(client)
    assert not [name for name in answer.headers if "ratelimit" in name]
    assert await redis.command("EXISTS", keys.rate(OPEN_TENANT)) == 0
