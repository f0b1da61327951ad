"""The list of a tenant's responses over a real Valkey: what is in it, its order, and what a page costs."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from api.offload import Offload
from local.valkey import Valkey
from shared import lifecycle
from shared.responses import InputTokensDetails, OutputTokensDetails, Response, ResponseError, Usage
from shared.settings import Settings
from shared.store import keys, records
from shared.store.keys import ResponseKey
from shared.store.log import closing
from shared.store.records.listing import Wanted, list_page
from shared.store.redis.client import RedisClient
from tests.conversing import CREATED_AT_S, Client, error_of, serving
from tests.patience import PATIENCE_S
from tests.requests import accept, make_request

USAGE = Usage(1, InputTokensDetails(), 1, OutputTokensDetails(), 2)


@pytest_asyncio.fixture
async def client(redis: RedisClient, settings: Settings, tmp_path: Path) -> AsyncIterator[Client]:
    async with serving(settings, tmp_path) as client:
        yield client


async def create(client: Client, **fields: Any) -> str:
    """Creates a response in the background; no worker has it. Its time of creation is one of its own."""
    await asyncio.sleep(0.002)
    answer = await client.post("/responses", json={"input": "a", "background": True, **fields})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def end(redis: RedisClient, settings: Settings, response_id: str, *, fails: bool = False) -> None:
    def event(response: Response) -> lifecycle.TerminalEvent:
        error = ResponseError("server_error", "It broke.")
        if fails:
            return lifecycle.fail(response, error)
        return lifecycle.complete(response, USAGE, CREATED_AT_S + 1)

    key = ResponseKey("one", response_id)
    assert await closing.end_at_once(redis, settings, key, "test", event, Offload().run) == "ended"


async def listed(client: Client, **query: Any) -> list[str]:
    page = await page_of(client, **query)
    return [each["id"] for each in page["data"]]


async def page_of(client: Client, **query: Any) -> dict[str, Any]:
    answer = await client.get("/responses", params=query)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    ids = [each["id"] for each in page["data"]]
    assert page["object"] == "list"
    assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
    return page


async def test_an_entry_is_the_response_as_it_is_now_without_its_texts(
    client: Client, redis: RedisClient, settings: Settings
) -> None:
    made = await create(client, metadata={"a": "b"}, instructions="Be brief.")
    (entry,) = (await page_of(client))["data"]
    whole = (await client.get(f"/responses/{made}")).json()
    assert entry.items() <= whole.items()
    assert (entry["status"], entry["metadata"]) == ("queued", {"a": "b"})
    assert entry.keys().isdisjoint({"output", "instructions", "tools"})
    await end(redis, settings, made)
    (entry,) = (await page_of(client))["data"]
    whole = (await client.get(f"/responses/{made}")).json()
    assert entry.items() <= whole.items()
    assert (entry["status"], entry["usage"]["total_tokens"]) == ("completed", 2)


async def test_the_newest_come_first_a_page_at_a_time(client: Client) -> None:
    made = [await create(client) for _ in range(5)]
    assert await listed(client) == made[::-1]
    assert await listed(client, order="asc") == made
    first = await page_of(client, limit=2)
    second = await page_of(client, limit=2, after=first["last_id"])
    third = await page_of(client, limit=2, after=second["last_id"])
    assert [page["has_more"] for page in (first, second, third)] == [True, True, False]
    assert [each["id"] for page in (first, second, third) for each in page["data"]] == made[::-1]
    assert await listed(client, order="asc", after=made[3]) == made[4:]
    assert await listed(client, after=made[0]) == []


async def places_of(client: Client, place: str, **query: Any) -> tuple[list[str], list[int]]:
    answer = await client.get("/responses", params=query, headers={"Antiphon-Place": place})
    assert answer.status_code == 200, answer.text
    after, *created = answer.headers["Antiphon-Places"].split()
    return [each["id"] for each in answer.json()["data"]], [
        0 if after == "-" else int(after),
        *map(int, created),
    ]


async def test_a_page_begins_after_a_response_of_another_cell_by_its_time(client: Client) -> None:
    made = [await create(client) for _ in range(3)]
    ids, (after, *times) = await places_of(client, "?")
    assert (ids, after, times) == (made[::-1], 0, sorted(times, reverse=True))
    oldest, middle, newest = times[::-1]
    assert newest > middle > oldest, "times of their own"
    ids, (after, *_) = await places_of(client, "?", after=made[1])
    assert (ids, after) == ([made[0]], middle)
    low, high = (f"resp_b_{digit * 32}" for digit in "0f")  # `b` sorts behind `0`, so they are the higher ids
    for order, rest in (("desc", [made[1], made[0]]), ("asc", [made[2]])):
        for foreign in (low, high):
            ids, (after, *_) = await places_of(client, str(middle), after=foreign, order=order)
            assert (ids, after) == (rest, middle)
    before = f"resp_+_{'0' * 32}"  # one that sorts before them all
    assert (await places_of(client, str(middle), after=before))[0] == [made[0]]
    assert (await client.get("/responses", params={"after": low})).status_code == 404
    wrong = await client.get("/responses", headers={"Antiphon-Place": "x"})
    assert error_of(wrong) == (400, "Antiphon-Place", "invalid_value")


@pytest.fixture
def danish_valkey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Valkey]:
    """Runs a server in whose locale `aa` comes after `ab`."""
    localedef = shutil.which("localedef") or pytest.skip("this machine makes no locales")
    made = [localedef, "-i", "da_DK", "-f", "UTF-8", str(tmp_path / "da_DK.UTF-8")]
    if subprocess.run(made, check=False, capture_output=True).returncode:
        pytest.skip("this machine has no Danish locale")
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    monkeypatch.setenv("LC_ALL", "da_DK.UTF-8")
    with Valkey(tmp_path / "data") as valkey:
        yield valkey


async def test_responses_of_one_millisecond_have_one_order_whatever_the_locale_of_redis(
    danish_valkey: Valkey,
) -> None:
    """It asks for what comes after each of some responses of one millisecond, in both orders."""
    redis = RedisClient.connect(danish_valkey.url, timeout_s=PATIENCE_S)
    try:
        await check_order(redis)
    finally:
        await redis.close()


async def check_order(redis: RedisClient) -> None:
    ids = [f"resp_0_{'f' * 29}{end}" for end in ("0aa", "1aa", "1ab", "1b0", "aa0", "ab0")]
    index = f"{keys.listed('one')}//"
    for id_ in ids:
        state = keys.state(ResponseKey("one", id_))
        await redis.command("HSET", state, "head", HEAD.replace("ID", id_), "closed", "completed")
        await redis.command("ZADD", index, 1, id_)
    for newest, order in ((False, ids), (True, ids[::-1])):
        for place, seen in enumerate(order):
            await redis.command("ZREM", index, seen)  # so its place is found by comparing
            page = await list_page(redis, "one", Wanted(), seen, 10, is_newest_first=newest, after_ms=1)
            await redis.command("ZADD", index, 1, seen)
            assert page != "unknown"
            assert [head.id for head in page.heads] == order[place + 1 :]


async def test_a_filter_finds_a_status_a_member_of_metadata_and_both(
    client: Client, redis: RedisClient, settings: Settings
) -> None:
    done = await create(client, metadata={"user": "ä b", "b": "1"})
    failed = await create(client, metadata={"user": "ä b"})
    waiting = await create(client, metadata={"user": "ä b"})
    other = await create(client, metadata={"user": "c"})
    await end(redis, settings, done)
    await end(redis, settings, failed, fails=True)
    assert await listed(client, status="completed") == [done]
    assert await listed(client, status="failed") == [failed]
    assert await listed(client, status="queued") == [other, waiting]
    assert await listed(client, status="in_progress") == []
    assert await listed(client, **{"metadata[user]": "ä b"}) == [waiting, failed, done]
    assert await listed(client, **{"metadata[b]": "1"}) == [done]
    assert await listed(client, **{"metadata[user]": "ä b", "status": "queued"}) == [waiting]
    assert await listed(client, **{"metadata[user]": "ä b", "status": "cancelled"}) == []
    assert await listed(client, **{"metadata[b]": "2"}) == []


async def test_what_a_worker_has_begun_is_in_progress(client: Client, redis: RedisClient) -> None:
    made = await create(client)
    waiting = await create(client)
    log = keys.log(ResponseKey("one", made))
    await redis.command("XADD", log, "3-0", "e", b"data: {}\n\n")
    assert await listed(client, status="in_progress") == [made]
    assert await listed(client, status="queued") == [waiting]
    statuses = [each["status"] for each in (await page_of(client))["data"]]
    assert statuses == ["queued", "in_progress"]


async def test_a_page_goes_on_after_one_that_no_longer_fits_the_filter(
    client: Client, redis: RedisClient, settings: Settings
) -> None:
    made = [await create(client) for _ in range(4)]
    assert await listed(client, status="queued", limit=2) == [made[3], made[2]]
    await end(redis, settings, made[2])
    assert await listed(client, status="queued", after=made[2]) == [made[1], made[0]]
    assert await listed(client, status="queued", after=made[2], order="asc") == [made[3]]


async def test_what_is_not_stored_is_deleted_expired_or_another_tenants_is_not_listed(
    client: Client, redis: RedisClient, settings: Settings
) -> None:
    kept, deleted, expired = [await create(client, metadata={"a": "b"}) for _ in range(3)]
    await accept(redis, settings, make_request(store=False), tenant="one")
    for each in (deleted, expired):
        await end(redis, settings, each)
    assert (await client.delete(f"/responses/{deleted}")).status_code == 200
    await redis.command("DEL", keys.state(ResponseKey("one", expired)))
    for query in ({}, {"metadata[a]": "b"}):
        assert await listed(client, **query) == [kept]
    assert await listed(client, status="completed") == []
    ids = {
        id_.decode()
        for name in await redis.command("KEYS", f"{keys.listed('one')}/*")
        for id_ in await redis.command("ZRANGE", name, 0, -1)
    }
    assert ids - {expired} == {kept}
    headers = {"authorization": "Bearer other"}
    assert (await client.get("/responses", headers=headers)).json()["data"] == []
    foreign = await client.get("/responses", headers=headers, params={"after": kept})
    assert error_of(foreign) == (404, "after", "response_not_found")


async def test_what_an_earlier_version_has_ended_is_listed_as_ended(
    client: Client, redis: RedisClient
) -> None:
    """Its scripts know no index: the response stays where it was when it was open."""
    made = await create(client)
    await redis.command("HSET", keys.state(ResponseKey("one", made)), "closed", "cancelled")
    assert await listed(client, status="in_progress") == []
    assert [each["status"] for each in (await page_of(client))["data"]] == ["cancelled"]


async def test_the_oldest_give_way_when_there_are_too_many(
    redis: RedisClient, settings: Settings, tmp_path: Path
) -> None:
    small = settings.model_copy(update={"tenant_listed_max": 2})
    async with serving(small, tmp_path) as client:
        made = [await create(client, metadata={"a": "b"}) for _ in range(3)]
        assert await listed(client) == [made[2], made[1]]
        await end(redis, small, made[0])
        assert await listed(client) == [made[2], made[1]]
        assert await listed(client, **{"metadata[a]": "b", "status": "queued"}) == [made[2], made[1]]
        assert (await client.get(f"/responses/{made[0]}")).status_code == 200


@pytest.mark.parametrize(
    ("query", "param", "code"),
    [
        ({"status": "banana"}, "status", "invalid_value"),
        ({"before": "resp_1"}, "before", "unknown_parameter"),
        ({"metadata": "a"}, "metadata", "unknown_parameter"),
        ({"metadata[a]": "1", "metadata[b]": "2"}, "metadata[b]", "invalid_value"),
        ({"status": ["completed", "failed"]}, "status", "invalid_value"),
        ({"limit": "101"}, "limit", "invalid_value"),
        ({"limit": ["1", "2"]}, "limit", "invalid_value"),
        ({"order": "up"}, "order", "invalid_value"),
    ],
)
async def test_a_query_that_means_nothing_is_refused_by_name(
    client: Client, query: dict[str, str], param: str, code: str
) -> None:
    assert error_of(await client.get("/responses", params=query)) == (400, param, code)


async def test_a_page_goes_on_behind_many_that_have_expired(client: Client, redis: RedisClient) -> None:
    kept = await create(client)
    many = [argument for i in range(2_500) for argument in (9e15, f"resp_0_{i:032x}")]
    await redis.command("ZADD", f"{keys.listed('one')}//", *many)
    assert await listed(client) == [kept]
    assert await redis.command("ZCARD", f"{keys.listed('one')}//") == 1


_FILL = """
for i = tonumber(ARGV[3]), tonumber(ARGV[4]) do
  local id = string.format('resp_0_%032x', i)
  local state = string.format(ARGV[1], 'one/' .. id)
  redis.call('HSET', state, 'head', string.gsub(ARGV[2], 'ID', id), 'closed', 'completed')
  for _, set in ipairs(KEYS) do redis.call('ZADD', set, i, id) end
