"""Webhooks over a real Valkey: who writes an entry, and what becomes of it."""

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET, UnsetType
from openai import OpenAI
from openai.types.webhooks import ResponseCancelledWebhookEvent

from api import cluster_metrics
from api.offload import Offload
from api.tenants import Tenants
from local.ports import find_free
from local.valkey import Valkey
from shared.egress import Egress
from shared.ids import new_owner
from shared.settings import Settings
from shared.store import keys
from shared.store.keys import ResponseKey
from shared.store.log import closing
from shared.store.log.archiving import archive_log
from shared.store.overview.figures import OutboxFigures, read_figures
from shared.store.records import response_store
from shared.store.records.admission import NewResponse
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.joint_scripts import StoreCall
from shared.store.webhooks import outbox
from shared.store.webhooks.outbox import Outbox, OutboxEntry, Rooms
from shared.tenants_file import Roster, Webhook
from shared.trace_origin import TraceOrigin
from tests.edges import NOWHERE, serving
from tests.patience import PATIENCE_S, until
from tests.requests import make_request
from tests.unit.test_metrics import value
from tests.webhook_receiver import SECRET, Arrival, receiving, status, take
from tests.working import finish, working
from webhooks.__main__ import main
from webhooks.dead_letters import list_lines
from webhooks.post import Post
from webhooks.sender import Sender
from webhooks.verdict import Delivered

OTHER_SECRET = "whsec_" + "b3RoZXJvdGhlcm90aGVyb3RoZXJvdGhlcm8="
EACH = Rooms(8, 8)
LOOPBACK = [ip_network("127.0.0.0/8")]


async def create(
    redis: RedisClient,
    settings: Settings,
    tenant: str = "acme",
    webhooks: Sequence[str] = ("main",),
    trace: TraceOrigin | UnsetType = UNSET,
    **fields: Any,
) -> ResponseKey:
    """Accepts a response whose end the webhooks of its tenant with these names deliver."""
    request = msgspec.structs.replace(make_request("Hello", background=True, **fields), trace=trace)
    key = ResponseKey(tenant, request.response.id)
    await response_store.create(redis, settings, replace(NewResponse.of(key, request, {}), webhooks=webhooks))
    return key


async def end(
    redis: RedisClient, settings: Settings, tenant: str = "acme", webhooks: Sequence[str] = ("main",)
) -> str:
    """Makes a response, and cancels it; returns its id."""
    key = await create(redis, settings, tenant, webhooks)
    assert await closing.cancel(redis, settings, key, "api", Offload().run) == "ended"
    return key.response_id


async def waiting(redis: RedisClient, tenant: str = "acme", name: str = "main") -> list[OutboxEntry]:
    found = await redis.command("ZRANGE", keys.outbox(tenant, name), 0, -1)
    return [OutboxEntry.parse(entry.decode()) for entry in found]


async def make_due(redis: RedisClient, tenant: str = "acme", name: str = "main") -> None:
    """Lets the waits and claims of a webhook be over."""
    outbox_key = keys.outbox(tenant, name)
    for entry in await redis.command("ZRANGE", outbox_key, 0, -1):
        await redis.command("ZADD", outbox_key, "XX", 0, entry)
    await redis.command("ZADD", keys.OUTBOXES, "XX", 0, f"{tenant}/{name}")


def roster_of(*urls: str, secrets: tuple[str, ...] = (SECRET,), **fields: Any) -> Roster:
    """The tenants t0, t1, … with a webhook `main` each; `acme` is the first one."""
    hooks = [{"main": Webhook(url, secrets, **fields)} for url in urls]
    return Roster({}, webhooks={f"t{number}": hook for number, hook in enumerate(hooks)} | {"acme": hooks[0]})


@asynccontextmanager
async def sending(redis: RedisClient, settings: Settings, roster: Roster) -> AsyncIterator[Sender]:
    settings = settings.model_copy(update={"egress_networks": LOOPBACK})
    post = Post(settings, Egress.of(settings))
    sender = Sender(Outbox(redis, settings, new_owner("webhooks")), post, settings, roster)
    running = asyncio.create_task(sender.run())
    try:
        yield sender
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await sender.drain()
        await post.close()


