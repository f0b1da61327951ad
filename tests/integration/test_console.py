"""What the console reads, and who may: the API in this process, on a real Valkey."""

import json
import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.ids import new_owner
from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.overview.one_response import read_detail
from shared.store.owning import lease
from shared.store.redis.client import RedisClient
from tests.edges import UNKNOWN_ID, error_of, serving

KEY = "a-key-for-operators"
READINGS = ["/console/cluster", f"/console/responses/{UNKNOWN_ID}?tenant=default"]


@pytest.fixture
def with_console(settings: Settings) -> Settings:
    return settings.model_copy(update={"console_key": SecretStr(KEY)})


async def test_without_a_key_of_its_own_there_is_no_console(redis: RedisClient, settings: Settings) -> None:
    async with serving(settings) as client:
        for path in ["/console", *READINGS]:
            answer = await client.get(path, headers={"authorization": "Bearer "})
            assert (answer.status_code, "ANTIPHON_CONSOLE_KEY" in error_of(answer)["message"]) == (404, True)


async def test_only_the_key_opens_what_the_page_reads(redis: RedisClient, with_console: Settings) -> None:
    async with serving(with_console) as client:
        page = await client.get("/console")
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        for wrong in ({}, {"authorization": "Bearer any"}, {"authorization": f"Bearer {KEY}x"}):
            for path in READINGS:
                answer = await client.get(path, headers=wrong)
                assert (answer.status_code, error_of(answer)["code"]) == (401, "invalid_api_key")
        unknown = await client.get(READINGS[1], headers={"authorization": f"Bearer {KEY}"})
        assert unknown.status_code == 404
        error_of(unknown)
        assert (await client.get("/console/files/page")).status_code == 404


async def test_any_tenants_response_is_shown_with_its_owners_and_its_events(
    redis: RedisClient, with_console: Settings
) -> None:
    operator = {"authorization": f"Bearer {KEY}"}
    async with serving(with_console) as client:
        created = (await client.post("/v1/responses", json={"input": "Hello", "background": True})).json()
        key = ResponseKey("default", created["id"])
        seen = (await client.get("/console/cluster", headers=operator)).json()
        assert [each["response_id"] for each in seen["open"]["responses"]] == [key.response_id]
        assert seen["is_local"] is False
        assert {queue["name"]: queue["waiting"] for queue in seen["queues"]} == {"responses": 1, "tools": 0}

        names = [new_owner("worker", place) for place in ("0", "1")]
        for name in names:
            assert await lease.acquire(redis, with_console, key, name)
            await redis.command("HSET", f"antiphon:{{{key}}}:state", "lease_until_ms", 0)
        address = f"/console/responses/{key.response_id}"
        detail = (await client.get(f"{address}?tenant=default", headers=operator)).json()
        assert [(grant["attempt"], grant["owner"]) for grant in detail["grants"]] == list(enumerate(names, 1))
        times = [grant["after_ms"] for grant in detail["grants"]]
        assert times == sorted(times)
        found = await read_detail(redis, with_console, key)
        assert found is not None
        assert [grant.owner for grant in found.grants] == names

        await client.post(f"/v1/responses/{key.response_id}/cancel")
        events = await client.get(f"{address}/events?tenant=default", headers=operator)
        numbers = [int(number) for number in re.findall(r'"sequence_number":(\d+)', events.text)]
        assert numbers == list(range(len(numbers)))
        assert '"status":"cancelled"' in events.text
        later = await client.get(f"{address}/events?tenant=default&starting_after=0", headers=operator)
        assert '"sequence_number":0' not in later.text
        for query in ("", "tenant=default&starting_after=-1"):
            assert (await client.get(f"{address}/events?{query}", headers=operator)).status_code == 400


async def test_workers_are_killed_on_a_local_cluster_only(
    redis: RedisClient, with_console: Settings, tmp_path: Path
) -> None:
    operator = {"authorization": f"Bearer {KEY}"}
    address = f"/console/workers/{new_owner('worker', '0')}/kill"
    async with serving(with_console) as client:
        assert (await client.post(address, headers=operator)).status_code == 404
    listed = tmp_path / "cluster.json"
    listed.write_text(json.dumps({"roles": [{"kind": "worker", "number": 0, "pid": None}]}))
    local = with_console.model_copy(update={"console_cluster": listed})
    async with serving(local) as client:
        assert (await client.post(address, headers={"authorization": "Bearer any"})).status_code == 401
        assert (await client.post(address, headers=operator)).status_code == 409
        other = f"/console/workers/{new_owner('worker')}/kill"
        assert (await client.post(other, headers=operator)).status_code == 404