end
"""
HEAD = '{"id":"ID","object":"response","created_at":1,"status":"completed","model":"m"}'


async def test_a_page_costs_the_same_at_a_hundred_thousand_responses(redis: RedisClient) -> None:
    """In commands that Redis runs, those of the script included; nobody else is connected."""
    base = keys.listed("one")
    sets = [f"{base}//", f"{base}/completed/"]
    costs: list[list[int]] = []
    await list_page(redis, "one", Wanted(), "", 1, is_newest_first=True)  # the server has the script now
    for first, last in ((1, 100), (101, 100_000)):
        await redis.command("EVAL", _FILL, 2, *sets, keys.STATE_PATTERN, HEAD, first, last)
        after = f"resp_0_{last - 40:032x}"
        costs.append(
            [
                await cost_of(redis, Wanted(), ""),
                await cost_of(redis, Wanted("completed"), after),
                await cost_of(redis, Wanted(), after, is_newest_first=False),
            ]
        )
    await redis.command("FLUSHALL")
    assert costs[0] == costs[1]
    assert max(costs[1]) <= 20 + 10, "one read of each, and a few of the index"


async def cost_of(redis: RedisClient, wanted: Wanted, after: str, *, is_newest_first: bool = True) -> int:
    """Returns how many commands a page of 20 takes; asking for the number is one of them."""
    before = await commands_run(redis)
    page = await list_page(redis, "one", wanted, after, 20, is_newest_first=is_newest_first)
    assert page != "unknown"
    assert (len(page.heads), page.has_more) == (20, True)
    return await commands_run(redis) - before


async def commands_run(redis: RedisClient) -> int:
    stats = await redis.command("INFO", "commandstats")
    return sum(int(each["calls"]) for each in stats.values())


def test_the_index_is_written_with_a_record_and_never_apart() -> None:
    """So a failover keeps both or loses both."""
    store = Path(records.__path__[0]).parent
    scripts = {path.stem: path.read_text("utf-8") for path in store.rglob("*.lua")}
    writers = {name for name, text in scripts.items() if re.search(r"\b(?:en|de)list\(", text)}
    assert writers == {"listed", "create", "close", "delete"}
    callers = {path.stem for path in store.rglob("*.py") if "keys.listed(" in path.read_text("utf-8")}
    assert callers == {"response_store", "response_log", "listing"}