async def until_settled(
    redis: RedisClient, tenant: str = "acme", failures: int | None = None, name: str = "main"
) -> None:
    """Waits until nothing is left in an outbox, or each entry has failed that often."""

    async def is_so() -> bool:
        found = await waiting(redis, tenant, name)
        return not found if failures is None else [entry.failures for entry in found] == [failures]

    await until(is_so)


class Lossy(RedisClient):
    """Claims or settles, and loses the reply."""

    is_losing = False
    loses = "webhooks/claim"
    times = 0
    lost: asyncio.Event

    async def run(self, call: StoreCall) -> Any:
        reply = await super().run(call)
        if self.is_losing and call.script.name == self.loses:
            self.times += 1
            self.lost.set()
            raise ConnectionError("the reply was lost")
        return reply


@asynccontextmanager
async def losing(settings: Settings) -> AsyncIterator[Lossy]:
    lossy = Lossy.connect(settings.redis_url, timeout_s=PATIENCE_S)
    lossy.lost = asyncio.Event()
    try:
        yield lossy
    finally:
        await lossy.close()


# --- who writes an entry ----------------------------------------------------------------------------


async def test_every_way_to_end_a_response_leaves_an_entry_for_its_webhook(
    redis: RedisClient, settings: Settings
) -> None:
    ended: dict[str, str] = {}
    async with working(redis, settings) as worker:
        done = await create(redis, settings)
        assert await waiting(redis) == []  # it is open
        await finish(redis, worker, done)
        ended[done.response_id] = "completed"
        short = await create(redis, settings, max_output_tokens=16)
        await finish(redis, worker, short)
        ended[short.response_id] = "incomplete"
        lost = await create(redis, settings)
        await redis.command("HSET", keys.state(lost), "deaths", settings.owners_lost_max)
        await finish(redis, worker, lost)
        ended[lost.response_id] = "failed"
    left = await create(redis, settings)
    await closing.cancel(redis, settings, left, "worker", Offload().run)
    ended[left.response_id] = "cancelled"
    kept = await create(redis, settings)
    assert await closing.cancel_kept(redis, settings, kept, "api", Offload().run)
    ended[kept.response_id] = "cancelled"
    assert {entry.response_id: entry.status for entry in await waiting(redis)} == ended
    assert await closing.cancel(redis, settings, kept, "api", Offload().run) == "closed"
    assert len(await waiting(redis)) == len(ended)


def tenants_of(*names: str) -> Tenants:
    digest = hashlib.sha256(b"key").hexdigest()
    hooks = {"acme": {name: Webhook("https://app.example/", (SECRET,)) for name in names}}
    return Tenants(Roster({digest: "acme"}, webhooks=hooks if names else {}))


async def names_of(redis: RedisClient, settings: Settings, tenants: Tenants, **body: Any) -> bytes | None:
    """The webhooks of a response that an API node accepts."""
    async with serving(settings, tenants) as client:
        body = {"model": "default", "input": "Hello", "background": True} | body
        answer = await client.post("/v1/responses", json=body, headers={"authorization": "Bearer key"})
        assert answer.status_code == 200, answer.text
        key = ResponseKey("acme", answer.json()["id"])
        webhooks: bytes | None = await redis.command("HGET", keys.state(key), "webhooks")
        return webhooks


async def test_the_ends_of_stored_background_responses_are_delivered_and_no_others(
    redis: RedisClient, settings: Settings
) -> None:
    allowing = settings.model_copy(update={"allow_unstored_background": True, "webhook_responses": "all"})
    tenants = tenants_of("main", "audit")
    assert await names_of(redis, settings, tenants) == b"main audit"
    assert await names_of(redis, settings, tenants_of()) is None
    assert await names_of(redis, allowing, tenants, store=False) is None
    for chosen, names in ((settings, None), (allowing, b"main audit")):
        async with serving(chosen, tenants) as client:
            body = {"model": "default", "input": "Hello"}
            headers = {"authorization": "Bearer key"}
            asking = asyncio.create_task(client.post("/v1/responses", json=body, headers=headers))
            key = await until_accepted(redis)
            assert await redis.command("HGET", keys.state(key), "webhooks") == names
            assert await closing.cancel(redis, settings, key, "test", Offload().run) == "ended"
            assert (await asking).status_code == 200
    entries = [entry for name in ("main", "audit") for entry in await waiting(redis, name=name)]
    assert [entry.response_id for entry in entries] == [key.response_id] * 2


