"""What the console reads, and who may: the API in this process, on a real Valkey."""

import asyncio
import json
import re
import signal
from pathlib import Path

import pytest
from pydantic import SecretStr

from admin.commands import Admin
from shared.ids import new_owner
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.overview import open_responses
from shared.store.overview.one_response import read_detail
from shared.store.owning import fleet, lease, presence
from shared.store.owning.fleet import AboutWorker
from shared.store.redis.client import RedisClient
from tests.edges import UNKNOWN_ID, error_of, serving
from tests.requests import accept

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


async def test_workers_are_killed_on_a_local_cluster_only_and_never_another_one_in_their_place(
    redis: RedisClient, with_console: Settings, tmp_path: Path
) -> None:
    operator = {"authorization": f"Bearer {KEY}"}
    owner = new_owner("worker", "0")
    address = f"/console/workers/{owner}/kill"
    listed = tmp_path / "cluster.json"
    local = with_console.model_copy(update={"console_cluster": listed})
    named, later = [await asyncio.create_subprocess_exec("sleep", "60") for _ in range(2)]
    try:
        await presence.announce(redis, "worker", owner)
        await fleet.announce(
            redis,
            owner,
            AboutWorker([fleet.Served("small", keys.queue_of("small"), 1_000)], "scripted", 1, pid=named.pid),
        )
        async with serving(with_console) as client:
            assert (await client.post(address, headers=operator)).status_code == 404
        async with serving(local) as client:
            assert (await client.post(address, headers={"authorization": "Bearer any"})).status_code == 401
            # The named one has ended, and its place is another's, which must live.
            listed.write_text(json.dumps({"roles": [{"kind": "worker", "number": 0, "pid": later.pid}]}))
            assert (await client.post(address, headers=operator)).status_code == 409
            other = f"/console/workers/{new_owner('worker')}/kill"
            assert (await client.post(other, headers=operator)).status_code == 409
            assert (named.returncode, later.returncode) == (None, None)
            listed.write_text(json.dumps({"roles": [{"kind": "worker", "number": 0, "pid": named.pid}]}))
            assert (await client.post(address, headers=operator)).status_code == 200
            assert await named.wait() == -signal.SIGKILL
    finally:
        for process in (named, later):
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_how_each_owner_parted_is_shown(redis: RedisClient, settings: Settings) -> None:
    key = await accept(redis, settings)
    taken = [await lease.acquire(redis, settings, key, f"worker-{n}") for n in range(2)]
    assert isinstance(taken[0], lease.Acquired)
    await lease.release(redis, settings, taken[0].lease)
    handed = await read_detail(redis, settings, key)
    assert handed is not None
    assert [grant.parting for grant in handed.grants] == ["handed_over"]
    await lease.acquire(redis, settings, key, "worker-1")
    await redis.command("HSET", keys.state(key), "lease_until_ms", await lease.now_ms(redis) - 1)
    lapsed = await read_detail(redis, settings, key)
    assert lapsed is not None
    assert [grant.parting for grant in lapsed.grants] == ["handed_over", "lost"]
    await lease.acquire(redis, settings, key, "worker-2")
    await Admin(redis, settings, ["default"]).cancel(key.response_id, "")
    ended = await read_detail(redis, settings, key)
    assert ended is not None
    partings = [grant.parting for grant in ended.grants]
    assert partings[:2] == ["handed_over", "lost"]
    assert partings[-1] == "ended"
    times = [time for grant in ended.grants for time in (grant.after_ms, grant.until_ms)]
    assert None not in times


async def test_renewals_do_not_change_which_of_many_are_listed(
    redis: RedisClient, settings: Settings
) -> None:
    members = {f"default/resp_0_{n:032x}": n for n in range(1_000)}
    now = await lease.now_ms(redis)
    await redis.command("ZADD", keys.ACTIVE, *(word for member in members for word in (now + 60_000, member)))
    await redis.command("ZADD", keys.ACTIVE, now - 1, (overdue := f"default/resp_0_{'f' * 32}"))
    await redis.command("PEXPIRE", keys.ACTIVE, 60_000)
    listed = []
    for renewed in range(2):
        late = [word for member, n in members.items() for word in (now + 60_000 + n * renewed, member)]
        await redis.command("ZADD", keys.ACTIVE, *late)
        total, found = await open_responses._of_all(redis, 200)
        assert (total, len(found)) == (1_001, 200)
        assert found[0] == overdue
        listed.append(found)
    assert listed[0] == listed[1]


async def test_a_response_is_found_without_its_tenant_and_files_only_with_a_key(
    redis: RedisClient, settings: Settings, with_console: Settings
) -> None:
    key = await accept(redis, settings)
    async with serving(with_console) as client:
        address = f"/console/responses/{key.response_id}"
        shown = await client.get(address, headers={"authorization": f"Bearer {KEY}"})
        assert shown.json()["response"]["tenant"] == "default"
        assert (await client.get("/console/files/console.js")).status_code == 200
    async with serving(settings) as client:
        assert (await client.get("/console/files/console.js")).status_code == 404