async def until_accepted(redis: RedisClient) -> ResponseKey:
    """Waits for a foreground response of `acme`; returns its key."""

    async def find() -> str | None:
        for response_id in await redis.command("SMEMBERS", keys.open_responses("acme")):
            key = ResponseKey("acme", response_id.decode())
            if await redis.command("HGET", keys.state(key), "background") == b"0":
                return key.response_id
        return None

    await until(find)
    return ResponseKey("acme", str(await find()))


async def test_one_end_is_posted_to_each_webhook_and_a_full_outbox_gives_up(
    redis: RedisClient, settings: Settings
) -> None:
    settings = settings.model_copy(update={"webhook_waiting_max": 2, "dead_letters_max": 1})
    ids = [await end(redis, settings) for _ in range(4)]
    assert {entry.response_id for entry in await waiting(redis)} == set(ids[:2])
    (letter,) = await outbox.read_dead_letters(redis, "acme")  # bounded as well
    assert (letter.entry.response_id, letter.webhook, letter.reason) == (ids[3], "acme/main", "too many wait")


async def test_a_tenant_without_webhooks_pays_nothing_for_those_of_others(
    redis: RedisClient, settings: Settings
) -> None:
    """All that they cost happens only with them: a field, and an entry."""

    async def commands(webhooks: list[str]) -> Counter[str]:
        request = make_request("Hello", background=True)
        key = ResponseKey("acme", request.response.id)
        new = replace(NewResponse.of(key, request, {}), webhooks=webhooks)
        await redis.command("DEL", keys.OUTBOXES, keys.outbox("acme", "main"))
        await redis.command("CONFIG", "RESETSTAT")
        await response_store.create(redis, settings, new)
        await closing.cancel(redis, settings, key, "api", Offload().run)
        found = await redis.command("INFO", "commandstats")
        calls = {name.removeprefix("cmdstat_"): stats["calls"] for name, stats in found.items()}
        return Counter({name: count for name, count in calls.items() if name not in ("ping", "info")})

    await commands(["main"])  # the server gets the scripts
    without, with_one = await commands([]), await commands(["main"])
    assert with_one - without == Counter(zcard=1, zadd=2, pttl=2, pexpire=2)
    assert without - with_one == Counter()


async def test_a_clock_that_is_wrong_is_reported_once(
    redis: RedisClient, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with receiving() as receiver:
        post = Post(settings, Egress.of(settings))
        wrong = Sender(
            Outbox(redis, settings, "wrong"), post, settings, roster_of(receiver.url()), lambda: 1e9
        )
        running = asyncio.create_task(wrong.run())
        for _ in range(2):
            await end(redis, settings)
            await until_settled(redis, failures=1)
            await redis.command("DEL", keys.outbox("acme", "main"))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await wrong.drain()
        await post.close()
    assert caplog.text.count("the clocks of this machine and of Redis differ") == 1


# --- deliveries -------------------------------------------------------------------------------------


async def test_an_end_is_delivered_once_and_openais_client_accepts_it(
    redis: RedisClient, settings: Settings
) -> None:
    response_id = await end(redis, settings)
    async with receiving() as receiver, sending(redis, settings, roster_of(receiver.url())):
        await until_settled(redis)
        (arrival,) = receiver.arrivals
        assert arrival.path == "/hook"
        with OpenAI(api_key="any", base_url="http://127.0.0.1:1") as client:
            event = client.webhooks.unwrap(arrival.body, dict(arrival.headers), secret=SECRET)
        assert isinstance(event, ResponseCancelledWebhookEvent)
        assert event.data.id == response_id
    assert await outbox.read_dead_letters(redis, "acme") == []


async def test_an_end_is_delivered_whatever_has_become_of_its_response(
    redis: RedisClient, settings: Settings
) -> None:
    gone, packed = await end(redis, settings), await end(redis, settings)
    assert await response_store.delete(redis, ResponseKey("acme", gone)) == "deleted"
    assert await archive_log(redis, ResponseKey("acme", packed)) == "archived"
    async with receiving() as receiver, sending(redis, settings, roster_of(receiver.url())):
        await until_settled(redis)
        assert sorted(receiver.ids()) == sorted([gone, packed])


async def test_what_fails_is_tried_again_until_it_arrives(redis: RedisClient, settings: Settings) -> None:
    settings = settings.model_copy(update={"webhook_retry_first_s": 0.01})
    answers = [b"", status(500), status(302, "location: /elsewhere"), status(429), status(204)]
    left = iter(answers)

    async def answer(_: Arrival) -> bytes:
        return next(left)

    response_id = await end(redis, settings)
    async with receiving(answer) as receiver, sending(redis, settings, roster_of(receiver.url())):
        await until_settled(redis)
        assert receiver.ids() == [response_id] * len(answers)
        assert {arrival.path for arrival in receiver.arrivals} == {"/hook"}  # no redirect is followed
        assert len({arrival.headers["webhook-id"] for arrival in receiver.arrivals}) == 1


async def test_what_cannot_be_delivered_becomes_a_dead_letter_that_the_operator_can_list(
    redis: RedisClient, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings.model_copy(update={"webhook_retry_max_s": 0})

    async def refuse(_: Arrival) -> bytes:
        return status(410)

    async with receiving(refuse) as receiver:
        gone = await end(redis, settings)
        async with sending(redis, settings, roster_of(receiver.url())):
            await until_settled(redis)
        late = await end(redis, settings)
        async with sending(redis, settings, roster_of(f"http://127.0.0.1:{find_free(1)[0]}/s3cret")):
            await until_settled(redis)
    letters = await outbox.read_dead_letters(redis, "acme")
    assert [letter.entry.response_id for letter in letters] == [gone, late]
    assert letters[0].reason == "HTTP 410; tried once"
    assert letters[1].reason == "no answer (ConnectError); tried once"
    assert [record.levelname for record in caplog.records if gone in record.message] == ["WARNING"]
    assert "s3cret" not in caplog.text
    path = tmp_path / "tenants.json"
    path.write_text(json.dumps({"tenants": {"acme": {"webhooks": {"main": HOOK}}}}))
    waits = await end(redis, settings)
    lines = [line async for line in list_lines(settings.model_copy(update={"api_keys": path}), [])]
    assert re.fullmatch(r"acme/main: 1 waiting(, the first due for [1-9]\d* s)?", lines[0])
    assert lines[1].endswith(f"acme/main {gone} response.cancelled: HTTP 410; tried once")
    assert len(lines) == 3
    assert waits not in "".join(lines)
    path.write_text(json.dumps({"tenants": {"acme": {"webhooks": {"other": HOOK}}}}))
    await make_due(redis)
    lines = [line async for line in list_lines(settings.model_copy(update={"api_keys": path}), ["acme"])]
    since_1970 = r"acme/main: 1 waiting, the first due for \d{10} s, not in the tenants file"
    assert re.fullmatch(since_1970, lines[0])
    assert len(lines) == 3


async def test_all_dead_letters_that_are_kept_are_listed(redis: RedisClient, settings: Settings) -> None:
    entry = OutboxEntry("resp_0_" + "a" * 32, "completed", 1)
    key, count = keys.dead_letters("acme"), 2_001
    fields = "webhook", "acme/main", "entry", str(entry), "reason"
    await redis.transaction(
        *(("XADD", key, f"{number}-0", *fields, str(number)) for number in range(1, count + 1))
    )
    await redis.command("EXPIRE", key, 60)
    letters = await outbox.read_dead_letters(redis, "acme")
    assert [letter.reason for letter in letters] == [str(number) for number in range(1, count + 1)]


HOOK = {"url": "https://app.example/", "secrets": [SECRET]}


async def test_an_address_that_is_not_allowed_gets_nothing(redis: RedisClient, settings: Settings) -> None:
    settings = settings.model_copy(update={"webhook_retry_max_s": 0})
    async with receiving() as receiver:
        await end(redis, settings)
        post = Post(settings, Egress.of(settings))  # which allows public addresses only
        sender = Sender(Outbox(redis, settings, "strict"), post, settings, roster_of(receiver.url()))
        running = asyncio.create_task(sender.run())
        await until_settled(redis)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await post.close()
        assert receiver.arrivals == []
    (letter,) = await outbox.read_dead_letters(redis, "acme")
    assert letter.reason == "its address is not allowed; tried once"


async def test_an_answer_without_end_is_not_read_and_the_event_counts_as_taken(
    redis: RedisClient, settings: Settings
) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n"

    async def answer(_: Arrival) -> bytes:
        return head + b"x" * 1_000_000

    response_id = await end(redis, settings)
    async with receiving(answer) as receiver, sending(redis, settings, roster_of(receiver.url())):
        await until_settled(redis)
        assert receiver.ids() == [response_id]


async def test_an_answer_that_does_not_end_is_not_waited_for(redis: RedisClient, settings: Settings) -> None:
    settings = settings.model_copy(update={"webhook_timeout_s": 3 * PATIENCE_S})

    async def answer(_: Arrival) -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"

    response_id = await end(redis, settings)
    async with receiving(answer) as receiver, sending(redis, settings, roster_of(receiver.url())):
        await until_settled(redis)
        assert receiver.ids() == [response_id]


async def test_two_receivers_at_one_address_do_not_share_a_connection(settings: Settings) -> None:
    """TLS has proved to a connection the name of one of them, and the other may belong to somebody else."""

    async def resolve(_host: str, _port: int, tenant: str) -> list[str]:
        assert tenant == "one"
        return ["127.0.0.1"]

    settings = settings.model_copy(update={"egress_networks": LOOPBACK})
    post = Post(settings, Egress.of(settings, resolve))
    entry = OutboxEntry("resp_0_" + "a" * 32, "completed", 1)
    try:
        async with receiving() as receiver:
            for name in ("one.example", "two.example"):
                hook = Webhook(f"http://{name}:{receiver.port}/hook", (SECRET,))
                assert await post.deliver("one", hook, entry) == Delivered()
            assert receiver.connections == 2
    finally:
        await post.close()


async def test_a_receiver_that_hangs_holds_up_nobody_else(redis: RedisClient, settings: Settings) -> None:
    """It has its part of the places, whatever waits for it; the others' events arrive meanwhile."""
    settings = settings.model_copy(
        update={"webhooks_in_flight_max": 6, "tenant_webhooks_in_flight_max": 4, "webhook_timeout_s": 120.0}
    )
    released = asyncio.Event()

    async def hang(arrival: Arrival) -> bytes:
        await released.wait()
        return await take(arrival)

    hung = [await end(redis, settings, "t0") for _ in range(12)]
    swift = [await end(redis, settings, "t1") for _ in range(12)]
    async with receiving(hang) as slow, receiving() as fast:
        async with sending(redis, settings, roster_of(slow.url(), fast.url())):
            await until(lambda: len(fast.arrivals) == len(swift))
            assert len(slow.arrivals) <= 4
            released.set()
            await until_settled(redis, "t0")
            await until_settled(redis, "t1")
        assert (sorted(slow.ids()), sorted(fast.ids())) == (sorted(hung), sorted(swift))


async def test_a_slow_webhook_holds_up_no_other_one_of_its_tenant(
    redis: RedisClient, settings: Settings
) -> None:
    """It takes what it gets, but late: at its best it has its part of its tenant's places, and no more."""
    settings = settings.model_copy(update={"tenant_webhooks_in_flight_max": 4, "webhook_timeout_s": 120.0})
    released = asyncio.Event()
    answered = Counter[str]()

    async def hang(arrival: Arrival) -> bytes:
        answered[arrival.path] += 1
        if answered["/slow"] > 1:  # it has answered once, so it counts as sound
            await released.wait()
        return await take(arrival)

    async with receiving(hang) as slow, receiving() as fast:
        hooks = {"slow": Webhook(slow.url("/slow"), (SECRET,)), "fast": Webhook(fast.url(), (SECRET,))}
        async with sending(redis, settings, Roster({}, webhooks={"acme": hooks})):
            ended = [await end(redis, settings, webhooks=list(hooks)) for _ in range(12)]
            await until(lambda: len(fast.arrivals) == len(ended))
            assert len(slow.arrivals) <= 1 + 2
            released.set()
            for name in hooks:
                await until_settled(redis, name=name)
        assert sorted(slow.ids()) == sorted(fast.ids()) == sorted(ended)


async def test_many_webhooks_that_hang_hold_up_no_other_tenant(
    redis: RedisClient, settings: Settings
) -> None:
    """They fail together, once they have been known to: half of the places are for those that answer."""
    settings = settings.model_copy(
        update={"webhooks_in_flight_max": 4, "webhook_timeout_s": 120.0, "webhook_retry_first_s": 0.01}
    )
    names = [f"t{number}" for number in range(8)]
    failed, released = Counter[str](), asyncio.Event()

    async def fail_and_hang(arrival: Arrival) -> bytes:
        failed[arrival.response_id] += 1
        if failed[arrival.response_id] > 1:
            await released.wait()
        return status(500)

    async with receiving(fail_and_hang) as dead, receiving() as well:
        roster = roster_of(*[dead.url()] * len(names), well.url())
        async with sending(redis, settings, roster):
            for name in names:
                await end(redis, settings, name)
            await until(lambda: failed.total() >= len(names) + 2)
            last = await end(redis, settings, f"t{len(names)}")
            await until(lambda: well.ids() == [last])
            assert failed.total() == len(names) + 2
            released.set()


async def test_a_receiver_that_is_busy_is_left_alone_for_as_long_as_it_asks(
    redis: RedisClient, settings: Settings
) -> None:
    """With all that waits for it; another webhook is not."""
    settings = settings.model_copy(update={"webhook_retry_first_s": 0.01})

    async def refuse(_: Arrival) -> bytes:
        return status(429, "retry-after: 3600")

    first = await end(redis, settings)
    async with (
        receiving(refuse) as busy,
        receiving() as other,
        sending(redis, settings, roster_of(busy.url(), other.url())) as sender,
    ):
        await until_settled(redis, failures=1)
        second = await end(redis, settings)
        third = await end(redis, settings, "t1")
        await until(lambda: other.ids() == [third])
        assert busy.ids() == [first]
        due_ms = await redis.command("ZSCORE", keys.outbox("acme", "main"), str((await waiting(redis))[1]))
        now_s, _ = await redis.command("TIME")
        assert 3_500 < float(due_ms) / 1000 - int(now_s) <= 3_601
        sender.take(roster_of(busy.url("/new"), other.url()))  # somebody else, who may have time
        await until(lambda: len(busy.ids()) == 2)
        assert busy.ids() == [first, second]


async def test_many_senders_share_an_outbox_and_deliver_each_end_once(
    redis: RedisClient, settings: Settings
) -> None:
    ids = [await end(redis, settings) for _ in range(40)]
    async with receiving() as receiver:
        roster = roster_of(receiver.url())
        async with sending(redis, settings, roster), sending(redis, settings, roster):
            await until_settled(redis)
        assert sorted(receiver.ids()) == sorted(ids)


async def test_what_a_dead_sender_had_claimed_is_delivered_by_another(
    redis: RedisClient, settings: Settings
) -> None:
    response_id = await end(redis, settings)
    dead = Outbox(redis, settings, "dead")
    (claim,) = await dead.claim(8, EACH)
    assert claim.entry.response_id == response_id
    async with receiving() as receiver, sending(redis, settings, roster_of(receiver.url())):
        assert await Outbox(redis, settings, "probe").claim(8, EACH) == []  # it is claimed
        await make_due(redis)
        await until_settled(redis)
        assert receiver.ids() == [response_id]
    await dead.try_again(claim, claim.entry.failed(), 0.0)  # it was only slow, and comes too late
    assert await waiting(redis) == []


async def test_a_sender_that_is_told_to_stop_gives_back_what_it_could_not_finish(
    redis: RedisClient, settings: Settings
) -> None:
    settings = settings.model_copy(update={"drain_grace_s": 0.05})

    async def hang(_: Arrival) -> bytes:
        await asyncio.Event().wait()
        return b""

    response_id = await end(redis, settings)
    async with receiving(hang) as receiver, sending(redis, settings, roster_of(receiver.url())):
        await until(lambda: receiver.arrivals)
    assert [entry.failures for entry in await waiting(redis)] == [0]
    async with receiving() as receiver, sending(redis, settings, roster_of(receiver.url())):
        await until_settled(redis)
        assert receiver.ids() == [response_id]


async def test_a_claim_that_is_sent_twice_gets_the_same_entries(
    redis: RedisClient, settings: Settings
) -> None:
    """Its reply was lost, or could not be confirmed. Nothing else has to be due for that."""
    ids = {await end(redis, settings) for _ in range(3)}
    async with losing(settings) as lossy:
        sender = Outbox(lossy, settings, "sender")
        for count in (2, 1):
            lossy.is_losing = True
            with pytest.raises(ConnectionError):
                await sender.claim(count, EACH)
            lossy.is_losing = False
            claims = await sender.claim(count, EACH)
            assert len(claims) == count
            ids -= {claim.entry.response_id for claim in claims}
        assert not ids
        assert await sender.claim(8, EACH) == []


async def test_a_sender_that_stops_gives_back_a_claim_whose_reply_it_did_not_get(
    redis: RedisClient, settings: Settings
) -> None:
    response_id = await end(redis, settings)
    async with losing(settings) as lossy, receiving() as receiver:
        lossy.is_losing = True
        async with sending(lossy, settings, roster_of(NOWHERE)):
            await lossy.lost.wait()
            lossy.is_losing = False
        async with sending(redis, settings, roster_of(receiver.url())):
            await until(lambda: receiver.ids() == [response_id], settings.webhook_claim_s / 2)


async def test_an_attempt_whose_end_has_to_be_written_again_is_counted_and_logged_once(
    redis: RedisClient, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(_: Arrival) -> bytes:
        return status(500)

    caplog.set_level("INFO", "webhooks.sender")
    await end(redis, settings)
    before = value("antiphon_webhook_deliveries_total", outcome="failed")
    async with losing(settings) as lossy, receiving(refuse) as receiver:
        lossy.loses, lossy.is_losing = "webhooks/settle", True
        async with sending(lossy, settings, roster_of(receiver.url())):
            await until(lambda: lossy.times > 2)
            lossy.is_losing = False
            await until_settled(redis, failures=1)
    assert value("antiphon_webhook_deliveries_total", outcome="failed") == before + 1
    assert caplog.text.count("is tried again") == 1


async def test_a_claim_gets_no_more_than_lua_can_return(redis: RedisClient, settings: Settings) -> None:
    entries = [str(OutboxEntry(f"resp_0_{number:032x}", "completed", 1)) for number in range(4_100)]
    pairs: list[str | int] = [word for entry in entries for word in (0, entry)]
    await redis.command("ZADD", keys.outbox("acme", "main"), *pairs)
    await redis.command("ZADD", keys.OUTBOXES, 0, "acme/main")
    for key in (keys.OUTBOXES, keys.outbox("acme", "main")):
        await redis.command("EXPIRE", key, 60)
    sender = Outbox(redis, settings, "sender")
    found: list[str] = []
    while claims := await sender.claim(10_000, Rooms(10_000, 10_000)):
        found += [str(claim.entry) for claim in claims]
    assert sorted(found) == sorted(entries)


async def test_what_could_be_taken_back_is_not_delivered(redis: RedisClient, settings: Settings) -> None:
    """With `durable_writes`, a claim counts when it is confirmed, and so is what was closed before it."""
    await end(redis, settings)
    careful = RedisClient.connect(settings.redis_url, timeout_s=0.2, durability="replica")  # there is none
    sender = Outbox(careful, settings, "sender")
    with pytest.raises(REDIS_AWAY):
        await sender.claim(8, EACH)
    assert len(await sender.claim(0, EACH)) == 0
    await careful.close()
    assert len(await waiting(redis)) == 1


async def test_webhooks_take_turns_when_more_is_due_than_a_claim_takes(
    redis: RedisClient, settings: Settings
) -> None:
    for tenant in ("t0", "t1"):
        for _ in range(4):
            await end(redis, settings, tenant)
    sender = Outbox(redis, settings, "sender")
    turns = [[claim.tenant for claim in await sender.claim(2, Rooms(2, 2))] for _ in range(4)]
    assert turns == [["t0"] * 2, ["t1"] * 2, ["t0"] * 2, ["t1"] * 2]
    assert await sender.claim(2, Rooms(2, 2)) == []


# --- the tenants file changes -----------------------------------------------------------------------


async def test_what_waits_for_a_webhook_that_was_removed_is_delivered_if_it_comes_back(
    redis: RedisClient, settings: Settings
) -> None:
    response_id = await end(redis, settings)
    async with receiving() as receiver, sending(redis, settings, Roster({})) as sender:
        await until_settled(redis, failures=1)
        assert receiver.arrivals == []
        sender.take(roster_of(receiver.url()))
        await make_due(redis)
        await until_settled(redis)
        assert receiver.ids() == [response_id]


async def test_a_new_url_and_new_secrets_hold_from_the_next_attempt(
    redis: RedisClient, settings: Settings
) -> None:
    response_id = await end(redis, settings)

    async def refuse(_: Arrival) -> bytes:
        return status(500)

    async with receiving(refuse) as old, receiving() as new:
        async with sending(redis, settings, roster_of(old.url())) as sender:
            await until_settled(redis, failures=1)
            sender.take(roster_of(new.url("/other"), secrets=(OTHER_SECRET, SECRET)))
            await make_due(redis)
            await until_settled(redis)
        (arrival,) = new.arrivals
    assert (arrival.path, arrival.response_id) == ("/other", response_id)
    with OpenAI(api_key="any", base_url="http://127.0.0.1:1") as client:
        for secret in (SECRET, OTHER_SECRET):
            client.webhooks.verify_signature(arrival.body, dict(arrival.headers), secret=secret)


async def test_events_that_a_webhook_does_not_ask_for_are_not_sent(
    redis: RedisClient, settings: Settings
) -> None:
    await end(redis, settings)
    before = value("antiphon_webhook_deliveries_total")
    async with receiving() as receiver:
        roster = roster_of(receiver.url(), event_types=("response.completed",))
        async with sending(redis, settings, roster):
            await until_settled(redis)
        assert receiver.arrivals == []
    assert value("antiphon_webhook_deliveries_total") == before, "nothing was sent"
    assert await outbox.read_dead_letters(redis, "acme") == []


def test_the_role_needs_a_tenants_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ANTIPHON_API_KEYS", raising=False)
    assert main([]) == 2
    assert "ANTIPHON_API_KEYS" in capsys.readouterr().err


def test_the_command_lists_what_was_given_up_and_says_if_redis_is_away(
    valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tenants.json"
    path.write_text(json.dumps({"tenants": {"acme": {"webhooks": {"main": HOOK}}}}))
    monkeypatch.setenv("ANTIPHON_API_KEYS", str(path))
    monkeypatch.setenv("ANTIPHON_REDIS_URL", valkey.url)

    async def give_up() -> None:
        settings = Settings()
        redis = RedisClient.connect(settings.redis_url, timeout_s=PATIENCE_S)
        await redis.command("FLUSHALL")
        await end(redis, settings)
        sender = Outbox(redis, settings, "sender")
        for claim in await sender.claim(8, EACH):
            await sender.give_up(claim, "no answer")
        await redis.close()

    asyncio.run(give_up())
    assert main(["dead-letters"]) == 0
    assert capsys.readouterr().out.endswith(" response.cancelled: no answer\n")
    assert main(["dead-letters", "lab"]) == 0
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("ANTIPHON_REDIS_URL", NOWHERE)
    assert main(["dead-letters"]) == 1
    assert "webhooks: " in capsys.readouterr().err


async def test_operators_see_how_much_waits_for_how_long_and_what_was_given_up(
    redis: RedisClient, settings: Settings
) -> None:
    assert (await read_figures(redis)).outbox == OutboxFigures()
    settings = settings.model_copy(update={"webhook_waiting_max": 2, "dead_letters_max": 1})
    for _ in range(4):
        await end(redis, settings)
    sender = Outbox(redis, settings, "w-1")
    first, _ = await sender.claim(10, EACH)
    await sender.give_up(first, "HTTP 410")
    assert (await read_figures(redis)).outbox == OutboxFigures(1, 0.0, 3), "the claimed one is not due"
    await make_due(redis)
    await cluster_metrics.refresh(redis)
    assert value("antiphon_webhook_outbox_depth") == 1
    assert value("antiphon_webhook_outbox_oldest_age_seconds") > 1e9, "it was due in 1970"
    assert value("antiphon_webhook_dead_letters_total") == 3


async def test_figures_look_at_a_bounded_number_of_webhooks(redis: RedisClient) -> None:
    members = [part for number in range(1_200) for part in (number, f"t{number}/main")]
    await redis.transaction(("ZADD", keys.OUTBOXES, *members), ("PEXPIRE", keys.OUTBOXES, 60_000))
    await redis.command("CONFIG", "RESETSTAT")
    await read_figures(redis)
    stats = await redis.command("INFO", "commandstats")
    assert stats["cmdstat_zcard"]["calls"] < 1_100
